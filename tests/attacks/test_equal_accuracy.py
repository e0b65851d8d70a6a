"""Networks of equal accuracy, by hand, by a slow walk, and on simulated audits."""

from math import isnan

import numpy as np
import pytest
import torch
from scipy.stats import t as student

from attacks.equal_accuracy import compare_at, find_equal, first_crossing
from attacks.metrics.differences import Outcome
from attacks.metrics.measures import Measured
from benchmarks.frontier import EPOCHS, Setting, compare, draw


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
