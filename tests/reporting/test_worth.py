"""The fourth statement of an audit, each branch against sentences written by hand."""

from math import nan

import pytest

from attacks.frontier import Beside, Frontier
from attacks.metrics.differences import Difference
from attacks.metrics.intervals import Estimate
from reporting.frontier import place_of
from reporting.worth import FLATTERED, state_worth

SNAPSHOTS = ["epoch-10", "epoch-15"]
CURVE = ["epoch-05", *SNAPSHOTS, "full"]  # places of tests are from the second
EQUAL = "a network of equal accuracy that was stopped early"


def difference(value, margin, p):
    estimate = Estimate(value, value - margin, value + margin, 0.01)
    return Difference("early stopping", "", estimate, p, p)


LESS, LESS_TAIL = (0.042, 0.022, 0.01), (0.021, 0.009, 0.01)
MORE, MORE_TAIL = (-0.03, 0.01, 0.01), (-0.015, 0.005, 0.01)
NOTHING, NOTHING_TAIL = (-0.004, 0.014, 0.4), (0.003, 0.01, 0.9)


def beside(auc, rate, place=0.5, stretch=("epoch-10", "epoch-15"), tail="tpr_1pct"):
    return Beside("", place, stretch, {"auc": difference(*auc), tail: difference(*rate)})


def out(side):
    return Beside(side, nan, ("", ""), {})


def state(name="early stopping", snapshots=SNAPSHOTS, **variants):
    return state_worth({name: Frontier(CURVE, on_curve(variants))}, snapshots)


def on_curve(variants):
    """Variants whose places count from the curve's second point."""
    moved = {v: found._replace(place=found.place + 1) for v, found in variants.items()}
    return {variant.replace("_", "-"): found for variant, found in moved.items()}


@pytest.mark.parametrize(
    ("found", "statement"),
    [
        (
            beside(LESS, NOTHING_TAIL),
            f"w2 leaks 0.042 AUC (0.020 to 0.064) less than {EQUAL} (at about epoch 12.5); no "
            "difference is shown in TPR at 1% FPR.",
        ),
        (
            beside(LESS, LESS_TAIL, 0.0),
            "w2 leaks 0.042 AUC (0.020 to 0.064) and 2.1 points of TPR at 1% FPR (1.2 to 3.0) less "
            f"than {EQUAL} (at epoch-10).",
        ),
        (
            beside(NOTHING, MORE_TAIL, 1.25, ("epoch-15", "full"), "tpr_01pct"),
            f"w2 leaks 1.5 points of TPR at 0.1% FPR (1.0 to 2.0) more than {EQUAL} (from epoch-15 "
            "to full); no difference is shown in AUC.",
        ),
        (
            beside(MORE, LESS_TAIL, 0.5, ("epoch-10", "full")),
            "w2 leaks 2.1 points of TPR at 1% FPR (1.2 to 3.0) less and 0.030 AUC (0.020 to 0.040) "
            f"more than {EQUAL} (at about epoch 12.5, or elsewhere from epoch-10 to full).",
        ),
        (
            beside(NOTHING, NOTHING_TAIL, 1.5, ("epoch-10", "full")),
            f"No difference between w2 and {EQUAL} (from epoch-15 to full, or elsewhere from "
            "epoch-10 to full) is shown, which does not show that they leak alike: the variant has "
            "AUC +0.004 (-0.010 to +0.018) and TPR at 1% FPR -0.3 (-1.3 to +0.7) beyond it.",
        ),
        (
            out("below"),
            f"w2 is not compared with {EQUAL}: it is less accurate than epoch-05. An earlier "
            "snapshot would make it comparable.",
        ),
        (
            out("above"),
            f"w2 is not compared with {EQUAL}: it is more accurate than every network on the "
            "curve.",
        ),
    ],
    ids=["average", "both ends", "tail", "split", "nothing", "below", "above"],
)
def test_one_variant_has_a_sentence(found, statement):
    assert state(w2=found) == statement


def test_several_variants_are_counted_and_the_largest_described():
    variants = {
        "w4": beside(NOTHING, NOTHING_TAIL),
        "w2": beside((0.03, 0.01, 0.01), NOTHING_TAIL),
        "w1": beside(LESS, LESS_TAIL),
        "tail": beside(NOTHING, (0.4, 0.1, 0.01)),
        "more": beside(MORE, NOTHING_TAIL),
        "split": beside(LESS, MORE_TAIL),
        "bad": out("below"),
        "worse": out("below"),
        "good": out("above"),
    }
    assert state(**variants) == (
        f"3 of 9 variants are shown to leak less than {EQUAL}; 1 is shown to leak more; 1 is shown "
        "to leak less at one end and more at the other; for 1 no difference is shown, which does "
        "not show that they leak alike; 2 are outside the curve, less accurate than epoch-05 "
        "(bad, worse); 1 is outside the curve, more accurate than every network on the curve "
        f"(good). By estimate most: w1 leaks 0.042 AUC (0.020 to 0.064) and 2.1 points of TPR at "
        f"1% FPR (1.2 to 3.0) less than {EQUAL} (at about epoch 12.5). more leaks 0.030 AUC (0.020 "
        f"to 0.040) more than {EQUAL} (at about epoch 12.5); no difference is shown in TPR at 1% "
        "FPR. split leaks 0.042 AUC (0.020 to 0.064) less and 1.5 points of TPR at 1% FPR (1.0 to "
        f"2.0) more than {EQUAL} (at about epoch 12.5)."
    )


