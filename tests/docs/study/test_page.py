"""The study's document: what it says is what its command makes of the results beside it."""

import json
import re

import pytest

from attacks.metrics.intervals import Estimate
from docs.study import figures
from docs.study.numbers import Compared, Study
from docs.study.page import HERE, KEPT, keep, main, mark, points, render, share, table
from reporting.matplotlib_charts import draw

ROOT = HERE.parents[1]


@pytest.fixture(scope="module")
def study():
    return Study(json.loads(KEPT.read_text()))


def test_the_document_is_what_the_command_writes(study):
    assert (HERE.parent / "study.md").read_text() == render(study)


def test_the_readme_says_what_the_study_found():
    """Its first screen has the finding, word for word."""
    (finding,) = re.findall(r"^\*\*(.+?)\*\*$", (HERE.parent / "study.md").read_text(), re.M | re.S)
    first = " ".join((ROOT / "README.md").read_text().split("```")[0].split())
    assert " ".join(finding.split()) in first
    assert "(docs/study.md)" in first


def test_links_of_the_document_lead_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", (HERE.parent / "study.md").read_text())
    assert len(links) >= 4
    for link in links:
        assert (HERE.parent / link).exists(), link


def test_figures_show_the_numbers_of_the_rows(study):
    charts = figures.all_of(study)
    assert {f"{name}.png" for name in charts} == {path.name for path in KEPT.parent.glob("*.png")}
    full, matched = charts["plane"].panels[0]
    for panel, kind in ((full, "full"), (matched, "matched")):
        for series in panel.series:
            variants = [f"{series.label}-{width}" for width in figures.WIDTHS]
            rows = {
                row["variant"]: row
                for row in study.results["rows"]
                if (row["knowledge"], row["attack"]) == (kind, "lira_online")
            }
            assert list(series.x[1:]) == [rows[variant]["accuracy"] for variant in variants]
            assert list(series.y[1:]) == [rows[variant]["tpr_01pct"] for variant in variants]
    for chart in charts.values():
        drawn = draw(chart).axes
        assert len(drawn) == sum(len(row) for row in chart.panels)


def test_what_is_kept_is_enough_and_no_more(study):
    extra = {"tpr": [0.1], "bytes": 5}
    rows = [row | extra for row in study.results["rows"]]
    again = keep(study.results | {"rows": rows, "fpr": [0.1], "tables": []})
    assert again == study.results


def test_a_table_by_hand():
    assert table(("a", "b"), [("1", "2"), ("3", "4")]) == (
        "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |"
    )


def test_numbers_by_hand():
    less = Estimate(-0.0412, -0.05, -0.0301)
    assert points(less) == "-4.1 (-5.0 to -3.0)"
    assert mark(Compared(less, 0.001, 0.01)) == "↓ -0.041 (-0.050 to -0.030)"
    assert mark(Compared(less, 0.001, 0.01), "tpr_1pct") == "↓ -4.1 (-5.0 to -3.0)"
    assert share(Estimate(0.356, -0.021, 1.2)) == "36% (-2 to 120)"
    assert share(None) == "no gain shown"


def test_a_run_without_an_audit(tmp_path):
    with pytest.raises(SystemExit, match=r"results.json is not there. Run `python audit.py --run"):
        main([str(tmp_path)])
