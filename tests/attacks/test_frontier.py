"""Variants beside networks of equal accuracy, by hand, by a slow loop, and on simulated audits."""

from math import isnan

import numpy as np
import pytest
import torch
from scipy.stats import t as student

from attacks.evaluate import evaluate
from attacks.frontier import (
    compare_at,
    find_equal,
    find_frontiers,
    first_crossing,
)
from attacks.game import Curve, Game, make_cases
from attacks.metrics.differences import Outcome, holm
from attacks.metrics.measures import Measured
from attacks.strongest import Strongest
from benchmarks.frontier import EPOCHS, Setting, compare, draw

W2, W4 = "nearest-w2", "nearest-w4"


def slow_crossing(path, value, steps=20_000):
    """Walk along the path until it has the value."""
    for step in range((len(path) - 1) * steps + 1):
        piece, share = divmod(step, steps)
        height = path[piece]
        if share:
            height += share / steps * (path[piece + 1] - path[piece])
        if height >= value:
            return step / steps
    return float(np.argmax(path))


@pytest.mark.parametrize("seed", range(5))
def test_the_first_crossing_is_where_a_slow_walk_arrives(seed):
    rng = np.random.default_rng(seed)
    path = rng.normal(size=6).tolist()  # up and down, and beyond the last point
    for value in (*rng.uniform(path[0], max(path) + 0.2, 5), max(path)):
        assert first_crossing(path, value) == pytest.approx(slow_crossing(path, value), abs=1e-4)


def test_the_first_crossing_by_hand():
    path = [0.5, 0.75, 0.75, 0.25, 1.0]
    wanted = {0.5: 0, 0.625: 0.5, 0.75: 1, 0.875: 3 + 0.625 / 0.75, 1.0: 4, 1.5: 4}
    for value, place in wanted.items():
        assert first_crossing(path, value) == pytest.approx(place)


def tensors(*rows):
    return torch.tensor(rows, dtype=torch.float64)


RISING = tensors([0.50, 0.52, 0.51], [0.70, 0.71, 0.72], [0.80, 0.81, 0.82], [0.811, 0.822, 0.819])


@pytest.mark.parametrize(
    ("own", "outside", "place", "pieces"),
    [
        ([0.40, 0.51, 0.30], "below", None, []),  # by its mean, whatever the spread
        ([0.61, 0.61, 0.61], "", 0.5, [0]),
        ([0.70, 0.71, 0.72], "", 1, [0, 1]),  # the same networks: either piece holds it
        ([0.76, 0.76, 0.76], "", 1.5, [1]),
        ([0.80, 0.81, 0.82], "", 2, [1, 2]),
        ([0.79, 0.80, 0.78], "", 1.8, [1, 2]),  # not told from the next network
        ([0.90, 0.91, 0.92], "above", None, []),
        ([0.815, 0.82, 0.8205], "", 3, [1, 2]),  # above by chance
    ],
)
def test_where_networks_of_equal_accuracy_are(own, outside, place, pieces):
    equal = find_equal(RISING, tensors(own)[0])
    assert (equal.outside, equal.pieces) == (outside, pieces)
    if place is None:
        assert isnan(equal.place)
    else:
        assert equal.place == pytest.approx(place)


def test_a_later_network_of_equal_accuracy_is_no_alternative():
    """Accuracy falls again after its peak: nobody has to take the later network, which leaks more.

    Only what cannot be told from the first crossing counts with it.
    """
    noise = tensors([0.0, 0.001, -0.001])
    path = tensors([0.5], [0.7], [0.9], [0.7], [0.5]) + noise
    assert find_equal(path, 0.8 + noise[0]).pieces == [1]
    assert find_equal(path, 0.9 + noise[0]).pieces == [1, 2]
    assert find_equal(path, 0.6 + noise[0]).pieces == [0]


