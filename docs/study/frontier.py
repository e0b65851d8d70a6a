"""What networks of equal accuracy on a curve leak, from kept results."""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from attacks.equal_accuracy import Equal, find_equal, networks_at, shown_by_all
from attacks.frontier import Frontier, set_beside
from attacks.game import FULL
from attacks.metrics.differences import Difference, Outcome
from docs.study.numbers import NOBODY, STRONGEST, Attacker, Study, uncorrected
from docs.study.verdicts import Uncorrected
from reporting.frontier import as_accurate_as
from reporting.pairing import pair_with_first


class Left(NamedTuple):
    """The key of a comparison: a network of equal accuracy on a curve, less the variant."""

    variant: str
    measure: str


class KeptCurve:
    """A way to trade accuracy for leakage, and the variants of one fleet beside it.

    Args:
        study: the fleet of the curve.
        variants: the curve's, from the one that is expected to leak least.
        own: the fleet of the compared variants, whose targets trained on the same examples.
    """

    def __init__(self, study: Study, variants: Sequence[str], own: Study | None = None) -> None:
        self.study, self.variants, self.own = study, list(variants), own or study

    @cached_property
    def _targets(self) -> tuple[Sequence[int] | None, Sequence[int] | None]:
        """Positions of the common targets in either fleet; None for all."""
        if self.own is self.study:
            return None, None
        pairing = pair_with_first({"curve": self.study.results, "own": self.own.results})["own"]
        return pairing.first, pairing.own

    def there(self, variant: str, measure: str, attacker: Attacker = STRONGEST) -> Outcome:
        """A variant of the curve's fleet on the common targets."""
        return self.study.outcome(variant, attacker, measure, self._targets[0])

    def here(self, variant: str, measure: str, attacker: Attacker = STRONGEST) -> Outcome:
        """A compared variant on the common targets."""
        return self.own.outcome(variant, attacker, measure, self._targets[1])

    def place(self, variant: str) -> Equal:
        """Where the curve is as accurate as a variant."""
        own = self.here(variant, "accuracy", NOBODY).measured.values
        return find_equal(self._path, own)

    def where(self, variant: str) -> str:
        """The same in words: `epoch 18.4 (epoch-16 to epoch-20)`."""
        beside = set_beside(self.variants, self.place(variant), {})
        return as_accurate_as(Frontier(self.variants, {variant: beside}), beside)

    def networks(self, variant: str, measure: str) -> list[Outcome]:
        """What networks of equal accuracy leak, wherever they may be; none outside the curve."""
        equal = self.place(variant)
        if equal.outside:
            return []
        points = [self.there(point, measure) for point in self.variants]
        own = self.here(variant, "accuracy", NOBODY).measured.values
        return networks_at(equal, points, self._path, own)

    def left(self, variant: str, measure: str) -> Uncorrected | None:
        """How much more the curve leaks than a variant of equal accuracy; None outside it."""
        here = self.here(variant, measure)
        pairs = [(network, here) for network in self.networks(variant, measure)]
        return self._by_all(pairs, measure)

    def lost(self, variant: str, measure: str) -> Uncorrected | None:
        """How much less the curve leaks at a variant's accuracy than at the end of training."""
        full = self.there(FULL, measure)
        pairs = [(full, network) for network in self.networks(variant, measure)]
        return self._by_all(pairs, measure)

    def beyond(self, variant: str, other: str, measure: str) -> Uncorrected | None:
        """What is left of a variant beyond what is left of another; None if either is outside."""
        here, there = self.here(variant, measure), self.here(other, measure)
        pairs = [
            (first.minus(here), second.minus(there))
            for first in self.networks(variant, measure)
            for second in self.networks(other, measure)
        ]
        return self._by_all(pairs, measure)

    @cached_property
    def _path(self) -> Float[Tensor, "points targets"]:
        """The accuracy of the curve's variants."""
        points = [self.there(variant, "accuracy", NOBODY) for variant in self.variants]
        return torch.stack([point.measured.values for point in points])

    def _by_all(self, pairs: Sequence[tuple[Outcome, Outcome]], measure: str) -> Uncorrected | None:
        if not pairs:
            return None
        margin, together = self.study.margin(STRONGEST, measure), self.own is self.study
        tests = [uncorrected(*pair, margin, together) for pair in pairs]
        found = shown_by_all([Difference("", "", t.estimate, t.p, t.p) for t in tests])
        return Uncorrected(found.estimate, found.p, margin)
