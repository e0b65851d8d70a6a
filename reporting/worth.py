"""The fourth statement of the answer: what variants leak beside networks of equal accuracy."""

from collections.abc import Mapping, Sequence

from attacks.frontier import Beside, Frontier
from attacks.metrics.differences import Difference
from attacks.metrics.intervals import Estimate
from attacks.metrics.measures import Metric
from reporting.frontier import outside, place_of
from reporting.styles import EARLY
from reporting.text import LEVEL, NAMES, show_change

EQUAL = "a network of equal accuracy that was stopped early"
UNTESTED = f"Whether any variant leaks less than {EQUAL} was not tested"
FEWEST = 3  # points before the end of a curve; see `benchmarks/frontier.py`
FLATTERED = (
    f"That proves little, because straight lines between fewer than {FEWEST} points flatter what "
    "leaks less than they do; keep more snapshots, or try more sizes of noise."
)
UNSHOWN = "which does not show that they leak alike"


def state_worth(
    frontiers: Mapping[str, Frontier], snapshots: Sequence[str], tasks: bool = False
) -> str:
    """State which variants are shown to leak less, or more, than networks of equal accuracy.

    A variant leaks less if the paired difference at one end of its risk at least is shown, with p
    below 5% after correction for all variants, curves and both ends, and it leaks less there;
    likewise more. Of several, the statement describes those with the largest difference in AUC (in
    the tail, where no AUC differs). Curves other than early stopping follow, if there are any.
    Where a curve has fewer than 3 points before its end, leaking less "proves little".

    Args:
        frontiers: by name of the curve.
        snapshots: the variants on the way to the end of training.
        tasks: whether training learns one task after another.
    """
    compared = {name: found for name, found in frontiers.items() if found.beside}
    statements = []
    if EARLY not in compared:
        if tasks:
            reason = "a learner of tasks that is stopped early has not learned them all"
        elif not snapshots:
            reason = (
                "there are no snapshots of its training. Train with `--snapshots`, for example "
                "`--snapshots 5 10 15`, to test it"
            )
        elif EARLY in frontiers:
            reason = "only snapshots were audited beside the end of training"
        else:
            reason = "the test accuracy of the snapshots is not known"
        statements.append(f"{UNTESTED}: {reason}.")
    for name, frontier in compared.items():
        statements += _state(frontier, EQUAL if name == EARLY else f"{name} of equal accuracy")
        few = len(frontier.variants) - 1 < FEWEST
        if few and any(_verdict(beside) in ("less", "both") for beside in frontier.beside.values()):
            statements.append(FLATTERED)
    return " ".join(statements)


def _state(frontier: Frontier, equal: str) -> list[str]:
    """Sentences on all variants that are compared with one curve."""
    if len(frontier.beside) == 1:
        return [describe(frontier, next(iter(frontier.beside)), equal)]
    by_verdict: dict[str, list[str]] = {"less": [], "more": [], "both": [], "unclear": []}
    beyond: dict[str, list[str]] = {}
    for variant, beside in frontier.beside.items():
        if beside.outside:
            beyond.setdefault(outside(frontier, beside), []).append(variant)
        else:
            by_verdict[_verdict(beside)].append(variant)
    less, more, both, unclear = map(len, by_verdict.values())
    clauses = [
        f"{less or 'None'} of {len(frontier.beside)} variants {_are(less)} shown to leak less than "
        f"{equal}"
    ]
    if more:
        clauses.append(f"{more} {_are(more)} shown to leak more")
    if both:
        clauses.append(f"{both} {_are(both)} shown to leak less at one end and more at the other")
    if unclear:
        clauses.append(f"for {unclear} no difference is shown, {UNSHOWN}")
    for words, variants in beyond.items():
        count = len(variants)
        named = f" ({', '.join(variants)})" if count < 4 else ""
        clauses.append(f"{count} {_are(count)} outside the curve, {words}{named}")
    sentences = ["; ".join(clauses) + "."]
    for verdict in ("less", "more", "both"):
        if group := by_verdict[verdict]:
            largest = max(group, key=lambda variant: _extent_of(frontier.beside[variant]))
            described = describe(frontier, largest, equal)
            sentences.append(f"By estimate most: {described}" if len(group) > 1 else described)
    return sentences


def _are(count: int) -> str:
    return "are" if count > 1 else "is"


def _shown(beside: Beside) -> dict[Metric, Difference]:
    return {metric: d for metric, d in beside.differences.items() if d.p_holm < LEVEL}


def _verdict(beside: Beside) -> str:
    signs = {difference.estimate.value > 0 for difference in _shown(beside).values()}
    if len(signs) == 2:
        return "both"
    return {True: "less", False: "more"}[signs.pop()] if signs else "unclear"


def _extent_of(beside: Beside) -> tuple[bool, float]:
    """Order of variants: by the difference in AUC, or in TPR where no AUC differs."""
    metric, difference = next(iter(_shown(beside).items()))
    return metric == "auc", abs(difference.estimate.value)


def describe(frontier: Frontier, variant: str, equal: str) -> str:
    """A sentence on one variant."""
    beside = frontier.beside[variant]
    if beside.outside:
        way_out = " An earlier snapshot would make it comparable."
        needed = way_out if beside.outside == "below" and equal == EQUAL else ""
        return f"{variant} is not compared with {equal}: it is {outside(frontier, beside)}.{needed}"
    there, shown = f"{equal} ({_at(frontier, beside)})", _shown(beside)
    if not shown:
        differences = [
            f"{NAMES[metric]} {show_change(_turn(difference), metric)}"
            for metric, difference in beside.differences.items()
        ]
        return (
            f"No difference between {variant} and {there} is shown, {UNSHOWN}: the variant has "
            f"{' and '.join(differences)} beyond it."
        )
    parts = []
    for sign, word in ((1, "less"), (-1, "more")):
        amounts = [_amount(m, d) for m, d in shown.items() if sign * d.estimate.value > 0]
        if amounts:
            parts.append(f"{' and '.join(amounts)} {word}")
    unclear = [NAMES[metric] for metric in beside.differences if metric not in shown]
    rest = f"; no difference is shown in {unclear[0]}" if unclear else ""
    return f"{variant} leaks {' and '.join(parts)} than {there}{rest}."


def _amount(metric: Metric, difference: Difference) -> str:
    """The size of a difference that is shown: `0.042 AUC (0.020 to 0.064)`."""
    value, *ends = (abs(number) for number in difference.estimate[:3])
    low, high = sorted(ends)
    if metric == "auc":
        return f"{value:.3f} AUC ({low:.3f} to {high:.3f})"
    low, value, high = 100 * low, 100 * value, 100 * high
    return f"{value:.1f} points of {NAMES[metric]} ({low:.1f} to {high:.1f})"


def _turn(difference: Difference) -> Estimate:
    """The variant minus the curve."""
    value, low, high, spread = difference.estimate
    return Estimate(-value, -high, -low, spread)


def _at(frontier: Frontier, beside: Beside) -> str:
    """Where on the curve, as far as it can be told."""
    place, ends = place_of(frontier, beside), " to ".join(beside.stretch)
    if place == ends:
        return f"from {ends}"
    about = f"at {'about ' if beside.place % 1 else ''}{place}"
    if " to " in place:
        about = f"from {place}"
    names = frontier.variants
    pieces = names.index(beside.stretch[1]) - names.index(beside.stretch[0])
    return f"{about}, or elsewhere from {ends}" if pieces > 1 else about
