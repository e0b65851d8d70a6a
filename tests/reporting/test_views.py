"""The files of an audit, read back."""

import csv
import json
import re
from math import isnan, nan

import pytest
import torch
from markupsafe import escape

from attacks.findings import Exposures
from reporting.dashboard import _charts, _summary
from reporting.findings import FINDINGS, Body, Finding, find
from reporting.illustrate import illustrate
from reporting.results import make_results
from reporting.results_json import read_results
from reporting.tables import Cell, headline
from reporting.text import SHADOWS
from reporting.write import exposure_lines, headline_text, write, write_csv


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_audit(run_dir, results, findings):
    """Write every file; returns the results with the names of their figures."""
    (run_dir / "audit").mkdir(parents=True)
    drawings = illustrate(results, findings, None)
    results = results._replace(figures=tuple(drawings))
    write(run_dir / "audit", results, findings["exposure"], {}, drawings, 200)
    return results


@pytest.fixture(scope="module")
def written(results, findings, tmp_path_factory):
    """A run folder and the results that its audit holds."""
    run_dir = tmp_path_factory.mktemp("run")
    return run_dir, write_audit(run_dir, results, findings)


def test_every_file_is_there(written):
    run_dir, results = written
    names = {path.name for path in (run_dir / "audit").iterdir()}
    assert results.figures == ("plane", "roc", "convergence", "layers")
    assert names == {
        *("table.txt", "results.csv", "exposure.csv", "report.html", "results.json"),
        *(f"{figure}.png" for figure in results.figures),
    }


def test_figures_of_an_earlier_audit_are_deleted(results, findings, tmp_path):
    drawings = illustrate(results, findings, None)
    (tmp_path / "gallery.png").touch()
    (tmp_path / "notes.png").touch()
    write(tmp_path, results, findings["exposure"], {}, drawings, 200)
    assert not (tmp_path / "gallery.png").exists()
    assert (tmp_path / "notes.png").exists()  # not a figure of an audit


def test_results_json_is_read_back(written):
    run_dir, results = written
    assert read_results(run_dir) == results


def test_all_views_mark_the_same_strongest_attack(written):
    """Headline, table.txt, page, CSV, results.json and W&B."""
    run_dir, results = written
    audit = run_dir / "audit"
    text, summary = (audit / "table.txt").read_text(), _summary(results)
    labels = r'data-variant="([^"]*)" data-knowledge="([^"]*)" data-attack="([^"]*)" class="best"'
    best = re.findall(labels, (audit / "report.html").read_text())
    columns = ("variant", "knowledge", "attack")
    for end, column in (("auc", 4), ("tpr_1pct", 6)):
        strongest = results.strongest(end)
        assert list(strongest) == list(results.variants)
        wanted = [row[:3] for row in strongest.values()]

        table = headline(results.rows, results.variants)
        shadows = {**SHADOWS, "none": ""}
        for line, (variant, kind, attack) in zip(table.rows, wanted, strict=True):
            named = ", ".join(filter(None, (attack, shadows[kind].removesuffix(" shadows"))))
            assert (line[0].text, line[column].text) == (variant, named)
            assert attack in text

        lines = read_csv(audit / "results.csv")
        marked = [line for line in lines if end in line["strongest"].split()]
        assert [tuple(line[k] for k in columns) for line in marked] == wanted
        kept = json.loads((audit / "results.json").read_text())["rows"]
        marked = [line for line in kept if end in line["strongest"].split()]
        assert [tuple(line[k] for k in columns) for line in marked] == wanted

        assert set(wanted) <= set(best)
        for variant, kind, attack in wanted:
            risk = summary[f"risk/{end}/{variant.replace('-', '_')}"]
            assert risk == summary[f"{kind}/{attack}/{variant}/{end}"]
    assert len(best) == sum(bool(row.strongest) for row in results.rows)


def test_all_views_give_the_same_answer(written):
    """table.txt, page, results.json and W&B."""
    run_dir, results = written
    audit = run_dir / "audit"
    text = " ".join((audit / "table.txt").read_text().split())
    page, kept = (audit / "report.html").read_text(), (audit / "results.json").read_text()
    summary = _summary(results)
    assert len(results.answer) == 4
    for statement in results.answer:
        assert statement in text
        assert f"<p>{escape(statement)}</p>" in page
        assert statement in summary.values()
    assert json.loads(kept)["answer"] == results.answer


