"""What the figure of several experiments draws, read back from matplotlib."""

from itertools import product
from math import nan

import pytest
from matplotlib.colors import to_rgba

from attacks.metrics.intervals import Estimate
from reporting.compare import Entry
from reporting.compare_figure import comparison_chart
from reporting.matplotlib_charts import draw


def line(auc):
    return {"auc": auc, "auc_low": auc - 0.02, "auc_high": auc + 0.03, "auc_spread": 0.0}


def entry(variant, experiment, accuracy, matched, full=None):
    utility = Estimate(accuracy, accuracy - 0.01, accuracy + 0.04)
    lines = line(matched), full and line(full)
    return Entry(variant, experiment, utility, *lines, lines[0])


ENTRIES = [
    entry("full", "a", 0.9, 0.7),
    entry("full", "$b_1$", 0.8, 0.65),
    entry("nearest-w2", "a", 0.85, 0.6, 0.62),
    entry("nearest-w2", "$b_1$", 0.75, 0.55, 0.56),
]


def points(axes):
    """Of every point: its place, the ends of its bar up, its fill, colour and marker."""
    for container in axes.containers:
        mark, _, bars = container.lines
        (up,) = bars[-1].get_segments()
        place = mark.get_xdata()[0], mark.get_ydata()[0]
        look = mark.get_fillstyle(), to_rgba(mark.get_color()), str(mark.get_marker())
        yield place, tuple(up[:, 1]), look


def test_every_number_is_drawn_in_both_panels():
    plane, by_variant = draw(comparison_chart(ENTRIES)).axes
    wanted = [(e, some) for e in ENTRIES for some in (e.matched, e.full) if some]
    for axes in (plane, by_variant):
        drawn = list(points(axes))
        assert [place[1] for place, *_ in drawn] == [some["auc"] for _, some in wanted]
        assert [up for _, up, _ in drawn] == [
            pytest.approx((some["auc_low"], some["auc_high"])) for _, some in wanted
        ]
        fills = ["full" if some is e.matched else "none" for e, some in wanted]
        assert [look[0] for *_, look in drawn] == fills
        for (first, one), (second, other) in product(zip(wanted, drawn, strict=True), repeat=2):
            same = one[2][1] == other[2][1], one[2][2] == other[2][2]
            assert same == (
                first[0].experiment == second[0].experiment,
                first[0].variant == second[0].variant,
            )
    assert [place[0] for place, *_ in points(plane)] == [e.accuracy.value for e, _ in wanted]
    (across, _) = plane.containers[0].lines[2]
    assert across.get_segments()[0][:, 0] == pytest.approx((0.89, 0.94))


def test_points_stand_over_their_variant_side_by_side():
    _, by_variant = draw(comparison_chart(ENTRIES)).axes
    names = [text.get_text() for text in by_variant.get_xticklabels()]
    places = [place[0] for place, *_ in points(by_variant)]
    assert [names[round(place)] for place in places] == ["full"] * 2 + ["nearest-w2"] * 4
    assert places == sorted(set(places))


def test_no_two_variants_of_many_look_alike_and_names_are_no_formulas():
    variants = ["full", *(f"nearest-w{bits}" for bits in range(25))]
    figure = draw(comparison_chart([entry(name, "$b_1$", 0.9, 0.6) for name in variants]))
    (legend,) = figure.legends
    handles = {h.get_label(): str(h.get_marker()) for h in legend.legend_handles}
    assert len({handles[variant] for variant in variants}) == len(variants)
    figure.draw_without_rendering()  # $b_1$ would be a formula
    assert r"\$b_1\$" in handles


def test_an_unknown_accuracy_leaves_the_plane_without_it():
    unknown = ENTRIES[0]._replace(accuracy=Estimate(nan, nan, nan))
    figure = draw(comparison_chart([unknown]))
    figure.draw_without_rendering()
    assert [place[1] for place, *_ in points(figure.axes[1])] == [0.7]
