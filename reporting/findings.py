"""A registry of findings, which follow from all attacks, each with its table."""

from collections.abc import Callable, Mapping, Sequence
from math import isnan
from statistics import median
from typing import Any, NamedTuple

from attacks import ATTACKS
from attacks.architecture import find_architecture_leak
from attacks.bounds import find_bounds
from attacks.continual.leaks import find_continual_leak
from attacks.federated.attributes import find_attribute_leak
from attacks.federated.leaks import find_federated_leak
from attacks.federated.view import Threat
from attacks.findings import (
    Differences,
    Exposures,
    find_calibration,
    find_convergence,
    find_differences,
    find_exposures,
    find_z_scores,
)
from attacks.frontier import find_frontiers
from attacks.game import Game, Knowledge
from attacks.joint_attacks import JointAttack, find_joint_attacks
from attacks.metrics.differences import Difference
from attacks.metrics.exposure import MOVED
from attacks.metrics.intervals import Estimate
from attacks.metrics.measures import Metric
from attacks.other_shadows import OtherShadows, find_other_shadows
from attacks.shadow_split import ShadowSplit, find_shadow_differences
from attacks.strongest import Strongest
from attacks.z_scores import ZScores
from reporting.attributes import HEADINGS as ATTRIBUTES
from reporting.attributes import attribute_table
from reporting.bounds import show_bounds
from reporting.federated import HEADINGS, federated_heading, federated_table
from reporting.frontier import tabulate_frontiers
from reporting.pruning import architecture_table
from reporting.tables import DASH, Body, Cell, Table, difference_cells, estimate_cell, number
from reporting.text import NAMES, RECALIBRATED_NOTE, SHADOWS, TITLES
from storage.names import is_snapshot, split_variant


class Finding(NamedTuple):
    """One entry of the registry.

    Attributes:
        title: heading of its table.
        compute: computes its value.
        table: makes its table, which is not shown without rows; None where only a figure shows the
            value, or where it has several tables, which `make_results` adds.
        heading: makes the heading from the value, where it depends on that.
    """

    title: str
    compute: Callable[[Game, Strongest], Any]
    table: Callable[[Any], Body] | None
    heading: Callable[[Any], str] | None = None


def find(game: Game, best: Strongest) -> dict[str, Any]:
    """Compute every finding: values by key."""
    return {key: finding.compute(game, best) for key, finding in FINDINGS.items()}


def make_tables(values: Mapping[str, Any]) -> list[Table]:
    """The tables of all findings whose tables have rows."""
    tables = []
    for key, value in values.items():
        title, _, make_body, heading = FINDINGS[key]
        if make_body and (body := make_body(value)).rows:
            tables.append(Table(key, heading(value) if heading else title, *body))
    return tables


def _differences(value: Differences) -> Body:
    (auc, tail), gaps = value.against_reference.items(), value.beyond_gap
    rows = []
    if value.reference in gaps:
        cells = difference_cells(gaps[value.reference])
        rows.append((Cell(value.reference), DASH, DASH, DASH, DASH, *cells))
    for variant, difference in auc[1].items():
        pair = *difference_cells(difference), *difference_cells(tail[1][variant], percent=True)
        rows.append((Cell(variant), *pair, *difference_cells(gaps.get(variant))))
    name = NAMES[tail[0]]
    snapshots = "; snapshots of training by themselves" if value.snapshots else ""
    return Body(
        (
            "variant",
            *(f"AUC beyond {value.reference}'s", "p"),
            *(f"{name} beyond {value.reference}'s, points", "p"),
            *("AUC beyond the gap attack's", "p"),
        ),
        rows,
        "The strongest attack on each variant by that metric, on the same targets and examples. "
        "Over more targets of this pool and other shadows: Student's t over the targets' "
        "differences, with the part of the variance that all targets share through their shadows "
        f"added ({_shadow_parts([*auc[1].values(), *tail[1].values()])}). A single target is "
        "compared over its examples alone. For each half of the targets, the strongest attack is "
        "chosen on the other half; for a single target on the same examples. p is corrected for "
        f"all comparisons by AUC and {name} together, and for those with the gap attack apart "
        f"(Holm){snapshots}. "
        "The gap attack accuses every example that is classified correctly: where no attack "
        "is shown to exceed it, a smaller leak may be no more than a smaller difference in "
        "accuracy between members and non-members.",
    )


