"""Rounded worlds against solving again without, or with, each example, and rounding that."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import one_hot

from attacks.continual.vector_fit import fit_vectors
from continual.ridge import gram_of, solve_ridge
from lightning_modules import rounded_worlds
from lightning_modules.analytic_options import AnalyticOptions
from lightning_modules.regressions import Acil
from lightning_modules.ridge_head import Rows
from lightning_modules.rounded_worlds import round_worlds
from lightning_modules.worlds import Pool, draw_worlds
from quantization.round_rows import round_rows
from quantization.variant import Variant

EXAMPLES, COLUMNS, GAMMA = 90, 40, 0.5


@pytest.fixture
def pool(rng):
    pixels, labels = (torch.as_tensor(array)[:EXAMPLES] for array in load_digits(return_X_y=True))
    projection = torch.randn(64, COLUMNS, generator=rng, dtype=torch.float64)
    features = (pixels / 16 @ projection).relu()
    order = torch.arange(EXAMPLES)
    labels = labels[order]
    return Pool(Rows(features, None), one_hot(labels, 10).double(), labels // 2, [2, 4, 6, 8, 10])


@pytest.mark.parametrize("name", ["nearest-w4", "obc-w2", "adaround-w3"])
def test_worlds_are_those_of_solving_again(pool, rng, name, monkeypatch):
    """Behind a rounding, outputs that differ at all differ by a step: nearly all are the same."""
    monkeypatch.setattr(rounded_worlds, "NUMBERS", 7 * 10 * COLUMNS)  # several calls a world
    seen = pool.rows.features + 0.01 * torch.randn(EXAMPLES, COLUMNS, generator=rng).double()
    members, variant = draw_worlds(3, 2, EXAMPLES), Variant.parse(name)
    images = [own.nonzero().flatten()[:25] for own in members]
    regression = Acil(AnalyticOptions(buffer=COLUMNS, gamma=GAMMA))
    found = round_worlds(regression, pool, seen, members, images, variant)
    features = pool.rows.features

    def output(own, chosen, example):
        weight = solve_ridge(gram_of(features[own], pool.targets[own]), GAMMA).weight
        rounded = round_rows(weight.T, variant, features[chosen], seen[chosen])
        return seen[example].float() @ rounded.T

    alike = []
    for world, (own, chosen) in enumerate(zip(members, images, strict=True)):
        for example in range(0, EXAMPLES, 5):
            for side, inside in (("world_inside", True), ("world_outside", False)):
                other = own.clone()
                other[example] = inside
                expected = output(other, chosen, example)
                alike.append((found[side][world, example] - expected).abs().max() < 1e-4)
    assert torch.stack(alike).double().mean() > 0.95
    assert not torch.equal(found["world_inside"], found["world_outside"])


def test_worlds_tell_members_of_a_rounded_head_and_nobody_where_it_learnt_others(pool):
    """Members raise the density of pairs with them; of members drawn anew, it says nothing."""
    variant, regression = Variant.parse("nearest-w8"), Acil(AnalyticOptions(COLUMNS, GAMMA))
    members = draw_worlds(5, 8, EXAMPLES)
    images = [own.nonzero().flatten() for own in members]
    found = round_worlds(regression, pool, pool.rows.features, members, images, variant)
    labels, everyone = pool.targets.argmax(1), torch.ones(8, EXAMPLES, dtype=torch.bool)
    sides = [fit_vectors(found[side], everyone, labels) for side in found]
    gaps, nothing = [], []
    for seed in range(20):
        own, other = (
            draw_worlds(100 + seed, 2, EXAMPLES)[0],
            draw_worlds(500 + seed, 2, EXAMPLES)[0],
        )
        ridge = solve_ridge(gram_of(pool.rows.features[own], pool.targets[own]), GAMMA)
        given = variant, pool.rows.features[own], pool.rows.features[own]
        outputs = pool.rows.features.float() @ round_rows(ridge.weight.T, *given).T
        inside, outside = (side.log_density(outputs) for side in sides)
        score = inside - outside
        gaps.append(_auc(score, own))
        nothing.append(_auc(score, other))
    assert torch.tensor(gaps).mean() > 0.7
    assert abs(torch.tensor(nothing).mean() - 0.5) < 0.07  # 20 means of 90: std 0.014


def _auc(scores, members):
    """The slow obvious way."""
    pairs = scores[members][:, None] > scores[~members][None]
    return pairs.double().mean().item()
