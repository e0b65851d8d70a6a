"""The page, parsed back, against the results that it shows."""

import json
import re
from html.parser import HTMLParser

import pytest
import yaml
from matplotlib.figure import Figure

from reporting.figures import roc_chart
from reporting.illustrate import Drawing
from reporting.matplotlib_charts import draw
from reporting.plane import plane_chart
from reporting.report import COLUMNS, NOTES, render
from reporting.tables import Cell, Table, headline
from storage.experiment import Experiment
from storage.records import LayerMeans, QuantizationMeans, VariantFacts

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


ANSWER = ["full leaks.", "None leaks less & none more.", "It is unclear.", "Not tested."]
SENTENCES = ["nearest-w4 and full: no difference shown.", "nearest-w2 leaks less than full."]
EXPERIMENT = Experiment({"seed": 0}, {}, {}, {"threads": 1}, {}, "0")


def table(title, columns, *rows, note):
    """A table of names."""
    return Table("key", title, columns, [tuple(map(Cell, row)) for row in rows], note)


TABLES = [
    table("Is it so?", ("variant", "AUC"), ("full", "-"), ("w<4>", "+0.1"), note="The best."),
    table("Who & why", ("a", "b", "c"), ("1", "2", "3"), note="All of them."),
]


@pytest.fixture(scope="module")
def shown(results):
    """Results without records of quantization, and with texts that are easy to find."""
    variants = {v: facts._replace(quantization=None) for v, facts in results.variants.items()}
    return results._replace(
        variants=variants,
        experiment=EXPERIMENT,
        basis={"data": "digits", "excluded": "none"},
        answer=ANSWER,
        sentences=SENTENCES,
        tables=TABLES,
    )


def make_drawings(rows, accuracy):
    charts = {"Planes & more": plane_chart(rows, accuracy), "Curves": roc_chart(rows, 80)}
    return [Drawing(caption, draw(chart), chart) for caption, chart in charts.items()]


@pytest.fixture(scope="module")
def page(shown, rows, accuracy):
    return render(shown, make_drawings(rows, accuracy))


def data_of(page):
    """What the page's script reads."""
    (text,) = re.findall(r'<script type="application/json" id="charts">(.*?)</script>', page)
    return json.loads(text)


def texts(table):
    return [list(table.columns), *([cell.text for cell in row] for row in table.rows)]


def test_the_headline_comes_first(page, shown):
    assert Page(page).table[:4] == texts(headline(shown.rows, shown.variants))


def test_the_answer_and_the_plane_come_before_every_table(page):
    places = [page.index(text) for text in (ANSWER[0], "<figure", "<table", SENTENCES[0])]
    assert places == sorted(places)


@pytest.mark.parametrize(("count", "folded"), [(0, None), (6, False), (7, True)])
def test_a_long_list_of_comparisons_is_folded(shown, count, folded):
    sentences = [f"Comparison {i}." for i in range(count)]
    parsed = Page(render(shown._replace(sentences=sentences), []))
    assert parsed.texts.get("li", []) == sentences
    assert parsed.tags.count("details") == 1 + bool(folded)  # the filters
    assert ("Every comparison" in parsed.texts["h2"]) == (count > 0)
    assert (f"{count} comparisons" in parsed.texts["summary"]) == bool(folded)


def test_the_table_has_every_row(page, rows):
    lines = Page(page).table[4:]
    assert lines[0] == list(COLUMNS)
    wanted = []
    for row in rows:
        by_auc, by_tail = (" ★" if end in row.strongest else "" for end in ("auc", "tpr_1pct"))
        shadows = {"none": "-"}.get(row.knowledge, row.knowledge)
        area, balanced = row.summary.auc, row.summary.balanced_accuracy
        line = [row.variant, shadows, row.attack]
        line += [
            f"{area.value:.3f}±{area.spread:.3f} ({area.low:.3f}-{area.high:.3f}){by_auc}",
            f"{balanced.value:.3f} ({balanced.low:.3f}-{balanced.high:.3f})",
        ]
        line += [  # 80 non-members: never 10 false positives
            f"{100 * e.value:.1f}% ({100 * e.low:.1f}-{100 * e.high:.1f})†{star}"
            for e, star in ((row.summary.tpr_1pct, by_tail), (row.summary.tpr_01pct, ""))
        ]
        wanted.append(line)
    assert lines[1 : 1 + len(rows)] == wanted
    assert len(rows) == 10 + 24 + 24  # 3 attacks without shadows, and 7 with each kind
    assert sum("★" in line[3] for line in wanted) == sum("★" in line[5] for line in wanted) == 3
    assert page.count(' class="best"') == sum(bool(row.strongest) for row in rows)


def test_the_page_is_whole_and_needs_no_network(page):
    parsed = Page(page)
    assert page.startswith("<!doctype html>")
    assert parsed.tags.count("figure") == 2
    assert not {"link", "img", "iframe", "object", "base"} & set(parsed.tags)
    for tag, name, value in parsed.attributes:
        assert name not in POINTERS, (tag, name, value)
    assert "@import" not in page.split("</style>")[0]
    assert page.count("<script") - page.count("<script type") >= 2  # plotly's and ours


def test_the_page_is_the_same_for_the_same_results(page, shown, rows, accuracy):
    assert render(shown, make_drawings(rows, accuracy)) == page


