"""Who is attacked by whom."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Case(NamedTuple):
    """One audited model and the shadows that may attack it, as rows of the membership matrix."""

    target: int
    shadows: list[int]


def make_cases(shadows: int, targets: int, excluded: Iterable[int] = ()) -> list[Case]:
    """Say which shadows attack which model.

    An excluded shadow takes its partner with it: without the pair, each example is still in
    exactly half of the shadows. With no targets every shadow is audited by all others but its
    partner, whose presence would give the answer away by counting.

    Args:
        shadows: number of shadows, an even number; partners are 2k and 2k + 1.
        targets: number of targets, which follow the shadows.
        excluded: positions of models to leave out.
    """
    excluded = set(excluded)
    broken_pairs = {position // 2 for position in excluded if position < shadows}
    usable = [position for position in range(shadows) if position // 2 not in broken_pairs]
    if targets:
        audited = [p for p in range(shadows, shadows + targets) if p not in excluded]
        return [Case(target, usable) for target in audited]
    return [Case(t, [p for p in usable if p // 2 != t // 2]) for t in usable]


def by_shadows(cases: Sequence[Case]) -> dict[tuple[int, ...], list[int]]:
    """Positions of the cases that share their shadows, which are fitted once for all of them."""
    sharing: dict[tuple[int, ...], list[int]] = {}
    for position, case in enumerate(cases):
        sharing.setdefault(tuple(case.shadows), []).append(position)
    return sharing
