"""Audited lower bounds on epsilon beside proven upper bounds, and the warning where they cross."""

from collections.abc import Mapping
from math import inf
from typing import Any

from attacks.bounds import Bounds
from attacks.game import Proven
from attacks.metrics.epsilon import EpsilonBound
from reporting.tables import DASH, Body, Cell, number
from reporting.text import listed


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
    notes = [note, PROOF_NOTE, compare_with_proofs(value)] if deltas else [note]
    return Body(columns, rows, " ".join(filter(None, notes)))


PROOF_NOTE = (
    "The upper bound is that of DP-SGD, the largest over the audited models, for one example more "
    "or less; what is computed from a private network without its data is as private. The ratio is "
    "of the larger lower bound: above 1, the training is not as private as it says, or the auditor "
    "is wrong."
)


def read_bounds(kept: Mapping[str, Mapping[str, Any]]) -> dict[str, Bounds]:
    """The bounds among the findings of results.json, which has no infinite threshold."""
    found = {}
    for variant, bounds in kept.items():
        tested, proven = bounds["tested"], bounds["proven"]
        threshold = inf if tested["threshold"] is None else tested["threshold"]
        known = EpsilonBound(**{**tested, "threshold": threshold})
        proof = proven and Proven(**proven)
        found[variant] = Bounds(known, bounds["one_run"], bounds["guesses"], proof)
    return found


def compare_with_proofs(value: Mapping[str, Bounds]) -> str:
    """Whether the lower bounds are below the proven upper bounds, as far as that can be tested.

    A proof above all that a perfect attack could reach cannot be refuted, whatever the audit finds:
    that it holds is then not said. Empty where nothing is proven.
    """
    uppers = {v: bounds.upper for v, bounds in value.items() if bounds.upper is not None}
    if not uppers:
        return ""
    largest = max((value[variant] for variant in uppers), key=lambda bounds: bounds.reach)
    size = largest.tested
    sentences = [
        "The largest lower bound that a perfect attack could reach in this audit (delta "
        f"{largest.delta:g}) is {largest.reach:.2f}: all of {size.members:,} members found, none "
        f"of {size.non_members:,} non-members accused."
    ]
    crossed = [v for v, upper in uppers.items() if value[v].lower > upper]
    beyond = {v: upper for v, upper in uppers.items() if upper >= value[v].reach}
    below = {v: upper for v, upper in uppers.items() if v not in (*crossed, *beyond)}
    if crossed:
        sentences.append(
            f"The audited lower bound of {listed(crossed)} exceeds the proven upper bound: the "
            "training is not as private as it says, or the auditor is wrong, or it is chance."
        )
    if beyond:
        sentences.append(
            f"{_name_proofs(beyond)} not below that, and cannot be refuted by this audit: that the "
            "audited bound is smaller proves nothing."
        )
    if below:
        ratio = max(value[v].lower / upper if upper else 0.0 for v, upper in below.items())
        sentences.append(
            f"{_name_proofs(below)} below that, and not refuted: the audited bound is at most "
            f"{ratio:.2f} of the proven one."
        )
    return " ".join(sentences)


def _name_proofs(uppers: Mapping[str, float]) -> str:
    """Proven bounds as the subject of a sentence: `The proven bound of full (32.70) is`."""
    low, high = (f"{end(uppers.values()):.2f}" for end in (min, max))
    values = low if low == high else f"{low} to {high}"
    subject = "bound of" if len(uppers) == 1 else "bounds of"
    verb = "is" if len(uppers) == 1 else "are"
    return f"The proven {subject} {listed([*uppers])} ({values}) {verb}"


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
