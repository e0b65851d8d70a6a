"""The report in headless Chromium, from the file system, narrow and wide, light and dark."""

import shutil
from functools import partial

import pytest

from reporting.figures import roc_chart
from reporting.illustrate import Drawing
from reporting.matplotlib_charts import draw
from reporting.plane import plane_chart
from reporting.report import render
from reporting.tables import Cell, Table

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
TOY = Table(
    "toy",
    "A toy finding",
    ("variant", "AUC", "p"),
    [
        (Cell("full"), Cell("0.668 (0.6-0.7)", 0.668), Cell("-")),
        (Cell("nearest-w4"), Cell("0.7 (0.6-0.8)", 0.7), Cell("0.040", 0.04)),
        (Cell("nearest-w2"), Cell("0.09 (0.0-0.1)", 0.09), Cell("< 0.001", 1e-5)),
    ],
    "A note.",
)

pytestmark = pytest.mark.skipif(
    not CHROMIUM, reason="the report is tested in Chromium: apt-get install chromium"
)


@pytest.fixture(scope="module")
def report(results, rows, accuracy, tmp_path_factory):
    charts = {"Planes": plane_chart(rows, accuracy), "Curves": roc_chart(rows, 80)}
    drawings = [Drawing(caption, draw(chart), chart) for caption, chart in charts.items()]
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render(results._replace(tables=[*results.tables, TOY]), drawings))
    return path


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, report):
    """Open the report; a message on its console or a request to a server fails the test."""
    messages, contexts = [], []

    def visit(width=1440, scheme="light"):
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: messages.append(request.url))
        page.goto(report.as_uri())
        page.wait_for_selector(".js-plotly-plot .main-svg")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert set(messages) == {report.as_uri()}


def shown(page, selector="#attacks tbody tr"):
    """Labels of the visible rows."""
    return page.eval_on_selector_all(
        selector,
        "rows => rows.filter(row => row.checkVisibility()).map(row => "
        "[row.dataset.variant, row.dataset.knowledge, row.dataset.attack])",
    )


def traces(page):
    """Labels of the traces of each plot."""
    return page.eval_on_selector_all(
        ".js-plotly-plot",
        "plots => plots.map(plot => plot.data.map(({meta}) => "
        "[meta.variant, meta.knowledge, meta.attack]))",
    )


