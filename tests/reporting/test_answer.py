"""The first three statements of an audit, each branch against a sentence written by hand."""

from math import nan

import pytest

from attacks.evaluate import Row
from attacks.findings import Differences
from attacks.metrics.differences import Difference
from attacks.metrics.intervals import Estimate, Summary
from attacks.shadow_split import ShadowSplit
from reporting.answer import QUESTIONS, answer
from reporting.worth import state_worth
from storage.records import VariantFacts

UNKNOWN = Estimate(nan, nan, nan)


def row(attack, strongest, auc=(0.7, 0.68, 0.72), tpr=(0.1, 0.08, 0.12), **changes):
    """An attack on `full` with matched shadows."""
    summary = Summary(Estimate(*auc), UNKNOWN, Estimate(*tpr), Estimate(*tpr), 8, 300, 24, 2)
    strongest = tuple(strongest.split())
    made = Row("full", "matched", attack, summary._replace(**changes), 16, [], {}, strongest)
    return made if attack != "gap" else made._replace(knowledge="none")


LIRA = row("lira_online", "auc tpr_1pct")


def difference(low, high, p=0.01):
    """A difference whose interval is given; p is after correction."""
    return Difference("", "", Estimate((low + high) / 2, low, high), p, p)


def compared(tail="tpr_1pct", snapshots=(), **by_variant):
    """Differences in AUC and in the tail of each variant."""
    ends = {"auc": {}, tail: {}}
    for variant, both in by_variant.items():
        for end, found in zip(ends.values(), both, strict=True):
            end[variant] = difference(*found)
    return Differences("full", ends, {}, snapshots)


NOTHING = (-0.01, 0.02, 0.4)
LESS, LESS_TAIL = (-0.09, -0.08), (-0.031, -0.012)
MORE, MORE_TAIL = (0.02, 0.04), (0.012, 0.029)
ACCURACY = {"full": 0.95, "w4": 0.94, "w2": 0.9, "w1": 0.6}


def split_shadows(recalibrated=False, **quantizing):
    """What quantizing the shadows adds in AUC; in the tail it adds much, which is not asked."""
    step, much = difference(0.2, 0.3, 0.001) if recalibrated else None, difference(0.4, 0.5, 0.001)
    auc, tail = (
        {v: ShadowSplit(None, None, step, found, UNKNOWN) for v, found in by_variant.items()}
        for by_variant in (quantizing, dict.fromkeys(quantizing, much))
    )
    return {"auc": auc, "tpr_1pct": tail}


MORE_STEP, SMALL_STEP = difference(0.02, 0.04), difference(-0.01, 0.02, 0.4)


def state(rows=(LIRA,), differences=None, shadows=None, accuracy=ACCURACY):
    variants = {
        name: VariantFacts(Estimate(value, value - 0.01, value + 0.02), 1)
        for name, value in accuracy.items()
    }
    shadows = shadows or split_shadows()
    return answer(rows, variants, differences or compared(), shadows, {})


def test_there_is_a_question_for_each_statement():
    assert len(state()) == len(QUESTIONS) == 4


def test_snapshots_are_no_variants_that_leak_otherwise():
    """They are what the fourth statement compares with."""
    differences = compared(snapshots=["w4", "w1"], w4=(LESS, LESS_TAIL), w2=(NOTHING, NOTHING))
    statements = state(differences=differences, shadows=split_shadows(w4=MORE_STEP, w2=SMALL_STEP))
    assert statements[1] == (
        "w2 is not shown to leak less or more than full, which does not show that they leak alike."
    )
    assert "is shown on w2 (AUC)" in statements[2]
    assert statements[3] == state_worth({}, ["w4"])
    alone = state(differences=compared(snapshots=["w4"], w4=(LESS, LESS_TAIL)))
    assert alone[1] == (
        "Only full and its snapshots were audited: there is no variant to compare it with."
    )


BASIS = "(8 audited models, each with 300 non-members; the TPR rests on 24 false positives)"
SMALL_AUC, SMALL_TPR = (0.52, 0.5, 0.54), (0.02, 0.01, 0.04)  # guessing is not excluded


