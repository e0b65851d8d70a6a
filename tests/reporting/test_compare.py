"""The comparison of experiments, against scipy on the targets' own values and by hand."""

from math import isnan, nan
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_ind, ttest_ind_from_stats

from attacks.evaluate import Row
from attacks.metrics.differences import Sample, welch
from attacks.metrics.intervals import Estimate, Summary
from reporting.compare import (
    against_first,
    comparison_lines,
    enter,
    make_comparison,
    make_differences,
    name_apart,
)
from reporting.results import Results
from storage.experiment import Experiment
from storage.records import VariantFacts


def near(value, spread=0.0):
    """An estimate whose interval is easy to tell from its value."""
    return Estimate(value, value - 0.02, value + 0.03, spread)


def row(variant, knowledge, attack, auc, spread=0.01, targets=4, false_positives=12):
    rates = near(auc, spread), near(0.5), near(auc / 10), near(0.01)
    summary = Summary(*rates, targets, 100, false_positives, 1)
    return Row(variant, knowledge, attack, summary, 8, [], {})


def make_results(rows, basis=(), experiment=None, accuracy=0.9):
    variants = dict.fromkeys(row.variant for row in rows)
    facts = {variant: VariantFacts(near(accuracy), 1) for variant in variants}
    return Results("name", "", experiment, dict(basis), facts, rows, {}, [], [])


ROWS = {
    "a": [
        row("full", "none", "gap", 0.55),
        row("full", "matched", "lira", 0.7),
        row("w2", "none", "gap", 0.5),
        row("w2", "matched", "lira", 0.6, false_positives=9),
        row("w2", "unquantized", "rmia", 0.58),
        row("w2", "recalibrated", "rmia", 0.59),
        row("w4", "matched", "lira", 0.65),
    ],
    "b": [
        row("full", "matched", "lira", 0.64, spread=0.03),
        row("w2", "matched", "lira", 0.55, targets=3),
        row("w2", "unquantized", "lira", 0.56, targets=3),
        row("w8", "none", "gap", 0.53),
    ],
    "c": [row("full", "matched", "lira", 0.66, targets=1)],
}
RESULTS = {name: make_results(rows) for name, rows in ROWS.items()}


@pytest.mark.parametrize(("n", "m"), [(2, 2), (8, 4), (3, 40)])
@pytest.mark.parametrize("scale", [1e-6, 0.02, 0.4])
def test_welch_matches_scipy_on_the_values_themselves(n, m, scale):
    rng = np.random.default_rng(n + m)
    first, second = 0.6 + scale * rng.standard_normal(n), 0.58 + 0.3 * scale * rng.random(m)
    samples = [Sample(aucs.mean(), aucs.std(), len(aucs)) for aucs in (first, second)]
    estimate, p = welch(*samples)
    oracle = ttest_ind(first, second, equal_var=False)
    interval = oracle.confidence_interval()
    assert estimate.value == pytest.approx(first.mean() - second.mean())
    clipped = np.clip(interval, -1, 1)
    assert (estimate.low, estimate.high) == pytest.approx(tuple(clipped), rel=1e-6)
    assert p == pytest.approx(oracle.pvalue, rel=1e-6)


def test_a_single_target_is_no_certainty():
    spread = Sample(0.6, 0.02, 4)
    for first, second in (
        (Sample(0.7, 0.0, 1), spread),
        (spread, Sample(0.7, 0.0, 1)),
        (Sample(1.0, 1e-16, 4), Sample(0.9, 0.0, 4)),
    ):
        estimate, p = welch(first, second)
        assert estimate.value == pytest.approx(first.mean - second.mean)
        assert all(map(isnan, (estimate.low, estimate.high, p)))
    estimate, p = welch(Sample(1.0, 0.0, 4), spread)  # a spread on one side suffices
    oracle = ttest_ind_from_stats(1, 0, 4, 0.6, 0.02 * (4 / 3) ** 0.5, 4, equal_var=False)
    assert p == pytest.approx(oracle.pvalue)


