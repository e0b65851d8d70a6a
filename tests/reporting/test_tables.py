"""Cells and tables, by hand."""

import io
from math import nan

import pytest
from rich.console import Console

from attacks.evaluate import Row
from attacks.metrics.differences import Difference
from attacks.metrics.intervals import Estimate, Summary
from reporting.tables import (
    DASH,
    Cell,
    difference_cells,
    estimate_cell,
    find_strongest,
    for_terminal,
    headline,
    number,
)
from storage.records import VariantFacts


def row(variant, knowledge, attack, auc, false_positives=12, targets=2, strongest=False):
    estimates = [Estimate(auc, auc - 0.02, auc + 0.03, 0.01)] * 2 + [Estimate(0.05, 0.02, 0.09)] * 2
    summary = Summary(*estimates, targets, 1200, false_positives, 1)
    return Row(variant, knowledge, attack, summary, 8, [], {}, strongest)


ROWS = [
    row("full", "none", "gap", 0.55),
    row("full", "matched", "lira_online", 0.7, strongest=True),
    row("w2", "none", "gap", 0.52),
    row("w2", "matched", "rmia_online", 0.6),
    row("w2", "unquantized", "lira_online", 0.61, false_positives=9, strongest=True),
    row("w2", "unquantized", "attack_r", 0.5),
]
VARIANTS = {
    "full": VariantFacts(Estimate(0.9, 0.88, 0.92), 98712),
    "w2": VariantFacts(Estimate(nan, nan, nan), 0),
}


def test_cells_sort_by_their_value_and_unknown_ones_have_none():
    estimate = Estimate(0.69249, 0.6706, 0.7131, 0.0109)
    assert estimate_cell(estimate) == ("0.692 (0.671-0.713)", 0.69249)
    assert estimate_cell(estimate, percent=True, mark="†") == ("69.2% (67.1-71.3)†", 0.69249)
    assert estimate_cell(Estimate(nan, nan, nan)) == ("unknown", None)
    assert number(nan, "unknown") == ("unknown", None)
    assert number(-0.5, "-0.5") == ("-0.5", -0.5)
    assert DASH == Cell("-") == ("-", None)


def test_a_difference_is_two_cells():
    difference = Difference("w2", "full", Estimate(-0.05, -0.06, -0.04), 0.00004, 0.0004)
    assert difference_cells(difference) == (
        ("-0.050 (-0.060 to -0.040)", -0.05),
        ("< 0.001", 0.0004),  # corrected
    )
    assert difference_cells(None) == (DASH, DASH)


def test_one_line_per_variant_by_hand():
    table = headline(ROWS, VARIANTS)
    assert (table.key, table.title) == ("headline", "Leakage and accuracy")
    assert table.columns == (
        *("variant", "test accuracy", "bytes", "strongest attack", "AUC"),
        *("AUC, matched shadows", "AUC, full-precision shadows", "TPR at 1% FPR"),
    )
    assert table.rows == [
        (
            *(("full", None), ("90.0% (88.0-92.0)", 0.9), ("98,712", 98712)),
            *(("lira_online, matched shadows", None), ("0.700±0.010 (0.680-0.730)", 0.7)),
            *(("0.700 (0.680-0.730)", 0.7), ("-", None), ("5.0% (2.0-9.0)", 0.05)),
        ),
        (
            *(("w2", None), ("unknown", None), ("-", None)),
            ("lira_online, full-precision shadows", None),
            ("0.610±0.010 (0.590-0.640)", 0.61),
            *(("0.600 (0.580-0.630)", 0.6), ("0.610 (0.590-0.640)", 0.61)),
            ("5.0% (2.0-9.0)†", 0.05),
        ),
    ]


def test_the_headline_shows_the_marked_attack():
    """The mark is decided once, elsewhere; an equally strong attack does not replace it."""
    tied = [
        row("full", "none", "gap", 0.7),
        row("full", "matched", "lira_online", 0.7, strongest=True),
    ]
    (line,) = headline(tied, {"full": VARIANTS["full"]}).rows
    assert line[3].text == "lira_online, matched shadows"


def test_one_target_has_no_spread_and_without_shadows_their_columns_are_empty():
    alone = [row("full", "none", "gap", 0.6, targets=1, strongest=True)]
    (line,) = headline(alone, {"full": VARIANTS["full"]}).rows
    assert [cell.text for cell in line[3:7]] == ["gap, no shadows", "0.600 (0.580-0.630)", "-", "-"]


@pytest.mark.parametrize(
    ("kinds", "attack"),
    [((), 4), (("none",), 2), (("matched",), 3), (("none", "matched"), 3), (("unquantized",), 4)],
)
def test_the_strongest_attack_among_kinds_of_knowledge(kinds, attack):
    assert find_strongest(ROWS, "w2", *kinds) is ROWS[attack]
    assert find_strongest(ROWS, "w8", *kinds) is None


def test_the_strongest_attack_is_that_of_the_highest_value_not_the_widest_interval():
    doubtful = ROWS[0].summary._replace(auc=Estimate(0.65, 0.1, 1, 0.4))
    assert find_strongest([ROWS[0]._replace(summary=doubtful), *ROWS], "full") is ROWS[1]
    small = ROWS[3].summary._replace(tpr_1pct=Estimate(0.2, 0.1, 0.3))
    by_tpr = [*ROWS, ROWS[3]._replace(summary=small)]
    assert find_strongest(by_tpr, "w2", metric="tpr_1pct") is by_tpr[-1]


def test_the_terminal_shows_every_cell_and_hostile_names_unchanged():
    table = headline(ROWS, VARIANTS)
    table = table._replace(rows=[*table.rows, (Cell("[/bold]x"), *table.rows[0][1:])])
    console = Console(width=230, record=True, file=io.StringIO())
    console.print(for_terminal(table, "[red]name"))
    text = console.export_text()
    assert "[red]name" in text
    for line in table.rows:
        assert all(cell.text in text for cell in line)