def test_the_accuracy_of_a_single_target_is_known():
    path = tensors([0.5], [0.7], [0.701])
    assert find_equal(path, tensors([0.6])[0]) == ("", pytest.approx(0.5), [0])
    assert find_equal(path, tensors([0.7005])[0]) == ("", pytest.approx(1.5), [1])
    assert find_equal(path, tensors([0.702])[0]).outside == "above"
    assert find_equal(path, tensors([0.49])[0]).outside == "below"


def outcome(values, influence=None, halves=None):
    values = tensors(values)[0]
    known = tensors([0.0] * len(values)).T if influence is None else tensors(*influence)
    return Outcome(Measured(values, known), None if halves is None else tensors(*halves))


def test_a_comparison_by_hand():
    """Halfway between two snapshots; a target's own share of accuracy is worth its own leak."""
    path = tensors([0.4, 0.5, 0.6], [0.8, 0.9, 1.0])
    points = [outcome([0.50, 0.52, 0.54]), outcome([0.70, 0.74, 0.72])]
    own = tensors([0.62, 0.72, 0.76])[0]  # mean 0.7, halfway
    equal = find_equal(path, own)
    assert (equal.place, equal.pieces) == (pytest.approx(0.5), [0])
    # the slope is 0.2 / 0.4; halfway the targets reach 0.6, 0.7, 0.8 and leak 0.60, 0.63, 0.63
    there = np.array([0.60, 0.63, 0.63]) + 0.5 * np.array([0.02, 0.02, -0.04])
    leaks = np.array([0.55, 0.60, 0.60])
    gaps = there - leaks
    found = compare_at(equal, points, path, outcome(leaks.tolist()), own)
    error = gaps.std(ddof=1) / 3**0.5
    margin = student.ppf(0.975, 2) * error
    assert found.estimate.value == pytest.approx(gaps.mean())
    assert found.estimate.low == pytest.approx(gaps.mean() - margin)
    assert found.estimate.high == pytest.approx(gaps.mean() + margin)
    assert found.p == pytest.approx(2 * student.sf(gaps.mean() / error, 2))


def test_a_target_that_lies_elsewhere_on_the_line_is_no_evidence():
    path = tensors([0.4, 0.4, 0.4, 0.4], [0.8, 0.8, 0.8, 0.8])
    points = [outcome([0.5] * 4, [[0.01, -0.01]] * 4), outcome([0.7] * 4, [[0.01, -0.01]] * 4)]
    own = tensors([0.5, 0.6, 0.7, 0.8])[0]
    on_the_line = outcome([0.55, 0.6, 0.65, 0.7], [[0.0, 0.0]] * 4)
    found = compare_at(find_equal(path, own), points, path, on_the_line, own)
    assert found.estimate.value == pytest.approx(0)
    assert found.p == pytest.approx(1)


def test_where_accuracy_stands_still_every_network_counts():
    """Leakage rises from 0.5 to 0.7 at one accuracy: 0.6 is no finding, 0.4 and 0.8 are."""
    flat = tensors([0.60, 0.62, 0.61, 0.63], [0.61, 0.61, 0.63, 0.61])
    path = torch.cat([tensors([0.2, 0.21, 0.19, 0.2]), flat])
    noise = np.array([0.001, 0.0, -0.001, 0.002])
    points = [outcome((leak + noise[order]).tolist()) for leak, order in LEAKS]
    own = tensors([0.615, 0.61, 0.62, 0.62])[0]
    equal = find_equal(path, own)
    assert equal.pieces == [0, 1]
    found = {}
    for leak in (0.4, 0.6, 0.8):
        found[leak] = compare_at(equal, points, path, outcome([leak] * 4), own)
        assert found[leak].estimate.low < 0.5 - leak < 0.7 - leak < found[leak].estimate.high
    assert found[0.6].p == 1
    assert max(found[0.4].p, found[0.8].p) < 1e-3
    assert found[0.4].estimate.value > 0 > found[0.8].estimate.value


