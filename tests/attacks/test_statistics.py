"""A fast subset of `benchmarks.statistics`: what is claimed by chance, and a leak in the tail."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import binom, ttest_1samp
from scipy.stats import t as student

from attacks.evaluate import evaluate, score
from attacks.findings import find_differences
from attacks.metrics.differences import Outcome, variance_of_mean
from attacks.metrics.measures import area
from attacks.shadow_halves import by_shadow_halves, is_round_robin
from attacks.strongest import Strongest
from benchmarks.statistics import draw_fleet

LIRA = "lira_online_fixed"
RUNS = 100


def areas(variant, game):
    return area(score([LIRA], game, variant)[LIRA], game.audited)


def attack(game, variant):
    """What LiRA finds on one variant, and what it finds with either half of the shadows."""
    halves = by_shadow_halves(game, (2, 2), lambda half: areas(variant, half).values[None])
    return Outcome(areas(variant, game), halves[0], is_round_robin(game))


@pytest.mark.parametrize("targets", [4, pytest.param(0, marks=pytest.mark.slow)])
def test_equal_variants_are_told_apart_in_5_percent(targets):
    """If 5% are, more than 15 of 100 are with a probability of 4e-5."""
    rng, found, naive = np.random.default_rng(0), 0, 0
    for _ in range(RUNS):
        game = draw_fleet(rng, 16, targets, 1.0, examples=100)
        pair = Outcome.minus(*map(partial(attack, game), game.variants))
        variance, _, freedom = variance_of_mean(pair)
        values = pair.measured.values
        found += abs(float(values.mean())) > student.ppf(0.975, freedom) * variance**0.5
        naive += ttest_1samp(values.numpy(), 0).pvalue < 0.05
    assert binom.sf(15, RUNS, 0.05) < 1e-4
    assert found <= 15
    if not targets:  # the targets' own spread does not show that they are one another's shadows
        assert naive > found


def test_a_leak_of_one_example_in_a_hundred_is_found_in_the_tail_and_not_by_auc():
    """10 targets have 10 false positives at 0.1% FPR, where the leak adds 1% to a TPR of 0.1%.

    It adds at most half of 1% to the AUC, of which the standard error is as large: AUC alone finds
    it in about 4 of 10 audits, and in all of 8 with a probability of 7e-4. The TPR is 5 standard
    errors or more above the other variant's.
    """
    rng, by_auc = np.random.default_rng(0), []
    for _ in range(8):
        game = draw_fleet(rng, 16, 10, 0.0, examples=2000)
        leaky = torch.from_numpy(rng.random(2000) < 0.01) & game.members
        second = game.signals["variant-1"]
        leaking = second._replace(phi=second.phi[..., :] + 12.0 * leaky[:, None])
        game = game._replace(signals=game.signals | {"variant-1": leaking})
        best = Strongest(game)
        for variant in game.variants:
            best.add(evaluate(game, variant, ["global_threshold", LIRA]))
        against = find_differences(game, best).against_reference
        assert list(against) == ["auc", "tpr_01pct"]
        assert against["tpr_01pct"]["variant-1"].p_holm < 0.05
        assert against["tpr_01pct"]["variant-1"].estimate.low > 0
        by_auc.append(against["auc"]["variant-1"].p_holm < 0.05)
    assert not all(by_auc)
