"""Figures read back from matplotlib, against the rows that they show."""

import warnings

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from attacks.evaluate import FPR_GRID
from attacks.findings import Convergence
from attacks.metrics.intervals import Estimate
from reporting.figures import convergence_chart, roc_chart
from reporting.matplotlib_charts import draw
from reporting.plane import plane_chart
from reporting.styles import styles_of

KINDS = ("matched", "unquantized", "recalibrated")
FILLS = {"matched": "full", "unquantized": "none", "recalibrated": "bottom"}


def roc_figure(rows, non_members):
    return draw(roc_chart(rows, non_members))


def plane_figure(rows, accuracy):
    return draw(plane_chart(rows, accuracy))


def best(rows, variant, knowledge, metric="auc"):
    """The row that a panel shows; attacks without shadows are open to every attacker."""
    kinds = {"none", "matched" if variant == "full" else knowledge}
    return max(
        (row for row in rows if row.variant == variant and row.knowledge in kinds),
        key=lambda row: getattr(row.summary, metric).value,
    )


def bars(axes):
    """Position, ends of both bars, fill, colour and label of every point."""
    for container in axes.containers:
        line, _, (across, up) = container.lines
        yield (
            (line.get_xdata()[0], line.get_ydata()[0]),
            across.get_segments()[0][:, 0],
            up.get_segments()[0][:, 1],
            line.get_fillstyle(),
            to_rgba(line.get_color()),
            container.get_label(),
        )


def test_roc_curves_are_those_of_the_strongest_rows(rows):
    figure = roc_figure(rows, 80)
    for axes, knowledge in zip(figure.axes, KINDS, strict=True):
        *curves, guessing = axes.get_lines()
        assert len(curves) == 3
        for curve, variant in zip(curves, ("full", "nearest-w4", "nearest-w2"), strict=True):
            row = best(rows, variant, knowledge)
            assert curve.get_label() == f"{variant} ({row.attack})"
            np.testing.assert_array_equal(curve.get_xdata(), FPR_GRID)
            np.testing.assert_array_equal(curve.get_ydata(), row.tpr)
        np.testing.assert_array_equal(guessing.get_xdata(), guessing.get_ydata())
        texts = [text.get_text() for text in axes.get_legend().get_texts()]
        assert texts == [line.get_label() for line in axes.get_lines()]
    matched, *others = (axes.get_lines() for axes in figure.axes)
    for other in others:
        # `full` has one kind of shadows
        assert list(matched[0].get_ydata()) == list(other[0].get_ydata())
        assert list(matched[2].get_ydata()) != list(other[2].get_ydata())
    assert [axes.get_title() for axes in figure.axes] == [
        "Attacker with shadows quantized like the target",
        "Attacker with full-precision shadows",
        "Attacker with full-precision shadows, recalibrated",
    ]
    without = [row for row in rows if row.knowledge != "recalibrated"]
    assert len(roc_figure(without, 80).axes) == 2


@pytest.mark.parametrize(("non_members", "left"), [(80, 1 / 80), (50_000, 1e-4)])
def test_roc_axes_are_logarithmic_down_to_one_false_positive(rows, non_members, left):
    for axes in roc_figure(rows, non_members).axes:
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        assert axes.get_xlim() == pytest.approx((left, 1))
        assert axes.get_ylim() == pytest.approx((left, 1))


def test_planes_show_accuracy_against_leakage_with_their_intervals(rows, accuracy):
    figure = plane_figure(rows, accuracy)
    for axes, metric in zip(figure.axes, ("auc", "tpr_1pct"), strict=True):
        points = list(bars(axes))
        shown = [("full", "matched")]
        shown += [(variant, kind) for variant in ("nearest-w4", "nearest-w2") for kind in KINDS]
        assert len(points) == len(shown)
        for point, (variant, knowledge) in zip(points, shown, strict=True):
            position, across, up, fill, _, label = point
            row = best(rows, variant, knowledge, metric)
            leak = getattr(row.summary, metric)
            utility = accuracy[variant]
            assert position == (utility.value, leak.value)
            assert tuple(across) == pytest.approx((utility.low, utility.high), abs=1e-12)
            assert tuple(up) == pytest.approx((leak.low, leak.high), abs=1e-12)
            assert fill == FILLS[knowledge]
            assert label == f"{variant} ({row.attack})"
        assert axes.get_legend() is None  # which would cover points
    assert [axes.get_ylabel() for axes in figure.axes] == ["AUC", "TPR at 1% FPR †"]
    assert {axes.get_xlabel() for axes in figure.axes} == {"test accuracy"}
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == [
        *("full", "4 bits", "2 bits", "nearest"),
        *("matched shadows", "full-precision shadows", "recalibrated shadows"),
    ]
    guides = [axes.get_lines()[-1].get_ydata()[0] for axes in figure.axes]
    assert guides == [0.5, 0.01]


