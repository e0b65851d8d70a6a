"""What either half of the shadows finds, by hand, with measures that count or name shadows."""

from itertools import combinations

import pytest
import torch

from attacks.cases import Case, make_cases
from attacks.game import Game
from attacks.shadow_halves import by_shadow_halves, is_round_robin

ALL = (0, 0)  # an attack that can score any example


def play(shadows, targets, examples=10, excluded=(), **fields):
    """A game whose shadows are complementary pairs; there are no signals to measure."""
    rng = torch.Generator().manual_seed(0)
    half = torch.rand(shadows // 2 + targets, examples, generator=rng).argsort(1) < examples // 2
    pairs = torch.stack([half, ~half], 1).flatten(0, 1)[:shadows]
    members = torch.cat([pairs, half[shadows // 2 :]])
    return Game({}, members, make_cases(shadows, targets, excluded), **fields)


def count_and_sum(game):
    """Two numbers per target: of its shadows, and the sum of their positions times its own."""
    numbers = [[float(len(case.shadows)) for case in game.cases]]
    numbers.append([float(case.target * sum(case.shadows)) for case in game.cases])
    return torch.tensor(numbers, dtype=torch.float64)


def record(halves):
    """A measure that notes every game that it is given."""

    def measure(game):
        halves.append(game)
        return torch.zeros(1, len(game.cases), dtype=torch.float64)

    return measure


def test_targets_apart_from_the_shadows_get_half_the_difference():
    """By hand: of pairs 0 to 3, {0, 2} sums to 10 and {1, 3} to 18; {0, 1} to 6; {0, 3} to 14."""
    counts, sums = by_shadow_halves(play(8, 3), ALL, count_and_sum)
    assert counts.tolist() == [[0.0] * 3] * 3
    half = [(10 - 18) / 2, (6 - 22) / 2, (14 - 14) / 2]
    assert sums.tolist() == [[target * value for target in (8, 9, 10)] for value in half]


def test_unequal_halves_of_apart_targets():
    """Pair 4 joins pair 0: 6 shadows against 4 in each way."""
    counts, sums = by_shadow_halves(play(10, 1), ALL, count_and_sum)
    assert counts.tolist() == [[(6 - 4) / 2]] * 3
    # {0, 2, 4} sums to 27, {0, 1, 4} to 23, {0, 3, 4} to 31, all to 45
    assert sums.tolist() == [[10 * (2 * first - 45) / 2] for first in (27, 23, 31)]


def test_an_excluded_pair_is_in_no_half():
    """Pairs 0, 2, 3 of 4 are left: {0, 3} against {2}, in one way."""
    counts, sums = by_shadow_halves(play(8, 2, excluded=[3]), ALL, count_and_sum)
    assert counts.tolist() == [[(4 - 2) / 2] * 2]
    assert sums.tolist() == [[target * (14 - 9) / 2 for target in (8, 9)]]


@pytest.mark.parametrize("turned", [False, True], ids=["in-order", "reversed"])
def test_shadows_that_are_targets_attack_within_their_half(turned):
    """By hand: of {0, 1, 4, 5}, shadow 0 is attacked by 4 and 5, which sum to 9.

    A half of 4 of 8 targets has the weight 8 / (2 x 4) = 1.
    """
    game = play(8, 0)
    if turned:
        game = game._replace(cases=game.cases[::-1])
    counts, sums = by_shadow_halves(game, ALL, count_and_sum)
    targets = [case.target for case in game.cases]
    first = {0: 9, 1: 9, 4: 1, 5: 1}  # sum of the attackers' positions
    second = {2: 13, 3: 13, 6: 5, 7: 5}
    signs = [1.0 if target in first else -1.0 for target in targets]
    assert counts[0].tolist() == [2 * sign for sign in signs]
    wanted = [
        sign * target * (first | second)[target]
        for sign, target in zip(signs, targets, strict=True)
    ]
    assert sums[0].tolist() == wanted


@pytest.mark.parametrize("pairs", [2, 3, 4, 5, 7, 8, 11])
def test_a_round_robins_mean_is_half_the_difference_of_the_halves_means(pairs):
    """3, 5, 7 and 11 pairs make unequal halves, whose targets weigh differently."""
    seen = []

    def measure(game):
        seen.append(count_and_sum(game))
        return seen[-1]

    differences = by_shadow_halves(play(2 * pairs, 0), ALL, measure)
    ways = {2: 1, 3: 1, 4: 3, 5: 3, 7: 3, 8: 7, 11: 7}[pairs]
    assert differences.shape == (2, ways, 2 * pairs)
    for way, (first, second) in enumerate(zip(seen[::2], seen[1::2], strict=True)):
        wanted = (first.mean(1) - second.mean(1)) / 2
        torch.testing.assert_close(differences[:, way].mean(1), wanted)
        sizes = {first.shape[1], second.shape[1]}
        assert len(sizes) == (1 if pairs in (2, 4, 8) else 2)
        positive = differences[0, way] > 0
        assert {int(positive.sum()), int((~positive).sum())} == sizes or pairs < 4


@pytest.mark.parametrize(
    ("shadows", "targets"), [(4, 2), (8, 2), (14, 2), (40, 2), (8, 0), (32, 0)]
)
def test_pairs_stay_together_and_ways_are_independent(shadows, targets):
    """Of two ways, each half of one has half of its pairs in either half of the other."""
    games = []
    game = play(shadows, targets)
    by_shadow_halves(game, ALL, record(games))
    firsts = []
    for first, second in zip(games[::2], games[1::2], strict=True):
        own, others = (
            {s for case in half.cases for s in ([] if targets else [case.target]) + case.shadows}
            for half in (first, second)
        )
        assert own | others == set(range(shadows))
        assert not own & others
        assert {position ^ 1 for position in own} == own
        assert {position ^ 1 for position in others} == others
        for half, side in ((first, own), (second, others)):
            assert [case.target for case in half.cases] == [
                case.target for case in game.cases if targets or case.target in side
            ]
            assert not any(case.target // 2 == s // 2 for case in half.cases for s in case.shadows)
        firsts.append(own)
    for one, other in combinations(firsts, 2):
        shared = len(one & other), len(one - other), len(other - one)
        assert max(shared) - min(shared) <= (2 if shadows == 14 else 0)


@pytest.mark.parametrize(("shadows", "targets", "enough"), [(2, 2, False), (4, 2, True)])
def test_one_pair_cannot_be_halved(shadows, targets, enough):
    halves = by_shadow_halves(play(shadows, targets), ALL, count_and_sum)
    assert (halves is not None) == enough


@pytest.mark.parametrize(
    ("shadows", "targets", "sides", "enough"),
    [
        *((4, 2, (1, 1), True), (4, 2, (0, 2), False), (8, 2, (2, 2), True)),
        (6, 2, (2, 2), False),  # 3 pairs are 2 and 1
        *((4, 0, (0, 1), False), (8, 0, (1, 1), True), (8, 0, (2, 2), False)),
        (12, 0, (2, 2), False),  # 6 pairs make 4 blocks, and a way divides them into 4 and 2
        (16, 0, (2, 2), True),
    ],
)
def test_unknown_where_half_of_the_shadows_do_not_suffice(shadows, targets, sides, enough):
    halves = by_shadow_halves(play(shadows, targets), sides, count_and_sum)
    assert (halves is not None) == enough


def test_examples_that_half_of_the_shadows_cannot_score_are_left_out_of_that_half():
    """Example 3 was in shadows 0 and 1 alone, so that the half without them has none with it."""
    game, games = play(8, 2), []
    members = game.members.clone()
    members[:8, 3] = torch.arange(8) < 2
    by_shadow_halves(game._replace(members=members), (1, 1), record(games))
    assert [half.members.shape[1] for half in games] == [10, 9] * 3
    for half in games[1::2]:
        assert half.kept.tolist() == [example != 3 for example in range(10)]
    members[:8, 4:6] = members[:8, 3:4]  # 3 of 10 examples are too many
    assert by_shadow_halves(game._replace(members=members), (1, 1), count_and_sum) is None


@pytest.mark.parametrize("turned", [False, True], ids=["in-order", "reversed"])
@pytest.mark.parametrize("targets", [0, 3])
def test_tuned_values_follow_their_cases(targets, turned):
    """Each case's `a` is a tenth of its target, in every half that it is in."""
    games, game = [], play(8, targets)
    if turned:
        game = game._replace(cases=game.cases[::-1])
    game = game._replace(tuned={"w4": [case.target / 10 for case in game.cases]})
    by_shadow_halves(game, ALL, record(games))
    assert len(games) == 6
    for half in games:
        assert len(half.cases) == (targets or 4)
        assert half.tuned == {"w4": [case.target / 10 for case in half.cases]}


def test_who_attacks_whom_decides_what_a_round_robin_is():
    assert is_round_robin(play(4, 0))
    assert not is_round_robin(play(4, 2))
    assert not is_round_robin(play(4, 1)._replace(cases=[Case(4, [])]))
