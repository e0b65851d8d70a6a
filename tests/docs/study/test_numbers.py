"""Comparisons of the study against SciPy, on results worked out by hand."""

import numpy as np
import pytest
from scipy.stats import ttest_rel

from attacks.metrics.intervals import Estimate
from docs.study.numbers import Attacker, Compared, Study


def row(variant, knowledge, attack, auc, accuracy=(0.5, 0.6, 0.7, 0.8)):
    each = {"auc": auc, "accuracy": list(accuracy)}
    return {"variant": variant, "knowledge": knowledge, "attack": attack} | {
        "auc": float(np.mean(auc)),
        "by_target": each,
    }


FULL, MATCHED = [0.9, 0.92, 0.88, 0.9], [0.8, 0.85, 0.79, 0.8]
FOOLED, GAP = [0.7, 0.78, 0.7, 0.72], [0.75, 0.75, 0.75, 0.6]
STUDY = Study(
    {
        "rows": [
            row("full", "none", "gap", [0.6, 0.6, 0.6, 0.6]),
            row("full", "matched", "lira_online", FULL),
            row("w2", "none", "gap", GAP),
            row("w2", "matched", "lira_online", MATCHED),
            row("w2", "matched", "rmia_online", [0.5, 0.5, 0.5, 0.5]),
            row("w2", "full", "lira_online", FOOLED, accuracy=(0.1, 0.1, 0.1, 0.1)),
        ]
    }
)
LIRA = Attacker("full", "lira_online")


def test_who_attacks_with_what():
    assert STUDY.variants == ["full", "w2"]
    assert STUDY.each("w2", LIRA, "auc").tolist() == FOOLED
    assert STUDY.each("w2", Attacker("matched", "lira_online"), "auc").tolist() == MATCHED
    assert STUDY.each("full", LIRA, "auc").tolist() == FULL  # both kinds of shadows are one
    assert STUDY.accuracies("w2").tolist() == [0.5, 0.6, 0.7, 0.8]


def test_the_strongest_is_chosen_on_the_other_half():
    """Of the last two targets LiRA is better, of the first two the gap attack."""
    found = STUDY.each("w2", Attacker("full"), "auc")
    assert found.tolist() == [*FOOLED[:2], *GAP[2:]]
    assert STUDY.best("w2", Attacker("full"))["attack"] == "lira_online"


def test_leaks_match_scipy():
    (found,) = STUDY.leaks([("w2", "full")], LIRA)
    expected = ttest_rel(FOOLED, FULL)
    assert found.estimate.value == pytest.approx(np.mean(FOOLED) - np.mean(FULL))
    assert found.estimate[1:3] == pytest.approx(expected.confidence_interval(0.95))
    assert found.p == found.p_holm == pytest.approx(expected.pvalue)
    (found,) = STUDY.shadows(["w2"], "lira_online")
    assert found.p == pytest.approx(ttest_rel(MATCHED, FOOLED).pvalue)
    two = STUDY.leaks([("w2", "full"), ("full", "w2")], LIRA)
    assert [some.p_holm for some in two] == pytest.approx([2 * expected.pvalue] * 2)


def test_the_share_of_a_gain_that_was_mismatch():
    """Full-precision shadows see 0.175 gained, matched ones 0.09: the rest was mismatch."""
    found = STUDY.mismatch("w2", "lira_online")
    assert found.value == pytest.approx(1 - 0.09 / 0.175)
    assert found.low < found.value < found.high
    assert STUDY.mismatch("full", "lira_online") is None  # nothing is gained


@pytest.mark.parametrize(
    ("low", "high", "p", "verdict"),
    [
        (-0.009, 0.002, 0.5, "alike"),
        (-0.009, -0.002, 0.001, "alike"),  # shown to be less, but by next to nothing
        (-0.03, -0.002, 0.01, "less"),
        (0.002, 0.03, 0.01, "more"),
        (-0.03, -0.002, 0.06, "unclear"),  # after correction
        (-0.03, 0.02, 0.5, "unclear"),
    ],
)
def test_verdicts(low, high, p, verdict):
    assert Compared(Estimate((low + high) / 2, low, high), p, p).verdict() == verdict


def test_a_margin_of_nought_calls_nothing_alike():
    assert Compared(Estimate(0.001, 0.0005, 0.0015), 0.01, 0.01).verdict(0) == "more"
