"""Words for what comparisons show: every verdict on the page comes from here."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

from attacks.metrics.differences import holm
from attacks.metrics.intervals import Estimate
from reporting.text import listed

Direction = Literal["less", "more"]
Expected = Literal["less", "more", "alike"]
Status = Literal["held", "held in part", "not shown", "mixed", "refuted"]
Key = TypeVar("Key", bound=Hashable)

LEVEL = 0.05  # chance of any false finding on the page, as far as p is right
NAMES = {
    "auc": "AUC",
    "tpr_1pct": "TPR at 1% FPR",
    "tpr_01pct": "TPR at 0.1% FPR",
    "accuracy": "test accuracy",
}
TAIL = {"tpr_1pct", "tpr_01pct"}


class Uncorrected(NamedTuple):
    """A mean difference over targets, its p, and the size up to which it is called small."""

    estimate: Estimate
    p: float
    margin: float = 0.0


class Compared(NamedTuple):
    """A mean difference over targets, with p corrected for all comparisons of the page."""

    estimate: Estimate
    p: float
    p_holm: float
    margin: float = 0.0

    @property
    def shown(self) -> Direction | None:
        """The direction of the difference; None if it is not significant after correction."""
        if self.p_holm >= LEVEL:
            return None
        return "less" if self.estimate.value < 0 else "more"

    @property
    def small(self) -> bool:
        """Whether the whole interval lies within the margin, be the difference shown or not."""
        return self.estimate.low > -self.margin and self.estimate.high < self.margin

    @property
    def large(self) -> bool:
        """Whether the whole interval lies beyond the margin, on one side of 0."""
        return self.estimate.low > self.margin or self.estimate.high < -self.margin

    @property
    def sign(self) -> str:
        """The sign of a table's cell: what is shown, and whether it is small."""
        arrows = {"less": "↓", "more": "↑", None: "" if self.small else "?"}
        return arrows[self.shown] + ("≈" if self.small else "")


class Verdict(NamedTuple):
    """How many of several comparisons show what a claim expects, and how many the opposite."""

    supporting: int
    opposing: int
    total: int

    @property
    def status(self) -> Status:
        """The verdict's word."""
        if self.opposing:
            return "mixed" if self.supporting else "refuted"
        if not self.supporting:
            return "not shown"
        return "held" if self.supporting == self.total else "held in part"

    @property
    def counts(self) -> str:
        """What the word rests on: "3 of 3", or "1 of 3, opposite 2"."""
        opposite = f", opposite {self.opposing}" if self.opposing else ""
        return f"{self.supporting} of {self.total}{opposite}"


def correct(tests: Mapping[Key, Uncorrected]) -> dict[Key, Compared]:
    """Correct all comparisons of the page together, by Holm."""
    corrected = holm([test.p for test in tests.values()])
    return {
        key: Compared(test.estimate, test.p, p_holm, test.margin)
        for (key, test), p_holm in zip(tests.items(), corrected, strict=True)
    }


def judge(comparisons: Sequence[Compared], expected: Expected) -> Verdict:
    """Count the comparisons for and against a claim.

    A difference in the expected direction counts for the claim where it is shown, and one in the
    other direction against it. A claim of likeness is supported by a difference that is small, and
    opposed by one that is shown and large. As it needs every comparison to be small, its intervals
    are not corrected (an intersection-union test).

    Source: Berger 1982, doi:10.1080/00401706.1982.10487790, for the claim of likeness.
    """
    if expected == "alike":
        supporting = sum(compared.small for compared in comparisons)
        opposing = sum(compared.large and compared.shown is not None for compared in comparisons)
    else:
        supporting = sum(compared.shown == expected for compared in comparisons)
        opposing = sum(compared.shown not in (None, expected) for compared in comparisons)
    return Verdict(supporting, opposing, len(comparisons))


def overall(statuses: Mapping[str, Status]) -> str:
    """One verdict on several measures: "held", or "held in AUC, not shown in the tail"."""
    groups: dict[Status, list[str]] = {}
    for measure, status in statuses.items():
        groups.setdefault(status, []).append(measure)
    if len(groups) == 1:
        return next(iter(groups))
    return "; ".join(f"{status} in {_places(places)}" for status, places in groups.items())


def ends(first: str, second: str, by_measure: Mapping[str, Compared]) -> str:
    """A sentence on which of two leaks more, at both ends.

    Where measures disagree in sign, both signs are told; measures that show nothing are named.
    """
    groups: dict[str, list[str]] = {}
    for measure, compared in by_measure.items():
        groups.setdefault(compared.shown or "", []).append(measure)
    nothing = groups.pop("", [])
    if not groups:
        return f"{first} and {second}: no difference shown"
    found = " and ".join(f"{word} in {_places(places)}" for word, places in groups.items())
    rest = f" (in {_places(nothing)} no difference shown)" if nothing else ""
    return f"{first} leaks {found} than {second}{rest}"


def counted(found: int, total: int) -> str:
    """How many of several, in words at both ends: "none of 3", "1 of 3", "all 3"."""
    if found == total:
        return f"all {total}"
    return f"{found or 'none'} of {total}"


def tally(measure: str, pairs: Sequence[Compared]) -> str:
    """How many are shown to be less or more, by how much, or neither, and whether that is small."""
    parts = []
    for word in ("less", "more", None):
        found = [pair for pair in pairs if pair.shown == word]
        if found:
            where = "" if len(found) == len(pairs) else f" in {len(found)}"
            told = _amounts(measure, found) if word else _smallness(found)
            parts.append(f"{word or 'no difference shown'}{where}{told}")
    return f"{NAMES[measure]} {listed(parts)}"


def _amounts(measure: str, pairs: Sequence[Compared]) -> str:
    sizes = [abs(pair.estimate.value) for pair in pairs]
    if measure == "auc":
        return f" (by {listed([f'{size:.3f}' for size in sizes])})"
    return f" (by {listed([f'{100 * size:.1f}' for size in sizes])} points)"


def _smallness(pairs: Sequence[Compared]) -> str:
    small = sum(pair.small for pair in pairs)
    if len(pairs) == 1:
        return " (small)" if small else ""
    return f" ({counted(small, len(pairs))} small)" if small else ""


def _places(measures: Sequence[str]) -> str:
    """Measures in words; both rates together are the tail."""
    if set(measures) >= TAIL:
        return listed(
            [*(NAMES[measure] for measure in measures if measure not in TAIL), "the tail"]
        )
    return listed([NAMES[measure] for measure in measures])
