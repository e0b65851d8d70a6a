"""Networks of equal accuracy, from kept results: against NumPy's interpolation and SciPy."""

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel

from attacks.metrics.between import paired
from docs.study.fleets import curve_of
from docs.study.frontier import KeptCurve
from docs.study.numbers import STRONGEST, Attacker, Study, uncorrected

NOBODY = Attacker(())


@pytest.fixture(scope="module")
def curve(base):
    return KeptCurve(base, curve_of(base))


def values(study, variant, measure):
    attacker = NOBODY if measure == "accuracy" else STRONGEST
    return study.each(variant, attacker, measure).numpy()


def test_the_place_is_where_the_means_cross(base, curve):
    """Accuracies of the curve rise; 13.7 is between the second and the third snapshot."""
    means = [values(base, variant, "accuracy").mean() for variant in curve.variants]
    for variant in ("adaround-w1.58", "obc-w1.58", "adaround-w1.58-noise"):
        own = values(base, variant, "accuracy").mean()
        assert curve.place(variant).place == pytest.approx(np.interp(own, means, range(4)))
    assert curve.where("obc-w1.58") == "epoch 13.7 (epoch-04 to epoch-20)"


@pytest.mark.parametrize("measure", ["auc", "tpr_01pct"])
def test_leakage_of_equal_accuracy_is_on_the_line_moved_to_each_target(base, curve, measure):
    """Along the piece from epoch-20 to full, at each target's own distance in accuracy."""
    first, second = (values(base, v, measure) for v in ("epoch-20", "full"))
    low, high = (values(base, v, "accuracy") for v in ("epoch-20", "full"))
    own = values(base, "adaround-w1.58", "accuracy")
    share = (own.mean() - low.mean()) / (high.mean() - low.mean())
    line = (1 - share) * first + share * second
    slope = (second - first).mean() / (high - low).mean()
    moved = line + slope * (own - ((1 - share) * low + share * high))
    found = curve.networks("adaround-w1.58", measure)
    assert len(found) == 1
    assert found[0].measured.values.tolist() == pytest.approx(moved.tolist())
    left = curve.left("adaround-w1.58", measure)
    expected = ttest_rel(moved, values(base, "adaround-w1.58", measure))
    assert left.p == pytest.approx(expected.pvalue)
    assert left.estimate[1:3] == pytest.approx(expected.confidence_interval(0.95))
    lost = curve.lost("adaround-w1.58", measure)
    assert lost.p == pytest.approx(ttest_rel(second, moved).pvalue)


def test_interval_and_p_hold_wherever_the_network_is(base, curve):
    """OBC's accuracy varies so much that it may be on two pieces: the union of the intervals."""
    networks = curve.networks("obc-w1.58", "auc")
    assert len(networks) > 1
    tests = [ttest_rel(n.measured.values, values(base, "obc-w1.58", "auc")) for n in networks]
    intervals = [test.confidence_interval(0.95) for test in tests]
    left = curve.left("obc-w1.58", "auc")
    assert left.estimate.low == pytest.approx(min(interval.low for interval in intervals))
    assert left.estimate.high == pytest.approx(max(interval.high for interval in intervals))


def test_outside_the_curve_nothing_is_compared(base):
    short = KeptCurve(base, ["epoch-20", "full"])
    assert short.where("obc-w1.58") == "outside: less accurate than epoch-20"
    assert short.networks("obc-w1.58", "auc") == []
    assert short.left("obc-w1.58", "auc") is None
    assert short.lost("obc-w1.58", "auc") is None
    assert short.beyond("adaround-w1.58", "obc-w1.58", "auc") is None


def test_what_is_left_beyond_another_is_the_difference_of_both(curve):
    left, other = (curve.left(v, "auc") for v in ("adaround-w1.58", "adaround-w1.58-zeros"))
    beyond = curve.beyond("adaround-w1.58", "adaround-w1.58-zeros", "auc")
    assert beyond.estimate.value == pytest.approx(left.estimate.value - other.estimate.value)


def test_targets_of_two_fleets_are_paired_by_what_they_trained_on(base, fleets):
    """The private fleet's targets in another order, and one that the frontier lacks."""
    results = fleets["private"].results
    audited = {f"target-{n:03d}": f"{n:04x}" for n in (3, 1, 2)} | {"target-009": "other"}
    rows = [
        row._replace(by_target={m: [v[3], v[1], v[2], 0.9] for m, v in row.by_target.items()})
        for row in results.rows
    ]
    facts = {
        variant: known._replace(
            accuracy_by_target=[known.accuracy_by_target[n] for n in (3, 1, 2)] + [0.9]
        )
        for variant, known in results.variants.items()
    }
    some = Study(results._replace(rows=rows, variants=facts, audited=audited))
    curve = KeptCurve(base, curve_of(base), some)
    for variant in ("full", "adaround-w1.58"):
        here, there = (f(variant, "accuracy", NOBODY) for f in (curve.here, curve.there))
        assert here.measured.values.tolist() == there.measured.values.tolist()
        assert len(here.measured.values) == 3


def test_noise_of_both_draws_of_shadows_counts_between_fleets(base):
    """Within a fleet the same halves cancel; between fleets each adds its own variance."""
    rows = [
        row._replace(halves={"auc": [[0.05] * 10, [-0.05] * 10, [0.05] * 10]})
        for row in base.results.rows
    ]
    noisy = Study(base.results._replace(rows=rows))
    pair = [noisy.outcome(v, STRONGEST, "auc") for v in ("full", "epoch-20")]
    quiet = uncorrected(*(base.outcome(v, STRONGEST, "auc") for v in ("full", "epoch-20")), 0.1)
    assert uncorrected(*pair, 0.1).p == pytest.approx(quiet.p)
    assert uncorrected(*pair, 0.1, together=False).p > 100 * quiet.p


def test_nothing_is_shown_where_all_targets_differ_by_the_same(base):
    full = base.outcome("full", NOBODY, "accuracy")
    other = full._replace(measured=full.measured._replace(values=full.measured.values - 0.125))
    found = uncorrected(full, other, 0.1)
    assert found.estimate[:3] == (pytest.approx(0.125), -1, 1)
    assert found.p == 1


def test_equal_differences_are_not_told_apart_by_the_rounding_of_kept_numbers(base):
    """TPRs of 40, 30 and 20 in 1,500 less those of 30, 20 and 10, each kept to 5 digits."""
    full = base.outcome("full", NOBODY, "accuracy")
    kept = [
        full._replace(measured=full.measured._replace(values=torch.tensor(rates).double()))
        for rates in ([0.026667, 0.02, 0.013333], [0.02, 0.013333, 0.0066667])
    ]
    assert paired(*kept)[1] < 1e-4  # as t has it
    found = uncorrected(*kept, 0.1)
    assert found.estimate[:3] == (pytest.approx(10 / 1500, rel=1e-4), -1, 1)
    assert found.p == 1
