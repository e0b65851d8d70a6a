"""Charts as matplotlib draws them, read back."""

from math import nan

import numpy as np
import pytest
from matplotlib.cbook import STEP_LOOKUP_MAP
from matplotlib.colors import to_rgba

from reporting.charts import Axis, Chart, Choice, Guide, Heat, Panel, Series
from reporting.matplotlib_charts import draw, save


def drawn(*panels, **options):
    """The axes of panels beside each other."""
    figure = draw(Chart([panels], (4, 3), **options))
    figure.draw_without_rendering()
    return figure.axes


def test_points_and_their_bars_are_where_they_belong():
    series = Series(
        "a", [1, 2], [0.5, 0.75], ([0.5, 1], [1.5, 4]), ([0.25, 0.5], [1, 1]), "red", "s", False
    )
    (axes,) = drawn(Panel([series]))
    (container,) = axes.containers
    points, _, (across, up) = container.lines
    assert points.get_xydata().tolist() == [[1, 0.5], [2, 0.75]]
    assert [segment[:, 0].tolist() for segment in across.get_segments()] == [[0.5, 1.5], [1, 4]]
    assert [segment[:, 1].tolist() for segment in up.get_segments()] == [[0.25, 1], [0.5, 1]]
    assert (points.get_marker(), points.get_fillstyle()) == ("s", "none")
    assert points.get_linestyle() == "None"
    assert to_rgba(points.get_color()) == to_rgba("red")


@pytest.mark.parametrize(("dashes", "style"), [(None, "None"), ((), "-"), ((4, 1), "--")])
def test_a_line_is_solid_dashed_or_absent(dashes, style):
    (axes,) = drawn(Panel([Series("a", [1, 2, 3], [1, nan, 2], dashes=dashes)]))
    (line,) = axes.get_lines()
    assert line.get_linestyle() == style
    np.testing.assert_array_equal(line.get_ydata(), [1, nan, 2])


def test_a_band_is_between_its_edges():
    edges = [0.25, 0.5], [0.75, 1.5]
    (axes,) = drawn(Panel([Series("a", [1, 2], [0.5, 1], None, edges, dashes=(), band=True)]))
    vertices = axes.collections[0].get_paths()[0].vertices.tolist()
    assert {y for x, y in vertices if x == 1} == {0.25, 0.75}
    assert {y for x, y in vertices if x == 2} == {0.5, 1.5}
    assert not axes.containers


def test_the_outline_of_a_histogram_is_that_of_stairs():
    edges, counts = [0, 1, 3], [2, 5]
    outline = Series("a", edges, [*counts, counts[-1]], dashes=(), steps=True)
    (axes,) = drawn(Panel([outline]))
    (line,) = axes.get_lines()
    stairs = STEP_LOOKUP_MAP[line.get_drawstyle()](*line.get_data())
    assert list(zip(*stairs, strict=True)) == [(0, 2), (1, 2), (1, 5), (3, 5), (3, 5)]


def test_of_alternatives_the_first_of_the_highest_rank_is_drawn():
    series = [
        Series("always", [0], [0]),
        *(
            Series(f"a{i}", [i], [i], choice=Choice(group="a", rank=rank))
            for i, rank in enumerate((1, 3, 3, 2))
        ),
    ]
    (axes,) = drawn(Panel(series))
    assert [line.get_label() for line in axes.get_lines()] == ["always", "a1"]


@pytest.mark.parametrize("log", [False, True])
def test_guides_are_horizontal_vertical_and_diagonal(log):
    guides = Guide(x=0.2), Guide(y=0.5), Guide(label="guessing")
    axis = Axis(log=log, limits=(0.01, 1))
    (axes,) = drawn(Panel([], axis, axis, guides=guides, legend="lower right"))
    upright, level, diagonal = axes.get_lines()
    assert set(upright.get_xdata()) == {0.2}
    assert set(level.get_ydata()) == {0.5}
    ends = axes.transData.inverted().transform(
        diagonal.get_transform().transform(diagonal.get_path().vertices)
    )
    np.testing.assert_allclose(ends[:, 0], ends[:, 1])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["guessing"]


def test_axes_have_the_ticks_scales_and_limits_asked_for():
    names = [(0, "stem"), (2, "$fc")]
    x, y = Axis("layer", ticks=names, upright=True), Axis("error", True, (0.5, None))
    (axes,) = drawn(Panel([Series("a", [0, 1, 2], [1, 10, 100])], x, y, title="All"))
    assert [text.get_text() for text in axes.get_xticklabels()] == ["stem", "$fc"]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("layer", "error", "All")
    assert (axes.get_yscale(), axes.get_ylim()[0]) == ("log", 0.5)
    assert axes.get_ylim()[1] >= 100


