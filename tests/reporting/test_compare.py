"""The comparison of experiments, against scipy on the targets' own values and by hand."""

from math import isnan

import numpy as np
import pytest
from scipy.stats import ttest_ind, ttest_ind_from_stats

from attacks.metrics.differences import Sample, welch
from reporting.compare import (
    NEEDED,
    against_first,
    comparison_lines,
    enter,
    make_comparison,
    make_differences,
)
from reporting.results import flatten
from storage.records import Precision


def line(variant, knowledge, attack, auc, spread=0.01, targets=4, false_positives=12):
    """A row of results.json; its intervals are easy to tell from its values."""
    found = {"variant": variant, "knowledge": knowledge, "attack": attack, "targets": targets}
    for key, value in (("accuracy", 0.9), ("auc", auc), ("tpr_1pct", auc / 10)):
        found |= {key: value, f"{key}_low": value - 0.02, f"{key}_high": value + 0.03}
    return found | {"auc_spread": spread, "false_positives_1pct": false_positives}


RESULTS = {
    "a": [
        line("full", "none", "gap", 0.55),
        line("full", "matched", "lira", 0.7),
        line("w2", "none", "gap", 0.5),
        line("w2", "matched", "lira", 0.6, false_positives=9),
        line("w2", "full", "rmia", 0.58),
        line("w4", "matched", "lira", 0.65),
    ],
    "b": [
        line("full", "matched", "lira", 0.64, spread=0.03),
        line("w2", "matched", "lira", 0.55, targets=3),
        line("w2", "full", "lira", 0.56, targets=3),
        line("w8", "none", "gap", 0.53),
    ],
    "c": [line("full", "matched", "lira", 0.66, targets=1)],
}


@pytest.mark.parametrize(("n", "m"), [(2, 2), (8, 4), (3, 40)])
@pytest.mark.parametrize("scale", [1e-6, 0.02, 0.4])
def test_welch_is_scipys_on_the_values_themselves(n, m, scale):
    rng = np.random.default_rng(n + m)
    first, second = 0.6 + scale * rng.standard_normal(n), 0.58 + 0.3 * scale * rng.random(m)
    samples = [Sample(some.mean(), some.std(), len(some)) for some in (first, second)]
    estimate, p = welch(*samples)
    oracle = ttest_ind(first, second, equal_var=False)
    interval = oracle.confidence_interval()
    assert estimate.value == pytest.approx(first.mean() - second.mean())
    clipped = np.clip(interval, -1, 1)
    assert (estimate.low, estimate.high) == pytest.approx(tuple(clipped), rel=1e-6)
    assert p == pytest.approx(oracle.pvalue, rel=1e-6)


def test_one_target_without_spread_is_not_taken_for_certainty():
    spread = Sample(0.6, 0.02, 4)
    for first, second in (
        (Sample(0.7, 0.0, 1), spread),
        (spread, Sample(0.7, 0.0, 1)),
        (Sample(1.0, 1e-16, 4), Sample(0.9, 0.0, 4)),
    ):
        estimate, p = welch(first, second)
        assert estimate.value == pytest.approx(first.mean - second.mean)
        assert all(map(isnan, (estimate.low, estimate.high, p)))
    estimate, p = welch(Sample(1.0, 0.0, 4), spread)  # one that has some spread suffices
    oracle = ttest_ind_from_stats(1, 0, 4, 0.6, 0.02 * (4 / 3) ** 0.5, 4, equal_var=False)
    assert p == pytest.approx(oracle.pvalue)


