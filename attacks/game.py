"""What an attacker sees: signals of audited models, and of shadows of known membership."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from attacks.lira import Fit, fit_sides
from attacks.slices import Sliced

Knowledge = Literal["matched", "full", "none"]


class Observed(NamedTuple):
    """Signals of some models in one precision; any but phi may be unknown.

    Attributes:
        phi: of the audited examples, in nats.
        hinge: of the same, in units of the logits; above 0 where classified correctly.
        population: phi of examples that no model trained on.
        population_hinge: their hinge.
        features: a representation of the audited examples and of the population, for regression.
    """

    phi: Float[Sliced, "models queries examples"]
    hinge: Float[Sliced, "models queries examples"] | None = None
    population: Float[Sliced, "models queries population"] | None = None
    population_hinge: Float[Sliced, "models queries population"] | None = None
    features: tuple[Tensor, Tensor] | None = None

    def of(self, models: Sequence[int]) -> "Observed":
        """Signals of some of the models."""
        rows = list(models)
        return self._replace(**{name: some[rows] for name, some in self._signals().items()})

    def read(self) -> "Target":
        """The same in memory."""
        known: dict[str, Any] = {name: some[..., :] for name, some in self._signals().items()}
        return Target(**known, features=self.features)

    def _signals(self) -> dict[str, Sliced]:
        signals = self._replace(features=None)._asdict()
        return {name: some for name, some in signals.items() if some is not None}


class Target(NamedTuple):
    """As `Observed`, of models that are attacked together; an attack finds all that it needs."""

    phi: Float[Tensor, "targets queries examples"]
    hinge: Any = None
    population: Any = None
    population_hinge: Any = None
    features: Any = None


class Shadows:
    """Shadow models; what several attacks need of them is computed once.

    Args:
        seen: their signals.
        included: which of them trained on which example.
    """

    def __init__(self, seen: Observed, included: Bool[Tensor, "models examples"]) -> None:
        self.phi, self.included = seen.phi, included
        self.population: Any = seen.population  # an attack finds what it needs

    @cached_property
    def inside(self) -> Fit:
        """Of the shadows that trained on each example."""
        return self._sides[0]

    @cached_property
    def outside(self) -> Fit:
        """Of the others; there need be no shadows of the first kind."""
        if self.included.sum(0).min() < 2:
            return fit_sides(self.phi, (~self.included,))[0]
        return self._sides[1]

    @cached_property
    def _sides(self) -> list[Fit]:
        return fit_sides(self.phi, (self.included, ~self.included))  # in one reading


class Case(NamedTuple):
    """One audited model and the shadows that may be used against it, as rows of the membership."""

    target: int
    shadows: list[int]


def make_cases(shadows: int, targets: int, failed: Iterable[int] = ()) -> list[Case]:
    """Say which shadows attack which model.

    A failed shadow takes its partner with it: without the pair, each example is still in exactly
    half of the shadows. With no targets every shadow is audited by all others but its partner,
    whose presence would give the answer away by counting.

    Args:
        shadows: number of shadows, an even number; partners are 2k and 2k + 1.
        targets: number of targets, which follow the shadows.
        failed: positions of models to leave out.
    """
    pairs_out, failed = {position // 2 for position in failed if position < shadows}, set(failed)
    usable = [position for position in range(shadows) if position // 2 not in pairs_out]
    if targets:
        audited = [p for p in range(shadows, shadows + targets) if p not in failed]
        return [Case(target, usable) for target in audited]
    return [Case(t, [p for p in usable if p // 2 != t // 2]) for t in usable]


def by_shadows(cases: Sequence[Case]) -> dict[tuple[int, ...], list[int]]:
    """Positions of the cases that share their shadows, which are fitted once for all of them."""
    sharing: dict[tuple[int, ...], list[int]] = {}
    for position, case in enumerate(cases):
        sharing.setdefault(tuple(case.shadows), []).append(position)
    return sharing
