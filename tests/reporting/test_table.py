"""The table of an audit, cell by cell."""

import io
from math import nan

import pytest
from reporting.table import COLUMNS, make_table, summarise_rows
from rich.console import Console

from attacks.evaluate import Row
from attacks.metrics.intervals import Estimate, Summary
from reporting.results import flatten
from storage.records import Precision


def row(variant, knowledge, attack, auc, false_positives=12, targets=2):
    estimates = [Estimate(auc, auc - 0.02, auc + 0.03, 0.01)] * 2 + [Estimate(0.05, 0.02, 0.09)] * 2
    summary = Summary(*estimates, targets, 1200, false_positives, 1)
    return Row(variant, knowledge, attack, summary, 8, [], {})


ROWS = [
    row("full", "none", "gap", 0.55),
    row("full", "matched", "lira_online", 0.7),
    row("w2", "none", "gap", 0.52),
    row("w2", "matched", "rmia_online", 0.6),
    row("w2", "full", "lira_online", 0.61, false_positives=9),
    row("w2", "full", "attack_r", 0.5),
]
PRECISIONS = {
    "full": Precision(Estimate(0.9, 0.88, 0.92), 98712),
    "w2": Precision(Estimate(nan, nan, nan), 0),
    "unseen": Precision(Estimate(0.5, 0.4, 0.6), 1),
}


def test_a_line_a_variant_by_hand():
    section = summarise_rows(ROWS, PRECISIONS)
    assert section.columns == COLUMNS
    assert section.rows == [
        (
            *("full", "90.0% (88.0-92.0)", "98,712", "lira_online, matched shadows"),
            *("0.700±0.010 (0.680-0.730)", "0.700 (0.680-0.730)", "-", "5.0% (2.0-9.0)"),
        ),
        (
            *("w2", "unknown", "-", "lira_online, full shadows", "0.610±0.010 (0.590-0.640)"),
            *("0.600 (0.580-0.630)", "0.610 (0.590-0.640)", "5.0% (2.0-9.0)†"),
        ),
    ]


def test_one_target_has_no_spread_and_no_shadows_no_columns():
    alone = [row("full", "none", "gap", 0.6, targets=1)]
    (line,) = summarise_rows(alone, PRECISIONS).rows
    assert line[3:7] == ("gap, no shadows", "0.600 (0.580-0.630)", "-", "-")


def test_the_terminal_shows_every_cell_and_hostile_names_as_they_are():
    section = summarise_rows(ROWS, PRECISIONS)
    section = section._replace(rows=[*section.rows, ("[/bold]x", *section.rows[0][1:])])
    console = Console(width=220, record=True, file=io.StringIO())
    console.print(make_table(section, "[red]name"))
    text = console.export_text()
    assert "[red]name" in text
    for line in section.rows:
        assert all(cell in text for cell in line)


def test_a_line_of_the_csv_has_none_for_what_is_unknown():
    line = flatten(ROWS[4], PRECISIONS["w2"], best=True)
    assert (line["variant"], line["knowledge"], line["attack"]) == ("w2", "full", "lira_online")
    assert line["accuracy"] is None
    assert line["auc"] == pytest.approx(0.61)
    assert line["auc_high"] == pytest.approx(0.64)
    assert (line["strongest"], line["shadows"], line["seconds"]) == (True, 8, None)
