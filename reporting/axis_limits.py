"""Limits of an axis by the bulk of its points, and points beyond them at the edge."""

from collections.abc import Sequence
from math import isnan

from attacks.metrics.intervals import Estimate
from reporting.charts import Axis, Series

OUTLIERS = 0.25  # at most this share of the points
PADDING = 0.05  # of the length of an axis, beyond its points at each end
EDGE = 0.03  # of the length of an axis, from its end to an outlier

Span = tuple[float, float]


def bulk_limits(estimates: Sequence[Estimate], *within: float) -> tuple[float | None, float | None]:
    """Limits of an axis that shows all estimates with their intervals, except outliers.

    Outliers are points at one end of the axis, at most a quarter of all, that lie further from the
    95% intervals of all others than these span together: with them on the axis, the others would
    share less than half of it.

    Args:
        estimates: what the axis shows; NaN is left out.
        within: values that the axis shows in any case, as guessing.

    Returns:
        Both limits; None where nothing is known.
    """
    known = sorted(e for e in estimates if not isnan(e.value))
    if not known:
        return None, None
    for end in (1, -1):
        known = _without_outliers(known[::end])[::end]
    low, high = _span(known)
    low, high = min([low, *within]), max([high, *within])
    padding = PADDING * (high - low) or PADDING
    return low - padding, high + padding


def _without_outliers(estimates: Sequence[Estimate]) -> list[Estimate]:
    """Leave out the fewest of the first estimates that are outliers."""
    for count in range(1, int(OUTLIERS * len(estimates)) + 1):
        low, high = _span(estimates[count:])
        nearest = estimates[count - 1].value
        if max(low - nearest, nearest - high) > high - low:
            return list(estimates[count:])
    return list(estimates)


def _span(estimates: Sequence[Estimate]) -> Span:
    """From the lowest to the highest end of the intervals; an unknown interval is its value."""
    lows = [e.value if isnan(e.low) else e.low for e in estimates]
    highs = [e.value if isnan(e.high) else e.high for e in estimates]
    return min(lows), max(highs)


def at_edge(series: Series, x: Axis, y: Axis, name: str, values: tuple[str, str]) -> Series:
    """Move a point from beyond the limits to the edge, with an arrow, its name and its value.

    Args:
        series: one point.
        x: the horizontal axis.
        y: the vertical axis.
        name: name of the point; empty for the arrow alone.
        values: the point's values along x and y, as text.
    """
    (across,), (up,) = series.x, series.y
    places, arrows, beyond = [], [], []
    for place, axis, signs, value in ((across, x, "←→", values[0]), (up, y, "↓↑", values[1])):
        low, high = axis.limits
        if low is None or high is None or isnan(place) or low <= place <= high:
            places.append(place)
            continue
        edge = EDGE * (high - low)
        places.append(low + edge if place < low else high - edge)
        arrows.append(signs[place > high])
        beyond.append(value)
    if not arrows:
        return series
    note = f"{''.join(arrows)} {name}: {', '.join(beyond)}" if name else "".join(arrows)
    return series._replace(
        x=[places[0]],
        y=[places[1]],
        x_interval=series.x_interval if places[0] == across else None,
        y_interval=series.y_interval if places[1] == up else None,
        note=note,
        names=[f"{x.label}: {values[0]}, {y.label}: {values[1]}"],
    )
