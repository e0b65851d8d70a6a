"""A registry of findings, which follow from all attacks, each with its table."""

from collections.abc import Callable, Mapping, Sequence
from math import isnan
from typing import Any, NamedTuple

from attacks import ATTACKS
from attacks.findings import (
    Bounds,
    Differences,
    Exposures,
    JointAttack,
    find_bounds,
    find_calibration,
    find_convergence,
    find_differences,
    find_exposures,
    find_joint_attacks,
    find_shadow_differences,
    find_z_scores,
)
from attacks.game import Game, Knowledge
from attacks.metrics.differences import Difference
from attacks.metrics.epsilon import EpsilonBound
from attacks.metrics.exposure import MOVED
from attacks.metrics.intervals import Estimate
from attacks.strongest import Strongest
from attacks.z_scores import ZScores
from reporting.tables import DASH, Cell, Table, difference_cells, estimate_cell, number


class Finding(NamedTuple):
    """One entry of the registry.

    Attributes:
        title: heading of its table.
        compute: computes its value.
        table: makes its table, which is not shown without rows; None where only a figure shows the
            value.
    """

    title: str
    compute: Callable[[Game, Strongest], Any]
    table: Callable[[Any], "Body"] | None


class Body(NamedTuple):
    """A table without its key and title."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]
    note: str


def find(game: Game, best: Strongest) -> dict[str, Any]:
    """Compute every finding: values by key."""
    return {key: finding.compute(game, best) for key, finding in FINDINGS.items()}


def make_tables(values: Mapping[str, Any]) -> list[Table]:
    """The tables of all findings whose tables have rows."""
    tables = []
    for key, value in values.items():
        title, _, make_body = FINDINGS[key]
        if make_body and (body := make_body(value)).rows:
            tables.append(Table(key, title, *body))
    return tables


def _differences(value: Differences) -> Body:
    rows, gaps = [], value.beyond_gap
    if value.reference in gaps:
        cells = difference_cells(gaps[value.reference])
        rows.append((Cell(value.reference), DASH, DASH, *cells))
    for variant, difference in value.against_reference["auc"].items():
        gap = difference_cells(gaps.get(variant))
        rows.append((Cell(variant), *difference_cells(difference), *gap))
    return Body(
        (
            "variant",
            f"AUC beyond {value.reference}'s",
            "p",
            "AUC beyond the gap attack's",
            "p",
        ),
        rows,
        "The strongest attack on each variant, on the same targets and examples: Student's t over "
        "the targets' differences (DeLong for a single target), which generalises to more targets "
        "of this pool. For each half of the targets, the strongest attack is chosen on the other "
        "half (except for a single target). p is corrected for the number of comparisons in its "
        "column (Holm). The gap attack accuses every example that is classified correctly: where "
        "no attack exceeds it, a smaller leak is no more than a smaller difference in accuracy "
        "between members and non-members.",
    )


def _shadow_differences(value: dict[str, Difference]) -> Body:
    return Body(
        ("variant", "AUC with matched shadows beyond that with full-precision shadows", "p"),
        [(Cell(v), *difference_cells(difference)) for v, difference in value.items()],
        "The strongest attack with each kind of shadows, chosen and corrected as above. Above 0, "
        "an audit with full-precision shadows understates the risk.",
    )


def _z_scores(value: dict[str, dict[Knowledge, ZScores]]) -> Body:
    rows = []
    for variant, by_knowledge in value.items():
        cells = [
            number(side.mean, f"{side.mean:z.2f}±{side.std:.2f}")
            for scores in by_knowledge.values()
            for side in (scores.members, scores.non_members)
        ]
        rows.append((Cell(variant), *cells, *[DASH] * (4 - len(cells))))
    return Body(
        (
            "variant",
            *("members, matched shadows", "non-members, matched shadows"),
            *("members, full-precision shadows", "non-members, full-precision shadows"),
        ),
        rows,
        "Mean and standard deviation of (phi - mean of the shadows without the example) / their "
        "pooled standard deviation, first query. Full-precision shadows expect 0±1 of non-members: "
        "the distance from that is how far quantization moved the signals, which does not mislead "
        "an attacker whose shadows are quantized too.",
    )


def _joint_attacks(value: list[JointAttack]) -> Body:
    rows = []
    for attack in value:
        names, auc = attack.variants, attack.summary.auc
        held = " + ".join(names) if len(names) < 4 else f"all {len(names)} variants"
        tpr = estimate_cell(attack.summary.tpr_1pct, percent=True)
        gain = difference_cells(attack.gain)
        rows.append((Cell(held), estimate_cell(auc), tpr, Cell(attack.best), *gain))
    return Body(
        ("variants", "AUC", "TPR at 1% FPR", "leaks most by itself", "AUC beyond it", "p"),
        rows,
        "LiRA with a joint Gaussian over the variants' signals, compared with the strongest attack "
        "on the variant that leaks most by itself. Above 0, publishing these variants together "
        "leaks more than publishing any single one. p is corrected for the number of rows (Holm).",
    )


def _calibration(value: dict[str, Estimate]) -> Body:
    return Body(
        ("variant", "AUC"),
        [(Cell(variant), estimate_cell(estimate)) for variant, estimate in value.items()],
        "Online LiRA among a target's own training examples; 0.5 is guessing. Its shadows all "
        "trained on the example; some of them were calibrated on it, the others not.",
    )


def _bounds(value: dict[str, Bounds]) -> Body:
    guesses = max((bounds.guesses for bounds in value.values()), default=0)
    rows = [
        (
            Cell(variant),
            DASH if bounds.tested is None else _tested(bounds.tested),
            number(bounds.one_run, f"{bounds.one_run:.2f}"),
        )
        for variant, bounds in value.items()
    ]
    return Body(
        ("variant", "from TPR and FPR", "one-run audit, mean over targets"),
        rows,
        "At 95% confidence, in nats, with delta = 0: a network that was trained with a smaller "
        "epsilon would leak this much in at most 5% of audits. Attack and threshold are chosen on "
        "half of the targets and tested on the other half, whose examples are treated as "
        f"independent. The one-run audit makes {guesses} guesses per target, a number fixed "
        "beforehand, by the attack that is strongest on the other half of the targets (except for "
        "a single target); a target trains on a random half of fixed size, treated as fair coin "
        "flips. Its column is a mean of bounds, each of which holds at 95%. 0 proves nothing.",
    )


def _tested(bound: EpsilonBound) -> Cell:
    rates = f"TPR {100 * bound.tpr:.1f}%, FPR {100 * bound.fpr:.1f}%"
    return number(bound.epsilon, f"{bound.epsilon:.2f} ({rates})")


def _exposures(value: Exposures) -> Body:
    shadows = ", with matched shadows" if ATTACKS[value.attack].shadows else ""
    rows = []
    for variant, (safer, exposed, rank) in value.changes.items():
        correlation = DASH if isnan(rank) else number(rank, f"{rank:.2f}")
        counts = Cell(str(safer), safer), Cell(str(exposed), exposed)
        rows.append((Cell(variant), *counts, correlation))
    return Body(
        ("variant", "safer examples", "more exposed", "rank correlation"),
        rows,
        f"Against {value.reference}. An example's exposure is the share of a target's non-members "
        "that score lower than it, mean over the targets that trained on it; changes count if "
        f"they are more than {MOVED}. All by {value.attack}, the strongest attack on "
        f"{value.reference}{shadows}. exposure.csv has every example.",
    )


FINDINGS: dict[str, Finding] = {
    "differences": Finding("Do two variants leak differently?", find_differences, _differences),
    "shadows": Finding(
        "What quantizing the shadows is worth to the attacker",
        find_shadow_differences,
        _shadow_differences,
    ),
    "z_scores": Finding(
        "Where members and non-members stand among the shadows", find_z_scores, _z_scores
    ),
    "joint_lira": Finding(
        "An attacker who holds several variants of a model", find_joint_attacks, _joint_attacks
    ),
    "calibration": Finding(
        "Was a training example used to calibrate the quantizer?", find_calibration, _calibration
    ),
    "epsilon": Finding("Lower bounds on epsilon", find_bounds, _bounds),
    "exposure": Finding("Who becomes safer, and who more exposed", find_exposures, _exposures),
    "convergence": Finding("AUC against the number of shadows", find_convergence, None),
}
