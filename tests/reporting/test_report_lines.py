"""Lines, cells, filters and images of the page."""

import io
import re

import pytest
from matplotlib.figure import Figure

from reporting.findings import FINDINGS, Body, Finding, make_tables
from reporting.illustrate import Drawing
from reporting.report import NOTES, choices, make_lines, render
from reporting.tables import Cell, Table


@pytest.mark.parametrize("count", [0, 9, 10, 11])
@pytest.mark.parametrize("column", ["tpr_1pct", "tpr_01pct"])
def test_fewer_than_ten_false_positives_are_marked(rows, column, count):
    field = column.replace("tpr", "false_positives")
    plenty = dict.fromkeys(("false_positives_1pct", "false_positives_01pct"), 99) | {field: count}
    row = rows[1]._replace(summary=rows[1].summary._replace(**plenty))
    (line,) = make_lines([row])
    marked = ["†" in cell.text for cell in line.cells]
    position = {"tpr_1pct": 5, "tpr_01pct": 6}[column]
    assert marked == [i == position and count < 10 for i in range(7)]
    assert "fewer than 10 false positives" in NOTES[1]


def test_lines_have_what_the_page_selects_and_sorts_by(results, rows):
    lines = make_lines(rows)
    assert [line[:3] for line in lines] == [row[:3] for row in rows]
    assert [line.best for line in lines] == [bool(row.strongest) for row in rows]
    for line, row in zip(lines, rows, strict=True):
        values = [cell.value for cell in line.cells]
        assert values[:3] == [None] * 3
        assert values[3:] == [estimate.value for estimate in row.summary[:4]]
    labels = r'<tr data-variant="([^"]*)" data-knowledge="([^"]*)" data-attack="([^"]*)"'
    assert re.findall(labels, render(results, [])) == [row[:3] for row in rows]


@pytest.mark.parametrize(
    ("cell", "html"),
    [
        (Cell("-0.021 (-0.031 to -0.011)", -0.0211), 'data-value="-0.0211">-0.021 ('),
        (Cell("98,712", 98712), 'data-value="98712">98,712<'),
        (Cell("0", 0), 'data-value="0">0<'),
        (Cell("0.00", 0.0), 'data-value="0.0">0.00<'),
        (Cell("< 0.001", 1e-05), 'data-value="1e-05">&lt; 0.001<'),
        (Cell("unknown"), "<td>unknown<"),
        (Cell("-"), "<td>-<"),
    ],
)
def test_cells_carry_the_value_that_they_sort_by(results, cell, html):
    tables = [Table("key", "title", ("a",), [(cell,)], "note")]
    assert html in render(results._replace(tables=tables), [])


def test_variants_are_offered_by_method():
    methods = choices(["full", "obc-w2", "obc-w1.58-last8", "gptq-w4, group 64"])
    assert list(methods) == ["full", "obc", "gptq"]
    assert methods["obc"] == {"obc-w2": "w2", "obc-w1.58-last8": "w1.58-last8"}


def test_images_show_their_own_glyphs(results):
    """Two figures share names of glyphs: the second must not be drawn with those of the first."""
    figures = {}
    for text in ("abc", "xyz"):
        figures[text] = Figure()
        figures[text].subplots().set_title(text)
    drawings = [Drawing(caption, figure) for caption, figure in figures.items()]
    page = render(results, drawings)
    for caption, figure in figures.items():
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        glyphs = dict(re.findall(r'<path id="(DejaVu[^"]+)" d="([^"]+)"', buffer.getvalue()))
        assert glyphs
        for name, outline in glyphs.items():
            drawn = set(re.findall(rf'<path id="{name}" d="([^"]+)"', page))
            assert drawn == {outline}, caption


def test_a_registered_finding_is_on_the_page(results, monkeypatch):
    """One registry entry suffices."""

    def tabulate(value):
        return Body(("variant", "targets"), [(Cell("full"), Cell(str(value), value))], "A toy.")

    monkeypatch.setitem(FINDINGS, "toy", Finding("How many targets?", lambda *_: 2, tabulate))
    page = render(results._replace(tables=make_tables({"toy": 2})), [])
    assert "<h2>How many targets?</h2>" in page
    assert '<tr data-variant="full"><td>full</td><td data-value="2">2</td>' in page