def with_snapshots(rows, accuracy):
    """Two snapshots that are attacked like the quantized variants."""
    twins = {"epoch-05": "nearest-w2", "epoch-10": "nearest-w4"}
    more = [r._replace(variant=s) for s, twin in twins.items() for r in rows if r.variant == twin]
    known = {"epoch-05": Estimate(0.8, 0.78, 0.82), "epoch-10": Estimate(0.9, 0.88, 0.92)}
    return [*rows, *more], {"full": accuracy["full"], **known, **accuracy}


def test_snapshots_are_points_on_a_curve_with_its_band(rows, accuracy):
    curve = ["epoch-05", "epoch-10", "full"]
    rows, accuracy = with_snapshots(rows, accuracy)
    chart = plane_chart(rows, accuracy, {"early stopping": curve, "noise": ["nearest-w2", "full"]})
    figure = draw(chart)
    for axes, metric in zip(figure.axes, ("auc", "tpr_1pct"), strict=True):
        leaks = [
            getattr(
                max(
                    (r.summary for r in rows if r.variant == v),
                    key=lambda s: s._asdict()[metric].value,
                ),
                metric,
            )
            for v in curve
        ]
        line, other = (line for line in axes.get_lines() if line.get_label() in LINES)
        assert list(line.get_xdata()) == [accuracy[variant].value for variant in curve]
        assert list(line.get_ydata()) == [leak.value for leak in leaks]
        assert line.get_linestyle() == "-" != other.get_linestyle()
        band = axes.collections[0].get_paths()[0].vertices.tolist()
        for variant, leak in zip(curve, leaks, strict=True):
            edges = {y for x, y in band if x == accuracy[variant].value}
            assert edges == {leak.low, leak.high}
        # one point each, on the line, whichever shadows it is attacked with
        points = [p for p in bars(axes) if p[-1].startswith("epoch-")]
        assert [p[0] for p in points] == list(
            zip(line.get_xdata()[:2], line.get_ydata()[:2], strict=True)
        )
        assert {p[3] for p in points} == {"full"}
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == [
        *("full", "4 bits", "2 bits", "nearest", "early stopping", "noise"),
        *("matched shadows", "full-precision shadows", "recalibrated shadows"),
    ]


LINES = ("early stopping", "noise")


def test_snapshots_have_a_panel_of_their_own(rows, accuracy):
    rows, _ = with_snapshots(rows, accuracy)
    panels = roc_figure(rows, 80).axes
    labels = [[line.get_label().split()[0] for line in axes.get_lines()] for axes in panels[::3]]
    assert labels == [
        ["full", "nearest-w4", "nearest-w2", "guessing"],
        ["full", "epoch-05", "epoch-10", "guessing"],
    ]
    assert [axes.get_ylabel() for axes in panels[::3]] == ["nearest: TPR", "early stopping: TPR"]


def test_recalibrated_shadows_are_shown_where_there_are_any(rows, accuracy):
    rows = [row for row in rows if row.knowledge != "recalibrated"]
    figure = plane_figure(rows, accuracy)
    for axes in figure.axes:
        assert [point[3] for point in bars(axes)] == ["full", *["full", "none"] * 2]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[-2:] == ["matched shadows", "full-precision shadows"]
    titles = [axes.get_title() for axes in roc_figure(rows, 80).axes]
    assert titles[1:] == ["Attacker with full-precision shadows"]


