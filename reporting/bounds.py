"""Audited lower bounds on epsilon beside proven upper bounds, and the warning where they cross."""

from collections.abc import Mapping

from attacks.findings import Bounds
from attacks.metrics.epsilon import EpsilonBound
from reporting.tables import DASH, Body, Cell, number


def show_bounds(value: Mapping[str, Bounds]) -> Body:
    """The table of bounds; without differential privacy it has no columns on proofs."""
    guesses = max((bounds.guesses for bounds in value.values()), default=0)
    deltas = {bounds.proven.delta for bounds in value.values() if bounds.proven}
    columns: tuple[str, ...] = ("variant", "from TPR and FPR", "one-run audit")
    rows: list[tuple[Cell, ...]] = [
        (Cell(variant), _tested(bounds.tested), number(bounds.one_run, f"{bounds.one_run:.2f}"))
        for variant, bounds in value.items()
    ]
    if deltas:
        columns += ("proven upper bound", "lower / upper")
        rows = [(*row, *_proven(b)) for row, b in zip(rows, value.values(), strict=True)]
    note = (
        f"At 95% confidence, in nats, with delta = {max(deltas, default=0):g}: a network that was "
        "trained with a smaller "
        "epsilon would leak this much in at most 5% of audits. This holds for each number by "
        "itself: without any leak, up to one in 20 exceeds 0. Attack and threshold are chosen on "
        "half of the targets and tested on the other half; a single target is divided into halves "
        "of its examples. The first column treats a target's examples as independent, the one-run "
        f"audit does not: it counts the correct ones of {guesses} guesses, a number fixed "
        "beforehand. It treats members, a random half of fixed size, as drawn by fair coin flips, "
        "and models that are each other's shadows as independent. 0 proves nothing."
    )
    return Body(columns, rows, f"{note} {PROOF_NOTE}" if deltas else note)


PROOF_NOTE = (
    "The upper bound is that of DP-SGD, the largest over the audited models, for one example more "
    "or less; what is computed from a private network without its data is as private. The ratio is "
    "of the larger lower bound: above 1, the training is not as private as it says, or the auditor "
    "is wrong."
)


def warn(value: Mapping[str, Bounds]) -> list[str]:
    """Sentences on the variants whose lower bound exceeds the proven upper bound."""
    return [
        f"The audit of {variant} found more than the proof allows: epsilon is at least "
        f"{bounds.lower:.2f} at 95% confidence, and at most {bounds.upper:.2f} is proven (delta "
        f"{bounds.proven.delta:g}). Either the training is not as private as it says, or the "
        "auditor is wrong, or it is chance: each lower bound by itself fails in up to 5% of audits."
        for variant, bounds in value.items()
        if bounds.proven and bounds.upper is not None and bounds.lower > bounds.upper
    ]


def _proven(bounds: Bounds) -> tuple[Cell, Cell]:
    """The upper bound, or why there is none; and the ratio of the bounds."""
    proven, upper = bounds.proven, bounds.upper
    if proven is None or upper is None:
        return Cell(f"not proven: {proven.reason}" if proven else "-"), DASH
    cell = number(upper, f"{upper:.2f}")
    if not upper:  # the models took no step
        return cell, DASH
    return cell, number(bounds.lower / upper, f"{bounds.lower / upper:.2f}")


def _tested(bound: EpsilonBound) -> Cell:
    rates = f"TPR {100 * bound.tpr:.1f}%, FPR {100 * bound.fpr:.1f}%"
    return number(bound.epsilon, f"{bound.epsilon:.2f} ({rates})")
