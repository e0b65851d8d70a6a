"""The table of variants beside networks of equal accuracy, and places on a curve in words."""

import re
from collections.abc import Mapping

from attacks.frontier import Beside, Frontier
from reporting.tables import DASH, Body, Cell, difference_cells
from reporting.text import NAMES

_SNAPSHOT = re.compile(r"(epoch|round|task)-(\d+)")


def tabulate_frontiers(value: Mapping[str, Frontier]) -> Body:
    """The table of all compared variants, one curve after another."""
    rows, tail = [], "TPR"
    for name, frontier in value.items():
        for variant, beside in frontier.beside.items():
            cells = [DASH] * 4
            if beside.differences:
                (_, auc), (metric, rate) = beside.differences.items()
                cells = [*difference_cells(auc), *difference_cells(rate, percent=True)]
                tail = NAMES[metric]
            place = None if beside.outside else beside.place
            where = Cell(as_accurate_as(frontier, beside), place)
            rows.append((Cell(variant), Cell(name), where, *cells))
    return Body(
        (
            *("variant", "curve", "as accurate as"),
            *("AUC less than there", "p", f"{tail} less than there, points", "p"),
        ),
        rows,
        "How much less a variant leaks than a network of equal accuracy on the curve; below 0, it "
        "leaks more. That network is where straight lines through the curve's variants first reach "
        "the variant's mean accuracy. In brackets: the part of the curve whose accuracy is not "
        "shown to differ from the variant's (5%, over the targets). Interval and p hold wherever "
        "on it the network lies, and are wide where accuracy hardly changes and leakage does. "
        "Compared on the same targets and examples, over more targets and other shadows, as two "
        "variants are; p is corrected for all rows and both metrics together (Holm). The accuracy "
        "of a single target is taken as known. Outside the curve nothing is compared. Between two "
        "variants of a curve, leakage is interpolated linearly: where it rises ever faster with "
        "accuracy, this overstates what the curve leaks, and more snapshots are fairer.",
    )


def as_accurate_as(frontier: Frontier, beside: Beside) -> str:
    """Where a curve has a variant's accuracy and may have it, or how the variant lies outside.

    As in `epoch 18.4 (epoch-16 to epoch-20)`, or `epoch-26 to full` where that is all.
    """
    if beside.outside:
        return f"outside: {outside(frontier, beside)}"
    place, ends = place_of(frontier, beside), " to ".join(beside.stretch)
    return place if place == ends else f"{place} ({ends})"


def outside(frontier: Frontier, beside: Beside) -> str:
    """How a variant lies outside a curve, in words."""
    if beside.outside == "below":
        return f"less accurate than {frontier.variants[0]}"
    return "more accurate than every network on the curve"


def place_of(frontier: Frontier, beside: Beside) -> str:
    """Where a curve has a variant's accuracy: `epoch-20`, `epoch 12.4`, or `epoch-20 to full`.

    An epoch is interpolated between two snapshots; that of `full` is not in its name.
    """
    share = beside.place % 1
    lower = frontier.variants[int(beside.place)]
    if not share:
        return lower
    upper = frontier.variants[int(beside.place) + 1]
    start, stop = _SNAPSHOT.fullmatch(lower), _SNAPSHOT.fullmatch(upper)
    if start is None or stop is None or start[1] != stop[1]:
        return f"{lower} to {upper}"
    number = int(start[2]) + share * (int(stop[2]) - int(start[2]))
    return f"{start[1]} {number:.1f}"