def test_only_variants_of_both_experiments_are_compared():
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
    table = make_comparison(entries, against_first(entries))
    assert table.columns[-2:] == ("AUC beyond a's", "p")
    texts = [[cell.text for cell in line] for line in table.rows]
    values = [[cell.value for cell in line] for line in table.rows]
    assert texts[0][:3] == ["full", "a", "90.0% (88.0-93.0)"]
    assert texts[0][3:7] == ["0.700 (0.680-0.730) ★", "-", "-", "7.0% (5.0-10.0)"]
    assert values[0][:7] == [None, None, 0.9, 0.7, None, None, pytest.approx(0.07)]
    areas = ["0.600 (0.580-0.630) ★", "0.580 (0.560-0.610)", "0.590 (0.570-0.620)"]
    assert texts[3][3:7] == [*areas, "6.0% (4.0-9.0)†"]
    assert texts[4][3:7] == ["0.550 (0.530-0.580)", "0.560 (0.540-0.590) ★", "-", "5.6% (3.6-8.6)"]
    assert values[4][3:6] == [0.55, 0.56, None]
    assert texts[6][3:6] == ["0.530 (0.510-0.560) ★", "-", "-"]  # the gap attack needs no shadows
    assert texts[0][7:] == texts[5][7:] == ["-", "-"]
    assert texts[2][7:] == ["-0.040 (unknown)", "unknown"]
    assert values[2][7:] == [pytest.approx(-0.04), None]
    assert texts[4][7].startswith("-0.040 (-0.0")
    assert values[4][7] == pytest.approx(-0.04)
    assert "The targets are different models" in table.note


def test_unknown_accuracy_is_unknown_in_both_views():
    (entry,) = enter({"a": make_results([row("w2", "none", "gap", 0.5)], accuracy=nan)})
    assert make_comparison([entry], [None]).rows[0][2] == ("unknown", None)
    assert comparison_lines([entry], [None])[0]["accuracy"] is None


def test_lines_of_the_csv_hold_numbers_and_none_for_unknown_ones():
    entries = enter(RESULTS)
    differences = against_first(entries)
    lines = comparison_lines(entries, differences)
    assert len({tuple(line) for line in lines}) == 1  # the same fields in all
    w2 = lines[4]
    assert (w2["matched_auc"], w2["unquantized_auc"]) == (0.55, 0.56)
    assert w2["unquantized_auc_high"] == 0.56 + 0.03
    assert (w2["strongest"], w2["knowledge"], w2["targets"]) == ("lira", "unquantized", 3)
    assert w2["beyond_low"] == differences[4].estimate.low
    assert (w2["p"], w2["p_holm"]) == differences[4][3:]
    assert lines[2]["beyond"] == pytest.approx(-0.04)
    for line, key in ((lines[2], "p"), (lines[2], "beyond_low"), (lines[0], "beyond")):
        assert line[key] is None
    assert (lines[3]["recalibrated_attack"], lines[3]["recalibrated_auc"]) == ("rmia", 0.59)
    assert lines[0]["recalibrated_auc"] is w2["recalibrated_attack"] is None
    assert lines[0]["unquantized_auc"] is lines[0]["unquantized_attack"] is None


def experiment(**options):
    """An experiment in which nothing but its options differs from another."""
    config = {"quantize": ["w2"], "fleet": {"shadows": 8, "targets": 4}} | options
    versions = {"torch": "2.1", "threads": 1}
    return Experiment(config, {}, {"data": "d"}, versions, {}, options.get("id", "0"))


def test_differences_name_options_models_and_attacks():
    basis = {"audited models": "4", "shadow models": "8 against each of them"}
    fewer = {"shadows": 8, "targets": 3}
    results = {
        "a": make_results(ROWS["a"], basis, experiment(seed=0)),
        "b": make_results(
            ROWS["b"], basis | {"audited models": "3"}, experiment(seed=1, fleet=fewer)
        )._replace(left_out=("One example of 9.", "rmia was left out.")),
    }
    table = make_differences(results)
    assert table.columns == ("", "a", "b")
    assert [[cell.text for cell in line] for line in table.rows] == [
        ["seed", "0", "1"],
        ["audited models", "4", "3"],  # instead of the fleet's options
        ["left out", "none", "One example of 9. rmia was left out."],
        ["attacks beside the shared ones", "rmia", ""],
    ]
    same = make_differences(dict.fromkeys("ab", results["a"]))
    assert not same.rows
    assert "the same" in same.note


def test_options_of_models_trained_elsewhere_are_unknown():
    results = {
        "a": make_results(ROWS["a"], experiment=experiment(seed=0)),
        "b": make_results(ROWS["a"]),
    }
    lines = {
        line[0].text: [cell.text for cell in line[1:]] for line in make_differences(results).rows
    }
    assert lines["seed"] == ["0", "unknown"]


def test_names_are_as_short_as_they_can_be():
    assert name_apart([Path("/runs/a"), Path("/runs/b")]) == ["a", "b"]
    assert name_apart([Path("/x/a"), Path("/y/a"), Path("/y/b")]) == ["x/a", "y/a", "y/b"]
    assert name_apart([Path("/a"), Path("/x/a")]) == ["//a", "x/a"]


def test_a_comparison_needs_two_different_folders(tmp_path):
    with pytest.raises(ValueError, match=r"needs two run folders or more, got 1\. Name another"):
        name_apart([tmp_path])
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(ValueError, match=r"is named twice\. Name each run folder once"):
        name_apart([tmp_path, tmp_path / "x" / "..", tmp_path / "link"])