def test_where_nothing_is_shown_the_statement_says_so():
    unclear = beside(NOTHING, NOTHING_TAIL)
    assert state(w4=unclear, w2=unclear) == (
        f"None of 2 variants is shown to leak less than {EQUAL}; for 2 no difference is shown, "
        "which does not show that they leak alike."
    )
    many = dict.fromkeys("abcd", out("below"))
    assert state(**many) == (
        f"None of 4 variants is shown to leak less than {EQUAL}; 4 are outside the curve, less "
        "accurate than epoch-05."
    )


def test_p_is_corrected_before_it_counts():
    (auc, rate) = difference(*LESS)._replace(p=0.001, p_holm=0.06), difference(*NOTHING_TAIL)
    found = Beside("", 0.5, ("epoch-10", "epoch-15"), {"auc": auc, "tpr_1pct": rate})
    assert state(w2=found).startswith("No difference between w2 and")


UNTESTED = f"Whether any variant leaks less than {EQUAL} was not tested"


def test_what_was_not_tested_is_said_with_its_way_out():
    assert state_worth({}, []) == (
        f"{UNTESTED}: there are no snapshots of its training. Train with `--snapshots`, for "
        "example `--snapshots 5 10 15`, to test it."
    )
    assert state_worth({}, [], tasks=True) == (
        f"{UNTESTED}: a learner of tasks that is stopped early has not learned them all."
    )
    assert state_worth({}, SNAPSHOTS) == (
        f"{UNTESTED}: the test accuracy of the snapshots is not known."
    )
    assert state() == f"{UNTESTED}: only snapshots were audited beside the end of training."


def test_another_curve_has_a_sentence_of_its_own():
    frontiers = {
        "early stopping": Frontier(CURVE, on_curve({"w2": beside(LESS, NOTHING_TAIL)})),
        "noise": Frontier(["noisy", "full"], {"w2": out("above")}),
        "empty": Frontier(["noisy", "full"], {}),
    }
    assert state_worth(frontiers, SNAPSHOTS) == (
        f"w2 leaks 0.042 AUC (0.020 to 0.064) less than {EQUAL} (at about epoch 12.5); no "
        "difference is shown in TPR at 1% FPR. w2 is not compared with noise of equal accuracy: it "
        "is more accurate than every network on the curve."
    )
    there = beside(LESS, NOTHING_TAIL, 0.5, ("noisy", "full"))
    found = {"noise": Frontier(["noisy", "full"], {"w2": there})}
    assert state_worth(found, []) == (
        f"{UNTESTED}: there are no snapshots of its training. Train with `--snapshots`, for "
        "example `--snapshots 5 10 15`, to test it. w2 leaks 0.042 AUC (0.020 to 0.064) less than "
        "noise of equal accuracy (from noisy to full); no difference is shown in TPR at 1% FPR. "
        f"{FLATTERED}"
    )


@pytest.mark.parametrize(
    ("auc", "rate", "flattered"),
    [(LESS, NOTHING_TAIL, True), (MORE, LESS_TAIL, True), (MORE, MORE_TAIL, False)],
)
@pytest.mark.parametrize("points", [1, 2, 3, 4])
def test_less_beside_a_curve_of_few_points_proves_little(auc, rate, flattered, points):
    names = [f"epoch-0{number}" for number in range(1, points + 1)]
    found = beside(auc, rate, 0.5, (names[0], [*names, "full"][1]))
    said = state_worth({"early stopping": Frontier([*names, "full"], {"w2": found})}, names)
    assert said.endswith(FLATTERED) == (flattered and points < 3)
    assert "fewer than 3 points flatter" in FLATTERED


@pytest.mark.parametrize(
    ("place", "words"),
    [
        *((0, "round-02"), (0.5, "round 5.0"), (1.25, "round-08 to task-2"), (2, "task-2")),
        *((2.5, "task-2 to full"), (3, "full")),
    ],
)
def test_a_place_is_interpolated_between_snapshots_of_one_kind(place, words):
    found = beside(LESS, LESS_TAIL, float(place))
    assert place_of(Frontier(["round-02", "round-08", "task-2", "full"], {}), found) == words
