"""Conclusions about a synthetic fleet of which the answers are known."""

from itertools import groupby
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy.stats import norm, ttest_rel
from sklearn.metrics import roc_auc_score

import attacks.findings
from attacks.evaluate import evaluate, score
from attacks.findings import find
from attacks.game import Case, ModelSignals, make_cases
from attacks.joint_lira import lira_joint
from attacks.metrics.differences import holm
from attacks.metrics.epsilon import epsilon_bound, one_run_epsilon
from attacks.metrics.exposure import change, exposure
from attacks.metrics.intervals import Estimate, summarise
from attacks.strongest import Kept, Strongest

W2, W4 = "nearest-w2", "nearest-w4"
ATTACKS = ("gap", "global_threshold", "lira_online_fixed", "lira_offline_fixed")


def observe(synthetic_fleet, shadows, targets, leaks, examples=160):
    """Variants whose noise is the same, so that leaks are all that they differ by."""
    seen = {}
    for variant, leak in leaks.items():
        phi, members = synthetic_fleet(shadows, targets, examples, leak)
        rng = torch.Generator().manual_seed(1)
        population = 2 + 2 * torch.randn(len(phi), 2, 50, generator=rng)
        seen[variant] = ModelSignals(phi, hinge=phi - 2, population=population)
    return seen, members


def conclude(seen, members, cases, attacks=ATTACKS, calibrated=None):
    best = Strongest(members[[case.target for case in cases]])
    for _, made in groupby(evaluate(seen, members, cases, attacks), lambda s: s.row.variant):
        best.add(list(made))
    return find(seen, members, cases, best, calibrated or {}), best


class Fleet(NamedTuple):
    seen: dict
    members: torch.Tensor
    cases: list
    best: Strongest
    found: object


@pytest.fixture(scope="module")
def fleet(synthetic_fleet):
    """4 bits leak what full precision does; 2 bits leak less."""
    seen, members = observe(synthetic_fleet, 12, 4, {"full": 2.5, W4: 2.5, W2: 0.5})
    cases = make_cases(12, 4)
    found, best = conclude(seen, members, cases)
    return Fleet(seen, members, cases, best, found)


def aucs(scores, members):
    return [roc_auc_score(*pair) for pair in zip(members[-4:], scores, strict=True)]


def by_first(differences):
    return {difference.first: difference for difference in differences}


def test_against_reference(fleet):
    found = by_first(fleet.found.against_reference)
    assert fleet.found.reference == "full"
    assert list(found) == [W4, W2]
    assert {difference.second for difference in found.values()} == {"full"}
    same = found[W4]
    assert (same.estimate, same.p, same.p_holm) == (Estimate(0, 0, 0), 1, 1)
    first, second = (aucs(fleet.best.variants[v].scores, fleet.members) for v in (W2, "full"))
    expected = ttest_rel(first, second)
    assert found[W2].estimate.value == pytest.approx(np.subtract(first, second).mean())
    assert found[W2].p == pytest.approx(expected.pvalue)
    assert found[W2].p_holm == pytest.approx(2 * expected.pvalue)
    assert found[W2].p_holm < 0.05
    assert found[W2].estimate.high < 0


def test_against_full_shadows(fleet):
    found = by_first(fleet.found.against_full_shadows)
    assert list(found) == [f"{variant}, matched shadows" for variant in (W4, W2)]
    assert [d.second for d in found.values()] == [f"{v}, full shadows" for v in (W4, W2)]
    assert found[f"{W4}, matched shadows"].p == 1  # the shadows are the same
    kinds = [fleet.best.variants[W2].by_knowledge[kind] for kind in ("matched", "full")]
    gaps = np.subtract(*(aucs(kind, fleet.members) for kind in kinds))
    assert found[f"{W2}, matched shadows"].estimate.value == pytest.approx(gaps.mean())
    assert [d.p_holm for d in found.values()] == holm([d.p for d in found.values()])


def test_beyond_the_gap_attack(fleet):
    found = by_first(fleet.found.beyond_gap)
    assert list(found) == ["full", W4, W2]
    for variant, difference in found.items():
        right = (fleet.seen[variant].hinge > 0).double().mean(1)[-4:]
        strong = fleet.best.variants[variant].scores
        gaps = np.subtract(aucs(strong, fleet.members), aucs(right, fleet.members))
        assert difference.second == f"the gap attack on {variant}"
        assert difference.estimate.value == pytest.approx(gaps.mean())
    assert found["full"].estimate.low > 0
    assert [d.p_holm for d in found.values()] == holm([d.p for d in found.values()])


