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
    listed,
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


def differ(low, high, p_holm, p=0.01):
    """A difference whose interval is given."""
    return Difference("w2", "full", Estimate((low + high) / 2, low, high), p, p_holm)


LESS, MORE = differ(-0.09, -0.08, 0.02), differ(0.1, 0.234, 0.002)
LESS_TAIL, MORE_TAIL = differ(-0.031, -0.012, 0.0499), differ(0.012, 0.029, 0.01)
NONE, NONE_TAIL = differ(-0.006, 0.014, 0.5), differ(-0.004, 0.013, 0.7)
HIDDEN, HIDDEN_TAIL = differ(0.011, 0.042, 0.05), differ(-0.04, -0.003, 0.12)
CORRECTED = "before correction for the number of comparisons"


@pytest.mark.parametrize(
    ("auc", "tail", "sentence"),
    [
        (
            *(LESS, LESS_TAIL),
            "w2 leaks less than full: AUC 0.08 to 0.09 less and TPR at 1% FPR 1.2 to 3.1 points "
            "less.",
        ),
        (
            *(MORE, MORE_TAIL),
            "w2 leaks more than full: AUC 0.10 to 0.23 more and TPR at 1% FPR 1.2 to 2.9 points "
            "more.",
        ),
        (
            *(LESS, MORE_TAIL),
            "w2 leaks less than full on average (AUC 0.08 to 0.09 less) and more in the tail (TPR "
            "at 1% FPR 1.2 to 2.9 points more).",
        ),
        (
            *(MORE, LESS_TAIL),
            "w2 leaks more than full on average (AUC 0.10 to 0.23 more) and less in the tail (TPR "
            "at 1% FPR 1.2 to 3.1 points less).",
        ),
        (
            *(LESS, NONE_TAIL),
            "w2 leaks less than full on average (AUC 0.08 to 0.09 less); in the tail no difference "
            "is shown (TPR at 1% FPR -0.4 to 1.3 points).",
        ),
        (
            *(MORE, HIDDEN_TAIL),
            "w2 leaks more than full on average (AUC 0.10 to 0.23 more); in the tail no difference "
            f"is shown (TPR at 1% FPR -4.0 to -0.3 points {CORRECTED}).",
        ),
        (
            *(NONE, MORE_TAIL),
            "w2 leaks more than full in the tail (TPR at 1% FPR 1.2 to 2.9 points more); on "
            "average no difference is shown (AUC -0.01 to 0.01).",
        ),
        (
            *(HIDDEN, LESS_TAIL),
            "w2 leaks less than full in the tail (TPR at 1% FPR 1.2 to 3.1 points less); on "
            f"average no difference is shown (AUC 0.01 to 0.04 {CORRECTED}).",
        ),
        (
            *(NONE, NONE_TAIL),
            "w2 and full: no difference shown (AUC -0.01 to 0.01; TPR at 1% FPR -0.4 to 1.3 "
            "points).",
        ),
        (
            *(HIDDEN, HIDDEN_TAIL),
            f"w2 and full: no difference shown (AUC 0.01 to 0.04 {CORRECTED}; TPR at 1% FPR -4.0 "
            f"to -0.3 points {CORRECTED}).",
        ),
    ],
    ids=[
        *("less", "more", "less, more", "more, less", "average", "average, tail hidden"),
        *("tail", "tail, average hidden", "none", "hidden"),
    ],
)
def test_both_ends_are_compared_and_claimed_only_after_correction(auc, tail, sentence):
    """Each branch by hand; p of exactly 5% shows nothing."""
    assert compare({"auc": auc, "tpr_1pct": tail}) == sentence
    rarer = {"auc": auc, "tpr_01pct": tail}
    assert compare(rarer) == sentence.replace("at 1% FPR", "at 0.1% FPR")


@pytest.mark.parametrize(
    ("low", "high", "p", "average"),
    [
        (-0.091, -0.038, 0.01, "w2 leaks less than full on average (AUC 0.04 to 0.09 less);"),
        (0.038, 0.091, 0.01, "w2 leaks more than full on average (AUC 0.04 to 0.09 more);"),
        (0.0012, 0.061, 0.04, "w2 leaks more than full on average (AUC 0.001 to 0.061 more);"),
        (0.0012, 0.0014, 0.01, "w2 leaks more than full on average (AUC 0.0012 to 0.0014 more);"),
        (0.0212, 0.0241, 0.01, "w2 leaks more than full on average (AUC 0.021 to 0.024 more);"),
        (-0.012, 0.021, 0.4, "w2 and full: no difference shown (AUC -0.01 to 0.02;"),
        (-0.0004, 0.0003, 0.8, "w2 and full: no difference shown (AUC -0.0004 to 0.0003;"),
        (0.0, 0.0, 1.0, "w2 and full: no difference shown (AUC 0.00 to 0.00;"),
        (-inf, inf, 1.0, "w2 and full: no difference shown (AUC -inf to inf;"),
    ],
)
def test_a_sentence_has_as_many_decimals_as_it_needs(low, high, p, average):
    assert compare({"auc": differ(low, high, p), "tpr_1pct": NONE_TAIL}).startswith(f"{average} ")


@pytest.mark.parametrize(
    ("low", "high", "p", "tail"),
    [
        (0.0002, 0.0061, 0.04, "in the tail (TPR at 1% FPR 0.02 to 0.61 points more);"),
        (-0.0204, -0.0201, 0.04, "in the tail (TPR at 1% FPR 2.01 to 2.04 points less);"),
        (-0.0002, 0.0061, 0.4, "; TPR at 1% FPR -0.02 to 0.61 points)."),
        (0.0, 0.0, 1.0, "; TPR at 1% FPR 0.0 to 0.0 points)."),
    ],
)
def test_points_have_as_many_decimals_as_they_need(low, high, p, tail):
    assert tail in compare({"auc": NONE, "tpr_1pct": differ(low, high, p)})


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


def test_lists_in_words():
    assert listed(["a"]) == "a"
    assert listed(["a", "b"]) == "a and b"
    assert listed(["a", "b", "c"]) == "a, b and c"
