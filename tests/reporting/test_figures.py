"""What the figures draw, read back from matplotlib, against the rows."""

import warnings

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from attacks.evaluate import FPR_GRID
from reporting.figures import layers_chart, plane_chart, roc_chart
from reporting.matplotlib_charts import draw
from reporting.styles import looks
from storage.records import LayerMeans, Making

PANELS = ("matched", "full")


def roc_figure(rows, non_members):
    return draw(roc_chart(rows, non_members))


def plane_figure(rows, accuracy):
    return draw(plane_chart(rows, accuracy))


def layers_figure(made):
    chart = layers_chart(made)
    return None if chart is None else draw(chart)


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
            row = best(rows, variant, knowledge, metric)
            leak = getattr(row.summary, metric)
            utility = accuracy[variant]
            assert position == (utility.value, leak.value)
            assert tuple(across) == pytest.approx((utility.low, utility.high), abs=1e-12)
            assert tuple(up) == pytest.approx((leak.low, leak.high), abs=1e-12)
            assert fill == {"matched": "full", "full": "none"}[knowledge]
            assert label == f"{variant} ({row.attack})"
        assert axes.get_legend() is None  # which would cover points
    assert [axes.get_ylabel() for axes in figure.axes] == ["AUC", "TPR at 0.1% FPR †"]
    assert {axes.get_xlabel() for axes in figure.axes} == {"test accuracy"}
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["full", "4 bits", "2 bits", "nearest"]


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


METHODS = ("nearest", "adaround", "brecq", "obc", "gptq")
MANY = [f"{method}-w{bits}" for bits in ("1.58", "4", "2") for method in METHODS]


@pytest.mark.parametrize(
    "variants",
    [
        ["full", *MANY],
        ["full", *(f"obc-w{w}{s}" for w in (8, 4, 3, 2) for s in ("", "-sym", "-last8", "-bn"))],
        ["full", "nearest-w2-last8", "brecq-w2-last8", "brecq-w2-paper-nonmembers"],
    ],
    ids=["methods", "settings", "both"],
)
def test_no_two_variants_look_alike(variants):
    shown = looks(variants)
    assert list(shown) == variants
    points = {(look.colour, look.marker) for look in shown.values()}
    lines = {(look.method, look.colour, look.dashes) for look in shown.values()}
    assert len(points) == len(lines) == len(variants)


def test_colours_are_bits_and_markers_methods():
    shown = looks(["full", *MANY])
    for field, part in (("colour", 1), ("marker", 0)):
        found = {}
        for variant in MANY:
            found.setdefault(variant.split("-w")[part], set()).add(getattr(shown[variant], field))
        assert all(len(values) == 1 for values in found.values())
        assert len(set.union(*found.values())) == len(found)
    # the more bits, the darker, in whatever order they were asked for
    colours = [shown[f"gptq-w{bits}"].colour for bits in ("4", "2", "1.58")]
    assert [sum(to_rgba(c)[:3]) for c in colours] == sorted(sum(to_rgba(c)[:3]) for c in colours)