def uncheck(page, field, *values):
    page.locator("#filters details").evaluate("details => { details.open = true; }")
    for value in values:
        page.locator(f"input[name={field}][value='{value}']").set_checked(False, force=True)


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_its_width_in_both_themes(visit, rows, width, scheme):
    page = visit(width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert len(shown(page)) == len(rows)
    ink, paper = page.evaluate(
        "['color', 'backgroundColor'].map(key => getComputedStyle(document.body)[key])"
    )
    brightness = [sum(map(int, colour[4:-1].split(","))) for colour in (ink, paper)]
    assert (brightness[0] > brightness[1]) == (scheme == "dark")
    page.get_by_role("button", name="Switch to").click()
    switched = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert switched != paper


def test_filters_act_on_tables_and_figures(visit, rows):
    page = visit()
    uncheck(page, "variant", "nearest-w4")
    uncheck(page, "knowledge", "unquantized")
    uncheck(page, "attack", "gap", "lira_online")
    left = [
        list(row[:3])
        for row in rows
        if row.variant != "nearest-w4"
        and row.knowledge != "unquantized"
        and row.attack not in ("gap", "lira_online")
    ]
    assert shown(page) == left
    assert page.locator("#count").text_content() == f"{len(left)} of {len(rows)} attacks are shown."
    drawn = traces(page)
    assert {label[0] for plot in drawn for label in plot} == {"full", "nearest-w2"}
    assert all(label in left for plot in drawn for label in plot)
    page.get_by_role("button", name="none").first.click()  # of the variants
    assert shown(page) == []
    page.get_by_role("button", name="all").first.click()
    assert {row[0] for row in shown(page)} == {"full", "nearest-w4", "nearest-w2"}


def test_the_strongest_of_the_selected_attacks_is_drawn(visit, rows):
    page = visit()

    def best(rows):
        return list(max(rows, key=lambda row: row.summary.auc.value)[:3])

    of_full = [row for row in rows if row.variant == "full"]
    curves = traces(page)[2]  # behind the two planes
    assert best(of_full) in curves
    uncheck(page, "attack", best(of_full)[2])
    left = [row for row in of_full if row.attack != best(of_full)[2]]
    assert best(left) in traces(page)[2]


def test_tables_sort_by_value_by_mouse_and_by_keyboard(visit, rows):
    page = visit()
    head = page.locator("#attacks thead th", has_text="AUC")
    areas = "rows => rows.map(row => +row.cells[3].dataset.value)"
    read = partial(page.eval_on_selector_all, "#attacks tbody tr", areas)
    values = sorted(row.summary.auc.value for row in rows)
    head.get_by_role("button").click()
    assert (read(), head.get_attribute("aria-sort")) == (values, "ascending")
    head.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert (read(), head.get_attribute("aria-sort")) == (values[::-1], "descending")
    table = page.locator("table.sortable", has_text="< 0.001").last
    names = "cells => cells.map(cell => cell.textContent)"
    table.locator("thead button").last.click()
    order = table.locator("tbody tr td:first-child").evaluate_all(names)
    assert order == ["nearest-w2", "nearest-w4", "full"]  # unknown values stay below


def test_pointing_at_a_point_shows_its_values(visit, rows, accuracy):
    page = visit()
    plot = page.locator(".js-plotly-plot").first
    plot.scroll_into_view_if_needed()
    plot.evaluate("plot => Plotly.Fx.hover(plot, [{curveNumber: 0, pointNumber: 0}])")
    text = plot.locator(".hoverlayer").text_content()
    best = max((r for r in rows if r.variant == "full"), key=lambda r: r.summary.auc.value)
    assert f"full ({best.attack})" in text
    assert f"AUC: {best.summary.auc.value:#.4g}" in text
    assert f"test accuracy: {accuracy['full'].value:#.4g} (" in text


def test_filled_and_hollow_points_are_explained(visit):
    entries = visit().locator("figure").first.locator(".legend li")
    looks = {
        entries.nth(i).inner_text().strip(): entries.nth(i).locator("path").get_attribute("class")
        for i in range(entries.count())
    }
    assert looks["matched shadows"] == "filled"
    assert looks["full-precision shadows"] == "hollow"


@pytest.mark.parametrize("width", [390, 1440])
def test_the_first_screen_is_the_answer(visit, results, width):
    """Above the fold: the statements, and the plane's beginning, on a desktop the table's too."""
    page = visit(width)
    for statement in results.answer:
        box = page.get_by_text(statement, exact=True).bounding_box()
        assert box["y"] + box["height"] < 900
    names = (".js-plotly-plot", "table")
    places = [page.locator(name).first.bounding_box()["y"] for name in names]
    assert places == sorted(places)
    assert places[width == 1440] < 900


def test_the_variants_stay_in_view_where_the_headline_scrolls(visit):
    page = visit(390)
    table = page.locator("table.names")
    cell, last = table.locator("tbody tr").first.locator("td").first, table.locator("th").last
    table.evaluate("table => table.parentElement.scrollTo(2000, 0)")
    assert last.bounding_box()["x"] < 390
    assert cell.bounding_box()["x"] >= 0


def test_the_headline_fits_a_wide_page(visit):
    table = visit().locator("table.names")
    assert table.evaluate("table => table.offsetWidth <= table.parentElement.clientWidth")


def test_the_page_prints_whole_and_without_filters(visit):
    page = visit(scheme="dark")
    page.emulate_media(media="print")
    assert not page.locator("#filters").is_visible()
    assert not page.locator("#theme").is_visible()
    body = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert body in ("rgb(255, 255, 255)", "rgba(0, 0, 0, 0)")
    tall = page.locator(".tall").first
    assert tall.evaluate("box => box.scrollHeight <= box.clientHeight")
    assert page.pdf()[:4] == b"%PDF"
