"""Variants of a synthetic fleet beside its snapshots."""

from math import isnan

import pytest
import torch

from attacks.cases import make_cases
from attacks.evaluate import evaluate
from attacks.frontier import find_frontiers
from attacks.game import Curve, Game
from attacks.metrics.differences import holm
from attacks.strongest import Strongest

W2, W4 = "nearest-w2", "nearest-w4"
STEPS = {"epoch-05": 0.5, "epoch-10": 1.5, "full": 2.5}


def make_game(synthetic_fleet, observe, shadows=12, targets=4, curves=1, **changes):
    """Three networks on the way to `full`, and two that are between the first two in accuracy."""
    leaks = {"full": 2.5, "epoch-05": 0.5, "epoch-10": 1.5, W4: 1.0, W2: 0.0}
    signals, accuracy = {}, {}
    rng = torch.Generator().manual_seed(3)
    models = targets or shadows
    for variant, leak in leaks.items():
        phi, members = synthetic_fleet(shadows, targets, 160, leak)
        signals[variant] = observe(phi)
        level = {"full": 0.9, "epoch-05": 0.5, "epoch-10": 0.7}.get(variant, 0.6)
        noise = 0.01 * torch.randn(models, generator=rng, dtype=torch.float64)
        accuracy[variant] = level + noise
    names = ["early stopping", "noise"][:curves]
    lines = [Curve(name, ["epoch-05", "epoch-10", "full"], [W4, W2]) for name in names]
    given = {"accuracy": accuracy, "snapshots": ["epoch-05", "epoch-10"], "curves": lines}
    return Game(signals, members, make_cases(shadows, targets), **(given | changes))


def attack(game, attacks=("global_threshold", "lira_offline_fixed")):
    best = Strongest(game)
    for variant in game.variants:
        best.add(evaluate(game, variant, attacks))
    return best


@pytest.mark.parametrize(("shadows", "targets"), [(12, 4), (8, 0)])
def test_variants_of_a_fleet_beside_its_snapshots(synthetic_fleet, observe, shadows, targets):
    game = make_game(synthetic_fleet, observe, shadows, targets)
    best = attack(game)
    (frontier,) = find_frontiers(game, best).values()
    assert frontier.variants == list(STEPS)
    assert list(frontier.beside) == [W4, W2]
    for variant, beside in frontier.beside.items():
        assert 0.3 < beside.place < 0.7
        assert beside.stretch == ("epoch-05", "epoch-10")
        means = [float(game.accuracy[name].mean()) for name in ("epoch-05", "epoch-10", variant)]
        share = (means[2] - means[0]) / (means[1] - means[0])
        assert beside.place == pytest.approx(share)
        assert list(beside.differences) == list(best.risks)
        for metric, difference in beside.differences.items():
            known = {
                name: float(best.outcome(kept.best[metric], metric).measured.values.mean())
                for name, kept in best.variants.items()
            }
            there = (1 - share) * known["epoch-05"] + share * known["epoch-10"]
            assert (difference.first, difference.second) == ("early stopping", variant)
            assert difference.estimate.value == pytest.approx(there - known[variant])
    leaky, private = (beside.differences["auc"] for beside in frontier.beside.values())
    assert private.estimate.value > leaky.estimate.value
    assert private.estimate.value > 0.05


def test_all_variants_curves_and_ends_are_corrected_together(synthetic_fleet, observe):
    game = make_game(synthetic_fleet, observe, curves=2)
    found = find_frontiers(game, attack(game))
    assert list(found) == ["early stopping", "noise"]
    differences = [
        difference
        for frontier in found.values()
        for beside in frontier.beside.values()
        for difference in beside.differences.values()
    ]
    assert len(differences) == 8
    assert [d.p_holm for d in differences] == holm([d.p for d in differences])
    assert max(d.p_holm / d.p for d in differences) == pytest.approx(8)


def test_a_single_target_is_compared_over_its_examples(synthetic_fleet, observe):
    game = make_game(synthetic_fleet, observe, targets=1)
    (frontier,) = find_frontiers(game, attack(game)).values()
    for beside in frontier.beside.values():
        assert not beside.outside
        for difference in beside.differences.values():
            assert difference.estimate.low < difference.estimate.value < difference.estimate.high
            assert isnan(difference.shadows)


def test_without_curves_or_accuracies_nothing_is_compared(synthetic_fleet, observe):
    game = make_game(synthetic_fleet, observe)
    best = attack(game)
    assert find_frontiers(game._replace(curves=[]), best) == {}
    assert find_frontiers(game._replace(accuracy={}), best) == {}
    alone = game._replace(curves=[Curve("early stopping", ["full"], [W2])])
    assert find_frontiers(alone, best) == {}
    known = {variant: game.accuracy[variant] for variant in (*STEPS, W2)}
    (frontier,) = find_frontiers(game._replace(accuracy=known), best).values()
    assert list(frontier.beside) == [W2]
