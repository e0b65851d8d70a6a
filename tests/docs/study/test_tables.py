"""The page's tables and the text of their cells."""

from attacks.metrics.intervals import Estimate
from docs.study.claims import CLAIMS, PAPERS_TPR
from docs.study.tables import cell, levels, points, share, shares, table, verdicts
from docs.study.verdicts import Compared


def test_a_table_by_hand():
    assert table(("a", "b"), [("1", "2"), ("3", "4")]) == (
        "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |"
    )


def test_numbers_by_hand():
    less = Estimate(-0.0412, -0.05, -0.0301)
    assert points(less) == "-4.1 (-5.0 to -3.0)"
    assert cell(Compared(less, 0.001, 0.01, 0.02), "auc") == "↓ -0.041 (-0.050 to -0.030)"
    assert cell(Compared(less, 0.001, 0.06, 0.02), "tpr_1pct") == "? -4.1 (-5.0 to -3.0)"
    assert cell(Compared(less, 0.001, 0.06, 0.06), "auc") == "≈ -0.041 (-0.050 to -0.030)"
    assert share(Estimate(0.356, -0.021, 1.2)) == "36% (-2 to 120)"
    assert share(None) == "no gain shown"


def test_the_headline_is_three_rows_of_the_shares(comparisons):
    _, _, *rows = shares(comparisons).splitlines()
    assert len(rows) == 24
    bold = [row.split(" | ")[:2] for row in rows if "**" in row]
    assert bold == [
        ["| AUC", "the strongest of each kind"],
        ["| AUC", "`lira_online`"],
        ["| TPR at 0.1% FPR", "`lira_online`"],
    ]
    assert "| TPR at 1% FPR | `attack_r` | ? -8% (-19 to 1) |" in shares(comparisons)


def test_verdicts_are_those_of_both_attackers(comparisons):
    _, _, *rows = verdicts(comparisons, CLAIMS).splitlines()
    assert rows[1] == "| 2 and 1.58 bits leak less | held | held |"
    assert len(rows) == len(CLAIMS)


def test_levels_stand_beside_those_of_the_paper(study):
    _, _, full, *rows = levels(study).splitlines()
    assert full.startswith("| full | 51.5% (50.7-52.5) | 0.941 (0.934-0.949) |")
    assert full.endswith("| 36.8% |")
    assert [row.split(" | ")[0] for row in rows] == [f"| {v}" for v in PAPERS_TPR if v != "full"]