def test_figures_have_a_trace_of_every_attack(page, rows):
    """The page draws the strongest of the selected attacks."""
    planes, curves = data_of(page)["charts"]
    for panel, metric in zip(planes["panels"], ("auc", "tpr_1pct"), strict=True):
        traces = {
            tuple(trace["meta"][key] for key in ("variant", "knowledge", "attack")): trace
            for trace in panel["data"]
        }
        # a plane has two kinds of points, filled and hollow: matched and full-precision shadows
        for row in (row for row in rows if row.knowledge != "recalibrated"):
            trace = traces[row[:3]]
            value = getattr(row.summary, metric).value
            assert trace["y"] == [pytest.approx(value, rel=1e-4, abs=1e-9)]
            assert trace["meta"]["rank"] == value
    for panel in curves["panels"]:
        assert all(len(trace["x"]) == 161 for trace in panel["data"])


@pytest.mark.parametrize("units", [1, 9])
def test_hostile_text_stays_text(shown, rows, accuracy, units):
    named = [row._replace(variant=HOSTILE) for row in rows if row.variant == "full"]
    made = QuantizationMeans(HOSTILE, HOSTILE, [HOSTILE] * units, [], 1.0, 1)
    hostile = shown._replace(
        name=HOSTILE,
        rows=named,
        variants={HOSTILE: VariantFacts(accuracy["full"], 1, made)},
        basis={HOSTILE: HOSTILE},
        experiment=EXPERIMENT._replace(config={"name": HOSTILE}),
        answer=[HOSTILE] * 4,
        sentences=[HOSTILE],
        tables=[table(HOSTILE, (HOSTILE,), (HOSTILE,), note=HOSTILE)],
    )
    parsed = Page(render(hostile, [Drawing(HOSTILE, Figure())]))
    assert parsed.tags.count("script") == 2  # the data and ours: without charts no plotly
    for tag in ("title", "h1", "h2", "li", "th", "td", "p", "figcaption", "dt", "dd"):
        assert any(HOSTILE in text for text in parsed.texts[tag]), tag
    (recipe,) = (text for text in parsed.texts["pre"] if "threads: 1" in text)
    assert yaml.safe_load(recipe) == {"threads": 1, "name": HOSTILE}
    assert parsed.texts["li"][-1] == HOSTILE
    assert [HOSTILE] in parsed.table
    assert parsed.table[-1][:3] == [HOSTILE] * 3
    folded = "".join(parsed.texts.get("details", []))
    assert parsed.table[-1][3].count(HOSTILE) + folded.count(HOSTILE) == units


def test_how_each_variant_was_quantized(page, shown):
    """A long list of units is folded up, and still complete."""
    layers = [
        LayerMeans(name, 0.1, 0.2, 0.1) for name in ("stem", "a.0", "a.1", "b.0", "b.1", "fc")
    ]
    names = [layer.name for layer in layers]
    made = {
        "nearest-w4": QuantizationMeans("nothing", None, [], layers, 0.0123, 2),
        "nearest-w2": QuantizationMeans(
            "each block", "members, 1,024 images", ["stem", "a", "fc"], layers, 3.21, 2
        ),
    }

    def quantized(made):
        variants = {v: f._replace(quantization=made.get(v)) for v, f in shown.variants.items()}
        return Page(render(shown._replace(variants=variants), []))

    parsed = quantized(made)
    assert [[cell.strip() for cell in line] for line in parsed.table[-2:]] == [
        ["nearest-w4", "nothing", "-", "-", "0.012"],
        ["nearest-w2", "each block", "members, 1,024 images", "stem, a, fc", "3.2"],
    ]
    assert parsed.tags.count("details") == 1  # the filters, because two comparisons are few
    assert parsed.table[-3] == [
        *("variant", "what was minimised", "calibration", "units reconstructed"),
        "seconds per model",
    ]
    parsed = quantized(made | {"nearest-w2": made["nearest-w2"]._replace(units=names)})
    assert parsed.texts["summary"] == ["Show ", "6 layers"]
    assert "".join(parsed.texts["details"]).strip().split(", ") == names
    assert "How each variant was quantized" not in page  # without records


def test_what_the_numbers_rest_on_and_how_to_reproduce_them(page):
    parsed = Page(page)
    assert (parsed.texts["dt"], parsed.texts["dd"]) == (["data", "excluded"], ["digits", "none"])
    assert parsed.texts["li"] == SENTENCES
    assert parsed.texts["figcaption"] == ["Planes & more", "Curves"]
    assert "threads: 1\nseed: 0\n" in parsed.texts["pre"]
    assert parsed.texts["p"][1:5] == ANSWER  # behind the one that says that scripts are off
    notes = [text for text in parsed.texts["p"] if text in NOTES]
    assert notes == list(NOTES)


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ({}, "run these commands. On the same"),
        ({"root": "a", "cache": "b"}, "run these commands, with --data.root for the place of your"),
        ({"file": "a", "labels": "b"}, "with --data.file and --data.labels for the place of your"),
    ],
)
def test_a_reproduction_names_the_options_that_its_recipe_lacks(shown, places, said):
    page = render(shown._replace(experiment=EXPERIMENT._replace(places=places)), [])
    assert said in " ".join(re.sub("</?code>", "", page).split())


def test_models_trained_elsewhere_have_no_recipe(page, shown):
    without = render(shown._replace(experiment=None), [])
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
    assert {"The best.", "All of them."} <= set(parsed.texts["p"])