@pytest.mark.parametrize(
    ("auc", "tpr", "statement"),
    [
        (
            *((0.7, 0.68, 0.72), (0.1, 0.08, 0.12)),
            "full leaks: lira_online with matched shadows reaches AUC 0.700 (0.680-0.720) and "
            "finds 10.0% (8.0-12.0) of the members at 1% FPR",
        ),
        (
            *((0.7, 0.68, 0.72), SMALL_TPR),
            "full leaks on average, and no leak is shown in the tail: lira_online with matched "
            "shadows reaches AUC 0.700 (0.680-0.720) and finds 2.0% (1.0-4.0) of the members at 1% "
            "FPR, where guessing finds 1%",
        ),
        (
            *(SMALL_AUC, (0.1, 0.08, 0.12)),
            "full leaks in the tail, and no leak is shown on average: lira_online with matched "
            "shadows reaches AUC 0.520 (0.500-0.540), where guessing reaches 0.5, and finds 10.0% "
            "(8.0-12.0) of the members at 1% FPR",
        ),
        (
            *(SMALL_AUC, SMALL_TPR),
            "No leak of full is shown: lira_online with matched shadows reaches AUC 0.520 "
            "(0.500-0.540), where guessing reaches 0.5, and finds 2.0% (1.0-4.0) of the members at "
            "1% FPR, where guessing finds 1%",
        ),
    ],
    ids=["both", "average", "tail", "neither"],
)
def test_a_leak_is_what_lies_above_guessing_with_its_interval(auc, tpr, statement):
    assert state([row("lira_online", "auc tpr_1pct", auc, tpr)])[0] == f"{statement} {BASIS}."


def test_each_end_is_that_of_its_own_attack():
    rows = [
        row("attack_r", ""),
        row("gap", "tpr_1pct", (0.6, 0.5, 0.7), (0.2, 0.1, 0.3)),
        row("lira_online", "auc"),
        row("lira_online", "auc tpr_1pct", (0.9, 0.8, 1.0))._replace(variant="w2"),
    ]
    assert state(rows)[0] == (
        "full leaks: lira_online with matched shadows reaches AUC 0.700 (0.680-0.720), and gap "
        f"finds 20.0% (10.0-30.0) of the members at 1% FPR {BASIS}."
    )


@pytest.mark.parametrize(
    ("changes", "basis"),
    [
        (
            {"targets": 1, "false_positives_1pct": 3},
            "(1 audited model with 300 non-members; the TPR rests on 3 false positives and proves "
            "little).",
        ),
        (
            {"targets": 2, "false_positives_1pct": 1},
            "(2 audited models, each with 300 non-members; the TPR rests on 1 false positive and "
            "proves little).",
        ),
    ],
)
def test_a_tail_on_few_false_positives_says_so(changes, basis):
    assert state([row("lira_online", "auc tpr_1pct", **changes)])[0].endswith(basis)


def test_the_tail_may_be_at_a_tenth_of_a_percent():
    changes = {"non_members": 20_000, "false_positives_01pct": 160}
    rows = [row("lira_online", "auc tpr_01pct", tpr=(0.002, 0.001, 0.004), **changes)]
    first, second, *_ = state(rows, compared("tpr_01pct", w2=(LESS, MORE_TAIL)))
    assert "0.2% (0.1-0.4) of the members at 0.1% FPR, where guessing finds 0.1%" in first
    assert "rests on 160 false positives)" in first
    assert "TPR at 0.1% FPR 1.2 to 2.9 points more" in second


OWN = "The test accuracy of full is 95.0% (94.0-97.0)."
NONE_SHOWN = "no difference shown in TPR at 1% FPR"