def test_a_registered_finding_is_in_every_view(game, strongest, evidence, monkeypatch, tmp_path):
    """One registry entry suffices for its table, results.json, the page and W&B."""

    def compute(game, best):
        return {variant: len(kept.alike) for variant, kept in best.variants.items()}

    def tabulate(value):
        rows = [(Cell(variant), Cell(str(count), count)) for variant, count in value.items()]
        return Body(("variant", "targets"), rows, "A toy.")

    monkeypatch.setitem(FINDINGS, "toy", Finding("How many targets?", compute, tabulate))
    findings = find(game, strongest)
    results = write_audit(tmp_path, make_results(evidence, strongest, findings, ""), findings)
    assert results.tables[-1].key == "toy"
    kept = json.loads((tmp_path / "audit" / "results.json").read_text())
    assert kept["findings"]["toy"] == dict.fromkeys(game.variants, 2)
    assert kept["tables"][-1]["key"] == "toy"
    assert read_results(tmp_path) == results
    page = (tmp_path / "audit" / "report.html").read_text()
    assert "<h2>How many targets?</h2>" in page
    logged = _charts(results, {})["findings/toy"]
    assert logged.columns == ["variant", "targets"]
    assert logged.data == [[variant, "2"] for variant in game.variants]


def test_the_headline_as_text_has_no_colours_and_fits_its_width(results):
    text = headline_text(results, 160)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 160
    assert "demo" in text.splitlines()[0]


def test_exposures_have_a_line_per_example_and_labels_where_known(findings):
    exposures = findings["exposure"]
    lines = exposure_lines(exposures, {})
    assert list(lines[0]) == ["example", "full", "nearest-w4", "nearest-w2"]
    assert [line["example"] for line in lines] == list(range(160))
    values = torch.tensor([[line[variant] for line in lines] for variant in exposures.variants])
    torch.testing.assert_close(
        values.double(), exposures.examples, equal_nan=True, check_dtype=False
    )
    labelled = exposure_lines(exposures, {"label": list(range(160)), "left_out": [""] * 160})
    assert list(labelled[0])[:4] == ["example", "label", "left_out", "full"]
    assert (labelled[7]["label"], labelled[7]["left_out"]) == (7, "")


def test_examples_that_were_left_out_have_an_empty_exposure():
    """Apart from those that no target trained on, whose exposure is not a number."""
    examples = torch.tensor([[0.5, nan, nan, 0.25], [0.75, nan, nan, 1.0]], dtype=torch.float64)
    kept = torch.tensor([True, False, True, True])
    lines = exposure_lines(Exposures("full", "gap", {}, ["full", "w2"], examples, kept), {})
    assert [line["example"] for line in lines] == [0, 1, 2, 3]
    assert (lines[0]["full"], lines[0]["w2"], lines[3]["full"]) == (0.5, 0.75, 0.25)
    assert (lines[1]["full"], lines[1]["w2"]) == (None, None)
    assert isnan(lines[2]["full"])


def test_every_view_says_what_was_left_out(results, findings, tmp_path):
    sentences = (
        "6 of 160 examples were left out: <few> & far.",
        "gap was left out: it needs logits.",
    )
    written = write_audit(tmp_path, results._replace(left_out=sentences), findings)
    assert read_results(tmp_path).left_out == written.left_out == sentences
    lines = (tmp_path / "audit" / "table.txt").read_text().splitlines()
    place = lines.index(sentences[0])
    assert lines[place + 1] == sentences[1]
    assert results.answer[0].startswith(lines[place + 2])  # wrapped
    page = (tmp_path / "audit" / "report.html").read_text()
    _, _, after = page.partition("<h2>Left out</h2>")
    shown = [f"<li>{escape(sentence)}</li>" for sentence in sentences]
    assert after.partition("</ul>")[0].split("\n")[2:4] == shown
    headings = ("Leakage and accuracy", "Left out", "Every comparison", "Do two variants leak")
    places = [page.index(f"<h2>{heading}") for heading in headings]
    assert places == sorted(places)


def test_nothing_left_out_needs_no_words(written):
    run_dir, results = written
    assert results.left_out == ()
    assert "Left out" not in (run_dir / "audit" / "report.html").read_text()


def test_csv_is_read_back(tmp_path):
    write_csv(
        tmp_path / "lines.csv",
        [{"a": 1, "b": 'x, "y"'}, {"a": None, "b": "\n"}, {"a": nan, "b": ""}],
    )
    lines = [{"a": "1", "b": 'x, "y"'}, {"a": "", "b": "\n"}, {"a": "", "b": ""}]
    assert read_csv(tmp_path / "lines.csv") == lines
