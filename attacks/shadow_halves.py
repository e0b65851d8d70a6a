"""What either half of the shadows finds: independent draws of the shadows, to see their noise by.

`metrics.differences.variance_of_mean` says what follows from them.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from scipy.linalg import hadamard
from torch import Tensor

from attacks.cases import Case
from attacks.choice import Sides, scorable, suffices
from attacks.game import Game, keep_examples

# Blocks of shadows. 4 can be halved in 3 ways that are independent of one another, 8 in 7. Where
# the audited models are the shadows, all of the variance is estimated from these ways.
_BLOCKS, _BLOCKS_OF_A_ROUND_ROBIN = 4, 8


def by_shadow_halves(
    game: Game, sides: Sides, measure: Callable[[Game], Float[Tensor, "kinds targets"]]
) -> Float[Tensor, "kinds ways targets"] | None:
    """Half the difference between what either half of the shadows finds, for several halvings.

    Shadows 2k and 2k + 1, which are complementary, stay together. Where the audited models are
    themselves shadows, each half is attacked by itself, and a number is that of its target, with a
    sign and weight that make the mean over targets half the difference of the halves' means.

    Args:
        game: two audited models or more.
        sides: how many shadows with and without each example the attacks need.
        measure: what is measured of a game's attacks, for each of its audited models.

    Returns:
        None where half of the shadows do not suffice for an audit.
    """
    pairs = sorted({shadow // 2 for case in game.cases for shadow in case.shadows})
    most = _BLOCKS_OF_A_ROUND_ROBIN if is_round_robin(game) else _BLOCKS
    blocks = min(most, 1 << (len(pairs).bit_length() - 1))
    if blocks < 2:
        return None
    place = {pair: position % blocks for position, pair in enumerate(pairs)}
    ways = []
    for signs in hadamard(blocks)[1:]:
        first = {pair for pair, block in place.items() if signs[block] > 0}
        halves = [_half(game, first), _half(game, place.keys() - first)]
        values = []
        for half in halves:
            usable = scorable(half, sides)
            if not half.cases or not suffices(usable, half):
                return None
            values.append(measure(keep_examples(half, usable)))
        ways.append(_difference(game, halves, values))
    return torch.stack(ways, 1)


def is_round_robin(game: Game) -> bool:
    """Whether audited models are also shadows of one another."""
    targets = {case.target for case in game.cases}
    return any(targets.intersection(case.shadows) for case in game.cases)


def _half(game: Game, pairs: set[int]) -> Game:
    """The game with some pairs of shadows alone."""
    everyone = not is_round_robin(game)
    places = [
        place for place, case in enumerate(game.cases) if everyone or case.target // 2 in pairs
    ]
    cases = [
        Case(target, [shadow for shadow in shadows if shadow // 2 in pairs])
        for target, shadows in (game.cases[place] for place in places)
    ]
    tuned = {variant: [values[p] for p in places] for variant, values in game.tuned.items()}
    return game._replace(cases=cases, tuned=tuned)


def _difference(
    game: Game, halves: list[Game], values: list[Float[Tensor, "kinds _"]]
) -> Float[Tensor, "kinds targets"]:
    first, second = values
    if not is_round_robin(game):
        return (first - second) / 2
    targets = [case.target for case in game.cases]
    difference = first.new_zeros(len(first), len(targets))
    for half, own, sign in zip(halves, values, (1, -1), strict=True):
        places = [targets.index(case.target) for case in half.cases]
        difference[:, places] = sign * own * len(targets) / (2 * len(places))
    return difference
