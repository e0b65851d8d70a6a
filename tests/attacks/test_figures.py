"""What the figures draw, read back from matplotlib, against the rows."""

import warnings

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from attacks.evaluate import FPR_GRID
from attacks.figures import plane_figure, roc_figure

PANELS = ("matched", "full")


def best(rows, variant, knowledge, metric="auc"):
    """The row that a panel shows; without shadows an attack is open to both kinds of attacker."""
    kinds = {"none", "matched" if variant == "full" else knowledge}
    return max(
        (row for row in rows if row.variant == variant and row.knowledge in kinds),
        key=lambda row: getattr(row.summary, metric).value,
    )


def bars(axes):
    """Of every point: its position, how far its bars reach, its fill, colour and label."""
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
    for axes, knowledge in zip(figure.axes, PANELS, strict=True):
        *curves, guessing = axes.get_lines()
        assert len(curves) == 3
        for curve, variant in zip(curves, ("full", "nearest-w4", "nearest-w2"), strict=True):
            row = best(rows, variant, knowledge)
            assert curve.get_label() == f"{variant} ({row.attack})"
            np.testing.assert_array_equal(curve.get_xdata(), FPR_GRID)
            np.testing.assert_array_equal(curve.get_ydata(), row.curve)
        np.testing.assert_array_equal(guessing.get_xdata(), guessing.get_ydata())
        texts = [text.get_text() for text in axes.get_legend().get_texts()]
        assert texts == [line.get_label() for line in axes.get_lines()]
    matched, full = (axes.get_lines() for axes in figure.axes)
    assert list(matched[0].get_ydata()) == list(full[0].get_ydata())  # `full` has one attacker
    assert list(matched[2].get_ydata()) != list(full[2].get_ydata())
    assert [axes.get_title() for axes in figure.axes] == [
        "Attacker with shadows quantized like the target",
        "Attacker with full-precision shadows",
    ]


@pytest.mark.parametrize(("non_members", "left"), [(80, 1 / 80), (50_000, 1e-4)])
def test_roc_axes_are_logarithmic_down_to_one_false_positive(rows, non_members, left):
    for axes in roc_figure(rows, non_members).axes:
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        assert axes.get_xlim() == pytest.approx((left, 1))
        assert axes.get_ylim() == pytest.approx((left, 1))


def test_planes_show_accuracy_against_leakage_with_their_intervals(rows, accuracy):
    figure = plane_figure(rows, accuracy)
    for axes, metric in zip(figure.axes, ("auc", "tpr_01pct"), strict=True):
        points = list(bars(axes))
        shown = [("full", "matched")]
        shown += [(variant, kind) for variant in ("nearest-w4", "nearest-w2") for kind in PANELS]
        assert len(points) == len(shown)
        for point, (variant, knowledge) in zip(points, shown, strict=True):
            position, across, up, fill, _, label = point
            leak = getattr(best(rows, variant, knowledge, metric).summary, metric)
            utility = accuracy[variant]
            assert position == (utility.value, leak.value)
            assert tuple(across) == pytest.approx((utility.low, utility.high), abs=1e-12)
            assert tuple(up) == pytest.approx((leak.low, leak.high), abs=1e-12)
            assert fill == {"matched": "full", "full": "none"}[knowledge]
            assert (label == variant) == (knowledge == "matched")
        texts = [text.get_text() for text in axes.get_legend().get_texts()]
        assert texts == list(accuracy)  # each variant once
    assert [axes.get_ylabel() for axes in figure.axes] == ["AUC", "TPR at 0.1% FPR †"]
    assert {axes.get_xlabel() for axes in figure.axes} == {"test accuracy"}


def test_a_variant_has_one_colour_of_its_own_in_both_figures(rows, accuracy):
    found = {variant: set() for variant in accuracy}
    for axes in plane_figure(rows, accuracy).axes:
        for (x, _), *_, colour, _ in bars(axes):
            found[next(v for v, utility in accuracy.items() if utility.value == x)].add(colour)
    for axes in roc_figure(rows, 80).axes:
        for line in axes.get_lines()[:-1]:
            found[line.get_label().split()[0]].add(to_rgba(line.get_color()))
    assert [len(colours) for colours in found.values()] == [1, 1, 1]
    assert len(set.union(*found.values())) == 3
    assert found["full"] == {to_rgba("black")}


def test_an_attack_without_shadows_is_shown_for_both_attackers(rows, accuracy):
    """`--attacks global_threshold` once gave empty panels and a warning about the legend."""
    alone = [row for row in rows if row.attack == "global_threshold"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        roc, plane = roc_figure(alone, 80), plane_figure(alone, accuracy)
    assert [len(axes.get_lines()) for axes in roc.axes] == [4, 4]
    assert [len(axes.containers) for axes in plane.axes] == [5, 5]
    # and where it is the strongest, it stands for the variant in the middle of all rows
    summary = alone[2].summary._replace(auc=alone[2].summary.auc._replace(value=0.99))
    strong = [row if row is not alone[2] else row._replace(summary=summary) for row in rows]
    for axes in roc_figure(strong, 80).axes:
        assert axes.get_lines()[2].get_label() == "nearest-w2 (global_threshold)"


def test_full_precision_alone(rows, accuracy):
    alone = [row for row in rows if row.variant == "full"]
    assert [len(axes.get_lines()) for axes in roc_figure(alone, 80).axes] == [2, 2]
    planes = plane_figure(alone, {"full": accuracy["full"]})
    assert [len(axes.containers) for axes in planes.axes] == [1, 1]