def _shadow_parts(differences: Sequence[Difference]) -> str:
    """How much of the variance is due to the shadows, in words."""
    shares = [100 * d.shadows for d in differences if not isnan(d.shadows)]
    if not shares:
        return (
            "here it is unknown and missing, because half of the shadows do not suffice for these "
            "attacks: intervals and p hold for these shadows alone"
        )
    return f"here {min(shares):.0f} to {max(shares):.0f}% of it, median {median(shares):.0f}%"


def _shadow_differences(value: dict[Metric, dict[str, ShadowSplit]]) -> Body:
    rows = []
    for metric, splits in value.items():
        percent = metric != "auc"
        for variant, split in splits.items():
            start = DASH if split.paper is None else estimate_cell(split.paper, percent)
            steps = split.attack, split.recalibration, split.quantizing
            cells = [cell for step in steps for cell in difference_cells(step, percent)]
            end = estimate_cell(split.matched, percent)
            rows.append((Cell(variant), Cell(NAMES[metric]), start, *cells, end))
    return Body(
        (
            *("variant", "metric", "online LiRA, full-precision shadows"),
            *("+ another attack", "p", "+ recalibration", "p", "+ quantizing the shadows", "p"),
            "= the strongest, matched shadows",
        ),
        rows,
        "From left to right, an attacker starts with the paper's attack and its full-precision "
        "shadows, then chooses the strongest attack with these shadows, then recalibrates the "
        "target's signals to them, and at last quantizes the shadows like the target. Each step is "
        "a gain, in AUC or in points of TPR, and they add up. Only the last needs the quantizer: "
        "what the steps before it are shown to gain was no protection, but a weaker attacker. "
        f"Below 0, a step did not help. {RECALIBRATED_NOTE} Attacks are chosen as above; p is "
        "corrected for all steps in this table (Holm).",
    )


def _other_shadows(value: dict[Metric, dict[str, OtherShadows]]) -> Body:
    rows = []
    for metric, by_variant in value.items():
        percent = metric != "auc"
        for variant, (other, matched, gain) in by_variant.items():
            cells = (estimate_cell(found, percent) for found in (other, matched))
            rows.append(
                (Cell(variant), Cell(NAMES[metric]), *cells, *difference_cells(gain, percent))
            )
    return Body(
        ("variant", "metric", SHADOWS["other"], SHADOWS["matched"], "matched beyond it", "p"),
        rows,
        "What an attacker finds whose shadows are those of `--shadows`, which trained on the same "
        "examples but otherwise, beside one whose shadows went through what the target did; by the "
        "strongest attack of each, chosen as above. Above 0, knowing how the target was made "
        "helps. p is corrected for all rows (Holm), those of snapshots by themselves.",
    )


def _z_scores(value: dict[str, dict[Knowledge, ZScores]]) -> Body:
    kinds = [kind for kind in TITLES if any(kind in scores for scores in value.values())]
    rows = []
    for variant, by_knowledge in value.items():
        cells = []
        for kind in kinds:
            scores = by_knowledge.get(kind)
            sides = (scores.members, scores.non_members) if scores else (None, None)
            cells += [
                number(side.mean, f"{side.mean:z.2f}±{side.std:.2f}") if side else DASH
                for side in sides
            ]
        rows.append((Cell(variant), *cells))
    headings = [f"{side}, {SHADOWS[kind]}" for kind in kinds for side in ("members", "non-members")]
    return Body(
        ("variant", *headings),
        rows,
        "Mean and standard deviation of (phi - mean of the shadows without the example) / their "
        "pooled standard deviation, first query. Full-precision shadows expect 0±1 of non-members: "
        "the distance from that is how far quantization moved the signals. The other columns show "
        "how much of it remains for attackers with other shadows.",
    )


def _joint_attacks(value: list[JointAttack]) -> Body:
    rows = []
    snapshots = any(is_snapshot(variant) for attack in value for variant in attack.variants)
    apart = "; holders of a snapshot are corrected by themselves" if snapshots else ""
    for attack in value:
        names, auc = attack.variants, attack.summary.auc
        held = " + ".join(names) if len(names) < 4 else _describe_holding(names)
        tpr = estimate_cell(attack.summary.tpr_1pct, percent=True)
        gain = difference_cells(attack.gain)
        rows.append((Cell(held), estimate_cell(auc), tpr, Cell(attack.best), *gain))
    return Body(
        ("variants", "AUC", "TPR at 1% FPR", "leaks most by itself", "AUC beyond it", "p"),
        rows,
        "LiRA with a joint Gaussian over the variants' signals, compared with the strongest attack "
        "on the variant that leaks most by itself. Where this is shown to be above 0, p below "
        "0.05, publishing these variants together leaks more than publishing any single one. "
        f"p is corrected for the number of rows (Holm){apart}.",
    )


