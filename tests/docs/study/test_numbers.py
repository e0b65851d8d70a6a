"""Numbers of the study, against SciPy and by hand."""

import numpy as np
import pytest
from scipy.stats import ttest_rel

from attacks.evaluate import Row
from attacks.metrics.intervals import Estimate, Summary
from docs.study.numbers import (
    MATCHED_LIRA,
    PAPERS,
    STRONGEST,
    Attacker,
    Study,
    accuracy,
    leak,
    missed,
)
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


@pytest.fixture(scope="module")
def small(study):
    return Study(study.results._replace(variants=VARIANTS, rows=ROWS))


def test_each_attacker_has_its_own_rows(small):
    assert small.variants == ["full", "w2"]
    assert small.each("w2", PAPERS, "auc").tolist() == FOOLED
    assert small.each("w2", MATCHED_LIRA, "auc").tolist() == MATCHED
    assert small.each("full", PAPERS, "auc").tolist() == FULL  # all kinds of shadows are the same
    assert small.each("w2", PAPERS, "accuracy").tolist() == ACCURACY["w2"]


def test_shadows_of_another_experiment_attack_full_precision_by_themselves(study):
    """The rows of an audit with `--shadows`: own shadows are left out, attacks without any stay."""
    other = row("full", "other", "lira_online", [0.7, 0.7, 0.7, 0.7])
    small = Study(study.results._replace(variants=VARIANTS, rows=[*ROWS, other]))
    found = small.rows_of("full", Attacker(("other",)))
    assert [(r.knowledge, r.attack) for r in found] == [("other", "lira_online"), ("none", "gap")]
    assert other not in small.rows_of("full", STRONGEST)


def test_the_strongest_is_chosen_on_the_other_half(small):
    """LiRA is better on the last two targets, the gap attack on the first two."""
    unquantized = Attacker(("unquantized",))
    assert small.each("w2", unquantized, "auc").tolist() == [*FOOLED[:2], *GAP[2:]]
    assert small.best("w2", unquantized).attack == "lira_online"
    assert small.each("w2", STRONGEST, "auc").tolist() == MATCHED  # of every kind of shadows


def test_a_contrast_matches_scipy(small):
    found = small.compare(leak("w2", "full", PAPERS, "auc"))
    expected = ttest_rel(FOOLED, FULL)
    assert found.estimate.value == pytest.approx(np.mean(FOOLED) - np.mean(FULL))
    assert found.estimate[1:3] == pytest.approx(expected.confidence_interval(0.95))
    assert found.p == pytest.approx(expected.pvalue)
    assert small.compare(missed("w2", "lira_online", "auc")).p == pytest.approx(
        ttest_rel(MATCHED, FOOLED).pvalue
    )
    accurate = small.compare(accuracy("w2", "full"))
    assert accurate.p == pytest.approx(ttest_rel(ACCURACY["w2"], ACCURACY["full"]).pvalue)


def test_the_same_attack_on_both_sides_shows_nothing(small):
    assert small.compare(leak("full", "full", PAPERS, "auc")) == (
        Estimate(0.0, 0.0, 0.0),
        1.0,
        pytest.approx(0.05 * 0.4),
    )


def test_the_margin_is_a_share_of_what_full_precision_leaks(small):
    """A twentieth of 0.9 - 0.5 AUC; accuracy has none."""
    assert small.margin(PAPERS, "auc") == pytest.approx(0.02)
    assert small.margin(PAPERS, "accuracy") == 0


def test_the_share_of_a_gain_that_was_mismatch(small):
    """Full-precision shadows see a gain of 0.175, matched ones of 0.09: the rest was mismatch."""
    found = small.mismatch("w2", "lira_online")
    assert found.value == pytest.approx(1 - 0.09 / 0.175)
    assert found.low < found.value < found.high
    assert small.mismatch("full", "lira_online") is None  # nothing is gained
