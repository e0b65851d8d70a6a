"""The page, parsed back, against the rows that it shows."""

import io
import re
from html.parser import HTMLParser
from math import nan

import pytest
from matplotlib.figure import Figure

from attacks.evaluate import strongest
from attacks.figures import plane_figure, roc_figure
from attacks.intervals import Estimate
from attacks.making import LayerMeans, Making, Precision
from attacks.report import COLUMNS, NOTES, cells, render, sections
from attacks.sections import Section

SIZES = {"full": 98712, "nearest-w4": 16858, "nearest-w2": 1089}
HEADINGS = {
    "full": "full: test accuracy 95.0% (93.0-96.0), 98,712 bytes",
    "nearest-w4": "nearest-w4: test accuracy 94.0% (91.0-96.0), 16,858 bytes",
    "nearest-w2": "nearest-w2: test accuracy 70.0% (61.0-77.0), 1,089 bytes",
}
HOSTILE = """<script>alert("1")</script> & '</pre>' {{ title }}"""
VOID = {"meta", "br", "link", "img", "hr", "input"}
POINTERS = {"src", "href", "xlink:href", "srcset", "poster", "action", "data", "formaction"}


class Page(HTMLParser):
    """Elements, attributes and text of a page; an element that is not closed in order fails."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes = [], [], []
        self.table, self.texts = [], {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.table.append([])
        if tag in ("td", "th"):
            self.table[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)
            if self.open[-1] in ("td", "th"):
                self.table[-1][-1] += data


COMPARISONS = ["nearest-w4 and full: no difference shown.", "nearest-w2 leaks less than full."]
SUMMARY = Section("In short", ("variant", "AUC"), [("full", "0.6 (0.5-0.7)")], "At a glance.")
TABLES = [
    Section("Is it so?", ("variant", "AUC"), [("full", "-"), ("w<4>", "+0.1")], "Of the best."),
    Section("Who & why", ("a", "b", "c"), [("1", "2", "3")], "Of everybody."),
]


@pytest.fixture(scope="module")
def precisions(accuracy):
    """What is known of each variant, but for records of how it was made."""
    return {variant: Precision(share, SIZES[variant]) for variant, share in accuracy.items()}


@pytest.fixture(scope="module")
def page(rows, accuracy, precisions):
    figures = {"Planes & more": plane_figure(rows, accuracy), "Curves": roc_figure(rows, 80)}
    basis = {"data": "digits", "left out": "none"}
    return render(
        "demo", rows, precisions, figures, basis, "seed: 0\n", COMPARISONS, SUMMARY, TABLES
    )


@pytest.mark.parametrize("count", [0, 9, 10, 11])
@pytest.mark.parametrize("column", ["tpr_1pct", "tpr_01pct"])
def test_fewer_than_ten_false_positives_are_marked(rows, column, count):
    field = column.replace("tpr", "false_positives")
    plenty = dict.fromkeys(("false_positives_1pct", "false_positives_01pct"), 99) | {field: count}
    row = rows[1]._replace(summary=rows[1].summary._replace(**plenty))
    marked = ["†" in cell for cell in cells(row, best=False)]
    position = {"tpr_1pct": 4, "tpr_01pct": 5}[column]
    assert marked == [i == position and count < 10 for i in range(6)]
    assert "fewer than 10 false positives" in NOTES[1]


def test_the_table_has_every_row_under_its_variant(page, rows):
    summary_heads, summary, heads, *found = Page(page).table
    assert (tuple(summary_heads), tuple(summary)) == (SUMMARY.columns, SUMMARY.rows[0])
    found = found[: 3 + len(rows)]  # other tables follow
    assert heads == list(COLUMNS)
    wanted = []
    for variant in ("full", "nearest-w4", "nearest-w2"):
        wanted.append([HEADINGS[variant]])
        for row in (row for row in rows if row.variant == variant):
            star = " ★" if row is strongest(rows, variant) else ""
            shadows = {"none": "-"}.get(row.knowledge, row.knowledge)
            line = [shadows, row.attack + star]
            area, balanced = row.summary.auc, row.summary.balanced_accuracy
            line += [
                f"{area.value:.3f}±{area.spread:.3f} ({area.low:.3f}-{area.high:.3f})",
                f"{balanced.value:.3f} ({balanced.low:.3f}-{balanced.high:.3f})",
            ]
            line += [  # 80 non-members: never 10 false positives
                f"{100 * e.value:.1f}% ({100 * e.low:.1f}-{100 * e.high:.1f})†"
                for e in (row.summary.tpr_1pct, row.summary.tpr_01pct)
            ]
            wanted.append(line)
    assert found == wanted
    assert sum("★" in line[1] for line in wanted if len(line) > 1) == 3
    marked = [line for line in page.splitlines() if 'class="best"' in line]
    assert len(marked) == 3


def test_sections_keep_the_order_of_the_rows(rows):
    table = sections(rows)
    assert list(table) == ["full", "nearest-w4", "nearest-w2"]
    assert [len(lines) for lines in table.values()] == [
        10,
        17,
        17,
    ]  # 3 attacks without shadows, and 7 with each kind


def test_the_page_is_whole_and_needs_no_network(page):
    parsed = Page(page)
    assert page.startswith("<!doctype html>")
    assert (parsed.tags.count("svg"), parsed.tags.count("figure")) == (2, 2)
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(parsed.tags)
    for tag, name, value in parsed.attributes:
        if name in POINTERS:
            assert value.startswith("#"), (tag, name, value)
        elif "//" in (value or ""):  # names in XML, which nobody fetches
            assert name.startswith("xmlns") or name == "rdf:resource", (tag, name, value)
    assert "@import" not in page
    assert set(re.findall(r"url\((.)", page)) <= {"#"}


def test_every_reference_within_a_figure_has_its_target(page):
    parsed = Page(page)
    ids = {value for _, name, value in parsed.attributes if name == "id"}
    pointed = {value[1:] for _, name, value in parsed.attributes if name == "xlink:href"}
    pointed |= set(re.findall(r"url\(#([^)]+)\)", page))
    assert pointed
    assert pointed <= ids


def test_figures_show_their_own_data(rows, precisions):
    """The two figures share names of glyphs: the second must not be drawn with the first's."""
    figures = {}
    for text in ("abc", "xyz"):
        figures[text] = Figure()
        figures[text].subplots().set_title(text)
    page = render("demo", rows, precisions, figures, {}, "", [], SUMMARY, [])
    for caption, figure in figures.items():
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        glyphs = dict(re.findall(r'<path id="(DejaVu[^"]+)" d="([^"]+)"', buffer.getvalue()))
        assert glyphs
        for name, outline in glyphs.items():
            drawn = set(re.findall(rf'<path id="{name}" d="([^"]+)"', page))
            assert drawn == {outline}, caption