LEAKS = ((0.3, [0, 1, 2, 3]), (0.5, [1, 2, 3, 0]), (0.7, [3, 0, 2, 1]))


def test_shadows_that_all_targets_share_widen_the_interval():
    path, own = RISING[:2], tensors([0.60, 0.61, 0.63])[0]
    still = [[0.0] * 3] * 3
    moved = [[0.05] * 3, [-0.05] * 3, [0.05] * 3]
    leaks = [0.50, 0.52, 0.54], [0.70, 0.71, 0.74], [0.55, 0.56, 0.62]
    ends = {}
    for name, halves in (("still", still), ("moved", moved)):
        points = [outcome(leaks[0], halves=halves), outcome(leaks[1], halves=halves)]
        other = outcome(leaks[2], halves=still)
        found = compare_at(find_equal(path, own), points, path, other, own)
        ends[name] = found.estimate.high - found.estimate.low
    assert ends["moved"] > 1.5 * ends["still"]


def test_a_single_target_varies_over_its_examples():
    """The influence on the curve is interpolated, so that what both share cancels."""
    first, second = [0.02, -0.02, 0.0, 0.0], [0.04, -0.04, 0.02, -0.02]
    own = [0.03, -0.03, 0.0, 0.0]
    path, accuracy = tensors([0.5], [0.7]), tensors([0.6])[0]
    points = [outcome([0.5], [first]), outcome([0.7], [second])]
    equal = find_equal(path, accuracy)
    found = compare_at(equal, points, path, outcome([0.58], [own]), accuracy)
    left = np.array([0.0, 0.0, 0.01, -0.01])  # (first + second) / 2 - own
    margin = 1.959964 * (left**2).sum() ** 0.5
    assert found.estimate.value == pytest.approx(0.02)
    assert found.estimate.low == pytest.approx(0.02 - margin, abs=1e-6)


# steep, where the curve bends, and flat, where accuracies cannot be told apart
PLACES = (
    *(Setting(6, 1000, 6, 7), Setting(4, 5000, 6, 12), Setting(10, 400, 4, 25)),
    Setting(10, 400, 4, 30),
)


def share_found(setting, runs=300, seed=0):
    rng = np.random.default_rng(seed)
    found = [compare(draw(rng, setting)) for _ in range(runs)]
    inside = [difference for difference in found if difference is not None]
    assert len(inside) > 0.95 * runs
    return np.mean([difference.p < 0.05 for difference in inside]), inside


def test_what_is_as_good_as_early_stopping_is_not_found_to_differ():
    """If 5% are found, more than 21 of 300 are with a probability of 5%."""
    shares = [share_found(setting)[0] for setting in PLACES]
    assert max(shares) <= 0.07
    assert np.mean(shares) <= 0.05


def test_what_leaks_less_by_a_known_amount_is_found():
    """Leakage per target has a standard deviation of 0.006 and accuracy hardly any noise."""
    share, found = share_found(Setting(10, 5000, 6, 7, gain=0.02), runs=100)
    assert share > 0.85
    mean = np.mean([difference.estimate.value for difference in found])
    assert mean == pytest.approx(0.02, abs=0.002)
    covered = [d.estimate.low <= 0.02 <= d.estimate.high for d in found]
    assert np.mean(covered) > 0.88


def test_straight_lines_overstate_a_curve_that_leaks_ever_more():
    """The more snapshots, the less: what `Setting.convex` leaks is below the line."""
    gaps = []
    for epochs in ((5, 30), (5, 15, 30), EPOCHS):
        setting = Setting(4, 5000, 6, 11.25, convex=True, epochs=epochs)
        found = share_found(setting, runs=20)[1]
        gaps.append(np.mean([difference.estimate.value for difference in found]))
    assert gaps[0] > 0.025
    assert gaps == sorted(gaps, reverse=True)
    assert abs(gaps[2]) < 0.005


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
