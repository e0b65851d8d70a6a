"""Lower bounds on epsilon that an audit finds, beside what differential privacy proves."""

from typing import NamedTuple

from attacks.game import Game, Proven
from attacks.metrics.epsilon import (
    EpsilonBound,
    epsilon_bound,
    largest_epsilon,
    one_run_epsilon,
)
from attacks.strongest import HeldOut, Strongest

GUESSES = 0.1  # share of the tested examples that the one-run audit guesses


class Bounds(NamedTuple):
    """Lower bounds on epsilon of one variant, each at 95% confidence.

    Attack and threshold are chosen on half of the targets, or of the examples of a single target,
    and tested on the other half.

    Attributes:
        tested: from error rates.
        one_run: from the number of correct guesses.
        guesses: number of guesses about all tested targets, fixed beforehand.
        proven: upper bound that differential privacy proves, at whose delta the lower bounds are;
            None for models that were trained without it, whose lower bounds are at delta = 0.
    """

    tested: EpsilonBound
    one_run: float
    guesses: int
    proven: Proven | None = None

    @property
    def lower(self) -> float:
        """The larger of the lower bounds."""
        return max(self.tested.epsilon, self.one_run)

    @property
    def upper(self) -> float | None:
        """The proven upper bound; None if nothing is proven."""
        return self.proven and self.proven.epsilon

    @property
    def reach(self) -> float:
        """The largest lower bound that this audit could find, by a perfect attack.

        A proven bound above it cannot be refuted by this audit.
        """
        sides = self.tested.members, self.tested.non_members
        return largest_epsilon(*sides, self.guesses, self.delta)

    @property
    def delta(self) -> float:
        """That of the proof, at which the lower bounds are."""
        return self.proven.delta if self.proven else 0.0


def find_bounds(game: Game, best: Strongest) -> dict[str, Bounds]:
    """Lower bounds on epsilon of every variant, beside what is proven."""
    proven = game.proven
    return {v: _bound(kept.tested, proven.get(v)) for v, kept in best.variants.items()}


def _bound(held_out: HeldOut, proven: Proven | None = None) -> Bounds:
    scores, members = held_out
    delta = proven.delta if proven else 0.0
    half = len(members) // 2
    guesses = max(2, int(GUESSES * members.shape[1]) // 2 * 2)
    one_run = one_run_epsilon(scores[half:], members[half:], guesses, delta)
    tested = epsilon_bound(scores, members, delta)
    return Bounds(tested, one_run, guesses * (len(members) - half), proven)
