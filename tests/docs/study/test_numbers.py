"""Comparisons of the study, against SciPy and by hand."""

import numpy as np
import pytest
from scipy.stats import ttest_rel

from attacks.evaluate import Row
from attacks.metrics.intervals import Estimate, Summary
from docs.study.numbers import Attacker, Compared, Study
from reporting.results import Results
from storage.records import VariantFacts


def row(variant, knowledge, attack, auc):
    mean = float(np.mean(auc))
    summary = Summary(*[Estimate(mean, mean, mean)] * 4, 4, 100, 12, 1)
    return Row(variant, knowledge, attack, summary, 8, [], {"auc": auc})


FULL, MATCHED = [0.9, 0.92, 0.88, 0.9], [0.8, 0.85, 0.79, 0.8]
FOOLED, GAP = [0.7, 0.78, 0.7, 0.72], [0.75, 0.75, 0.75, 0.6]
ROWS = [
    row("full", "none", "gap", [0.6, 0.6, 0.6, 0.6]),
    row("full", "matched", "lira_online", FULL),
    row("w2", "none", "gap", GAP),
    row("w2", "matched", "lira_online", MATCHED),
    row("w2", "matched", "rmia_online", [0.5, 0.5, 0.5, 0.5]),
    row("w2", "unquantized", "lira_online", FOOLED),
]
ACCURACY = {"full": [0.9, 0.8, 0.7, 0.6], "w2": [0.5, 0.6, 0.7, 0.8]}
VARIANTS = {
    variant: VariantFacts(Estimate(0.7, 0.6, 0.8), 1, None, by_target)
    for variant, by_target in ACCURACY.items()
}
STUDY = Study(Results("study", "", None, {}, VARIANTS, ROWS, {}, [], []))
LIRA = Attacker("unquantized", "lira_online")


def test_each_attacker_has_its_own_rows():
    assert STUDY.variants == ["full", "w2"]
    assert STUDY.each("w2", LIRA, "auc").tolist() == FOOLED
    assert STUDY.each("w2", Attacker("matched", "lira_online"), "auc").tolist() == MATCHED
    assert STUDY.each("full", LIRA, "auc").tolist() == FULL  # both kinds of shadows are the same
    assert STUDY.accuracies("w2").tolist() == ACCURACY["w2"]


def test_the_strongest_is_chosen_on_the_other_half():
    """LiRA is better on the last two targets, the gap attack on the first two."""
    areas = STUDY.each("w2", Attacker("unquantized"), "auc")
    assert areas.tolist() == [*FOOLED[:2], *GAP[2:]]
    assert STUDY.best("w2", Attacker("unquantized")).attack == "lira_online"


def test_leaks_match_scipy():
    (found,) = STUDY.leaks([("w2", "full")], LIRA)
    expected = ttest_rel(FOOLED, FULL)
    assert found.estimate.value == pytest.approx(np.mean(FOOLED) - np.mean(FULL))
    assert found.estimate[1:3] == pytest.approx(expected.confidence_interval(0.95))
    assert found.p == found.p_holm == pytest.approx(expected.pvalue)
    (found,) = STUDY.shadows(["w2"], "lira_online")
    assert found.p == pytest.approx(ttest_rel(MATCHED, FOOLED).pvalue)
    two = STUDY.leaks([("w2", "full"), ("full", "w2")], LIRA)
    assert [compared.p_holm for compared in two] == pytest.approx([2 * expected.pvalue] * 2)


def test_the_share_of_a_gain_that_was_mismatch():
    """Full-precision shadows see a gain of 0.175, matched ones of 0.09: the rest was mismatch."""
    found = STUDY.mismatch("w2", "lira_online")
    assert found.value == pytest.approx(1 - 0.09 / 0.175)
    assert found.low < found.value < found.high
    assert STUDY.mismatch("full", "lira_online") is None  # nothing is gained


@pytest.mark.parametrize(
    ("low", "high", "p", "verdict"),
    [
        (-0.009, 0.002, 0.5, "alike"),
        (-0.009, -0.002, 0.001, "alike"),  # shown to be less, but only just
        (-0.03, -0.002, 0.01, "less"),
        (0.002, 0.03, 0.01, "more"),
        (-0.03, -0.002, 0.06, "unclear"),  # after correction
        (-0.03, 0.02, 0.5, "unclear"),
    ],
)
def test_verdicts(low, high, p, verdict):
    assert Compared(Estimate((low + high) / 2, low, high), p, p).verdict() == verdict


def test_a_margin_of_0_calls_nothing_alike():
    assert Compared(Estimate(0.001, 0.0005, 0.0015), 0.01, 0.01).verdict(0) == "more"