def test_titles_and_labels_of_a_neighbour_are_not_repeated():
    panels = [
        [Panel([], Axis("x"), Axis("TPR"), title, name) for title in ("left", "right")]
        for name in ("one", "two")
    ]
    figure = draw(Chart(panels, (4, 4), share_x="all", share_y="all"))
    assert [axes.get_title() for axes in figure.axes] == ["left", "right", "", ""]
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", "x", "x"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["one: TPR", "", "two: TPR", ""]


def test_an_empty_place_leaves_the_panel_above_its_numbers():
    panel = Panel([], Axis("x"))
    figure = draw(Chart([[panel, panel], [panel, None]], (4, 4), share_x="all"))
    assert [axes.get_visible() for axes in figure.axes] == [True, True, True, False]
    assert [axes.get_xlabel() for axes in figure.axes[:3]] == ["", "x", "x"]
    assert figure.axes[1].xaxis.get_tick_params()["labelbottom"]


def test_the_legend_of_the_figure_stands_beside_it():
    entries = [Series("4 bits", colour="red", marker="s"), Series("obc", marker="^")]
    figure = draw(Chart([[Panel([])]], (4, 3), "Title", entries))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["4 bits", "obc"]
    assert figure.get_suptitle() == "Title"


def test_a_figure_is_laid_out_once_as_matplotlib_would(tmp_path):
    panels = [[Panel([], Axis("x"), Axis("TPR"), f"{row}{i}") for i in range(2)] for row in "ab"]
    legend = [Series("beside", colour="red", marker="s")]
    figure = draw(Chart(panels, (6, 5), "Title", legend))
    places = [axes.get_position().bounds for axes in figure.axes]
    assert figure.get_layout_engine() is None
    save(figure, tmp_path / "chart.png")
    assert [axes.get_position().bounds for axes in figure.axes] == places
    figure.set_layout_engine("constrained")
    figure.draw_without_rendering()
    expected = [axes.get_position().bounds for axes in figure.axes]
    for place, bounds in zip(places, expected, strict=True):
        assert place == pytest.approx(bounds, abs=1e-3)


def test_letters_that_the_font_lacks_are_drawn_without_a_warning(tmp_path):
    legend = [Series(name, colour="red", marker="s") for name in ("_\N{CJK RADICAL REPEAT}", "é")]
    figure = draw(Chart([[Panel([])]], (4, 3), legend=legend))
    save(figure, tmp_path / "chart.png")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "_\N{CJK RADICAL REPEAT}",
        "é",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["chart.png"]


def test_a_note_stands_beside_its_point_towards_the_middle():
    series = [
        Series("a", [0.81], [0.5], marker="o", half=True, note="← $a$: 60%"),
        Series("b", [0.99], [0.5], marker="o", filled=False, note="→ b"),
    ]
    (axes,) = drawn(Panel(series, Axis(limits=(0.8, 1.0))))
    left, right = axes.texts
    assert (left.get_text(), right.get_text()) == ("← $a$: 60%", "→ b")
    assert (left.get_ha(), right.get_ha()) == ("left", "right")
    assert (left.xy, right.xy) == ((0.81, 0.5), (0.99, 0.5))
    assert not left.get_parse_math()
    assert [line.get_fillstyle() for line in axes.get_lines()] == ["bottom", "none"]


def test_a_matrix_has_its_numbers_in_its_cells():
    """Row 1 on top; bright cells have dark numbers, and an empty cell has none."""
    heat = Heat([[0.5, 0.95], [nan, 0.6]], (0.5, 1.0), [["", ""], ["", ""]], 1, percent=True)
    down = Axis(limits=(2.5, 0.5))
    (axes,) = drawn(Panel([], Axis(limits=(0.5, 2.5)), down, heat=heat))
    (image,) = axes.get_images()
    assert image.get_extent() == [0.5, 2.5, 2.5, 0.5]
    assert image.get_clim() == (0.5, 1.0)
    found = {text.get_position(): (text.get_text(), text.get_color()) for text in axes.texts}
    assert found[1, 1] == ("50.0", "white")
    assert found[2, 1] == ("95.0", "black")
    assert found[1, 2][0] == ""
    assert axes.get_ylim() == (2.5, 0.5)
