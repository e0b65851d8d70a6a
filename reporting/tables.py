"""The findings as tables of text, for the report and the dashboard."""

from collections.abc import Sequence
from math import isnan
from typing import NamedTuple

from attacks.findings import Findings
from attacks.metrics.differences import Difference
from attacks.metrics.epsilon import EpsilonBound
from attacks.metrics.exposure import MOVED
from reporting.text import say, show, show_difference, show_p


class Section(NamedTuple):
    """A table with its title, and what is to be said about it."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str


def make_sections(findings: Findings) -> list[Section]:
    """Every table that has rows."""
    sections = [
        _precisions(findings),
        _knowledge(findings),
        _standing(findings),
        _versions(findings),
        _calibration(findings),
        _bounds(findings),
        _exposure(findings),
    ]
    return [section for section in sections if section.rows]


def sentences(findings: Findings) -> list[str]:
    """The comparisons in words."""
    return [f"{say(difference)}." for difference in findings.against_reference]


def _compared(difference: Difference) -> tuple[str, str]:
    return show_difference(difference.estimate), show_p(difference.p_holm)


def _precisions(findings: Findings) -> Section:
    gaps = {difference.first: difference for difference in findings.beyond_gap}
    rows = []
    if findings.reference in gaps:
        rows.append((findings.reference, "-", "-", *_compared(gaps[findings.reference])))
    for difference in findings.against_reference:
        gap = gaps.get(difference.first)
        rows.append((difference.first, *_compared(difference), *(_compared(gap) if gap else "--")))
    return Section(
        "Is the difference between two precisions one?",
        (
            "variant",
            f"AUC beyond {findings.reference}'s",
            "p",
            "AUC beyond the gap attack's",
            "p",
        ),
        rows,
        "The strongest attack on each, on the same targets and the same examples: Student's t over "
        "the targets' differences (DeLong for a single target), which speaks of more targets of "
        "this pool. Which attack is the strongest is decided for each half of the targets on the "
        "other (a single target has none). p is corrected for the number of comparisons in its "
        "column (Holm). The gap attack accuses what is classified correctly: where nothing is "
        "leaked beyond it, a smaller leak is no more than a smaller difference of accuracy between "
        "members and others.",
    )


def _knowledge(findings: Findings) -> Section:
    rows = [
        (difference.first.removesuffix(", matched shadows"), *_compared(difference))
        for difference in findings.against_full_shadows
    ]
    return Section(
        "What quantizing the shadows is worth to the attacker",
        ("variant", "AUC with matched shadows beyond that with full ones", "p"),
        rows,
        "The strongest attack of each kind, chosen and corrected as above. Above 0, an audit with "
        "full-precision shadows understates the risk.",
    )


def _standing(findings: Findings) -> Section:
    rows = []
    for variant, by_knowledge in findings.standing.items():
        texts = [
            f"{side.mean:z.2f}±{side.std:.2f}"
            for standing in by_knowledge.values()
            for side in (standing.members, standing.others)
        ]
        rows.append((variant, *texts, *["-"] * (4 - len(texts))))
    return Section(
        "Where members and others stand among the shadows",
        (
            "variant",
            *("members, matched shadows", "others, matched shadows"),
            *("members, full shadows", "others, full shadows"),
        ),
        rows,
        "Mean and standard deviation of (phi - mean of the shadows without the example) / their "
        "pooled standard deviation, first query. What full-precision shadows expect of others is "
        "0±1: how far these are from it is how far quantization moved the signals, and what an "
        "attacker whose shadows are quantized too does not suffer from.",
    )


def _versions(findings: Findings) -> Section:
    rows = [
        (
            " + ".join(held.names) if len(held.names) < 4 else f"all {len(held.names)} versions",
            show(held.summary.auc),
            show(held.summary.tpr_1pct, percent=True),
            held.best,
            *_compared(held.gain),
        )
        for held in findings.versions
    ]
    return Section(
        "An attacker who holds several versions of a model",
        ("versions", "AUC", "TPR at 1% FPR", "most leaking by itself", "AUC beyond it", "p"),
        rows,
        "LiRA with a joint Gaussian over the versions' signals, beside the strongest attack on the "
        "version that leaks most by itself. Above 0, publishing both leaks more than either. p is "
        "corrected for the number of rows (Holm).",
    )


def _calibration(findings: Findings) -> Section:
    return Section(
        "Was a training example used to calibrate the quantizer?",
        ("variant", "AUC"),
        [(variant, show(estimate)) for variant, estimate in findings.calibration.items()],
        "Online LiRA among a target's own training examples; 0.5 is guessing. The shadows are "
        "those that trained on the example, some calibrated on it and some not.",
    )


def _bounds(findings: Findings) -> Section:
    rows = []
    for variant, bounds in findings.bounds.items():
        tested = "-" if bounds.tested is None else _show_tested(bounds.tested)
        rows.append((variant, tested, f"{bounds.one_run:.2f}"))
    guesses = max((bounds.guesses for bounds in findings.bounds.values()), default=0)
    return Section(
        "Lower bounds on epsilon",
        ("variant", "from TPR and FPR", "one-run audit, mean over targets"),
        rows,
        "At 95% confidence, in nats, and delta = 0: a network that was trained with a smaller "
        "epsilon would leak this much in 5% of audits at most. Attack and threshold are chosen on "
        "half of the targets and tested on the others, whose examples are taken for independent. "
        f"The one-run audit makes {guesses} guesses a target, fixed beforehand, by the attack that "
        "is strongest on the other half of the targets (a single one has none); a target trains "
        "on a random half of fixed size, taken for fair coins. Its column is a mean of bounds that "
        "each hold at 95%. 0 proves nothing.",
    )


def _show_tested(bound: EpsilonBound) -> str:
    return f"{bound.epsilon:.2f} (TPR {100 * bound.tpr:.1f}%, FPR {100 * bound.fpr:.1f}%)"


def _exposure(findings: Findings) -> Section:
    rows = [
        (variant, str(safer), str(exposed), "-" if isnan(rank) else f"{rank:.2f}")
        for variant, (safer, exposed, rank) in findings.changes.items()
    ]
    return Section(
        "Who becomes safer, and who more exposed",
        ("variant", "safer examples", "more exposed", "rank correlation"),
        rows,
        f"Against {findings.reference}. An example's exposure is the share of a model's "
        "non-members below it where it is a member, mean over the targets that trained on it; "
        f"counted are changes of more than {MOVED}. All by {findings.attack}, the strongest attack "
        f"on {findings.reference}, with matched shadows. exposure.csv has every example.",
    )
