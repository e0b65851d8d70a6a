"""The study's page, which its command makes from the results beside it."""

import json
import re

import pytest

from docs.study import figures
from docs.study.document import wrap
from docs.study.fleets import BASE
from docs.study.kept import keep
from docs.study.page import HERE, KEPT, main, make, render
from reporting.matplotlib_charts import draw
from reporting.results_json import parse_results
from reporting.tables import Table

ROOT = HERE.parents[1]


def test_the_page_is_what_the_command_writes():
    assert (HERE.parent / "study.md").read_text() == render(make(HERE))


def test_the_readme_repeats_the_finding_of_the_study(study):
    """Its first screen has the finding, word for word."""
    (finding,) = re.findall(r"^\*\*(.+?)\*\*$", (HERE.parent / "study.md").read_text(), re.M | re.S)
    first = " ".join((ROOT / "README.md").read_text().split("```")[0].split())
    assert " ".join(finding.split()) in first
    assert "(docs/study.md)" in first
    edition = make(HERE).edition
    study = edition.fleets[BASE] if edition else study
    networks = study.config["fleet"]["shadows"] + study.config["fleet"]["targets"]
    assert f"{networks} networks" in first
    assert f"{len(study.variants)} variants" in first


def test_links_of_the_page_lead_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", (HERE.parent / "study.md").read_text())
    assert len(links) >= 4
    for link in links:
        assert (HERE.parent / link).exists(), link


def test_figures_show_the_numbers_of_the_rows(study):
    page = make(HERE)
    assert {f"{name}.png" for name in page.charts} == {path.name for path in HERE.glob("*.png")}
    charts = figures.all_of(study)
    unquantized, matched = charts["plane"].panels[0]
    for panel, kind in ((unquantized, "unquantized"), (matched, "matched")):
        for series in panel.series:
            variants = [f"{series.label}-{width}" for width in figures.WIDTHS]
            rows = {
                row.variant: row for row in study.results.rows if row[1:3] == (kind, "lira_online")
            }
            utility = [study.results.variants[variant].accuracy.value for variant in variants]
            assert list(series.x[1:]) == utility
            leaks = [rows[variant].summary.tpr_01pct.value for variant in variants]
            assert list(series.y[1:]) == leaks
    for chart in charts.values():
        drawn = draw(chart).axes
        assert len(drawn) == sum(len(row) for row in chart.panels)


def test_only_what_the_page_needs_is_kept(study, tmp_path):
    results = study.results
    whole = results._replace(
        rows=[row._replace(tpr=[0.1]) for row in results.rows],
        findings=results.findings | {"epsilon": {"full": 1.0}},
        tables=[Table("epsilon", "Bounds", ("a",), [], "A note.")],
        sentences=["A sentence."],
        figures=("plane",),
    )
    (tmp_path / KEPT).write_text(keep(whole))
    assert parse_results(tmp_path / KEPT, "") == results
    assert json.loads(keep(whole))["rows"][0]["tpr"] == []


def test_text_is_wrapped_and_tables_and_code_are_not():
    word = "word " * 30
    assert wrap(word) == "word " * 19 + "word\n" + "word " * 9 + "word"
    assert wrap("- a\n  b\n- c") == "- a b\n- c"
    assert max(map(len, wrap(f"- {word}").splitlines())) <= 100
    assert wrap(f"- {word}").splitlines()[1].startswith("  word")
    for block in (f"| {word} |", f"# {word}", f"    {word}", f"![{word}](a.png)"):
        assert wrap(block) == block


def test_a_run_without_an_audit_is_an_error_with_a_way_out(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert re.search(r"No audit in .*Run `python audit.py --run", capsys.readouterr().err)
