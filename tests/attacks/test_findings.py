"""Findings about a synthetic fleet whose answers are known."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy.stats import norm
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score

from attacks.cases import Case, make_cases
from attacks.evaluate import evaluate, score
from attacks.game import Game, ModelSignals
from attacks.joint_attacks import find_joint_attacks
from attacks.joint_lira import lira_joint
from attacks.metrics.differences import holm
from attacks.metrics.epsilon import epsilon_bound, one_run_epsilon
from attacks.metrics.exposure import change, exposure, outscored
from attacks.metrics.intervals import Estimate, summarise
from attacks.metrics.measures import tail_rate
from attacks.strongest import Strongest
from reporting.findings import find

W2, W4 = "nearest-w2", "nearest-w4"
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


class Fleet(NamedTuple):
    signals: dict
    members: torch.Tensor
    cases: list
    best: Strongest
    findings: dict


@pytest.fixture(scope="module")
def fleet(synthetic_fleet):
    """4 bits leak what full precision does; 2 bits leak less."""
    signals, members = observe(synthetic_fleet, 12, 4, {"full": 2.5, W4: 2.5, W2: 0.5})
    cases = make_cases(12, 4)
    findings, best = conclude(signals, members, cases)
    return Fleet(signals, members, cases, best, findings)


def aucs(scores, members):
    return [roc_auc_score(*pair) for pair in zip(members[-4:], scores, strict=True)]


def values_of(contender, members, metric="auc"):
    """The metric of each target, each half of which is attacked by its own attack."""
    if metric == "auc":
        first, second = (aucs(scores, members) for scores in contender.scores)
    else:
        both = (tail_rate(scores, members[-4:], 0.01).values for scores in contender.scores)
        first, second = (values.tolist() for values in both)
    return [*first[:2], *second[2:]]


def slow_test(gaps, halves):
    """Two-sided p of the mean of 4 gaps, by its variance over targets and over 3 halvings."""
    over_targets = np.var(gaps, ddof=1) / 4
    common = halves.mean(1)
    separate = np.mean([np.var(way, ddof=1) / 4 for way in halves])
    over_shadows = max(np.mean(common**2) - separate, 0)
    variance = over_targets + over_shadows
    freedom = variance**2 / (over_targets**2 / 3 + over_shadows**2 / 3)
    return 2 * student.sf(abs(np.mean(gaps)) / variance**0.5, freedom), over_shadows / variance


@pytest.mark.parametrize("metric", ["auc", "tpr_1pct"])
def test_variants_are_compared_with_the_reference(fleet, metric):
    against = fleet.findings["differences"].against_reference
    assert list(against) == ["auc", "tpr_1pct"]
    differences = against[metric]
    assert fleet.findings["differences"].reference == "full"
    assert [difference.first for difference in differences.values()] == list(differences)
    assert list(differences) == [W4, W2]
    assert {difference.second for difference in differences.values()} == {"full"}
    same = differences[W4]
    assert (same.estimate, same.p, same.p_holm) == (Estimate(0, 0, 0), 1, 1)
    contenders = [fleet.best.variants[variant].best[metric] for variant in (W2, "full")]
    gaps = np.subtract(*(values_of(one, fleet.members, metric) for one in contenders))
    halves = np.subtract(*(one.halves[metric].numpy() for one in contenders))
    assert halves.shape == (3, 4)
    p, shadows = slow_test(gaps, halves)
    assert differences[W2].estimate.value == pytest.approx(gaps.mean())
    assert differences[W2].p == pytest.approx(p)
    assert differences[W2].shadows == pytest.approx(shadows)
    assert differences[W2].p_holm < 0.05
    assert differences[W2].estimate.high < 0


def test_both_metrics_are_corrected_together(fleet):
    groups = fleet.findings["differences"].against_reference.values()
    differences = [difference for group in groups for difference in group.values()]
    assert len(differences) == 4
    assert [d.p_holm for d in differences] == holm([d.p for d in differences])
    assert max(d.p_holm / d.p for d in differences) == pytest.approx(4)


def test_snapshots_are_corrected_by_themselves(synthetic_fleet):
    """They cost the other variants no finding, and the others cost them none."""
    leaks = {"full": 2.5, "epoch-05": 0.5, "epoch-10": 2.0, W2: 0.5}
    signals, members = observe(synthetic_fleet, 12, 4, leaks)
    snapshots = ["epoch-05", "epoch-10"]
    game = Game(signals, members, make_cases(12, 4), snapshots=snapshots)
    best = Strongest(game)
    for variant in game.variants:
        best.add(evaluate(game, variant, ATTACKS))
    found = find(game, best)
    differences = found["differences"]
    assert differences.snapshots == snapshots
    against = list(differences.against_reference.values())
    for family in (snapshots, [W2]):
        by_end = [group[variant] for group in against for variant in family]
        assert [d.p_holm for d in by_end] == holm([d.p for d in by_end])
    for family in (snapshots, ["full", W2]):
        beyond = [differences.beyond_gap[variant] for variant in family]
        assert [d.p_holm for d in beyond] == holm([d.p for d in beyond])
    splits = found["shadows"].values()
    for family in (snapshots, [W2]):
        steps = [s for by_variant in splits for v in family for s in steps_of(by_variant[v])]
        assert [d.p_holm for d in steps] == holm([d.p for d in steps])
        assert len(steps) >= 2 * len(family)


def steps_of(split):
    return [step for step in (split.attack, split.recalibration, split.quantizing) if step]


def test_variants_are_compared_with_the_gap_attack(fleet):
    differences = fleet.findings["differences"].beyond_gap
    assert list(differences) == ["full", W4, W2]
    for variant, difference in differences.items():
        right = (fleet.signals[variant].hinge > 0).double().mean(1)[-4:]
        strong = values_of(fleet.best.variants[variant].best["auc"], fleet.members)
        gaps = np.subtract(strong, aucs(right, fleet.members))
        assert difference.second == f"the gap attack on {variant}"
        assert difference.estimate.value == pytest.approx(gaps.mean())
    assert differences["full"].estimate.low > 0
    assert [d.p_holm for d in differences.values()] == holm([d.p for d in differences.values()])


def test_joint_attacks(fleet):
    joint = {held.variants: held for held in fleet.findings["joint_lira"]}
    assert list(joint) == [("full", W4), ("full", W2), ("full", W4, W2)]
    audited = fleet.members[-4:]
    for names, held in joint.items():
        stacked = torch.stack([fleet.signals[name].phi for name in names], 1)
        scores = torch.stack(
            [lira_joint(row, stacked[:12], fleet.members[:12], "fixed") for row in stacked[-4:]]
        )
        assert held.summary.auc.value == pytest.approx(np.mean(aucs(scores, fleet.members)))
        assert held.summary.targets == 4
        assert held.best == "full"  # W4 is as strong, and comes later
        alone = values_of(fleet.best.variants["full"].best["auc"], fleet.members)
        gain = np.subtract(aucs(scores, fleet.members), alone)
        assert (held.gain.first, held.gain.second) == ("joint", "full")
        assert held.gain.estimate.value == pytest.approx(gain.mean(), abs=1e-12)
        assert held.summary.auc == pytest.approx(summarise(scores, audited).auc, abs=1e-9)
    # noise is the same in both variants: their difference tells members from non-members
    alone = fleet.best.variants["full"].rows["auc"].summary.auc
    assert joint["full", W2].summary.auc.low > alone.value


def test_variants_of_equal_bits_are_held_together(synthetic_fleet):
    names = ["full", "a-w2", "b-w2", "a-w2-last8", "b-w4", "a-mix3", "b-mix3", "b-aiq0.9", "free"]
    leaks = dict.fromkeys(names, 1.0)
    signals, members = observe(synthetic_fleet, 12, 2, leaks, examples=60)
    findings, _ = conclude(signals, members, make_cases(12, 2), ["lira_online_fixed"])
    reference, *others = leaks
    pairs = [(reference, variant) for variant in others]
    assert [held.variants for held in findings["joint_lira"]] == [
        *pairs,
        ("a-w2", "b-w2"),
        ("a-mix3", "b-mix3"),
        tuple(leaks),
    ]


@pytest.mark.parametrize(
    ("snapshots", "held"),
    [
        (["epoch-05"], [("full", "epoch-05"), ("full", W2), ("full", "epoch-05", W2)]),
        (
            ["epoch-05", "epoch-10"],
            [
                *[("full", "epoch-05"), ("full", "epoch-10"), ("full", W2)],
                ("epoch-05", "epoch-10"),
                ("full", "epoch-05", "epoch-10"),
                ("full", "epoch-05", "epoch-10", W2),
            ],
        ),
        ([], [("full", W2)]),
    ],
)
def test_who_may_hold_several_epochs(synthetic_fleet, snapshots, held):
    phi, members = synthetic_fleet()
    signals = dict.fromkeys(["full", *snapshots, W2], ModelSignals(phi))
    game = Game(signals, members, make_cases(12, 2), snapshots=snapshots)
    best = Strongest(game)
    for variant in game.variants:
        best.add(evaluate(game, variant, ["lira_online_fixed"]))
    assert [attack.variants for attack in find_joint_attacks(game, best)] == held


def test_snapshots_cost_holders_of_other_variants_no_finding(synthetic_fleet):
    """More of them change no p of an attacker who holds none; holders of one have their family."""
    leaks = {"full": 1.5, "epoch-05": 0.5, "epoch-10": 1.0, W4: 1.0, W2: 0.5}
    signals, members = observe(synthetic_fleet, 12, 4, leaks)
    by_snapshots = {}
    for snapshots in ([], ["epoch-05"], ["epoch-05", "epoch-10"]):
        known = {v: seen for v, seen in signals.items() if v in ("full", *snapshots, W4, W2)}
        game = Game(known, members, make_cases(12, 4), snapshots=snapshots)
        best = Strongest(game)
        for variant in game.variants:
            best.add(evaluate(game, variant, ["lira_online_fixed", "global_threshold"]))
        found = find_joint_attacks(game, best)
        apart = [attack.gain for attack in found if {*attack.variants} & {*snapshots}]
        assert [gain.p_holm for gain in apart] == holm([gain.p for gain in apart])
        assert len(apart) == (0, 2, 5)[len(snapshots)]
        others = [attack for attack in found if not {*attack.variants} & {*snapshots}]
        by_snapshots[len(snapshots)] = [(held.variants, held.gain.p_holm) for held in others]
    assert [held for held, _ in by_snapshots[0]] == [("full", W4), ("full", W2), ("full", W4, W2)]
    assert by_snapshots[0] == by_snapshots[1] == by_snapshots[2]


def test_joint_attacks_on_fleets_without_targets(synthetic_fleet):
    """Every shadow has its own attackers, and scores come back in order."""
    signals, members = observe(synthetic_fleet, 8, 0, {"full": 2, W2: 1}, examples=60)
    cases = make_cases(8, 0)[::-1]
    findings, _ = conclude(signals, members, cases, ["lira_offline_fixed"])
    stacked = torch.stack([signals["full"].phi, signals[W2].phi], 1)
    expected = [
        roc_auc_score(members[t], lira_joint(stacked[t], stacked[s], members[s], "fixed"))
        for t, s in cases
    ]
    assert findings["joint_lira"][0].summary.auc.value == pytest.approx(np.mean(expected))


def test_convergence(fleet):
    """2, 4, 8 and all 12 shadows; LiRA has no spread with one shadow per side."""
    assert list(fleet.findings["convergence"]) == ["full", W4, W2]
    for variant, (attack, points) in fleet.findings["convergence"].items():
        assert attack == fleet.best.variants[variant].matched
        assert attack.startswith("lira")
        assert list(points) == [4, 8, 12]
        fewer = [Case(target, list(range(4))) for target in range(12, 16)]
        game = Game(fleet.signals, fleet.members, fewer)
        scores = score([attack], game, variant)[attack]
        assert points[4].value == pytest.approx(np.mean(aucs(scores, fleet.members)), abs=1e-12)
        game = Game(fleet.signals, fleet.members, fleet.cases)
        scores = score([attack], game, variant)[attack]
        assert points[12].value == pytest.approx(np.mean(aucs(scores, fleet.members)), abs=1e-12)
    assert fleet.findings["convergence"]["full"].points[12].value > 0.9


@pytest.mark.parametrize(
    ("shadows", "targets", "counts"),
    [
        *((4, 1, [2, 4]), (6, 2, [2, 4, 6]), (8, 2, [2, 4, 8]), (18, 1, [2, 4, 8, 16, 18])),
        *((6, 0, [2, 4]), (10, 0, [2, 4, 8])),  # all but the audited one and its partner
    ],
)
def test_convergence_counts(synthetic_fleet, shadows, targets, counts):
    signals, members = observe(synthetic_fleet, shadows, targets, {"full": 2}, examples=60)
    cases = make_cases(shadows, targets)
    findings, _ = conclude(signals, members, cases, ["attack_r"])
    ((attack, points),) = findings["convergence"].values()
    assert attack == "attack_r"
    assert list(points) == counts


def test_bounds(fleet):
    """Two targets choose the attack, and two test it."""
    audited = fleet.members[-4:]
    assert list(fleet.findings["epsilon"]) == ["full", W4, W2]
    for variant, bounds in fleet.findings["epsilon"].items():
        scores, members = fleet.best.variants[variant].tested
        assert torch.equal(members, audited)
        assert bounds.guesses == 32  # a tenth of 160, for each of two targets
        assert bounds.one_run == one_run_epsilon(scores[2:], audited[2:], 16)
        assert bounds.tested == epsilon_bound(scores, audited)
    assert fleet.findings["epsilon"]["full"].one_run > fleet.findings["epsilon"][W2].one_run
    assert fleet.findings["epsilon"]["full"].tested.epsilon > 1


def test_exposures_and_changes(fleet):
    audited = fleet.members[-4:]
    exposures = fleet.findings["exposure"]
    assert (exposures.reference, exposures.variants) == ("full", ["full", W4, W2])
    own = {v: exposure(fleet.best.variants[v].alike, audited) for v in fleet.signals}
    assert exposures.attack == fleet.best.variants["full"].rows["auc"].attack
    expected = torch.stack(list(own.values()))
    torch.testing.assert_close(exposures.examples, expected, equal_nan=True)
    assert list(exposures.changes) == [W4, W2]
    assert exposures.changes[W4] == pytest.approx((0, 0, 1, 0))
    before, after = (outscored(fleet.best.variants[v].alike, audited) for v in ("full", W2))
    assert exposures.changes[W2] == change(before, after, audited)
    assert exposures.changes[W2].safer > 2 * exposures.changes[W2].noise > 0
    assert exposures.changes[W2].safer > exposures.changes[W2].exposed
    assert own["full"].isnan().any()  # 1 of 16 examples is in no target


def test_the_leak_is_that_of_gaussians(fleet):
    """The fixture itself: with known parameters the best test of `full` has a known AUC."""
    noise = (1 + 0.3**2 / 2) ** 0.5  # of the mean of two queries
    ideal = norm.cdf(2.5 / noise / 2**0.5)
    strongest = fleet.best.variants["full"].rows["auc"]
    assert strongest.summary.auc.value == pytest.approx(ideal, abs=0.05)