def test_variants_stand_together_and_only_what_both_have_is_compared():
    entries = enter(RESULTS)
    differences = against_first(entries)
    assert [(e.variant, e.experiment) for e in entries] == [
        *(("full", "a"), ("full", "b"), ("full", "c"), ("w2", "a"), ("w2", "b")),
        *(("w4", "a"), ("w8", "b")),
    ]
    assert [d is not None for d in differences] == [0, 1, 1, 0, 1, 0, 0]
    root = (4 / 3) ** 0.5  # population's standard deviation from that of four values
    full = ttest_ind_from_stats(0.64, 0.03 * root, 4, 0.7, 0.01 * root, 4, equal_var=False).pvalue
    w2 = ttest_ind_from_stats(0.56, 0.01 * 1.5**0.5, 3, 0.6, 0.01 * root, 4, equal_var=False).pvalue
    assert w2 < full
    assert (differences[1].p, differences[4].p) == pytest.approx((full, w2))
    # Holm over the two that are known: the smaller p twice, the larger as it is
    assert differences[4].p_holm == pytest.approx(2 * w2)
    assert differences[1].p_holm == pytest.approx(max(full, 2 * w2))
    assert isnan(differences[2].p_holm)
    assert (differences[1].first, differences[1].second) == ("b", "a")


def test_the_table_by_hand():
    entries = enter(RESULTS)
    section = make_comparison(entries, against_first(entries))
    assert section.columns[-2:] == ("AUC beyond a's", "p")
    lines = [row[:6] for row in section.rows]
    assert lines[0] == (
        *("full", "a", "90.0% (88.0-93.0)", "0.700 (0.680-0.730) ★", "-", "7.0% (5.0-10.0)"),
    )
    assert lines[3][3:] == ("0.600 (0.580-0.630) ★", "0.580 (0.560-0.610)", "6.0% (4.0-9.0)†")
    assert lines[4][3:] == ("0.550 (0.530-0.580)", "0.560 (0.540-0.590) ★", "5.6% (3.6-8.6)")
    assert lines[6][3:5] == ("0.530 (0.510-0.560) ★", "-")  # the gap attack needs no shadows
    assert section.rows[0][6:] == section.rows[5][6:] == ("-", "-")
    assert section.rows[2][6:] == ("-0.040 (unknown)", "unknown")
    assert section.rows[4][6].startswith("-0.040 (-0.0")
    assert "The targets are different models" in section.note


def test_unknown_accuracy_is_said():
    unknown = line("w2", "none", "gap", 0.5) | dict.fromkeys(NEEDED[6:9])
    (entry,) = enter({"a": [unknown]})
    assert make_comparison([entry], [None]).rows[0][2] == "unknown"
    assert comparison_lines([entry], [None])[0]["accuracy"] is None


def test_lines_hold_the_numbers_and_none_for_what_is_unknown():
    entries = enter(RESULTS)
    differences = against_first(entries)
    lines = comparison_lines(entries, differences)
    assert len({tuple(some) for some in lines}) == 1  # the same fields in all
    w2 = lines[4]
    assert (w2["matched_auc"], w2["full_auc"], w2["full_auc_high"]) == (0.55, 0.56, 0.56 + 0.03)
    assert (w2["strongest"], w2["knowledge"], w2["targets"]) == ("lira", "full", 3)
    assert w2["beyond_low"] == differences[4].estimate.low
    assert (w2["p"], w2["p_holm"]) == differences[4][3:]
    assert lines[2]["beyond"] == pytest.approx(-0.04)
    for some, key in ((lines[2], "p"), (lines[2], "beyond_low"), (lines[0], "beyond")):
        assert some[key] is None
    assert lines[0]["full_auc"] is lines[0]["full_attack"] is None


def test_what_differs_names_options_models_and_attacks():
    basis = {"audited models": "4", "shadow models": "8 against each of them"}
    results = {
        "a": {"basis": basis | {"left out": "none"}, "rows": RESULTS["a"]},
        "b": {"basis": basis | {"audited models": "3"}, "rows": RESULTS["b"]},
    }
    section = make_differences(results, {"seed": ["0", "1"], "fleet.targets": ["4", "3"]})
    assert section.columns == ("", "a", "b")
    assert section.rows == [
        ("seed", "0", "1"),
        ("audited models", "4", "3"),
        ("left out", "none", "-"),
        ("attacks but the shared ones", "rmia", ""),
    ]
    same = make_differences(dict.fromkeys("ab", results["a"]), {})
    assert not same.rows
    assert "the same" in same.note


def test_every_field_that_is_needed_is_one_of_an_audits(rows, accuracy):
    for row in rows:
        written = flatten(row, Precision(accuracy[row.variant], 1), best=False)
        assert set(NEEDED) <= written.keys()
