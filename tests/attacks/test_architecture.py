"""What kept channels tell: a slow loop, a leak that was planted, and masks that know nothing."""

import math

import pytest
import torch

from attacks.architecture import find_architecture_leak, score_kept
from attacks.game import Game, ModelSignals, make_cases

SHADOWS, TARGETS, EXAMPLES = 12, 4, 60


@pytest.fixture
def members(synthetic_fleet):
    _, members = synthetic_fleet(SHADOWS, TARGETS, EXAMPLES)
    return members


def game_of(members, masks, labels=None, shadows=SHADOWS):
    phi = torch.zeros(len(members), 1, EXAMPLES)
    known = None if labels is None else (labels, labels)
    signals = {"full": ModelSignals(phi, labels=known)}
    return Game(signals, members, make_cases(shadows, TARGETS), kept_channels=masks)


def test_scores_are_those_of_a_slow_loop(members, rng):
    masks = torch.rand(len(members), 7, generator=rng) < 0.5
    included, targets = members[:SHADOWS], masks[SHADOWS:]
    found = score_kept(targets, masks[:SHADOWS], included)
    for target in range(TARGETS):
        for example in range(0, EXAMPLES, 7):
            expected = 0.0
            for channel in range(7):
                logs = []
                for side in (True, False):
                    group = [s for s in range(SHADOWS) if bool(included[s, example]) is side]
                    alike = sum(bool(masks[s, channel] == targets[target, channel]) for s in group)
                    logs.append(math.log((alike + 1) / (len(group) + 2)))
                expected += logs[0] - logs[1]
            assert found[target, example].item() == pytest.approx(expected, abs=1e-12)


def test_a_channel_that_follows_an_example_gives_it_away(synthetic_fleet):
    """Channel k is kept by the models that trained on example k."""
    _, members = synthetic_fleet(128, TARGETS, EXAMPLES)
    leak = find_architecture_leak(game_of(members, members.clone(), shadows=128))
    assert leak.summary.auc.low > 0.95
    assert leak.varying == leak.channels == EXAMPLES
    assert leak.by_class is None


def test_masks_by_chance_and_equal_masks_tell_nothing(members, rng):
    masks = torch.rand(len(members), 200, generator=rng) < 0.5
    auc = find_architecture_leak(game_of(members, masks)).summary.auc
    assert auc.low < 0.5 < auc.high
    leak = find_architecture_leak(game_of(members, masks[:1].expand(len(members), -1)))
    assert leak.summary.auc.value == 0.5
    assert leak.varying == 0


def test_classes_are_scored_by_their_mean(members):
    """With every class whole in or out of a training set, the class tells all."""
    labels = torch.arange(EXAMPLES) % 6
    by_class = torch.rand(len(members), 6, generator=torch.Generator().manual_seed(1)) < 0.5
    by_class[1:SHADOWS:2] = ~by_class[:SHADOWS:2]
    by_class[:, 0], by_class[:, 1] = True, False  # every model has members and non-members
    by_class[1:SHADOWS:2, 0], by_class[1:SHADOWS:2, 1] = False, True
    whole = by_class[:, labels]
    leak = find_architecture_leak(game_of(whole, by_class, labels))
    assert leak.by_class.value == pytest.approx(leak.summary.auc.value, abs=1e-9)
    assert leak.by_class.value > 0.9


def test_dense_models_have_no_such_leak(members):
    assert find_architecture_leak(game_of(members, None)) is None


def test_shadows_are_needed(members):
    with pytest.raises(ValueError, match="compared with those of shadows, got no shadow"):
        score_kept(members[:1], members[:0], members[:0])