def test_versions(fleet):
    found = {held.names: held for held in fleet.found.versions}
    assert list(found) == [("full", W4), ("full", W2), ("full", W4, W2)]
    audited = fleet.members[-4:]
    for names, held in found.items():
        stacked = torch.stack([fleet.seen[name].phi for name in names], 1)
        scores = torch.stack(
            [lira_joint(row, stacked[:12], fleet.members[:12], "fixed") for row in stacked[-4:]]
        )
        assert held.summary.auc.value == pytest.approx(np.mean(aucs(scores, fleet.members)))
        assert held.summary.targets == 4
        assert held.best == "full"  # of the like W4 the first
        alone = aucs(fleet.best.variants["full"].scores, fleet.members)
        gain = np.subtract(aucs(scores, fleet.members), alone)
        assert (held.gain.first, held.gain.second) == ("joint", "full")
        assert held.gain.estimate.value == pytest.approx(gain.mean(), abs=1e-12)
        assert held.summary.auc == pytest.approx(summarise(scores, audited).auc, abs=1e-9)
    # noise is the same in both precisions: their difference says who is a member
    assert found["full", W2].summary.auc.low > fleet.best.variants["full"].row.summary.auc.value


def test_versions_of_as_many_bits_by_several_methods(synthetic_fleet):
    leaks = dict.fromkeys(["full", "a-w2", "b-w2", "a-w2-last8", "b-w4", "free"], 1.0)
    seen, members = observe(synthetic_fleet, 12, 2, leaks, examples=60)
    found, _ = conclude(seen, members, make_cases(12, 2), ["lira_online_fixed"])
    reference, *others = leaks
    pairs = [(reference, variant) for variant in others]
    assert [held.names for held in found.versions] == [*pairs, ("a-w2", "b-w2"), tuple(leaks)]


def test_versions_of_fleets_without_targets(synthetic_fleet):
    """Every shadow is audited by others of its own, and scores come back in order."""
    seen, members = observe(synthetic_fleet, 8, 0, {"full": 2, W2: 1}, examples=60)
    cases = make_cases(8, 0)[::-1]
    found, _ = conclude(seen, members, cases, ["lira_offline_fixed"])
    stacked = torch.stack([seen["full"].phi, seen[W2].phi], 1)
    expected = [
        roc_auc_score(members[t], lira_joint(stacked[t], stacked[s], members[s], "fixed"))
        for t, s in cases
    ]
    assert found.versions[0].summary.auc.value == pytest.approx(np.mean(expected))


def test_convergence(fleet):
    """2, 4, 8 and all 12 shadows; of one a side LiRA has no spread."""
    assert list(fleet.found.convergence) == ["full", W4, W2]
    for variant, (attack, points) in fleet.found.convergence.items():
        assert attack == fleet.best.variants[variant].matched
        assert attack.startswith("lira")
        assert list(points) == [4, 8, 12]
        one = fleet.seen[variant]
        fewer = [Case(target, list(range(4))) for target in range(12, 16)]
        scores = score([attack], one, one, fleet.members, fewer)[attack]
        assert points[4].value == pytest.approx(np.mean(aucs(scores, fleet.members)), abs=1e-12)
        scores = score([attack], one, one, fleet.members, fleet.cases)[attack]
        assert points[12].value == pytest.approx(np.mean(aucs(scores, fleet.members)), abs=1e-12)
    assert fleet.found.convergence["full"][1][12].value > 0.9


@pytest.mark.parametrize(
    ("shadows", "targets", "counts"),
    [
        *((4, 1, [2, 4]), (6, 2, [2, 4, 6]), (8, 2, [2, 4, 8]), (18, 1, [2, 4, 8, 16, 18])),
        *((6, 0, [2, 4]), (10, 0, [2, 4, 8])),  # all but the audited one and its partner
    ],
)
def test_convergence_counts(synthetic_fleet, shadows, targets, counts):
    seen, members = observe(synthetic_fleet, shadows, targets, {"full": 2}, examples=60)
    cases = make_cases(shadows, targets)
    found, _ = conclude(seen, members, cases, ["attack_r"])
    ((attack, points),) = found.convergence.values()
    assert attack == "attack_r"
    assert list(points) == counts


