"""Every branch of the verdicts, on cases worked by hand."""

import pytest

from attacks.metrics.intervals import Estimate
from docs.study.verdicts import (
    Compared,
    Uncorrected,
    Verdict,
    correct,
    counted,
    ends,
    judge,
)
from docs.study.verdicts import overall as overall_verdict


def compared(low, high, p=0.001, margin=0.01):
    return Compared(Estimate((low + high) / 2, low, high), p, p, margin)


LESS, MORE = compared(-0.05, -0.03), compared(0.03, 0.05)
NOTHING = compared(-0.03, 0.02, p=0.5)


@pytest.mark.parametrize(
    ("pair", "shown", "small", "large", "sign"),
    [
        (LESS, "less", False, True, "↓"),
        (MORE, "more", False, True, "↑"),
        (NOTHING, None, False, False, "?"),
        (compared(-0.009, -0.002), "less", True, False, "↓≈"),  # shown, though small
        (compared(-0.009, 0.002, p=0.5), None, True, False, "≈"),
        (compared(-0.03, -0.002), "less", False, False, "↓"),  # neither small nor large
        (compared(-0.05, -0.03, p=0.05), None, False, True, "?"),  # large, lost in correction
        (compared(-0.005, -0.001, margin=0.0), "less", False, True, "↓"),  # no margin
    ],
)
def test_what_a_comparison_shows(pair, shown, small, large, sign):
    assert (pair.shown, pair.small, pair.large, pair.sign) == (shown, small, large, sign)


def test_p_is_corrected_over_the_whole_page():
    """Holm by hand: 4 x 0.01, then 3 x 0.02 = 0.06, then 2 x 0.02 raised to it, then 0.5."""
    estimate = Estimate(0.1, 0.05, 0.15)
    tests = {"a": 0.02, "b": 0.5, "c": 0.01, "d": 0.02}
    found = correct({key: Uncorrected(estimate, p, 0.3) for key, p in tests.items()})
    assert {key: pair.p_holm for key, pair in found.items()} == pytest.approx(
        {"a": 0.06, "b": 0.5, "c": 0.04, "d": 0.06}
    )
    assert found["a"] == (estimate, 0.02, pytest.approx(0.06), 0.3)


SMALL, SMALL_SHOWN = compared(-0.009, 0.002, p=0.5), compared(-0.009, -0.002)
BETWEEN = compared(-0.03, -0.002)  # shown, and perhaps small


@pytest.mark.parametrize(
    ("pairs", "expected", "text"),
    [
        ([LESS, LESS], "less", "held (2 of 2)"),
        ([LESS, NOTHING], "less", "held in part (1 of 2)"),
        ([NOTHING, SMALL], "less", "not shown (0 of 2)"),
        ([LESS, MORE, NOTHING], "less", "mixed (1 of 3, opposite 1)"),
        ([MORE, NOTHING], "less", "refuted (0 of 2, opposite 1)"),
        ([MORE, MORE], "more", "held (2 of 2)"),
        ([LESS], "more", "refuted (0 of 1, opposite 1)"),
        ([SMALL, SMALL_SHOWN], "alike", "held (2 of 2)"),
        ([SMALL, BETWEEN], "alike", "held in part (1 of 2)"),
        ([BETWEEN, NOTHING], "alike", "not shown (0 of 2)"),
        ([LESS, MORE], "alike", "refuted (0 of 2, opposite 2)"),
        ([SMALL, LESS], "alike", "mixed (1 of 2, opposite 1)"),
        ([compared(-0.05, -0.03, p=0.06)], "alike", "not shown (0 of 1)"),  # large by chance
    ],
)
def test_verdicts_on_claims(pairs, expected, text):
    verdict = judge(pairs, expected)
    assert f"{verdict.status} ({verdict.counts})" == text


def test_a_verdict_names_the_measures_to_which_it_applies():
    held, unknown, part = "held", "not shown", "held in part"
    assert overall_verdict(dict.fromkeys(["auc", "tpr_1pct", "tpr_01pct"], held)) == "held"
    in_auc = {"auc": held, "tpr_1pct": unknown, "tpr_01pct": unknown}
    assert overall_verdict(in_auc) == "held in AUC; not shown in the tail"
    all_but_one = {"auc": held, "tpr_1pct": held, "tpr_01pct": "refuted"}
    assert overall_verdict(all_but_one) == (
        "held in AUC and TPR at 1% FPR; refuted in TPR at 0.1% FPR"
    )
    with_accuracy = {"auc": part, "tpr_1pct": unknown, "tpr_01pct": unknown, "accuracy": part}
    assert overall_verdict(with_accuracy) == (
        "held in part in AUC and test accuracy; not shown in the tail"
    )


def test_a_status_is_that_of_its_counts():
    assert Verdict(3, 0, 3).status == "held"
    assert Verdict(0, 0, 3).status == "not shown"
    assert Verdict(1, 2, 3).counts == "1 of 3, opposite 2"


@pytest.mark.parametrize(
    ("area", "rate", "rarer", "sentence"),
    [
        (LESS, LESS, LESS, "a leaks less in AUC and the tail than b"),
        (
            LESS,
            MORE,
            NOTHING,
            "a leaks less in AUC and more in TPR at 1% FPR than b (in TPR at 0.1% FPR no "
            "difference shown)",
        ),
        (MORE, NOTHING, SMALL, "a leaks more in AUC than b (in the tail no difference shown)"),
        (NOTHING, SMALL, NOTHING, "a and b: no difference shown"),
    ],
)
def test_a_sentence_names_both_ends(area, rate, rarer, sentence):
    assert ends("a", "b", {"auc": area, "tpr_1pct": rate, "tpr_01pct": rarer}) == sentence


def test_counts_in_words():
    assert [counted(found, 3) for found in range(4)] == ["none of 3", "1 of 3", "2 of 3", "all 3"]
