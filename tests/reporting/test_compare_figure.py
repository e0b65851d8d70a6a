"""The figure of several experiments, read back from matplotlib."""

from itertools import product
from math import nan

import pytest
from matplotlib.colors import to_rgba

from attacks.evaluate import Row
from attacks.metrics.intervals import Estimate, Summary
from reporting.compare import Entry
from reporting.compare_figure import comparison_chart
from reporting.matplotlib_charts import draw
from storage.records import VariantFacts


def row(variant, knowledge, auc):
    estimates = [Estimate(value, value - 0.02, value + 0.03) for value in (auc, auc, auc / 10, 0)]
    return Row(variant, knowledge, "lira", Summary(*estimates, 4, 100, 12, 1), 8, [], {})


def entry(variant, experiment, accuracy, *areas):
    """An entry with matched, full-precision and recalibrated shadows, as many as areas."""
    utility = Estimate(accuracy, accuracy - 0.01, accuracy + 0.04)
    by_kind = {kind: row(variant, kind, area) for kind, area in zip(FILLS, areas, strict=False)}
    best = max(by_kind.values(), key=lambda row: row.summary.auc.value)
    ends = ("auc", "tpr_1pct")
    risk, all_kinds = dict.fromkeys(ends, best), dict.fromkeys(ends, by_kind)
    facts, rows = VariantFacts(utility, 1), list(by_kind.values())
    return Entry(variant, experiment, facts, rows, risk, all_kinds)


FILLS = {"matched": "full", "unquantized": "none", "recalibrated": "bottom"}


def shown(entries, end):
    """The entry, kind and number behind each point, in order."""
    return [
        (e, kind, getattr(row.summary, end))
        for e in entries
        for kind, row in e.by_kind[end].items()
    ]


ENTRIES = [
    entry("full", "a", 0.9, 0.7),
    entry("full", "$b_1$", 0.8, 0.65),
    entry("nearest-w2", "a", 0.85, 0.6, 0.62, 0.61),
    entry("nearest-w2", "$b_1$", 0.75, 0.55, 0.56),
]


def points(axes):
    """Position, ends of the vertical bar, and style (fill, colour, marker) of every point."""
    for container in axes.containers:
        mark, _, bars = container.lines
        (up,) = bars[-1].get_segments()
        place = mark.get_xdata()[0], mark.get_ydata()[0]
        look = mark.get_fillstyle(), to_rgba(mark.get_color()), str(mark.get_marker())
        yield place, tuple(up[:, 1]), look


@pytest.mark.parametrize(("column", "end"), [(0, "auc"), (1, "tpr_1pct")])
def test_every_number_is_drawn_at_both_ends(column, end):
    figure = draw(comparison_chart(ENTRIES))
    wanted = shown(ENTRIES, end)
    panels = figure.axes[column::2]
    for axes in panels:
        drawn = list(points(axes))
        assert [place[1] for place, *_ in drawn] == [leak.value for *_, leak in wanted]
        assert [up for _, up, _ in drawn] == [
            pytest.approx((leak.low, leak.high)) for *_, leak in wanted
        ]
        assert [look[0] for *_, look in drawn] == [FILLS[kind] for _, kind, _ in wanted]
        looks = [(entry, style) for (entry, *_), (*_, style) in zip(wanted, drawn, strict=True)]
        for (first, left), (second, right) in product(looks, repeat=2):
            assert (left[1] == right[1]) == (first.experiment == second.experiment)
            assert (left[2] == right[2]) == (first.variant == second.variant)
        assert axes.get_ylabel() == {"auc": "AUC", "tpr_1pct": "TPR at 1% FPR"}[end]
        guessing = axes.get_lines()[-1].get_ydata()[0]
        assert guessing == {"auc": 0.5, "tpr_1pct": 0.01}[end]
    plane = panels[0]
    places = [place[0] for place, *_ in points(plane)]
    assert places == [e.facts.accuracy.value for e, *_ in wanted]
    (across, _) = plane.containers[0].lines[2]
    assert across.get_segments()[0][:, 0] == pytest.approx((0.89, 0.94))
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[-3:] == ["matched shadows", "full-precision shadows", "recalibrated shadows"]