def test_each_method_has_its_own_curves(rows):
    """With many methods a row of panels each, and full precision again in every one."""
    template = {row.variant: [r for r in rows if r.variant == row.variant] for row in rows}
    many = list(template["full"])
    for variant in MANY:
        many += [row._replace(variant=variant) for row in template["nearest-w2"]]
    panels = roc_figure(many, 80).axes
    assert len(panels) == 2 * len(METHODS)
    for number, axes in enumerate(panels):
        labels = [line.get_label().split()[0] for line in axes.get_lines()]
        method = METHODS[number // 2]
        assert labels == ["full", *(v for v in MANY if v.startswith(method)), "guessing"]
    assert [axes.get_ylabel() for axes in panels[::2]] == [f"{method}: TPR" for method in METHODS]


def making(shift=0.0, images=True, names=("stem", "a.conv", "fc")):
    """Numbers by hand; without images there are no errors."""
    layers = [
        LayerMeans(name, i / 10 + shift, (i + 1) / 2 if images else None, (i + 1) / 8 + shift)
        for i, name in enumerate(names)
    ]
    if not images:
        layers = [layer._replace(flipped=0.0, after=None) for layer in layers]
    return Making("x", "members, 9 images" if images else None, list(names), layers, 1.0, 2)


def test_layers_show_each_number_in_order():
    made = {
        "full": None,
        "nearest-w4": making(images=False),
        "brecq-w4": making(),
        "obc-w4": making(0.25),
        "brecq-w2": making(0.5),
        "brecq-w2-sym": None,
    }
    figure = layers_figure(made)
    shown = looks(list(made))
    wanted = {"brecq": ["brecq-w4", "brecq-w2"], "obc": ["obc-w4"]}
    panels = np.reshape(figure.axes, (2, 2))
    for (recipe, variants), (left, right) in zip(wanted.items(), panels, strict=True):
        assert left.get_ylabel() == recipe
        assert right.get_yscale() == "log"
        assert len(left.get_lines()) == len(variants)
        assert len(right.get_lines()) == 2 * len(variants)
        for number, variant in enumerate(variants):
            layers, colour = made[variant].layers, shown[variant].colour
            share = left.get_lines()[number]
            before, after = right.get_lines()[2 * number : 2 * number + 2]
            assert {line.get_color() for line in (share, before, after)} == {colour}
            assert [list(line.get_xdata()) for line in (share, before, after)] == [[0, 1, 2]] * 3
            assert list(share.get_ydata()) == [layer.flipped for layer in layers]
            assert list(before.get_ydata()) == [layer.before for layer in layers]
            assert list(after.get_ydata()) == [layer.after for layer in layers]
            assert (before.get_fillstyle(), before.get_linestyle()) == ("none", "--")
            assert (after.get_fillstyle(), after.get_linestyle()) == ("full", "-")
    for axes in panels[-1]:
        ticks = [text.get_text() for text in axes.get_xticklabels()]
        assert ticks == ["stem", "a.conv", "fc"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["4 bits", "2 bits"]


def test_layers_that_one_variant_lacks_keep_their_places():
    made = {"obc-w4": making(), "obc-w2": making(names=("stem", "fc"))}
    left, right = layers_figure(made).axes
    assert [list(line.get_xdata()) for line in left.get_lines()] == [[0, 1, 2], [0, 2]]
    assert [list(line.get_xdata()) for line in right.get_lines()] == [[0, 1, 2]] * 2 + [[0, 2]] * 2


def test_there_is_no_figure_of_layers_where_nothing_happened():
    assert layers_figure({}) is None
    assert layers_figure({"full": None, "nearest-w2": making(images=False)}) is None


@pytest.mark.parametrize(
    "errors", [(None, None), (0.0, 0.0), (1.0, 0.0), (np.nan, np.inf)], ids=str
)
def test_errors_that_have_no_logarithm_are_gaps(errors):
    layers = [LayerMeans("stem", 0.5, *errors), LayerMeans("fc", 0.25, *errors)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = layers_figure({"obc-w2": making()._replace(layers=layers)})
        figure.draw_without_rendering()
    left, right = figure.axes
    assert list(left.get_lines()[0].get_ydata()) == [0.5, 0.25]
    assert len(right.get_lines()) == sum(1 for error in errors if error and np.isfinite(error))


def test_names_of_layers_never_crowd():
    names = [f"layer{i}.conv" for i in range(130)]
    for axes in layers_figure({"obc-w2": making(names=names)}).axes:
        ticks = [text.get_text() for text in axes.get_xticklabels()]
        assert ticks == names[::4]
        assert list(axes.get_xticks()) == list(range(0, 130, 4))


def test_full_precision_alone(rows, accuracy):
    alone = [row for row in rows if row.variant == "full"]
    assert [len(axes.get_lines()) for axes in roc_figure(alone, 80).axes] == [2, 2]
    planes = plane_figure(alone, {"full": accuracy["full"]})
    assert [len(axes.containers) for axes in planes.axes] == [1, 1]
