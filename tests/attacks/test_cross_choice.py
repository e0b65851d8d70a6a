"""The choice of the strongest attack by halves: by hand, and without a leak it finds none."""

import pytest
import torch
from scipy.stats import ttest_1samp

from attacks.cross_choice import cross_choose, cross_outcome, join_halves
from attacks.evaluate import Row
from attacks.metrics.intervals import Estimate, Summary
from attacks.metrics.roc import auc, roc

SUMMARY = Summary(*[Estimate(0.5, 0.4, 0.6)] * 4, 4, 100, 12, 1)
BY_ATTACK = {  # of four targets
    "first": [0.9, 0.8, 0.5, 0.6],  # strongest on the first half, and over all
    "second": [0.6, 0.5, 0.7, 0.8],  # strongest on the second half
}


def test_without_a_leak_5_percent_of_p_values_are_below_5_percent():
    """11 attacks that know nothing, correlated as attacks are.

    With the strongest attack over all targets together it would be 12%.
    """
    rng = torch.Generator().manual_seed(0)
    targets, examples, runs, rejected, naive = 8, 100, 400, 0, 0
    members = torch.rand(targets, examples, generator=rng) < 0.5
    for _ in range(runs):
        common = torch.randn(1, targets, examples, generator=rng)
        scores = common + torch.randn(11, targets, examples, generator=rng)
        areas = torch.stack(
            [
                torch.stack([auc(roc(*pair)) for pair in zip(rows, members, strict=True)])
                for rows in scores
            ]
        )
        first, second = cross_choose(areas)
        own = torch.cat([areas[first, : targets // 2], areas[second, targets // 2 :]])
        rejected += ttest_1samp((own - areas[0]).numpy(), 0).pvalue < 0.05
        best = areas[areas.mean(1).argmax()]
        naive += ttest_1samp((best - areas[0]).numpy(), 0).pvalue < 0.05
    assert rejected / runs <= 0.05 + 2.5 * (0.05 * 0.95 / runs) ** 0.5
    assert naive / runs > 0.08


def made(attack, values, halves=None):
    return Row("w2", "matched", attack, SUMMARY, 8, [], {"auc": values}, (), {"auc": halves})


def test_each_half_is_judged_by_the_attack_that_is_strongest_on_the_other():
    """By hand: each attack does worse on the half that did not choose it."""
    rows = [made(name, values) for name, values in BY_ATTACK.items()]
    assert cross_choose(torch.tensor([row.by_target["auc"] for row in rows])) == (1, 0)
    found = cross_outcome(rows, "auc")
    assert found.measured.values.tolist() == [0.6, 0.5, 0.5, 0.6]
    assert (found.halves, found.round_robin) == (None, False)


def test_what_halves_of_the_shadows_find_is_that_of_the_chosen_attacks():
    moved = {"first": [[0.1] * 4, [0.2] * 4], "second": [[0.3, 0.4, 0.5, 0.6]] * 2}
    rows = [made(name, values, moved[name]) for name, values in BY_ATTACK.items()]
    found = cross_outcome(rows, "auc", round_robin=True)
    assert found.halves.tolist() == [[0.3, 0.4, 0.1, 0.1], [0.3, 0.4, 0.2, 0.2]]
    assert found.round_robin
    assert cross_outcome([rows[0], made("second", BY_ATTACK["second"])], "auc").halves is None


def test_an_attack_without_shadows_has_one_way_to_halve_them():
    joined = join_halves(torch.zeros(1, 4), torch.ones(3, 4))
    assert joined.tolist() == [[0, 0, 1, 1]] * 3


@pytest.mark.parametrize(("values", "place"), [([[0.5], [0.7]], 1), ([[0.7], [0.7]], 0)])
def test_on_a_single_target_it_is_the_strongest(values, place):
    assert cross_choose(torch.tensor(values)) == (place, place)
