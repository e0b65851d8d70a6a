"""Numbers and comparisons as text, by hand."""

from math import inf, nan

import pytest

from attacks.evaluate import Row
from attacks.metrics.differences import Difference
from attacks.metrics.intervals import Estimate, Summary
from reporting.text import (
    compare,
    dagger,
    extent,
    kinds_of,
    name_attack,
    shadows_note,
    show,
    show_change,
    show_difference,
    show_metric,
    show_p,
)


def test_an_estimate():
    estimate = Estimate(0.69249, 0.6706, 0.7131, 0.0109)
    assert show(estimate) == "0.692 (0.671-0.713)"
    assert show(estimate, spread=True) == "0.692±0.011 (0.671-0.713)"
    assert show(Estimate(0.1204, 0.0912, 0.1518, 0.01), percent=True) == "12.0% (9.1-15.2)"
    assert show(Estimate(1.0, 0.9638, 1.0)) == "1.000 (0.964-1.000)"


@pytest.mark.parametrize("options", [{}, {"percent": True}, {"spread": True}], ids=str)
def test_nan_is_unknown(options):
    assert show(Estimate(nan, nan, nan), **options) == "unknown"


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        ((-0.02112, -0.0311, -0.0109), "-0.021 (-0.031 to -0.011)"),
        ((0.0204, -0.001, 0.0418), "+0.020 (-0.001 to +0.042)"),
        ((0, 0, 0), "+0.000 (+0.000 to +0.000)"),
        ((-0.0001, -0.0004, 0.0003), "+0.000 (+0.000 to +0.000)"),  # no negative zero
    ],
)
def test_a_difference_has_its_sign(estimate, text):
    assert show_difference(Estimate(*estimate)) == text


@pytest.mark.parametrize(
    ("p", "text"), [(0.0004, "< 0.001"), (0.001, "0.001"), (0.0456, "0.046"), (1.0, "1.000")]
)
def test_a_p_value(p, text):
    assert show_p(p) == text


@pytest.mark.parametrize(
    ("false_positives", "mark"), [(None, "†"), (0, "†"), (9, "†"), (10, ""), (11, "")]
)
def test_few_or_unknown_false_positives_are_marked(false_positives, mark):
    assert dagger(false_positives) == mark


@pytest.mark.parametrize(
    ("interval", "p", "p_holm", "sentence"),
    [
        ((-0.06, -0.04), 0.02, 0.0456, "w2 leaks 0.04 to 0.06 less AUC than full."),
        ((0.1, 0.234), 0.001, 0.002, "w2 leaks 0.10 to 0.23 more AUC than full."),
        ((0.0012, 0.0014), 0.01, 0.01, "w2 leaks 0.0012 to 0.0014 more AUC than full."),
        ((-0.006, 0.014), 0.5, 0.5, "w2 and full: no difference shown (AUC -0.01 to 0.01)."),
        (
            (-0.06, -0.01),
            0.03,
            0.06,
            "w2 and full: no difference shown (AUC -0.06 to -0.01 before correction for the "
            "number of comparisons).",
        ),
        ((0.0, 0.0), 1.0, 1.0, "w2 and full: no difference shown (AUC 0.00 to 0.00)."),
        ((-inf, inf), 1.0, 1.0, "w2 and full: no difference shown (AUC -inf to inf)."),
    ],
)
def test_a_difference_is_claimed_only_after_correction(interval, p, p_holm, sentence):
    low, high = interval
    estimate = Estimate((low + high) / 2, low, high)
    assert compare(Difference("w2", "full", estimate, p, p_holm)) == sentence


@pytest.mark.parametrize(
    ("low", "high", "p", "sentence"),
    [
        (-0.091, -0.038, 0.01, "w2 leaks 0.04 to 0.09 less AUC than full"),
        (0.038, 0.091, 0.01, "w2 leaks 0.04 to 0.09 more AUC than full"),
        (0.0012, 0.061, 0.04, "w2 leaks 0.001 to 0.061 more AUC than full"),
        (0.0212, 0.0241, 0.01, "w2 leaks 0.021 to 0.024 more AUC than full"),
        (-0.012, 0.021, 0.4, "w2 and full: no difference shown (AUC -0.01 to 0.02)"),
        (-0.0004, 0.0003, 0.8, "w2 and full: no difference shown (AUC -0.0004 to 0.0003)"),
        (0.0, 0.0, 1.0, "w2 and full: no difference shown (AUC 0.00 to 0.00)"),
    ],
)
def test_a_sentence_has_as_many_decimals_as_it_needs(low, high, p, sentence):
    difference = Difference("w2", "full", Estimate((low + high) / 2, low, high), p, p)
    assert compare(difference) == f"{sentence}."


def test_a_difference_that_only_correction_hides_says_so():
    difference = Difference("w2", "full", Estimate(0.026, 0.011, 0.042), 0.04, 0.12)
    assert compare(difference).endswith(
        "(AUC 0.01 to 0.04 before correction for the number of comparisons)."
    )


HALF, RARE = Estimate(0.5, 0.4, 0.6), Estimate(0.012, 0.004, 0.02)
SUMMARY = Summary(HALF, HALF, RARE, RARE, 8, 300, 24, 9)


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        ("auc", "0.500 (0.400-0.600)"),
        ("balanced_accuracy", "0.500 (0.400-0.600)"),
        ("tpr_1pct", "1.2% (0.4-2.0)"),
        ("tpr_01pct", "1.2% (0.4-2.0)†"),
    ],
)
def test_a_metric_is_shown_in_its_unit_and_marked(metric, text):
    assert show_metric(SUMMARY, metric) == text


@pytest.mark.parametrize(
    ("metric", "low", "high", "text"),
    [
        ("auc", -0.091, -0.084, "AUC 0.08 to 0.09 less"),
        ("auc", 0.011, 0.012, "AUC 0.011 to 0.012 more"),
        ("tpr_1pct", 0.012, 0.029, "TPR at 1% FPR 1.2 to 2.9 points more"),
        ("tpr_01pct", -0.0012, -0.0003, "TPR at 0.1% FPR 0.03 to 0.12 points less"),
    ],
)
def test_the_extent_of_a_difference_in_words(metric, low, high, text):
    assert extent(metric, Estimate((low + high) / 2, low, high)) == text


def test_a_change_of_a_share_is_in_points():
    change = Estimate(-0.0121, -0.02, 0.0004)
    assert show_change(change, "auc") == "-0.012 (-0.020 to +0.000)"
    assert show_change(change, "tpr_1pct") == "-1.2 (-2.0 to +0.0)"


def test_attacks_and_their_shadows_are_named():
    kinds = ("recalibrated", "none", "unquantized", "matched")
    rows = [Row("w2", kind, "lira", SUMMARY, 8, [], {}) for kind in kinds]
    assert [name_attack(row) for row in rows] == [
        *("lira with recalibrated shadows", "lira"),
        *("lira with full-precision shadows", "lira with matched shadows"),
    ]
    assert kinds_of(rows) == ["matched", "unquantized", "recalibrated"]
    assert kinds_of(rows[1:2]) == []
    assert "Recalibrated" in shadows_note(rows)
    assert "Recalibrated" not in shadows_note(rows[1:])