def test_bounds(fleet):
    audited = fleet.members[-4:]
    assert list(fleet.found.bounds) == ["full", W4, W2]
    for variant, bounds in fleet.found.bounds.items():
        scores, tested = fleet.best.variants[variant].scores, fleet.best.variants[variant].tested
        assert bounds.guesses == 16  # a tenth of 160, even
        each = [one_run_epsilon(*pair, 16) for pair in zip(scores, audited, strict=True)]
        assert bounds.one_run == pytest.approx(np.mean(each))
        assert bounds.tested == epsilon_bound(tested, audited)
    assert fleet.found.bounds["full"].one_run > fleet.found.bounds[W2].one_run
    assert fleet.found.bounds["full"].tested.epsilon > 1


@pytest.mark.parametrize(("examples", "guesses"), [(160, 16), (150, 14), (199, 18), (12, 2)])
def test_guesses_are_a_tenth_and_even(rng, examples, guesses):
    members = (torch.arange(examples) % 2 == 0)[None]
    scores = torch.randn(1, examples, generator=rng)
    kept = Kept(None, scores, {}, None, scores, None, scores)
    found = attacks.findings._bound(kept, members)
    assert (found.tested, found.guesses) == (None, guesses)


def test_exposures_and_changes(fleet):
    audited = fleet.members[-4:]
    assert list(fleet.found.exposures) == ["full", W4, W2]
    own = {v: exposure(fleet.best.variants[v].alike, audited) for v in fleet.seen}
    assert fleet.found.attack == fleet.best.variants["full"].row.attack
    for variant, expected in own.items():
        torch.testing.assert_close(fleet.found.exposures[variant], expected, equal_nan=True)
    assert list(fleet.found.changes) == [W4, W2]
    assert fleet.found.changes[W4] == pytest.approx((0, 0, 1))
    assert fleet.found.changes[W2] == change(own["full"], own[W2])
    assert fleet.found.changes[W2].safer > fleet.found.changes[W2].exposed
    assert own["full"].isnan().any()  # 1 of 16 is in no target


def test_one_variant_has_nothing_to_be_compared_with(synthetic_fleet):
    seen, members = observe(synthetic_fleet, 6, 2, {"full": 2}, examples=60)
    found, _ = conclude(seen, members, make_cases(6, 2), ["gap", "attack_r"])
    nothing = found.against_reference, found.against_full_shadows, found.versions
    assert nothing == ([], [], [])
    assert (found.changes, found.calibration) == ({}, {})
    assert [difference.first for difference in found.beyond_gap] == ["full"]
    assert list(found.bounds) == list(found.exposures) == ["full"]


def test_without_full_precision_the_first_variant_is_the_reference(synthetic_fleet):
    seen, members = observe(synthetic_fleet, 8, 3, {W4: 2, W2: 0.5}, examples=80)
    found, best = conclude(seen, members, make_cases(8, 3))
    assert found.reference == W4
    (difference,) = found.against_reference
    assert (difference.first, difference.second) == (W2, W4)
    assert difference.estimate.value < 0
    assert found.against_full_shadows == []  # nobody has any
    assert {kind for k in best.variants.values() for kind in k.by_knowledge} == {"matched", "none"}
    assert [held.names for held in found.versions] == [(W4, W2)]
    assert list(found.changes) == [W2]


def test_a_single_target(synthetic_fleet):
    seen, members = observe(synthetic_fleet, 8, 1, {"full": 3, W4: 3, W2: 0}, examples=200)
    found, _ = conclude(seen, members, make_cases(8, 1))
    same, less = found.against_reference
    assert (same.estimate, same.p) == (Estimate(0, 0, 0), 1)
    assert less.estimate.high < 0  # by DeLong
    assert less.p_holm < 0.05
    assert all(bounds.tested is None for bounds in found.bounds.values())
    assert found.bounds["full"].one_run > 0
    exposures = found.exposures["full"]
    assert torch.equal(exposures.isnan(), ~members[-1])


