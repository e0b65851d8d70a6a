"""Findings where something is missing: variants, targets, shadows, attacks, a leak."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from attacks.cases import Case, make_cases
from attacks.choice import scorable
from attacks.evaluate import evaluate
from attacks.game import Game, ModelSignals, keep_examples
from attacks.lira import lira
from attacks.metrics.intervals import Estimate
from attacks.strongest import Strongest
from reporting.findings import find

W2, W4 = "nearest-w2", "nearest-w4"
NOTHING = {"auc": {}, "tpr_1pct": {}}
ATTACKS = ("gap", "global_threshold", "lira_online_fixed", "lira_offline_fixed")


def observe(synthetic_fleet, shadows, targets, leaks, examples=160):
    """Variants with the same noise, which differ in their leaks alone."""
    signals = {}
    for variant, leak in leaks.items():
        phi, members = synthetic_fleet(shadows, targets, examples, leak)
        rng = torch.Generator().manual_seed(1)
        population = 2 + 2 * torch.randn(len(phi), 2, 50, generator=rng)
        signals[variant] = ModelSignals(phi, hinge=phi - 2, population=population)
    return signals, members


def conclude(signals, members, cases, attacks=ATTACKS, calibrated=None):
    """All findings by key, and the strongest attacks."""
    game = Game(signals, members, cases, calibrated or {})
    best = Strongest(game)
    for variant in game.variants:
        best.add(evaluate(game, variant, attacks))
    return find(game, best), best


def test_one_variant_has_nothing_to_be_compared_with(synthetic_fleet):
    signals, members = observe(synthetic_fleet, 6, 2, {"full": 2}, examples=60)
    findings, _ = conclude(signals, members, make_cases(6, 2), ["gap", "attack_r"])
    assert findings["differences"].against_reference == findings["shadows"] == NOTHING
    assert findings["joint_lira"] == []
    assert (findings["exposure"].changes, findings["calibration"]) == ({}, {})
    assert list(findings["differences"].beyond_gap) == ["full"]
    assert list(findings["epsilon"]) == findings["exposure"].variants == ["full"]


def test_without_full_precision_the_first_variant_is_the_reference(synthetic_fleet):
    signals, members = observe(synthetic_fleet, 8, 3, {W4: 2, W2: 0.5}, examples=80)
    findings, best = conclude(signals, members, make_cases(8, 3))
    assert findings["differences"].reference == findings["exposure"].reference == W4
    against = findings["differences"].against_reference
    for by_variant in against.values():
        (difference,) = by_variant.values()
        assert (difference.first, difference.second) == (W2, W4)
    assert against["auc"][W2].estimate.value < 0  # a TPR rests on 1 false positive
    assert findings["shadows"] == NOTHING  # no attacker has any
    assert {kind for k in best.variants.values() for kind in k.by_knowledge} == {"matched", "none"}
    assert [held.variants for held in findings["joint_lira"]] == [(W4, W2)]
    assert list(findings["exposure"].changes) == [W2]


def test_a_single_target(synthetic_fleet):
    signals, members = observe(synthetic_fleet, 8, 1, {"full": 3, W4: 3, W2: 0}, examples=200)
    findings, _ = conclude(signals, members, make_cases(8, 1))
    for by_variant in findings["differences"].against_reference.values():
        same, less = by_variant.values()
        assert (same.estimate, same.p) == (Estimate(0, 0, 0), 1)
        assert less.estimate.high < 0  # by DeLong, and by the variance over examples
        assert less.p_holm < 0.05
    full = findings["epsilon"]["full"]  # chosen on 100 examples, tested on 100
    assert (full.tested.members, full.tested.non_members, full.guesses) == (50, 50, 10)
    assert full.one_run > 0
    assert full.tested.epsilon > 1
    exposures = findings["exposure"].examples[0]
    assert torch.equal(exposures.isnan(), ~members[-1])


def test_attacks_without_shadows_only(synthetic_fleet):
    signals, members = observe(synthetic_fleet, 8, 3, {"full": 2, W2: 0.5}, examples=80)
    findings, _ = conclude(signals, members, make_cases(8, 3), ["gap", "global_threshold"])
    assert findings["shadows"] == NOTHING
    assert findings["convergence"] == {}
    for by_variant in findings["differences"].against_reference.values():
        assert list(by_variant) == [W2]
    assert list(findings["differences"].beyond_gap) == ["full", W2]
    assert len(findings["joint_lira"]) == 1  # the joint attack has shadows of its own


def test_too_few_shadows_for_joint_lira_cost_no_other_finding(synthetic_fleet):
    """Fleets that were trained elsewhere may lack shadows with or without an example."""
    signals, members = observe(synthetic_fleet, 8, 3, {"full": 2, W2: 0.5}, examples=80)
    members[:8, 5] = False
    members[0, 5] = True
    asked = ["lira_offline_fixed", "gap"]
    findings, _ = conclude(signals, members, make_cases(8, 3), asked)
    assert findings["joint_lira"] == []
    assert [list(by) for by in findings["differences"].against_reference.values()] == [[W2], [W2]]
    assert list(findings["convergence"]) == ["full", W2]
    members[1, 5] = True
    findings, _ = conclude(signals, members, make_cases(8, 3), asked)
    assert [held.variants for held in findings["joint_lira"]] == [("full", W2)]


def test_convergence_leaves_out_the_examples_without_enough_of_the_first_shadows():
    """Fair coins: of 8 shadows, few examples lack two on a side; of 4, most do."""
    rng = torch.Generator().manual_seed(5)
    members = torch.rand(17, 400, generator=rng) < 0.5
    phi = (torch.randn(17, 400, generator=rng) + 2 * members)[:, None]
    cases = [Case(16, list(range(16)))]
    game = Game({"full": ModelSignals(phi)}, members, cases)
    game = keep_examples(game, scorable(game, (2, 2)))
    best = Strongest(game)
    best.add(evaluate(game, "full", ["lira_online_fixed"]))
    points = find(game, best)["convergence"]["full"].points
    assert list(points) == [8, 16]
    phi, members = game.signals["full"].phi[..., :], game.members
    for count, area in points.items():
        inside = members[:count].sum(0)
        usable = (inside >= 2) & (count - inside >= 2)
        assert usable.all() == (count == 16)
        seen, included = phi[..., usable], members[:, usable]
        scores = lira(seen[[16]], seen[:count], included[:count], spread="fixed")[0]
        assert area.value == pytest.approx(roc_auc_score(included[16], scores), abs=1e-12)


def test_the_gap_attack_alone(synthetic_fleet):
    """Nothing exceeds it, and a model that is always right exposes all examples alike."""
    signals, members = observe(synthetic_fleet, 8, 3, {"full": 2, W2: 0.5}, examples=80)
    signals = {v: known._replace(hinge=torch.ones_like(known.phi)) for v, known in signals.items()}
    findings, _ = conclude(signals, members, make_cases(8, 3), ["gap"])
    differences = findings["differences"]
    for group in (differences.beyond_gap, *differences.against_reference.values()):
        for difference in group.values():
            assert (difference.estimate, difference.p) == (Estimate(0, 0, 0), 1)
    assert np.isnan(findings["exposure"].changes[W2].correlation)
    assert findings["epsilon"][W2].tested.epsilon == 0


def test_without_the_gap_attack(synthetic_fleet):
    signals, members = observe(synthetic_fleet, 8, 3, {"full": 2, W2: 0.5}, examples=80)
    signals = {variant: ModelSignals(known.phi) for variant, known in signals.items()}  # nor hinges
    findings, best = conclude(signals, members, make_cases(8, 3), ["attack_r", "global_threshold"])
    assert findings["differences"].beyond_gap == {}
    assert best.variants[W2].gap is None
    assert [list(by_variant) for by_variant in findings["shadows"].values()] == [[W2], [W2]]


def test_no_leak_is_no_finding(synthetic_fleet):
    signals, members = observe(synthetic_fleet, 8, 4, {"full": 0, W2: 0}, examples=200)
    noise = torch.randn(12, 2, 200, generator=torch.Generator().manual_seed(3))
    signals[W2] = signals[W2]._replace(phi=signals[W2].phi + noise)
    findings, _ = conclude(signals, members, make_cases(8, 4), ["lira_offline_fixed"])
    against = findings["differences"].against_reference
    estimate = against["auc"][W2].estimate
    assert estimate.low <= 0 <= estimate.high
    assert min(by_variant[W2].p_holm for by_variant in against.values()) > 0.05
    assert findings["epsilon"]["full"].tested.epsilon == 0
    assert (
        findings["joint_lira"][0].summary.auc.low
        <= 0.5
        <= findings["joint_lira"][0].summary.auc.high
    )


def test_calibration_is_told_apart_where_only_some_members_calibrated(synthetic_fleet, rng):
    signals, members = observe(synthetic_fleet, 16, 2, {"full": 2, W4: 2, W2: 2})
    calibrated = members & (torch.rand(members.shape, generator=rng) < 0.5)
    signals[W4] = signals[W4]._replace(phi=signals[W4].phi + 3 * calibrated[:, None])
    masks = {W4: calibrated, W2: members}  # one looked at half, the other at all
    findings, _ = conclude(signals, members, make_cases(16, 2), ["attack_r"], masks)
    assert list(findings["calibration"]) == [W4]
    assert findings["calibration"][W4].low > 0.8