@pytest.mark.parametrize("units", [1, 9])
def test_hostile_text_stays_text(rows, accuracy, units):
    named = [row._replace(variant=HOSTILE) for row in rows if row.variant == "full"]
    made = Making(HOSTILE, HOSTILE, [HOSTILE] * units, [], 1.0, 1)
    known, figures = {HOSTILE: Precision(accuracy["full"], 1, made)}, {HOSTILE: Figure()}
    table = Section(HOSTILE, (HOSTILE,), [(HOSTILE,)], HOSTILE)
    page = render(
        HOSTILE, named, known, figures, {HOSTILE: HOSTILE}, HOSTILE, [HOSTILE], table, [table]
    )
    parsed = Page(page)
    assert "script" not in parsed.tags
    for tag in ("title", "h1", "h2", "li", "th", "td", "p", "figcaption", "dt", "dd", "pre"):
        assert any(HOSTILE in text for text in parsed.texts[tag]), tag
    assert parsed.texts["li"][-1] == HOSTILE
    assert [HOSTILE] in parsed.table
    assert parsed.table[-1][:3] == [HOSTILE] * 3
    assert (
        parsed.table[-1][3].count(HOSTILE) + "".join(parsed.texts.get("details", [])).count(HOSTILE)
        == units
    )


def test_how_each_precision_was_made(page, rows, precisions):
    """A long list of units is folded up, and still lists each."""
    layers = [
        LayerMeans(name, 0.1, 0.2, 0.1) for name in ("stem", "a.0", "a.1", "b.0", "b.1", "fc")
    ]
    names = [layer.name for layer in layers]
    made = {
        "nearest-w4": Making("nothing", None, [], layers, 0.0123, 2),
        "nearest-w2": Making(
            "each block", "members, 1,024 images", ["stem", "a", "fc"], layers, 3.21, 2
        ),
    }
    known = {v: one._replace(made=made.get(v)) for v, one in precisions.items()}
    parsed = Page(render("demo", rows, known, {}, {}, "", [], SUMMARY, []))
    assert [[cell.strip() for cell in line] for line in parsed.table[-2:]] == [
        ["nearest-w4", "nothing", "-", "-", "0.012"],
        ["nearest-w2", "each block", "members, 1,024 images", "stem, a, fc", "3.2"],
    ]
    assert parsed.tags.count("details") == 1  # of every attack
    assert parsed.table[-3] == [
        *("variant", "what was minimised", "calibration", "units reconstructed", "seconds a model")
    ]
    long = made["nearest-w2"]._replace(units=names)
    known["nearest-w2"] = known["nearest-w2"]._replace(made=long)
    parsed = Page(render("demo", rows, known, {}, {}, "", [], SUMMARY, []))
    assert parsed.texts["summary"] == ["Every attack", "6 layers"]
    assert "".join(parsed.texts["details"]).strip().split(", ") == names
    assert "How each precision was made" not in page  # where nothing is on record


