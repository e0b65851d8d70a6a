"""Attacks on fleets whose leak is known: none, a shift by quantization, or that of Gaussians."""

import math

import pytest
import torch
from scipy.stats import norm

from attacks import ATTACKS, DEFAULT_ATTACKS
from attacks.cases import make_cases
from attacks.evaluate import evaluate, score
from attacks.game import Game, ModelSignals
from attacks.metrics.intervals import delong, summarise

W2 = "nearest-w2"
LIRA = [name for name in DEFAULT_ATTACKS if name.startswith("lira")]


def attack_all(signals, members, cases, attacks):
    """Attack every variant of a game."""
    game = Game(signals, members, cases)
    return [scored for variant in game.variants for scored in evaluate(game, variant, attacks)]


def by_name(attacks):
    """Rows by their first three fields, no two of which may be alike."""
    rows = [scored.row for scored in attacks]
    named = {row[:3]: row for row in rows}
    assert len(named) == len(rows)
    return named


def test_a_shift_misleads_full_precision_shadows_only(synthetic_fleet, observe):
    """Quantization that takes 8 nats off every signal does not affect matched shadows."""
    phi, members = synthetic_fleet(shadows=8, targets=3, examples=400)
    signals = {"full": observe(phi), W2: observe(phi, lambda x: x - 8)}
    rows = by_name(attack_all(signals, members, make_cases(8, 3), DEFAULT_ATTACKS))
    for attack in LIRA:
        before = rows["full", "matched", attack].summary
        matched = rows[W2, "matched", attack].summary
        misled = rows[W2, "unquantized", attack].summary
        for estimate, same in zip(before[:4], matched[:4], strict=True):
            assert estimate == pytest.approx(same, abs=1e-9)
        if attack == "lira_offline_fixed":  # its z falls by the same for every example
            assert misled.auc.value == pytest.approx(matched.auc.value, abs=0.01)
        else:
            assert misled.auc.high < matched.auc.low
    threshold = (rows[variant, "none", "global_threshold"] for variant in ("full", W2))
    assert len({row.summary.auc for row in threshold}) == 1
    # the shift places the target's loss beyond that of nearly all full-precision shadows
    kinds = "matched", "unquantized"
    matched, misled = (rows[W2, kind, "attack_r"].summary.auc.value for kind in kinds)
    assert misled < matched - 0.05


def test_matched_shadows_learn_a_leak_that_full_precision_lacks(synthetic_fleet):
    """The other direction: only the quantized variant leaks."""
    phi, members = synthetic_fleet(shadows=8, targets=3, examples=400, leak=1.5)
    blind, _ = synthetic_fleet(shadows=8, targets=3, examples=400, leak=0)
    signals = {"full": ModelSignals(blind), W2: ModelSignals(phi)}
    rows = by_name(attack_all(signals, members, make_cases(8, 3), ["lira_online"]))
    assert rows["full", "matched", "lira_online"].summary.auc.high < 0.6
    assert rows[W2, "matched", "lira_online"].summary.auc.low > 0.65
    # shadows that never leaked cannot say which side is which
    assert rows[W2, "unquantized", "lira_online"].summary.auc.high < 0.6


def test_known_gaussians_give_the_best_possible_auc():
    """64 shadows of a leak of one standard deviation: Phi(1 / sqrt 2) = 0.760, as Neyman-Pearson.

    Estimating two locations from 32 shadows each costs a little.
    """
    rng = torch.Generator().manual_seed(0)
    half = torch.rand(33, 1000, generator=rng) < 0.5
    members = torch.stack([half, ~half], 1).flatten(0, 1)
    phi = torch.randn(66, 1, 1000, generator=rng) + members[:, None]
    signals = {"full": ModelSignals(phi)}
    attacks = attack_all(signals, members, make_cases(64, 2), ["lira_online_fixed"])
    (auc,) = (scored.row.summary.auc for scored in attacks)
    assert auc.low <= norm.cdf(1 / math.sqrt(2)) <= auc.high
    assert auc.value == pytest.approx(norm.cdf(1 / math.sqrt(2)), abs=0.02)


@pytest.mark.parametrize("targets", [0, 1, 3])
def test_no_leak_gives_half(synthetic_fleet, observe, targets):
    """58 rows, of which many rise and fall together: at 99.9% one misses in 6% of draws at most."""
    phi, members = synthetic_fleet(shadows=8, targets=targets, examples=300, leak=0)
    variants = {"full": observe(phi), W2: observe(phi, lambda x: x + 1)}
    cases = make_cases(8, targets)
    audited = members[[case.target for case in cases]]
    for row, scores in attack_all(variants, members, cases, list(ATTACKS)):
        area = summarise(scores, audited, confidence=0.999).auc
        assert area.low <= 0.5 <= area.high, row[:3]
        area = row.summary.auc
        assert area.high - area.low < 0.25  # narrow enough to mean something


def shuffle(members, shadows, seed):
    """Membership of the same sizes that has nothing to do with the true one."""
    order = torch.rand(members.shape, generator=torch.Generator().manual_seed(seed)).argsort(1)
    shuffled = members.gather(1, order)
    shuffled[1:shadows:2] = ~shuffled[:shadows:2]
    return shuffled


@pytest.mark.parametrize("targets", [0, 3])
def test_random_membership_labels_give_half(synthetic_fleet, observe, targets):
    phi, members = synthetic_fleet(shadows=8, targets=targets, examples=300, leak=2)
    signals, cases = {"full": observe(phi)}, make_cases(8, targets)
    ((row, _),) = attack_all(signals, members, cases, ["lira_online_fixed"])
    assert row.summary.auc.low > 0.7  # the true labels
    for row, _ in attack_all(signals, shuffle(members, 8, 5), cases, list(ATTACKS)):
        assert row.summary.auc.low <= 0.5 <= row.summary.auc.high, row[:3]


@pytest.mark.parametrize("attack", ATTACKS)
def test_random_labels_of_a_single_target_give_half_in_95_of_100(synthetic_fleet, observe, attack):
    phi, members = synthetic_fleet(shadows=8, targets=1, examples=200, leak=2)
    signals, held = {W2: observe(phi)}, 0
    for seed in range(40):
        shuffled = shuffle(members, 8, seed)
        game = Game(signals, shuffled, make_cases(8, 1))
        (scores,) = score([attack], game, W2)[attack]
        _, low, high, _ = delong(scores, shuffled[-1])
        held += low <= 0.5 <= high
    assert held >= 34  # 38 expected, fewer than 34 in 3 of 1,000 tries


def test_every_attack_finds_a_large_leak(synthetic_fleet, observe):
    phi, members = synthetic_fleet(shadows=8, targets=3, examples=400, leak=2)
    for row, _ in attack_all({"full": observe(phi)}, members, make_cases(8, 3), list(ATTACKS)):
        assert row.summary.auc.low > 0.5, row[:3]
