"""What quantizing the shadows is worth, step by step, on fleets whose answers are known."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from attacks.cases import make_cases
from attacks.evaluate import evaluate
from attacks.game import Game, ModelSignals
from attacks.metrics.differences import holm
from attacks.metrics.measures import tail_rate
from attacks.shadow_split import find_shadow_differences
from attacks.strongest import Strongest

W2, W4 = "nearest-w2", "nearest-w4"
ALL = ["gap", "lira_online", "lira_offline_fixed", "rmia_offline"]


def steps_of(value):
    return [step for step in (value.attack, value.recalibration, value.quantizing) if step]


def split(attacks, population=400, variants=(W4, W2), queries=1):
    """The finding on a fleet whose 2-bit variant is shifted and shrunk, and its strongest attacks.

    The 4-bit variant is full precision itself.
    """
    rng = torch.Generator().manual_seed(0)
    half = torch.rand(20, 400, generator=rng).argsort(1) < 200
    members = torch.cat([torch.stack([half, ~half], 1).flatten(0, 1)[:32], half[16:]])
    difficulty = 2 * torch.randn(400 + population, generator=rng)
    phi = difficulty + torch.randn(len(members), queries, 400 + population, generator=rng)
    phi[..., :400] += 1.5 * members[:, None]
    signals = {}
    for variant in ("full", *variants):
        moved = 0.6 * phi - 3 if variant == W2 else phi
        own, aside = moved[..., :400], moved[..., 400:] if population else None
        signals[variant] = ModelSignals(own, own, aside)
    game = Game(signals, members, make_cases(32, 4))
    best = Strongest(game)
    for variant in game.variants:
        best.add(evaluate(game, variant, attacks))
    return find_shadow_differences(game, best), best, game


def mean_of(contender, metric, members):
    """Mean over targets, each half of which is attacked by its own attack."""
    if metric == "auc":
        by_target = [
            [roc_auc_score(*pair) for pair in zip(members, scores, strict=True)]
            for scores in contender.scores
        ]
    else:
        by_target = [tail_rate(scores, members, 0.01).values for scores in contender.scores]
    half = len(members) // 2
    return np.mean([*by_target[0][:half], *by_target[1][half:]])


@pytest.fixture(scope="module")
def found():
    return split(ALL)


def test_every_step_is_a_paired_difference_and_they_add_up(found):
    splits, best, game = found
    assert list(splits) == ["auc", "tpr_1pct"]
    for metric, by_variant in splits.items():
        assert list(by_variant) == [W4, W2]
        for variant, value in by_variant.items():
            kept = best.variants[variant]
            kinds = ("unquantized", "recalibrated", "matched")
            ladder = [kept.paper, *(kept.by_knowledge[kind][metric] for kind in kinds)]
            means = [mean_of(contender, metric, game.audited) for contender in ladder]
            for step, (lower, upper) in zip(steps_of(value), pairwise(means), strict=True):
                assert step.estimate.value == pytest.approx(upper - lower, abs=1e-12)
            assert (value.paper.value, value.matched.value) == pytest.approx((means[0], means[-1]))
            total = value.paper.value + sum(step.estimate.value for step in steps_of(value))
            assert total == pytest.approx(value.matched.value, abs=1e-12)


def test_all_steps_by_both_metrics_are_corrected_together(found):
    splits, *_ = found
    values = [value for by_variant in splits.values() for value in by_variant.values()]
    steps = [step for value in values for step in steps_of(value)]
    assert len(steps) == 12
    assert [step.p_holm for step in steps] == holm([step.p for step in steps])


def test_a_known_mismatch_is_repaired_before_the_shadows_are_quantized(found):
    """Nothing is left to quantizing where the target was only shifted and scaled."""
    splits = found[0]["auc"]
    assert splits[W4].quantizing.estimate.value == pytest.approx(0, abs=0.01)
    repaired = [splits[W2].attack.estimate.value, splits[W2].recalibration.estimate.value]
    assert splits[W2].paper.value < 0.72 < 0.8 < splits[W2].matched.value
    assert sum(repaired) > 0.08
    assert splits[W2].quantizing.estimate.value == pytest.approx(0, abs=0.01)
    assert splits[W2].quantizing.p_holm > 0.05


def test_the_papers_attack_is_kept_by_its_name_and_shadows(found):
    _, best, game = found
    (paper,) = (
        scored.scores
        for scored in evaluate(game, W2, ["lira_online"])
        if scored.row.knowledge == "unquantized"
    )
    assert best.variants[W2].paper.names == (("lira_online", "unquantized"),) * 2
    assert all(torch.equal(scores, paper) for scores in best.variants[W2].paper.scores)
    assert best.variants["full"].paper is None  # its shadows are called matched


def test_without_a_population_the_last_step_includes_recalibration():
    for by_variant in split(ALL[:3], population=0, variants=(W2,))[0].values():
        value = by_variant[W2]
        assert value.recalibration is None
        total = value.paper.value + value.attack.estimate.value + value.quantizing.estimate.value
        assert total == pytest.approx(value.matched.value, abs=1e-12)


def test_without_the_papers_attack_the_first_step_is_unknown():
    for by_variant in split(["rmia_offline"], variants=(W2,))[0].values():
        value = by_variant[W2]
        assert value.paper is value.attack is None
        assert value.recalibration.first == f"{W2}, recalibrated shadows"
        assert value.recalibration.second == f"{W2}, full-precision shadows"
        assert value.quantizing.first == f"{W2}, matched shadows"


def test_there_is_nothing_to_split_without_both_kinds_of_shadows():
    nothing = {"auc": {}, "tpr_1pct": {}}
    assert split(ALL, variants=())[0] == nothing
    assert split(["gap"])[0] == nothing
