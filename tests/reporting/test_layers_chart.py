"""The figure of the layers, read back from matplotlib."""

import warnings

import numpy as np
import pytest

from reporting.figures import layers_chart
from reporting.matplotlib_charts import draw
from reporting.styles import styles_of
from storage.records import LayerMeans, QuantizationMeans


def layers_figure(made):
    chart = layers_chart(made)
    return None if chart is None else draw(chart)


def quantized(shift=0.0, images=True, names=("stem", "a.conv", "fc")):
    """A record by hand; without images there are no errors."""
    layers = [
        LayerMeans(name, i / 10 + shift, (i + 1) / 2 if images else None, (i + 1) / 8 + shift)
        for i, name in enumerate(names)
    ]
    if not images:
        layers = [layer._replace(flipped=0.0, after=None) for layer in layers]
    return QuantizationMeans(
        "x", "members, 9 images" if images else None, list(names), layers, 1.0, 2
    )


def test_layers_show_every_number_in_order():
    made = {
        "full": None,
        "nearest-w4": quantized(images=False),
        "brecq-w4": quantized(),
        "obc-w4": quantized(0.25),
        "brecq-w2": quantized(0.5),
        "brecq-w2-sym": None,
    }
    figure = layers_figure(made)
    shown = styles_of(list(made))
    wanted = {"brecq": ["brecq-w4", "brecq-w2"], "obc": ["obc-w4"]}
    panels = np.reshape(figure.axes, (2, 2))
    for (scheme, variants), (left, right) in zip(wanted.items(), panels, strict=True):
        assert left.get_ylabel() == scheme
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


def test_layers_that_a_variant_lacks_keep_their_places():
    made = {"obc-w4": quantized(), "obc-w2": quantized(names=("stem", "fc"))}
    left, right = layers_figure(made).axes
    assert [list(line.get_xdata()) for line in left.get_lines()] == [[0, 1, 2], [0, 2]]
    assert [list(line.get_xdata()) for line in right.get_lines()] == [[0, 1, 2]] * 2 + [[0, 2]] * 2


def test_no_figure_of_layers_where_no_weight_moved():
    assert layers_figure({}) is None
    assert layers_figure({"full": None, "nearest-w2": quantized(images=False)}) is None


@pytest.mark.parametrize(
    "errors", [(None, None), (0.0, 0.0), (1.0, 0.0), (np.nan, np.inf)], ids=str
)
def test_errors_without_a_logarithm_are_gaps(errors):
    layers = [LayerMeans("stem", 0.5, *errors), LayerMeans("fc", 0.25, *errors)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = layers_figure({"obc-w2": quantized()._replace(layers=layers)})
        figure.draw_without_rendering()
    left, right = figure.axes
    assert list(left.get_lines()[0].get_ydata()) == [0.5, 0.25]
    assert len(right.get_lines()) == sum(1 for error in errors if error and np.isfinite(error))


def test_names_of_layers_never_crowd():
    names = [f"layer{i}.conv" for i in range(130)]
    for axes in layers_figure({"obc-w2": quantized(names=names)}).axes:
        ticks = [text.get_text() for text in axes.get_xticklabels()]
        assert ticks == names[::4]
        assert list(axes.get_xticks()) == list(range(0, 130, 4))