def test_what_it_rests_on_and_how_to_reproduce_it(page, rows, precisions):
    parsed = Page(page)
    assert (parsed.texts["dt"], parsed.texts["dd"]) == (["data", "left out"], ["digits", "none"])
    assert parsed.texts["li"] == COMPARISONS
    assert parsed.texts["figcaption"] == ["Planes & more", "Curves"]
    assert "seed: 0\n" in parsed.texts["pre"]
    notes = [text for text in parsed.texts["p"] if text in NOTES]
    assert notes == list(NOTES)


def test_nothing_to_reproduce_where_there_is_no_recipe(page, rows, precisions):
    """Of models that were trained elsewhere."""
    without = render("demo", rows, precisions, {}, {}, "", [], SUMMARY, [])
    for text in ("How to reproduce it", "train.py", "<pre>"):
        assert text in page
        assert text not in without


def test_what_is_unknown_of_models_that_were_trained_elsewhere(rows, precisions):
    unknown = dict.fromkeys(precisions, Precision(Estimate(nan, nan, nan), 0))
    parsed = Page(render("demo", rows, unknown, {}, {}, "", [], SUMMARY, []))
    heads = [line[0] for line in parsed.table if len(line) == 1]
    assert heads == [f"{variant}: test accuracy unknown" for variant in precisions]


def test_the_tables_of_the_findings(page):
    parsed = Page(page)
    assert parsed.table[-5:] == [
        *(["variant", "AUC"], ["full", "-"], ["w<4>", "+0.1"]),
        *(["a", "b", "c"], ["1", "2", "3"]),
    ]
    titles = [text for text in parsed.texts["h2"] if text in ("Is it so?", "Who & why")]
    assert titles == ["Is it so?", "Who & why"]
    assert [text for text in parsed.texts["p"] if text.startswith("Of ")] == [
        *("Of the best.", "Of everybody.")
    ]
