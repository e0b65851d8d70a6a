"""The page, parsed back, against the rows that it shows."""

import io
import json
import re
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure

from attacks.evaluate import strongest
from reporting.figures import plane_chart, roc_chart
from reporting.illustrate import Drawing
from reporting.matplotlib_charts import draw
from reporting.report import COLUMNS, NOTES, choices, make_lines, read_number, render
from reporting.tables import Section
from storage.records import LayerMeans, Making, Precision

SIZES = {"full": 98712, "nearest-w4": 16858, "nearest-w2": 1089}
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
    charts = {"Planes & more": plane_chart(rows, accuracy), "Curves": roc_chart(rows, 80)}
    drawings = [Drawing(caption, draw(chart), chart) for caption, chart in charts.items()]
    basis = {"data": "digits", "left out": "none"}
    return render(
        "demo", rows, precisions, drawings, basis, "seed: 0\n", COMPARISONS, SUMMARY, TABLES
    )


def data_of(page):
    """What the page's script reads."""
    (text,) = re.findall(r'<script type="application/json" id="charts">(.*?)</script>', page)
    return json.loads(text)


@pytest.mark.parametrize("count", [0, 9, 10, 11])
@pytest.mark.parametrize("column", ["tpr_1pct", "tpr_01pct"])
def test_fewer_than_ten_false_positives_are_marked(rows, column, count):
    field = column.replace("tpr", "false_positives")
    plenty = dict.fromkeys(("false_positives_1pct", "false_positives_01pct"), 99) | {field: count}
    row = rows[1]._replace(summary=rows[1].summary._replace(**plenty))
    (line,) = make_lines([row])
    marked = ["†" in cell for cell, _ in line.cells]
    position = {"tpr_1pct": 5, "tpr_01pct": 6}[column]
    assert marked == [i == position and count < 10 for i in range(7)]
    assert "fewer than 10 false positives" in NOTES[1]


def test_the_table_has_every_row(page, rows):
    heads, summary, *found = Page(page).table
    assert (tuple(heads), tuple(summary)) == (SUMMARY.columns, SUMMARY.rows[0])
    assert found[0] == list(COLUMNS)
    wanted = []
    for row in rows:
        star = " ★" if row is strongest(rows, row.variant) else ""
        shadows = {"none": "-"}.get(row.knowledge, row.knowledge)
        area, balanced = row.summary.auc, row.summary.balanced_accuracy
        line = [row.variant, shadows, row.attack + star]
        line += [
            f"{area.value:.3f}±{area.spread:.3f} ({area.low:.3f}-{area.high:.3f})",
            f"{balanced.value:.3f} ({balanced.low:.3f}-{balanced.high:.3f})",
        ]
        line += [  # 80 non-members: never 10 false positives
            f"{100 * e.value:.1f}% ({100 * e.low:.1f}-{100 * e.high:.1f})†"
            for e in (row.summary.tpr_1pct, row.summary.tpr_01pct)
        ]
        wanted.append(line)
    assert found[1 : 1 + len(rows)] == wanted
    assert len(rows) == 10 + 17 + 17  # 3 attacks without shadows, and 7 with each kind
    assert sum("★" in line[2] for line in wanted) == 3
    assert page.count(' class="best"') == 3


def test_lines_say_what_the_page_selects_and_sorts_by(page, rows):
    lines = make_lines(rows)
    assert [line[:3] for line in lines] == [row[:3] for row in rows]
    for line, row in zip(lines, rows, strict=True):
        values = [value for _, value in line.cells]
        assert values[:3] == [None] * 3
        assert values[3:] == [estimate.value for estimate in row.summary[:4]]
    labels = r'<tr data-variant="([^"]*)" data-knowledge="([^"]*)" data-attack="([^"]*)"'
    assert re.findall(labels, page) == [row[:3] for row in rows]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.668±0.021 (0.640-0.698)", 0.668),
        ("96.8% (96.1-97.6)", 96.8),
        ("8.4% (5.4-11.6)†", 8.4),
        ("98,712", 98712),
        ("-0.021 (-0.031 to -0.011)", -0.021),
        ("+0.1", 0.1),
        ("< 0.001", 0.001),
        ("12", 12),
        ("1.23 (TPR 12.3%, FPR 0.4%)", 1.23),
        ("-", None),
        ("unknown", None),
        ("nearest-w2", None),
        ("4 bits", None),
    ],
)
def test_numbers_are_read_from_cells(text, value):
    assert read_number(text) == value


