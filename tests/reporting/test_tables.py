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


def row(variant, knowledge, attack, auc, strongest="", tpr=0.05, rare=0.01, counts=(12, 1)):
    estimates = [Estimate(auc, auc - 0.02, auc + 0.03, 0.01)] * 2
    estimates += [Estimate(share, share - 0.01, share + 0.02) for share in (tpr, rare)]
    summary = Summary(*estimates, 2, 1200, *counts)
    return Row(variant, knowledge, attack, summary, 8, [], {}, tuple(strongest.split()))


ROWS = [
    row("full", "none", "gap", 0.55),
    row("full", "matched", "lira_online", 0.7, "auc tpr_1pct"),
    row("w2", "none", "gap", 0.52),
    row("w2", "matched", "rmia_online", 0.6, "tpr_1pct", tpr=0.08),
    row("w2", "unquantized", "lira_online", 0.61, "auc"),
    row("w2", "unquantized", "attack_r", 0.5),
]
VARIANTS = {
    "full": VariantFacts(Estimate(0.9, 0.88, 0.92), 98712),
    "w2": VariantFacts(Estimate(nan, nan, nan), 0),
}


def test_cells_sort_by_their_value_and_unknown_ones_have_none():
    estimate = Estimate(0.69249, 0.6706, 0.7131, 0.0109)
    assert estimate_cell(estimate) == ("0.692 (0.671-0.713)", 0.69249)
    assert estimate_cell(estimate, percent=True) == ("69.2% (67.1-71.3)", 0.69249)
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
    """Each end of the risk by the attack that is strongest there."""
    table = headline(ROWS, VARIANTS)
    assert (table.key, table.title) == ("headline", "Leakage and accuracy")
    assert table.columns == (
        *("variant", "test accuracy", "bytes", "AUC", "strongest by AUC"),
        *("TPR at 1% FPR", "strongest by TPR"),
        *("AUC, matched shadows", "AUC, full-precision shadows"),
    )
    assert table.rows == [
        (
            *(("full", None), ("90.0% (88.0-92.0)", 0.9), ("98,712", 98712)),
            *(("0.700 (0.680-0.730)", 0.7), ("lira_online, matched", None)),
            *(("5.0% (4.0-7.0)", 0.05), ("lira_online, matched", None)),
            *(("0.700 (0.680-0.730)", 0.7), ("-", None)),
        ),
        (
            *(("w2", None), ("unknown", None), ("-", None)),
            *(("0.610 (0.590-0.640)", 0.61), ("lira_online, full-precision", None)),
            *(("8.0% (7.0-10.0)", 0.08), ("rmia_online, matched", None)),
            *(("0.600 (0.580-0.630)", 0.6), ("0.610 (0.590-0.640)", 0.61)),
        ),
    ]


@pytest.mark.parametrize(
    ("counts", "heading", "cell"),
    [
        ((99, 10), "TPR at 0.1% FPR", "1.0% (0.0-3.0)"),
        ((99, 9), "TPR at 1% FPR", "5.0% (4.0-7.0)"),
        ((9, 0), "TPR at 1% FPR", "5.0% (4.0-7.0)†"),
    ],
)
def test_the_tail_is_as_low_as_ten_false_positives_allow(counts, heading, cell):
    both = "auc tpr_1pct tpr_01pct"
    rows = [row("full", "matched", "lira_online", 0.7, both, counts=counts)]
    table = headline(rows, {"full": VARIANTS["full"]})
    assert (table.columns[5], table.rows[0][5].text) == (heading, cell)


def test_the_headline_shows_the_marked_attack():
    """The mark is decided once, elsewhere; an equally strong attack does not replace it."""
    tied = [
        row("full", "none", "gap", 0.7),
        row("full", "matched", "lira_online", 0.7, "auc tpr_1pct"),
    ]
    (line,) = headline(tied, {"full": VARIANTS["full"]}).rows
    assert line[4].text == line[6].text == "lira_online, matched"


def test_columns_are_those_of_the_kinds_of_shadows_that_were_used():
    alone = [row("full", "none", "gap", 0.6, "auc tpr_1pct")]
    table = headline(alone, {"full": VARIANTS["full"]})
    assert table.columns[-1] == "strongest by TPR"
    assert [cell.text for cell in table.rows[0][3:]] == [
        *("0.600 (0.580-0.630)", "gap"),
        *("5.0% (4.0-7.0)", "gap"),
    ]
    assert "Recalibrated" not in table.note
    recalibrated = [*ROWS, row("w2", "recalibrated", "lira_online", 0.605)]
    table = headline(recalibrated, VARIANTS)
    assert table.columns[-1] == "AUC, recalibrated shadows"
    assert [line[-1].text for line in table.rows] == ["-", "0.605 (0.585-0.635)"]
    assert "Recalibrated shadows are" in table.note


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
    table = table._replace(
        rows=[*table.rows, (Cell("[/bold]x"), *table.rows[0][1:])], note="[red]a's"
    )
    console = Console(width=230, record=True, file=io.StringIO())
    console.print(for_terminal(table, "[red]name"))
    text = console.export_text()
    assert "[red]name" in text
    assert "[red]a's" in text
    for line in table.rows:
        assert all(cell.text in text for cell in line)


@pytest.mark.parametrize("width", [120, 160])
def test_the_terminal_has_an_attack_below_its_number_and_cuts_neither(width):
    table = headline(ROWS, VARIANTS)
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(for_terminal(table, "demo"))
    lines = console.export_text().splitlines()
    (first,) = (i for i, line in enumerate(lines) if line.startswith(" w2"))
    shown = "\n".join(lines[first : first + 4])
    for text in ("(0.590-0.640)", "lira_online,", "full-precision", "(7.0-10.0)", "matched"):
        assert text in shown
    assert "0.610" in lines[first]
    assert lines[first + 1].index("rmia_online,") == lines[first].index("8.0%")
    assert max(map(len, lines)) <= width
