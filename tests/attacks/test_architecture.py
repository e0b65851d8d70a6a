"""What widths tell: a slow loop, a leak that was planted, and widths that know nothing."""

import numpy as np
import pytest
import torch

from attacks.architecture import find_architecture_leak, score_widths
from attacks.cases import make_cases
from attacks.game import Game, ModelSignals

SHADOWS, TARGETS, EXAMPLES = 32, 4, 60


@pytest.fixture
def members(synthetic_fleet):
    _, members = synthetic_fleet(SHADOWS, TARGETS, EXAMPLES)
    return members


def game_of(members, widths, labels=None):
    phi = torch.zeros(len(members), 1, EXAMPLES)
    known = None if labels is None else (labels, labels)
    signals = {"full": ModelSignals(phi, labels=known)}
    return Game(signals, members, make_cases(SHADOWS, TARGETS), widths=widths)


def test_scores_are_those_of_a_slow_loop(members, rng):
    widths = torch.randint(2, 9, (len(members), 5), generator=rng).float()
    widths[:, 3] = 4  # a group whose width never varies
    shadows, targets, included = widths[:SHADOWS], widths[SHADOWS:], members[:SHADOWS]
    found = score_widths(targets, shadows, included)
    varies = [0, 1, 2, 4]
    scaled = (shadows[:, varies] - shadows[:, varies].mean(0)).numpy().astype(float)
    spread = scaled.std(0)
    scaled /= spread
    inverse = np.linalg.inv(np.cov(scaled.T, bias=True) + np.eye(4))
    for target in range(TARGETS):
        own = (targets[target, varies] - shadows[:, varies].mean(0)).numpy() / spread
        for example in range(0, EXAMPLES, 7):
            with_it = included[:, example].numpy()
            shift = scaled[with_it].mean(0) - scaled[~with_it].mean(0)
            expected = own @ inverse @ shift
            assert found[target, example].item() == pytest.approx(expected, abs=1e-5)


def test_widths_that_follow_the_classes_give_them_away(members, rng):
    """Each group is as wide as its class is frequent, so that a class tells its examples."""
    labels = torch.arange(EXAMPLES) % 6
    often = torch.rand(len(members), 6, generator=rng) < 0.5
    often[1:SHADOWS:2] = ~often[:SHADOWS:2]
    often[:, 0], often[:, 1] = True, False  # every model has members and non-members
    often[1:SHADOWS:2, 0], often[1:SHADOWS:2, 1] = False, True
    leak = find_architecture_leak(game_of(often[:, labels], 4.0 + 3 * often.float(), labels))
    assert leak.by_class.value > 0.9
    assert leak.varying == leak.groups == 6


def test_widths_by_chance_and_equal_widths_tell_nothing(members, rng):
    widths = torch.randint(2, 9, (len(members), 12), generator=rng).float()
    auc = find_architecture_leak(game_of(members, widths)).summary.auc
    assert auc.low < 0.5 < auc.high
    leak = find_architecture_leak(game_of(members, widths[:1].expand(len(members), -1)))
    assert leak.summary.auc.value == 0.5
    assert (leak.varying, leak.by_class) == (0, None)


def test_dense_models_have_no_such_leak(members):
    assert find_architecture_leak(game_of(members, None)) is None


def test_examples_need_shadows_on_both_sides(members):
    included = members[:SHADOWS].clone()
    included[:, 3] = True
    with pytest.raises(ValueError, match="got an example that all shadows or none trained on"):
        score_widths(torch.ones(1, 2), torch.ones(SHADOWS, 2), included)
