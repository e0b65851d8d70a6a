"""Panels as plotly reads them, against plotly's own validation and by hand."""

from math import inf, nan

import plotly.graph_objects as go
import pytest
from matplotlib.colors import to_rgb

from reporting.charts import INK, Axis, Chart, Choice, Guide, Heat, Panel, Series
from reporting.plotly_charts import SYMBOLS, on_dark, outlines, to_page, to_plotly
from reporting.styles import MARKERS

POINTS = Series(
    "w<2> (gap)",
    [0.5, 0.75],
    [1.0, nan],
    x_interval=([0.25, 0.75], [0.5, 1.0]),
    y_interval=([0.5, 0.0], [2.0, 1.0]),
    colour="tab:blue",
    marker="s",
    filled=False,
    choice=Choice("w<2>", "unquantized", "gap", "one", 0.7),
)


def test_plotly_takes_every_kind_of_series():
    """`go.Figure` refuses what plotly.js does not know."""
    line = Series("line", [1.0, 10.0], [1.0, 2.0], dashes=(4.0, 2.0), steps=True)
    band = line._replace(band=True, y_interval=([0.0, 1.0], [2.0, 3.0]), names=["a", "b"])
    axes = Axis("x", log=True, limits=(1.0, 100.0)), Axis(ticks=[(1, "one")], upright=True)
    guides = [Guide(x=1.0), Guide(y=2.0), Guide()]
    panel = to_plotly(Panel([POINTS, line, band], *axes, guides=guides))
    figure = go.Figure(panel)
    assert len(figure.data) == 1 + 1 + 3  # a band has two edges beside its line
    assert figure.layout.xaxis.range == (0, 2)  # of a logarithm
    assert len(figure.layout.shapes) == 3


def test_a_trace_by_hand():
    (trace,) = to_plotly(Panel([POINTS], Axis("accuracy"), Axis("AUC")))["data"]
    assert (trace["x"], trace["y"]) == ([0.5, 0.75], [1.0, None])
    assert (trace["error_x"]["arrayminus"], trace["error_x"]["array"]) == ([0.25, 0], [0, 0.25])
    assert trace["error_y"]["arrayminus"] == [0.5, None]
    assert trace["customdata"] == [[0.25, 0.5, 0.5, 2.0], [0.75, 1.0, 0.0, 1.0]]
    assert trace["name"] == "w&lt;2&gt; (gap), full-precision shadows"
    assert trace["marker"]["symbol"] == "square-open"
    assert trace["meta"] == {
        "label": "w<2> (gap)",
        "colours": ["#1f77b4", on_dark("tab:blue")],
        **{"variant": "w<2>", "knowledge": "unquantized", "attack": "gap"},
        **{"group": "one", "rank": 0.7},
    }
    assert trace["hovertemplate"] == (
        "<b>%{fullData.name}</b>"
        "<br>accuracy: %{x:.4g} (%{customdata[0]:.4g} to %{customdata[1]:.4g})"
        "<br>AUC: %{y:.4g} (%{customdata[2]:.4g} to %{customdata[3]:.4g})<extra></extra>"
    )


def test_numbers_that_json_lacks_are_none():
    (trace,) = to_plotly(
        Panel([Series("a", [inf, 1.23456789], [nan, 2.0], choice=Choice(rank=nan))])
    )["data"]
    assert (trace["x"], trace["y"], trace["meta"]["rank"]) == ([None, 1.2346], [None, 2], None)


def test_a_chart_keeps_its_panels_in_order():
    first, second = (Panel([POINTS], title=title, name="row") for title in "ab")
    page = to_page(Chart([[first, None], [second, first]], (4, 4), "hollow: a", [POINTS]))
    assert page["title"] == "hollow: a"
    assert [panel["heading"] for panel in page["panels"]] == ["row: a", "row: b", "row: a"]
    assert page["columns"] == 2
    assert [entry["meta"]["label"] for entry in page["legend"]] == ["w<2> (gap)"]


@pytest.mark.parametrize("colour", [INK, "tab:blue", "#0d0887", "white", "gray"])
def test_colours_can_be_read_on_a_dark_page(colour):
    """Colours as light as gray stay; the lightness of darker ones is mirrored."""
    before, after = (max(c) + min(c) for c in (to_rgb(colour), to_rgb(on_dark(colour))))
    assert after == pytest.approx(max(before, 2 - before), abs=0.01)


def test_every_marker_has_a_symbol_and_an_outline():
    assert {*MARKERS, "*"} <= SYMBOLS.keys()
    paths = outlines()
    assert paths.keys() == set(SYMBOLS.values())
    assert all(path.startswith("M") and path.endswith("Z") for path in paths.values())
    assert len(set(paths.values())) == len(paths)


def test_a_point_at_the_edge_has_its_name_beside_it_and_its_values_under_the_mouse():
    panel = Panel([], Axis(limits=(0.8, 1.0)))
    series = Series("w2", [0.81], [0.6], marker="o", half=True, names=["a: 60%"], note="← w<2>")
    (trace,) = to_plotly(panel._replace(series=[series]))["data"]
    assert (trace["mode"], trace["texttemplate"]) == ("markers+text", "← w&lt;2&gt;")
    assert (trace["text"], trace["textposition"]) == (["a: 60%"], "middle right")
    assert trace["marker"]["symbol"] == "circle-open-dot"  # plotly has no halves
    assert trace["hovertemplate"] == "<b>%{fullData.name}</b><br>%{text}<extra></extra>"
    (right,) = to_plotly(panel._replace(series=[series._replace(x=[0.99])]))["data"]
    assert right["textposition"] == "middle left"
    go.Figure(to_plotly(panel._replace(series=[series])))  # refuses what plotly.js does not know


def test_a_matrix_by_hand():
    heat = Heat([[0.5, nan]], (0.0, 1.0), [["task <1>", ""]], 2)
    panel = to_plotly(Panel([], heat=heat))
    (trace,) = panel["data"]
    assert (trace["x"], trace["y"], trace["z"]) == ([1, 2], [1], [[0.5, None]])
    assert trace["text"] == [["0.50", ""]]
    assert trace["customdata"] == [["task &lt;1&gt;", ""]]
    assert trace["meta"]["label"] == ""  # it has no entry in a legend
    (drawn,) = go.Figure(panel).data
    assert (drawn.zmin, drawn.zmax, drawn.type) == (0, 1, "heatmap")