def test_variants_are_offered_by_method():
    found = choices(["full", "obc-w2", "obc-w1.58-last8", "gptq-w4, group 64"])
    assert list(found) == ["full", "obc", "gptq"]
    assert found["obc"] == {"obc-w2": "w2", "obc-w1.58-last8": "w1.58-last8"}


def test_the_page_is_whole_and_needs_no_network(page):
    parsed = Page(page)
    assert page.startswith("<!doctype html>")
    assert parsed.tags.count("figure") == 2
    assert not {"link", "img", "iframe", "object", "base"} & set(parsed.tags)
    for tag, name, value in parsed.attributes:
        assert name not in POINTERS, (tag, name, value)
    assert "@import" not in page.split("</style>")[0]
    assert page.count("<script") - page.count("<script type") >= 2  # plotly's and ours


def test_the_page_is_the_same_for_the_same_rows(page, rows, accuracy, precisions):
    assert data_of(page) == data_of(page)
    charts = {"Planes & more": plane_chart(rows, accuracy), "Curves": roc_chart(rows, 80)}
    drawings = [Drawing(caption, draw(chart), chart) for caption, chart in charts.items()]
    basis = {"data": "digits", "left out": "none"}
    again = render(
        "demo", rows, precisions, drawings, basis, "seed: 0\n", COMPARISONS, SUMMARY, TABLES
    )
    assert again == page


def test_figures_have_a_trace_of_every_attack(page, rows):
    """So that the strongest of those that are selected can be drawn."""
    planes, curves = data_of(page)["charts"]
    for panel, metric in zip(planes["panels"], ("auc", "tpr_01pct"), strict=True):
        found = {
            tuple(trace["meta"][key] for key in ("variant", "knowledge", "attack")): trace
            for trace in panel["data"]
        }
        for row in rows:
            trace = found[row[:3]]
            value = getattr(row.summary, metric).value
            assert trace["y"] == [pytest.approx(value, rel=1e-4, abs=1e-9)]
            assert trace["meta"]["rank"] == value
    for panel in curves["panels"]:
        assert all(len(trace["x"]) == 161 for trace in panel["data"])


def test_images_show_their_own_data(rows, precisions):
    """The two figures share names of glyphs: the second must not be drawn with the first's."""
    figures = {}
    for text in ("abc", "xyz"):
        figures[text] = Figure()
        figures[text].subplots().set_title(text)
    drawings = [Drawing(caption, figure) for caption, figure in figures.items()]
    page = render("demo", rows, precisions, drawings, {}, "", [], SUMMARY, [])
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
    known, figures = {HOSTILE: Precision(accuracy["full"], 1, made)}, [Drawing(HOSTILE, Figure())]
    table = Section(HOSTILE, (HOSTILE,), [(HOSTILE,)], HOSTILE)
    page = render(
        HOSTILE, named, known, figures, {HOSTILE: HOSTILE}, HOSTILE, [HOSTILE], table, [table]
    )
    parsed = Page(page)
    assert parsed.tags.count("script") == 2  # the data and ours: without charts no plotly
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
    parsed = Page(render("demo", rows, known, [], {}, "", [], SUMMARY, []))
    assert [[cell.strip() for cell in line] for line in parsed.table[-2:]] == [
        ["nearest-w4", "nothing", "-", "-", "0.012"],
        ["nearest-w2", "each block", "members, 1,024 images", "stem, a, fc", "3.2"],
    ]
    assert parsed.tags.count("details") == 1  # what is shown
    assert parsed.table[-3] == [
        *("variant", "what was minimised", "calibration", "units reconstructed", "seconds a model")
    ]
    long = made["nearest-w2"]._replace(units=names)
    known["nearest-w2"] = known["nearest-w2"]._replace(made=long)
    parsed = Page(render("demo", rows, known, [], {}, "", [], SUMMARY, []))
    assert parsed.texts["summary"] == ["Show ", "6 layers"]
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
    without = render("demo", rows, precisions, [], {}, "", [], SUMMARY, [])
    for text in ("How to reproduce it", "train.py", "<pre>"):
        assert text in page
        assert text not in without


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