def test_points_stand_over_their_variant_side_by_side():
    for by_variant in draw(comparison_chart(ENTRIES)).axes[2:]:
        names = [text.get_text() for text in by_variant.get_xticklabels()]
        places = [place[0] for place, *_ in points(by_variant)]
        assert [names[round(place)] for place in places] == ["full"] * 2 + ["nearest-w2"] * 5
        assert places == sorted(set(places))


def test_no_two_of_many_variants_look_alike_and_names_are_no_formulas():
    variants = ["full", *(f"nearest-w{bits}" for bits in range(25))]
    figure = draw(comparison_chart([entry(name, "$b_1$", 0.9, 0.6) for name in variants]))
    (legend,) = figure.legends
    handles = {h.get_label(): str(h.get_marker()) for h in legend.legend_handles}
    assert len({handles[variant] for variant in variants}) == len(variants)
    figure.draw_without_rendering()  # $b_1$ would be a formula
    assert r"\$b_1\$" in handles


def test_a_variant_of_unknown_accuracy_is_drawn_by_name_only():
    unknown = ENTRIES[0]._replace(facts=VariantFacts(Estimate(nan, nan, nan), 1))
    figure = draw(comparison_chart([unknown]))
    figure.draw_without_rendering()
    assert [place[1] for place, *_ in points(figure.axes[2])] == [0.7]


def test_an_outlier_does_not_squeeze_the_others():
    accuracies = {"full": 0.95, "nearest-w4": 0.94, "nearest-w2": 0.93, "nearest-w1.58": 0.4}
    entries = [entry(name, "a", accuracy, 0.7, 0.69) for name, accuracy in accuracies.items()]
    for axes in draw(comparison_chart(entries)).axes[:2]:
        assert axes.get_xlim() == pytest.approx((0.9165, 0.9935))  # 0.92 to 0.99
        assert [text.get_text() for text in axes.texts] == ["← nearest-w1.58: 40.0%", "←"]


def test_snapshots_are_a_curve_with_its_band_and_no_points_of_their_own():
    """Two experiments have snapshots; a third is a point beside their curves."""
    levels = {"epoch-05": (0.7, 0.55), "epoch-10": (0.8, 0.6), "full": (0.9, 0.7)}
    entries = [
        entry(variant, name, accuracy + shift, *(area + shift + more for more in kinds))
        for variant, (accuracy, area) in levels.items()
        for name, shift in (("a", 0.0), ("b", 0.02), ("c", 0.04))
        for kinds in [(0.0,) if variant == "full" else (0.0, 0.01)]
        if name != "c" or variant == "full"
    ]
    figure = draw(comparison_chart(entries))
    plane, _, by_variant, _ = figure.axes
    lines = [line for line in plane.get_lines() if len(line.get_xdata()) == 3]
    bands = plane.collections[:2]
    for line, band, name, shift in zip(lines, bands, "ab", (0.0, 0.02), strict=True):
        accuracies, areas = zip(*(levels[v] for v in ("epoch-05", "epoch-10", "full")), strict=True)
        assert line.get_xdata() == pytest.approx([value + shift for value in accuracies])
        # of each variant by the strongest attack, whatever its shadows
        strongest = [areas[0] + 0.01, areas[1] + 0.01, areas[2]]
        assert line.get_ydata() == pytest.approx([value + shift for value in strongest])
        edges = band.get_paths()[0].vertices[:, 1]
        assert edges.min() == pytest.approx(strongest[0] + shift - 0.02)
        assert edges.max() == pytest.approx(strongest[2] + shift + 0.03)
        points_of = [look for place, _, look in points(plane) if place[1] == strongest[2] + shift]
        assert points_of[0][1] == to_rgba(line.get_color()), name
    assert [place[0] for place, *_ in points(plane)] == pytest.approx([0.9, 0.92, 0.94])
    assert len(list(points(by_variant))) == 4 * 2 + 3  # there they have a place of their own
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[:5] == ["a", "b", "c", "full", "stopped early"]