def test_another_experiments_shadows_have_a_cross_also_at_full_precision(rows, accuracy):
    """A snapshot keeps the marker of its curve, whoever attacks it best."""
    rows, accuracy = with_snapshots(rows, accuracy)
    matched = [row for row in rows if row.knowledge == "matched"]
    rows = [*rows, *(row._replace(knowledge="other") for row in matched)]
    chart = plane_chart(rows, accuracy, {"early stopping": ["epoch-05", "epoch-10", "full"]})
    points = [s for s in chart.panels[0][0].series if s.choice.attack]
    crosses = [s for s in points if s.marker == "X"]
    quantized = ["nearest-w4", "nearest-w2"]
    assert list(dict.fromkeys(s.choice.variant for s in crosses)) == ["full", *quantized]
    assert {s.choice.knowledge for s in crosses} == {"other", "none"}
    titles = [panel.title for panel in roc_chart(rows, 80).panels[0]]
    assert titles[-1] == "Attacker with shadows of another experiment"


def test_an_outlier_is_named_at_the_edge(rows, accuracy):
    """Four variants, of which one is far less accurate than all others."""
    rows = list(rows)
    rows += [r._replace(variant="nearest-w1.58") for r in rows if r.variant == "nearest-w2"]
    accuracy = {
        **{"full": Estimate(0.95, 0.94, 0.96), "nearest-w4": Estimate(0.94, 0.93, 0.95)},
        **{"nearest-w2": Estimate(0.93, 0.92, 0.94), "nearest-w1.58": Estimate(0.5, 0.4, 0.6)},
    }
    for axes in plane_figure(rows, accuracy).axes:
        low, high = axes.get_xlim()
        assert (low, high) == pytest.approx((0.918, 0.962))  # 0.92 to 0.96 and a twentieth of it
        notes = [text.get_text() for text in axes.texts]
        assert sorted(notes) == ["←", "←", "← nearest-w1.58: 50.0%"]
        moved = [
            container.lines[0].get_xdata()[0] - low
            for container in axes.containers
            if container.get_label().startswith("nearest-w1.58 ")
        ]
        assert moved == pytest.approx([0.03 * (high - low)] * 3)


def test_a_variant_has_the_same_colour_in_both_figures(rows, accuracy):
    colours = {variant: set() for variant in accuracy}
    for axes in plane_figure(rows, accuracy).axes:
        for (x, _), *_, colour, _ in bars(axes):
            variant = next(v for v, utility in accuracy.items() if utility.value == x)
            colours[variant].add(colour)
    for axes in roc_figure(rows, 80).axes:
        for line in axes.get_lines()[:-1]:
            colours[line.get_label().split()[0]].add(to_rgba(line.get_color()))
    assert [len(own) for own in colours.values()] == [1, 1, 1]
    assert len(set.union(*colours.values())) == 3
    assert colours["full"] == {to_rgba("black")}


