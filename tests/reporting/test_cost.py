"""Tables and figures of cost, from facts by hand."""

from attacks.metrics.intervals import Estimate
from reporting.cost import bits_chart, choice_chart, cost_chart, cost_table
from reporting.matplotlib_charts import draw
from storage.records import VariantFacts
from storage.searches import CostMeans, SearchMeans

ACCURACY = Estimate(0.9, 0.8, 1.0, 0.1)


def facts(weights, search=None):
    cost = CostMeans(1000.0, weights, 100.0, 1000 / (weights + 100), weights / 4, 1)
    return VariantFacts(ACCURACY, 0, cost=cost, search=search)


SEARCH = SearchMeans(
    "kl", 0.125, 0.25, [{"a": 2, "b": 8}, {"a": 4, "b": 8}], [4, 9, 20], [0.5, 0.25, 0.0], (9, 0.25)
)
VARIANTS = {
    "full": facts(400.0),
    "nearest-w2": facts(25.0),
    "nearest-mix3": facts(40.0, SEARCH),
    "nearest-aiq0.9": facts(30.0, SEARCH._replace(loss="changed")),
    "older": VariantFacts(ACCURACY, 0),
}


def test_the_table_has_every_variant_whose_cost_is_known():
    table = cost_table(VARIANTS)
    assert table is not None
    texts = [[cell.text for cell in row] for row in table.rows]
    assert texts == [
        ["full", "100.00", "400", "100", "1,000", "2", "-", "-"],
        ["nearest-w2", "6.25", "25", "100", "1,000", "8", "-", "-"],
        ["nearest-mix3", "10.00", "40", "100", "1,000", "7.14", "0.125 nats", "0.25 nats"],
        ["nearest-aiq0.9", "7.50", "30", "100", "1,000", "7.69", "0.125 points", "0.25 points"],
    ]
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert cost_table({"older": VARIANTS["older"]}) is None


def test_every_layer_of_every_model_is_one_cell():
    chart = bits_chart(VARIANTS)
    assert chart is not None
    assert [row[0].name for row in chart.panels] == ["nearest-mix3", "nearest-aiq0.9"]
    for (panel,) in chart.panels:
        cells = {
            (panel.x.ticks[x][1], y): s.label
            for s in panel.series
            for x, y in zip(s.x, s.y, strict=True)
        }
        assert cells == {
            ("a", 0): "2 bits",
            ("a", 1): "4 bits",
            ("b", 0): "8 bits",
            ("b", 1): "8 bits",
        }
    draw(chart)
    assert bits_chart({"full": VARIANTS["full"]}) is None


def test_trade_offs_have_a_panel_per_kind_of_loss_and_the_choice_on_them():
    chart = choice_chart(VARIANTS)
    assert chart is not None
    first, second = chart.panels[0]
    line, point = first.series
    assert (line.x, line.y[:2]) == ([4, 9, 20], [0.5, 0.25])
    assert line.y[2] != line.y[2]  # 0 has no logarithm
    assert (point.label, point.x, point.y) == ("nearest-mix3", [9], [0.25])
    assert second.series[0].y == [0.5, 0.25, 0.0]
    draw(chart)
    assert choice_chart({"full": VARIANTS["full"]}) is None


def test_risk_is_drawn_against_bytes_and_intensity(results):
    rows = [row for row in results.rows if row.variant in results.variants]
    names = list(dict.fromkeys(row.variant for row in rows))
    known = {name: facts(400.0 / (1 + i)) for i, name in enumerate(names)}
    chart = cost_chart(rows, known)
    assert chart is not None
    for line in chart.panels:
        for panel, field in zip(line, ("weight_bytes", "intensity"), strict=True):
            drawn = {series.choice.variant: series.x[0] for series in panel.series}
            assert drawn == {name: getattr(known[name].cost, field) for name in names}
    draw(chart)
    assert cost_chart(rows, {name: facts(400.0) for name in names}) is None
