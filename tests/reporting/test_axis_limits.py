"""Limits of axes by the bulk of the points, by hand."""

from math import nan

import pytest

from attacks.metrics.intervals import Estimate
from reporting.axis_limits import at_edge, bulk_limits
from reporting.charts import Axis, Series

MOST = 0.9, 0.91, 0.92, 0.93, 0.94, 0.94


def points(*values, margin=0.0):
    return [Estimate(value, value - margin, value + margin) for value in values]


@pytest.mark.parametrize(
    ("values", "margin", "wanted"),
    [
        ((0.90, 0.92, 0.94, 0.98), 0.01, (0.89, 0.99)),  # nothing stands apart
        ((0.50, 0.92, 0.94, 0.98), 0.01, (0.91, 0.99)),  # 0.41 away from a span of 0.08
        ((0.84, 0.92, 0.94, 0.98), 0.01, (0.83, 0.99)),  # 0.07 away: the span is wider
        ((0.50, 0.92, 0.94), 0.01, (0.49, 0.95)),  # one of three is more than a quarter
        ((0.2, 0.5, *MOST), 0.0, (0.9, 0.94)),  # both together, which one alone would not be
        ((0.2, 0.8, *MOST), 0.0, (0.8, 0.94)),  # one: that suffices
        ((0.1, 0.11, 0.12, 0.13, 0.9), 0.0, (0.1, 0.13)),  # at the upper end
        ((0.5, 0.5, 0.5, 0.501), 0.01, (0.49, 0.511)),  # within the intervals
    ],
)
def test_outliers_are_few_and_far_from_the_others(values, margin, wanted):
    low, high = bulk_limits(points(*values, margin=margin))
    padding = 0.05 * (wanted[1] - wanted[0])
    assert (low, high) == pytest.approx((wanted[0] - padding, wanted[1] + padding))


def test_guessing_is_in_view_and_what_is_unknown_is_left_out():
    low, high = bulk_limits([*points(0.6, 0.7), Estimate(nan, nan, nan)], 0.5)
    assert (low, high) == pytest.approx((0.49, 0.71))
    assert bulk_limits([Estimate(nan, nan, nan)]) == (None, None)
    assert bulk_limits([]) == (None, None)
    assert bulk_limits([Estimate(0.5, nan, nan)]) == pytest.approx((0.45, 0.55))


X, Y = Axis("accuracy", limits=(0.8, 1.0)), Axis("AUC", limits=(0.5, 0.7))
TEXTS = "60.0%", "0.650"


@pytest.mark.parametrize(
    ("x", "y", "place", "note"),
    [
        (0.9, 0.6, (0.9, 0.6), ""),
        (0.6, 0.6, (0.806, 0.6), "← w2: 60.0%"),
        (1.1, 0.6, (0.994, 0.6), "→ w2: 60.0%"),
        (0.9, 0.8, (0.9, 0.694), "↑ w2: 0.650"),
        (0.9, 0.4, (0.9, 0.506), "↓ w2: 0.650"),
        (0.6, 0.8, (0.806, 0.694), "←↑ w2: 60.0%, 0.650"),
    ],
)
def test_a_point_beyond_the_limits_stands_at_the_edge(x, y, place, note):
    given = Series("w2", [x], [y], ([x], [x]), ([y], [y]))
    moved = at_edge(given, X, Y, "w2", TEXTS)
    assert (moved.x[0], moved.y[0], moved.note) == (*map(pytest.approx, place), note)
    assert (moved.x_interval is None) == (place[0] != x)  # the bar would not belong there
    assert (moved.y_interval is None) == (place[1] != y)
    assert moved.names == (["accuracy: 60.0%, AUC: 0.650"] if note else ())


def test_a_point_without_a_name_or_limits():
    point = Series("", [0.6], [0.6])
    assert at_edge(point, X, Y, "", TEXTS).note == "←"
    assert at_edge(point, Axis(), Axis(), "w2", TEXTS) == point
    unknown = Series("", [nan], [0.6])
    assert at_edge(unknown, X, Y, "w2", TEXTS) is unknown