@pytest.mark.parametrize(
    ("variants", "statement"),
    [
        ({}, "Only full was audited: there is no variant to compare it with."),
        (
            {"w2": (NOTHING, NOTHING)},
            "w2 is not shown to leak less or more than full, which does not show that they leak "
            "alike.",
        ),
        (
            {"w4": (NOTHING, NOTHING), "w2": ((-0.09, -0.08, 0.05), NOTHING)},
            "None of 2 other variants is shown to leak less or more than full, which does not "
            "show that they leak alike.",
        ),
        (
            {"w2": (LESS, LESS_TAIL)},
            "w2 is shown to leak less than full: AUC 0.08 to 0.09 less, TPR at 1% FPR 1.2 to 3.1 "
            f"points less, at 90.0% (89.0-92.0) test accuracy. {OWN}",
        ),
        (
            {"w4": (NOTHING, NOTHING), "w2": (NOTHING, MORE_TAIL)},
            "1 of 2 other variants is shown to leak more than full, w2: no difference shown in "
            "AUC, TPR at 1% FPR 1.2 to 2.9 points more, at 90.0% (89.0-92.0) test accuracy. None "
            f"is shown to leak less. {OWN}",
        ),
        (
            {"w4": ((-0.05, -0.04), NOTHING), "w2": (LESS, NOTHING), "w1": (NOTHING, NOTHING)},
            "2 of 3 other variants are shown to leak less than full. The largest difference is "
            f"that of w2: AUC 0.08 to 0.09 less, {NONE_SHOWN}, at 90.0% (89.0-92.0) test accuracy. "
            f"The most accurate of them is w4: AUC 0.04 to 0.05 less, {NONE_SHOWN}, at 94.0% "
            f"(93.0-96.0) test accuracy. None is shown to leak more. {OWN}",
        ),
        (
            {"w4": (MORE, NOTHING), "w2": (LESS, NOTHING)},
            f"1 of 2 other variants is shown to leak less than full, w2: AUC 0.08 to 0.09 less, "
            f"{NONE_SHOWN}, at 90.0% (89.0-92.0) test accuracy. 1 of 2 other variants is shown to "
            f"leak more than full, w4: AUC 0.02 to 0.04 more, {NONE_SHOWN}, at 94.0% (93.0-96.0) "
            f"test accuracy. {OWN}",
        ),
        (
            {"w4": (NOTHING, NOTHING), "w2": (LESS, MORE_TAIL)},
            "1 of 2 other variants is shown to leak less than full at one end and more at the "
            "other, w2: AUC 0.08 to 0.09 less, TPR at 1% FPR 1.2 to 2.9 points more, at 90.0% "
            f"(89.0-92.0) test accuracy. {OWN}",
        ),
    ],
    ids=["alone", "one, none", "none", "one, less", "more", "less", "either", "split"],
)
def test_only_differences_that_are_shown_are_counted(variants, statement):
    assert state(differences=compared(**variants))[1] == statement


def test_a_difference_in_auc_goes_before_a_larger_one_in_the_tail():
    variants = {"w4": (NOTHING, (-0.4, -0.3)), "w2": (LESS, NOTHING), "w1": ((-0.2, -0.1), NOTHING)}
    statement = state(differences=compared(**variants))[1]
    assert "The largest difference is that of w1: AUC 0.10 to 0.20 less" in statement
    assert "The most accurate of them is w4: no difference shown in AUC" in statement


def test_an_unknown_accuracy_is_not_the_best():
    variants = {"w4": ((-0.05, -0.04), NOTHING), "w2": (LESS, NOTHING)}
    unknown = dict.fromkeys(ACCURACY, nan)
    statement = state(differences=compared(**variants), accuracy=unknown)[1]
    assert "The largest difference is that of w2" in statement
    assert "at unknown test accuracy" in statement
    assert "most accurate" not in statement
    statement = state(differences=compared(**variants), accuracy=ACCURACY | {"w2": nan})[1]
    assert "The most accurate of them is w4" in statement


@pytest.mark.parametrize(
    ("shadows", "statement"),
    [
        (
            {},
            "Whether an attacker must quantize its shadows was not tested: no variant was attacked "
            "with both matched and full-precision shadows.",
        ),
        (
            {"w2": NOTHING},
            "It is unclear whether an attacker must quantize its shadows: no difference between "
            "matched and full-precision shadows is shown on w2 (AUC).",
        ),
        (
            {"w4": NOTHING, "w2": (0.02, 0.04, 0.05)},
            "It is unclear whether an attacker must quantize its shadows: no difference between "
            "matched and full-precision shadows is shown on any of 2 variants (AUC).",
        ),
        (
            {"w2": MORE},
            "Full-precision shadows find less than matched shadows on w2 (AUC 0.02 to 0.04 less).",
        ),
        (
            {"w4": MORE, "w2": (0.05, 0.06), "w1": NOTHING},
            "Full-precision shadows find less than matched shadows on 2 of 3 variants, by estimate "
            "most on w2 (AUC 0.05 to 0.06 less); no difference is shown on the other.",
        ),
        (
            {"w4": (-0.04, -0.02), "w2": MORE},
            "Full-precision shadows find less than matched shadows on 1 of 2 variants: w2 (AUC "
            "0.02 to 0.04 less); full-precision shadows find more than matched shadows on 1 of 2 "
            "variants: w4 (AUC 0.02 to 0.04 more).",
        ),
    ],
    ids=["untested", "one, unclear", "unclear", "one", "less", "both"],
)
def test_what_the_attacker_knows_matters_where_it_is_shown(shadows, statement):
    found = {variant: difference(*interval) for variant, interval in shadows.items()}
    assert state(shadows=split_shadows(**found))[2] == statement
    recalibrated = statement.replace("full-precision", "recalibrated")
    recalibrated = recalibrated.replace("Full-precision", "Recalibrated")
    expected = recalibrated if found else statement  # without a variant nothing was recalibrated
    assert state(shadows=split_shadows(recalibrated=True, **found))[2] == expected