def test_attacks_without_shadows_only(synthetic_fleet):
    seen, members = observe(synthetic_fleet, 8, 3, {"full": 2, W2: 0.5}, examples=80)
    found, _ = conclude(seen, members, make_cases(8, 3), ["gap", "global_threshold"])
    assert found.against_full_shadows == []
    assert found.convergence == {}
    assert [d.first for d in found.against_reference] == [W2]
    assert [d.first for d in found.beyond_gap] == ["full", W2]
    assert len(found.versions) == 1  # the joint attack has shadows of its own


def test_too_few_shadows_for_joint_lira_leave_the_rest(synthetic_fleet):
    """Models that were trained elsewhere may have no shadow with or without an example."""
    seen, members = observe(synthetic_fleet, 8, 3, {"full": 2, W2: 0.5}, examples=80)
    members[:8, 5] = False
    members[0, 5] = True
    asked = ["lira_offline_fixed", "gap"]
    found, _ = conclude(seen, members, make_cases(8, 3), asked)
    assert found.versions == []
    assert len(found.against_reference) == 1
    assert list(found.convergence) == ["full", W2]
    members[1, 5] = True
    found, _ = conclude(seen, members, make_cases(8, 3), asked)
    assert [held.names for held in found.versions] == [("full", W2)]


def test_the_gap_attack_alone(synthetic_fleet):
    """Nothing is beyond it, and a model that is always right exposes everybody alike."""
    seen, members = observe(synthetic_fleet, 8, 3, {"full": 2, W2: 0.5}, examples=80)
    seen = {v: some._replace(hinge=torch.ones_like(some.phi)) for v, some in seen.items()}
    found, _ = conclude(seen, members, make_cases(8, 3), ["gap"])
    for difference in [*found.beyond_gap, *found.against_reference]:
        assert (difference.estimate, difference.p) == (Estimate(0, 0, 0), 1)
    assert np.isnan(found.changes[W2].correlation)
    assert found.bounds[W2].tested.epsilon == 0


def test_without_the_gap_attack(synthetic_fleet):
    seen, members = observe(synthetic_fleet, 8, 3, {"full": 2, W2: 0.5}, examples=80)
    seen = {variant: ModelSignals(some.phi) for variant, some in seen.items()}  # nor its hinge
    found, best = conclude(seen, members, make_cases(8, 3), ["attack_r", "global_threshold"])
    assert found.beyond_gap == []
    assert best.variants[W2].gap is None
    assert len(found.against_full_shadows) == 1


def test_no_leak_is_no_finding(synthetic_fleet):
    seen, members = observe(synthetic_fleet, 8, 4, {"full": 0, W2: 0}, examples=200)
    noise = torch.randn(12, 2, 200, generator=torch.Generator().manual_seed(3))
    seen[W2] = seen[W2]._replace(phi=seen[W2].phi + noise)
    found, _ = conclude(seen, members, make_cases(8, 4), ["lira_offline_fixed"])
    (difference,) = found.against_reference
    assert difference.estimate.low <= 0 <= difference.estimate.high
    assert found.bounds["full"].tested.epsilon == 0
    assert found.versions[0].summary.auc.low <= 0.5 <= found.versions[0].summary.auc.high


def test_calibration_is_found_where_there_is_some(synthetic_fleet, rng):
    seen, members = observe(synthetic_fleet, 16, 2, {"full": 2, W4: 2, W2: 2})
    calibrated = members & (torch.rand(members.shape, generator=rng) < 0.5)
    seen[W4] = seen[W4]._replace(phi=seen[W4].phi + 3 * calibrated[:, None])
    masks = {W4: calibrated, W2: members}  # one looked at half, the other at all
    found, _ = conclude(seen, members, make_cases(16, 2), ["attack_r"], masks)
    assert list(found.calibration) == [W4]
    assert found.calibration[W4].low > 0.8


def test_rows_are_those_of_gaussians(fleet):
    """The fixture itself: at known parameters the best test of `full` has a known AUC."""
    noise = (1 + 0.3**2 / 2) ** 0.5  # of the mean of two queries
    ideal = norm.cdf(2.5 / noise / 2**0.5)
    assert fleet.best.variants["full"].row.summary.auc.value == pytest.approx(ideal, abs=0.05)