def test_an_attack_without_shadows_has_a_panel_and_a_point(rows, accuracy):
    """`--attacks global_threshold` once gave empty panels and a warning about the legend."""
    alone = [row for row in rows if row.attack == "global_threshold"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        roc, plane = roc_figure(alone, 80), plane_figure(alone, accuracy)
    assert [axes.get_title() for axes in roc.axes] == ["Attacker with no shadows"]
    assert [len(axes.get_lines()) for axes in roc.axes] == [4]
    assert [len(axes.containers) for axes in plane.axes] == [3, 3]
    # and where it is the strongest, it stands for the variant in the middle of all rows
    summary = alone[2].summary._replace(auc=alone[2].summary.auc._replace(value=0.99))
    strong = [row if row is not alone[2] else row._replace(summary=summary) for row in rows]
    for axes in roc_figure(strong, 80).axes:
        assert axes.get_lines()[2].get_label() == "nearest-w2 (global_threshold)"


METHODS = ("nearest", "adaround", "brecq", "obc", "gptq")
MANY = [f"{method}-w{bits}" for bits in ("1.58", "4", "2") for method in METHODS]


def test_each_method_has_a_row_of_panels_with_full_precision_again(rows):
    template = {row.variant: [r for r in rows if r.variant == row.variant] for row in rows}
    many = list(template["full"])
    for variant in MANY:
        many += [row._replace(variant=variant) for row in template["nearest-w2"]]
    panels = roc_figure(many, 80).axes
    assert len(panels) == 3 * len(METHODS)
    for number, axes in enumerate(panels):
        labels = [line.get_label().split()[0] for line in axes.get_lines()]
        method = METHODS[number // 3]
        assert labels == ["full", *(v for v in MANY if v.startswith(method)), "guessing"]
    assert [axes.get_ylabel() for axes in panels[::3]] == [f"{method}: TPR" for method in METHODS]


def test_full_precision_alone_has_one_curve_and_one_point(rows, accuracy):
    alone = [row for row in rows if row.variant == "full"]
    assert [len(axes.get_lines()) for axes in roc_figure(alone, 80).axes] == [2]
    planes = plane_figure(alone, {"full": accuracy["full"]})
    assert [len(axes.containers) for axes in planes.axes] == [1, 1]


def convergence_figure(convergence):
    return draw(convergence_chart(convergence))


def points(value, counts=(2, 4, 8)):
    return {
        count: Estimate(value + i / 100, value - i / 50, value + 0.1)
        for i, count in enumerate(counts)
    }


def curves(axes):
    """Label, positions, values and colour of each line, and the band around it."""
    lines = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
    fills = [fill.get_paths()[0].vertices for fill in axes.collections]
    assert len(fills) == len(lines)
    return [
        (line.get_label(), list(line.get_xdata()), list(line.get_ydata()), line.get_color(), fill)
        for line, fill in zip(lines, fills, strict=True)
    ]


def test_convergence_shows_every_number():
    convergence = {
        "full": Convergence("lira_online", points(0.7, (4, 8, 12))),
        "nearest-w2": Convergence("rmia_online", points(0.6, (2, 4, 8, 12))),
        "nearest-w4": Convergence("attack_r", points(0.65, (2, 4, 8, 12))),
        "obc-w2": Convergence("lira_online", points(0.55, (4, 8, 12))),
    }
    figure = convergence_figure(convergence)
    figure.draw_without_rendering()
    shown = styles_of(list(convergence))
    panels = [["full", "nearest-w2", "nearest-w4"], ["full", "obc-w2"]]
    assert len(figure.axes) == len(panels)
    for axes, variants in zip(figure.axes, panels, strict=True):
        lines = curves(axes)
        assert len(lines) == len(variants)
        for variant, (label, x, y, colour, fill) in zip(variants, lines, strict=True):
            attack, wanted = convergence[variant]
            assert label == f"{variant} ({attack})"
            assert x == list(wanted)
            assert y == [estimate.value for estimate in wanted.values()]
            assert to_rgba(colour) == to_rgba(shown[variant].colour)
            for count, estimate in wanted.items():
                edges = {y for x, y in fill.tolist() if x == count}
                assert edges == {estimate.low, estimate.high}
        legend = [text.get_text() for text in axes.get_legend().get_texts()]
        assert legend == [label for label, *_ in lines]
        # one tick per count of any variant, and no others
        assert axes.get_xscale() == "log"
        assert [text.get_text() for text in axes.get_xticklabels()] == ["2", "4", "8", "12"]
        assert axes.get_xlabel() == "shadow models"
    assert [axes.get_ylabel() for axes in figure.axes] == ["AUC", ""]


@pytest.mark.parametrize("variant", ["full", "nearest-w2", "int8-engine"])
def test_a_single_variant_is_a_single_panel(variant):
    figure = convergence_figure({variant: Convergence("attack_r", points(0.6, (4,)))})
    figure.draw_without_rendering()
    (axes,) = figure.axes
    ((label, x, y, *_),) = curves(axes)
    assert (label, x, y) == (f"{variant} (attack_r)", [4], [0.6])


@pytest.mark.parametrize(
    ("methods", "rows", "columns"), [(2, 1, 2), (3, 1, 3), (4, 2, 3), (7, 3, 3)]
)
def test_one_panel_per_method_with_numbers_under_each(methods, rows, columns):
    names = [f"{letter}-w2" for letter in "abcdefg"[:methods]]
    convergence = dict.fromkeys(["full", *names], Convergence("attack_r", points(0.6)))
    figure = convergence_figure(convergence)
    figure.draw_without_rendering()
    assert len(figure.axes) == rows * columns
    visible = [axes for axes in figure.axes if axes.get_visible()]
    assert len(visible) == methods
    for name, axes in zip(names, visible, strict=True):
        assert [label for label, *_ in curves(axes)] == ["full (attack_r)", f"{name} (attack_r)"]
        assert [t.get_text() for t in axes.get_xticklabels() if t.get_visible()] == ["2", "4", "8"]