def _describe_holding(variants: Sequence[str]) -> str:
    """Name many variants: those of equal bits all end in `-w2`, for example."""
    snapshots = sum(is_snapshot(variant) for variant in variants)
    if snapshots == len(variants) - 1:
        return f"full + all {snapshots} snapshots"
    every = f"all {len(variants)} variants"
    if snapshots:
        return f"{every}, {snapshots} of them snapshots"
    ends = {"-".join(filter(None, split_variant(variant)[1:])) for variant in variants}
    return f"{every} of {ends.pop()}" if len(ends) == 1 else every


def _calibration(value: dict[str, Estimate]) -> Body:
    return Body(
        ("variant", "AUC"),
        [(Cell(variant), estimate_cell(estimate)) for variant, estimate in value.items()],
        "Online LiRA among a target's own training examples; 0.5 is guessing. Intervals are over "
        "targets alone (of a single target, over its examples). Its shadows all "
        "trained on the example; some of them were calibrated on it, the others not.",
    )


def _exposures(value: Exposures) -> Body:
    shadows = ", with matched shadows" if ATTACKS[value.attack].shadows else ""
    rows = []
    for variant, (safer, exposed, rank, noise) in value.changes.items():
        correlation = DASH if isnan(rank) else number(rank, f"{rank:.2f}")
        by_noise = "-" if isnan(noise) else f"{noise:.0f}"
        counts = (Cell(f"{count} ({by_noise})", count) for count in (safer, exposed))
        rows.append((Cell(variant), *counts, correlation))
    return Body(
        ("variant", "safer (noise alone)", "more exposed (noise alone)", "rank correlation"),
        rows,
        f"Against {value.reference}. An example's exposure is the share of a target's non-members "
        "that score lower than it, mean over the targets that trained on it; examples count if it "
        f"changes by more than {MOVED}. In brackets, how many noise alone would make safer, and as "
        "many more exposed, judged by how much targets differ on the same example: only what goes "
        "clearly beyond that is a change. Without a leak it was within 10% of the count in "
        "simulations, with one up to 15% above it; a single target does not tell it. All by "
        f"{value.attack}, the strongest attack on {value.reference}{shadows}. exposure.csv has "
        "every example.",
    )


def _of_rounds(threat: Threat) -> Finding:
    """What one kind of attacker finds in the rounds of federated training."""
    return Finding(
        HEADINGS[threat],
        lambda game, best: find_federated_leak(game, threat),
        federated_table,
        federated_heading,
    )


def _of_attribute(threat: Threat) -> Finding:
    """What one kind of attacker tells of an attribute."""
    return Finding(
        ATTRIBUTES[threat], lambda game, best: find_attribute_leak(game, threat), attribute_table
    )


FINDINGS: dict[str, Finding] = {
    "differences": Finding("Do two variants leak differently?", find_differences, _differences),
    "frontier": Finding(
        "What the same loss of accuracy buys otherwise", find_frontiers, tabulate_frontiers
    ),
    "shadows": Finding(
        "What quantizing the shadows is worth to the attacker",
        find_shadow_differences,
        _shadow_differences,
    ),
    "other_shadows": Finding(
        "What an attacker finds with another experiment's shadows",
        find_other_shadows,
        _other_shadows,
    ),
    "z_scores": Finding(
        "Where members and non-members stand among the shadows", find_z_scores, _z_scores
    ),
    "joint_lira": Finding(
        "An attacker who holds several variants of a model", find_joint_attacks, _joint_attacks
    ),
    "architecture": Finding(
        "Does the pruned architecture leak?",
        lambda game, best: find_architecture_leak(game),
        architecture_table,
    ),
    **{f"federated_{threat}": _of_rounds(threat) for threat in HEADINGS},
    "continual": Finding(
        "What learning in tasks leaks", lambda game, best: find_continual_leak(game), None
    ),
    **{f"attribute_{threat}": _of_attribute(threat) for threat in ATTRIBUTES},
    "calibration": Finding(
        "Was a training example used to calibrate the quantizer?", find_calibration, _calibration
    ),
    "epsilon": Finding("Lower bounds on epsilon", find_bounds, show_bounds),
    "exposure": Finding("Who becomes safer, and who more exposed", find_exposures, _exposures),
    "convergence": Finding("AUC against the number of shadows", find_convergence, None),
}
