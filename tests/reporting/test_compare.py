"""The comparison of experiments, against scipy on the targets' own values and by hand."""

from math import isnan, nan
from pathlib import Path

import pytest
import torch
from scipy.stats import t as student
from scipy.stats import ttest_ind_from_stats, ttest_rel

from attacks.evaluate import Row
from attacks.metrics.intervals import Estimate, Summary
from reporting.compare import against_first, ends_of, enter, name_apart
from reporting.compare_views import comparison_lines, make_comparison, make_differences
from reporting.pairing import pair_with_first
from reporting.results import METRICS, Results
from storage.experiment import Experiment
from storage.records import VariantFacts


def near(value, spread=0.0):
    """An estimate whose interval is easy to tell from its value."""
    return Estimate(value, value - 0.02, value + 0.03, spread)


def row(variant, knowledge, attack, auc, tpr=0.06, spread=0.01, targets=4, counts=(12, 1)):
    rates = near(auc, spread), near(0.5), near(tpr, spread / 2), near(tpr / 5, spread / 4)
    by_target = {
        metric: around(rate.value, rate.spread, targets)
        for metric, rate in zip(METRICS, rates, strict=True)
    }
    summary = Summary(*rates, targets, 100, *counts)
    return Row(variant, knowledge, attack, summary, 8, [], by_target)


def around(mean, spread, targets):
    """Values with this mean and this standard deviation, of the population."""
    steps = torch.arange(targets).double() - (targets - 1) / 2
    return (mean + spread * steps / (steps.square().mean().sqrt() or 1)).tolist()


def make_results(rows, basis=(), experiment=None, accuracy=0.9):
    variants = dict.fromkeys(row.variant for row in rows)
    facts = {variant: VariantFacts(near(accuracy), 1) for variant in variants}
    return Results("name", "", experiment, dict(basis), facts, rows, {}, [], [], [])


ROWS = {
    "a": [
        row("full", "none", "gap", 0.55),
        row("full", "matched", "lira", 0.7),
        row("w2", "none", "gap", 0.5),
        row("w2", "matched", "lira", 0.6, 0.02, counts=(9, 1)),
        row("w2", "unquantized", "rmia", 0.58, 0.05, counts=(9, 1)),
        row("w4", "matched", "lira", 0.65),
    ],
    "b": [
        row("full", "matched", "lira", 0.64, spread=0.03),
        row("w2", "matched", "lira", 0.55, 0.09, targets=3),
        row("w2", "unquantized", "lira", 0.56, 0.08, targets=3),
        row("w8", "none", "gap", 0.53),
    ],
    "c": [row("full", "matched", "lira", 0.66, targets=1)],
}
RESULTS = {name: make_results(rows) for name, rows in ROWS.items()}
APART = pair_with_first(RESULTS)


def test_only_variants_of_both_experiments_are_compared():
    entries = enter(RESULTS)
    differences = against_first(entries, APART)
    assert [(e.variant, e.experiment) for e in entries] == [
        *(("full", "a"), ("full", "b"), ("full", "c"), ("w2", "a"), ("w2", "b")),
        *(("w4", "a"), ("w8", "b")),
    ]
    compared = [0, 1, 1, 0, 1, 0, 0]
    assert [d["auc"] is not None for d in differences] == compared
    assert [d["tpr_1pct"] is not None for d in differences] == compared
    root, root_of_three = (4 / 3) ** 0.5, 1.5**0.5  # sample's deviation from the population's

    def welch_of(mean, spread, targets, other, other_spread):
        scale = root if targets == 4 else root_of_three
        samples = (mean, spread * scale, targets, other, other_spread * root, 4)
        return ttest_ind_from_stats(*samples, equal_var=False).pvalue

    by_hand = {
        (1, "auc"): welch_of(0.64, 0.03, 4, 0.7, 0.01),
        (1, "tpr_1pct"): welch_of(0.06, 0.015, 4, 0.06, 0.005),
        (4, "auc"): welch_of(0.56, 0.01, 3, 0.6, 0.01),
        # by the attack that is strongest there: gap in a, with matched shadows in b
        (4, "tpr_1pct"): welch_of(0.09, 0.005, 3, 0.06, 0.005),
    }
    assert {key: differences[key[0]][key[1]].p for key in by_hand} == pytest.approx(by_hand)
    # Holm over all four that are known, in both columns
    order = sorted(by_hand, key=by_hand.__getitem__)
    assert order == [(4, "tpr_1pct"), (4, "auc"), (1, "auc"), (1, "tpr_1pct")]
    floor = 0.0
    for rank, key in enumerate(order):
        floor = max(floor, (4 - rank) * by_hand[key])
        assert differences[key[0]][key[1]].p_holm == pytest.approx(min(1, floor))
    for end in ("auc", "tpr_1pct"):
        assert isnan(differences[2][end].p_holm)
        assert (differences[1][end].first, differences[1][end].second) == ("b", "a")


NAMED = {f"target-{number:03d}": f"{number}" for number in range(4)}
FOUND = {"a": [0.7, 0.68, 0.61, 0.64], "b": [0.66, 0.65, 0.6, 0.6]}


def made_of(values, halves, variant="full"):
    """A row with these values of the targets by AUC, and what half of the shadows change."""
    made = row(variant, "matched", "lira", sum(values) / len(values), targets=len(values))
    return made._replace(by_target=made.by_target | {"auc": values}, halves={"auc": halves})


def test_experiments_that_share_targets_are_paired():
    """Three of four are the same, in another order; what the shadows add is 0."""
    quiet = [[0.0] * 4] * 3
    results = {
        name: make_results([made_of(values, quiet)], experiment=experiment(seed=0))
        for name, values in FOUND.items()
    }
    results["a"] = results["a"]._replace(audited=NAMED)
    order = ["target-002", "target-001", "target-005", "target-000"]
    results["b"] = results["b"]._replace(audited={name: NAMED.get(name, "5") for name in order})
    entries, pairings = enter(results), pair_with_first(results)
    _, difference = (by_end["auc"] for by_end in against_first(entries, pairings))
    oracle = ttest_rel([0.66, 0.65, 0.6], [0.61, 0.68, 0.7])  # b minus a: targets 2, 1 and 0
    assert difference.p == pytest.approx(oracle.pvalue)
    low, high = oracle.confidence_interval()
    assert difference.estimate[:3] == pytest.approx((-0.08 / 3, low, high))
    table = make_comparison(entries, against_first(entries, pairings), pairings)
    assert "target by target where experiments are paired (Student's t over" in table.note
    assert "Welch" not in table.note
    assert "of all variants of a, b and" in table.note  # of the TPR no halves are known
    lines = comparison_lines(entries, against_first(entries, pairings), pairings)
    assert [line["paired_targets"] for line in lines] == [None, 3]


@pytest.mark.parametrize("paired", [True, False])
def test_what_the_shadows_of_both_experiments_add_is_counted(paired):
    """By hand: halving moves all targets alike, by 0.03 in a and by 0.01 in b, in one way."""
    results = {
        name: make_results([made_of(FOUND[name], [[move] * 4])], experiment=experiment(seed=0))
        for name, move in (("a", 0.03), ("b", 0.01))
    }
    names = NAMED if paired else {}
    results = {name: audit._replace(audited=names) for name, audit in results.items()}
    found = against_first(enter(results), pair_with_first(results))[1]["auc"]
    values = torch.tensor([FOUND["b"], FOUND["a"]]).double()
    over = (values[0] - values[1])[None] if paired else values
    parts = [(float(sample.var()) / 4, 3) for sample in over] + [(0.03**2, 1), (0.01**2, 1)]
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / own for part, own in parts)
    p = 2 * student.sf(abs(found.estimate.value) / variance**0.5, freedom)
    assert found.p == pytest.approx(p)


def test_what_shadows_add_is_unknown_for_a_part_of_a_round_robin():
    (entry,) = enter(
        {
            "a": make_results(
                [made_of(FOUND["a"], [[0.1, 0.1, -0.1, -0.1]])],
                experiment=experiment(fleet={"shadows": 4, "targets": 0}),
            )
        }
    )
    assert entry.outcome("auc").round_robin
    assert entry.outcome("auc").halves.tolist() == [[0.1, 0.1, -0.1, -0.1]]
    part = entry.outcome("auc", [0, 2])
    assert (part.measured.values.tolist(), part.halves) == ([0.7, 0.61], None)


def test_attacks_are_chosen_on_other_targets_than_they_are_compared_on():
    """By hand: chosen on all targets, `lira` would be compared in a, by which a leaks 0.10 more."""
    by_attack = {"lira": [0.9, 0.8, 0.5, 0.6], "rmia": [0.6, 0.5, 0.7, 0.8]}
    choosing = [
        made_of(values, [[0.0] * 4])._replace(attack=name) for name, values in by_attack.items()
    ]
    plain = [made_of([0.61, 0.48, 0.52, 0.59], [[0.0] * 4])]
    results = {
        name: make_results(rows, experiment=experiment(seed=0))._replace(audited=NAMED)
        for name, rows in (("a", choosing), ("b", plain))
    }
    entries, pairings = enter(results), pair_with_first(results)
    assert entries[0].risk["auc"].attack == "lira"
    found = against_first(entries, pairings)[1]["auc"]
    oracle = ttest_rel([0.61, 0.48, 0.52, 0.59], [0.6, 0.5, 0.5, 0.6])
    assert found.estimate.value == pytest.approx(0.0, abs=1e-12)
    assert found.p == pytest.approx(oracle.pvalue)
    part = entries[0].outcome("auc", [3, 0])  # chosen on all, whichever are compared
    assert part.measured.values.tolist() == [0.6, 0.6]
    table = make_comparison(entries, against_first(entries, pairings), pairings)
    assert "each chosen on one half of the targets for the other half" in table.note


def test_snapshots_are_corrected_apart():
    rows = {
        name: [made_of(values, [[0.0] * 4], v) for v in ("full", "epoch-01", "epoch-02", "w2")]
        for name, values in FOUND.items()
    }
    results = {name: make_results(own, experiment=experiment(seed=0)) for name, own in rows.items()}
    results = {name: audit._replace(audited=NAMED) for name, audit in results.items()}
    pairings, entries = pair_with_first(results), enter(results)
    differences = against_first(entries, pairings)
    ends = [d for by_end in differences for d in by_end.values() if d and d.first == "b"]
    assert len(ends) == 8  # half of them are TPRs, in which no target differs from itself
    known = [d for d in ends if d.p == d.p]
    assert len({d.p for d in known}) == 1
    assert [d.p_holm for d in known] == pytest.approx([min(1, 2 * d.p) for d in known])
    table = make_comparison(entries, differences, pairings)
    assert "(Holm), of snapshots apart from other variants." in table.note


@pytest.mark.parametrize(
    ("counts", "tail"),
    [(((99, 10), (99, 10)), "tpr_01pct"), (((99, 10), (99, 9)), "tpr_1pct")],
)
def test_audits_are_compared_at_the_coarser_of_their_tails(counts, tail):
    results = {
        name: make_results([row("full", "matched", "lira", 0.6, counts=pair)])
        for name, pair in zip("ab", counts, strict=True)
    }
    assert ends_of(results) == ("auc", tail)
    assert all(list(entry.risk) == ["auc", tail] for entry in enter(results))


def test_the_table_by_hand():
    entries = enter(RESULTS)
    table = make_comparison(entries, against_first(entries, APART), APART)
    assert table.columns == (
        *("variant", "experiment", "test accuracy", "AUC", "TPR at 1% FPR"),
        *("AUC beyond a's", "p", "TPR at 1% FPR beyond a's", "p"),
    )
    texts = [[cell.text for cell in line] for line in table.rows]
    values = [[cell.value for cell in line] for line in table.rows]
    assert texts[0][:3] == ["full", "a", "90.0% (88.0-93.0)"]
    assert texts[0][3:5] == ["0.700 (0.680-0.730)", "6.0% (4.0-9.0)"]
    assert values[0][:5] == [None, None, 0.9, 0.7, 0.06]
    assert texts[3][3:5] == ["0.600 (0.580-0.630)", "6.0% (4.0-9.0)"]  # the gap attack's
    assert texts[4][3:5] == ["0.560 (0.540-0.590)", "9.0% (7.0-12.0)"]
    assert texts[6][3:5] == ["0.530 (0.510-0.560)", "6.0% (4.0-9.0)"]
    assert texts[0][5:] == texts[5][5:] == ["-"] * 4
    assert texts[2][5:] == ["-0.040 (unknown)", "unknown", "+0.0 (unknown)", "unknown"]
    assert values[2][5:] == [pytest.approx(-0.04), None, 0, None]
    assert texts[4][5].startswith("-0.040 (-0.0")
    assert texts[4][7].startswith("+3.0 (+")  # points
    assert (values[4][5], values[4][7]) == pytest.approx((-0.04, 0.03))
    assert "in points for a TPR, by Welch's t over the targets, where nothing" in table.note
    assert "not known of all variants of a, b, c and is then missing" in table.note
    assert "AUC and TPR at 1% FPR are those of the attack that is strongest by each" in table.note


def test_few_false_positives_are_marked():
    few = {"a": make_results([row("w2", "none", "gap", 0.5, counts=(9, 0))])}
    entries = enter(few)
    assert (
        make_comparison(entries, against_first(entries, APART), APART).rows[0][4].text
        == "6.0% (4.0-9.0)†"
    )


def test_unknown_accuracy_is_unknown_in_both_views():
    (entry,) = enter({"a": make_results([row("w2", "none", "gap", 0.5)], accuracy=nan)})
    none = [{"auc": None, "tpr_1pct": None}]
    assert make_comparison([entry], none, {}).rows[0][2] == ("unknown", None)
    assert comparison_lines([entry], none, {})[0]["accuracy"] is None


def test_lines_of_the_csv_hold_numbers_and_none_for_unknown_ones():
    entries = enter(RESULTS)
    differences = against_first(entries, APART)
    lines = comparison_lines(entries, differences, APART)
    assert len({tuple(line) for line in lines}) == 1  # the same fields in all
    w2 = lines[4]
    assert (w2["auc_matched"], w2["auc_unquantized"]) == (0.55, 0.56)
    assert (w2["tpr_1pct_matched"], w2["tpr_1pct_unquantized"]) == (0.09, 0.08)
    assert w2["auc_unquantized_high"] == 0.56 + 0.03
    assert (w2["auc"], w2["auc_attack"], w2["auc_knowledge"]) == (0.56, "lira", "unquantized")
    assert (w2["tpr_1pct"], w2["tpr_1pct_attack"]) == (0.09, "lira")
    assert (w2["tpr_1pct_knowledge"], w2["targets"]) == ("matched", 3)
    assert (w2["tpr_1pct_false_positives"], lines[3]["tpr_1pct_false_positives"]) == (12, 12)
    for end in ("auc", "tpr_1pct"):
        assert w2[f"{end}_beyond_low"] == differences[4][end].estimate.low
        assert (w2[f"{end}_p"], w2[f"{end}_p_holm"]) == differences[4][end][3:5]
    assert lines[2]["auc_beyond"] == pytest.approx(-0.04)
    for line, key in ((lines[2], "p"), (lines[2], "beyond_low"), (lines[0], "beyond")):
        assert line[f"auc_{key}"] is line[f"tpr_1pct_{key}"] is None
    assert lines[0]["auc_unquantized"] is lines[0]["auc_unquantized_attack"] is None


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
    table = make_differences(results, pair_with_first(results))
    assert table.columns == ("", "a", "b")
    assert [[cell.text for cell in line] for line in table.rows] == [
        ["seed", "0", "1"],
        ["audited models", "4", "3"],  # instead of the fleet's options
        ["left out", "none", "One example of 9. rmia was left out."],
        ["attacks beside the shared ones", "rmia", ""],
        ["compared with a", "-", "Welch's t"],
    ]
    twice = dict.fromkeys(
        "ab", results["a"]._replace(audited={"target-000": "0", "target-001": "1"})
    )
    same = make_differences(twice, pair_with_first(twice))
    (line,) = same.rows
    assert [cell.text for cell in line] == ["compared with a", "-", "paired over 2 targets"]
    assert "the same" in same.note


def test_options_of_models_trained_elsewhere_are_unknown():
    results = {
        "a": make_results(ROWS["a"], experiment=experiment(seed=0)),
        "b": make_results(ROWS["a"]),
    }
    lines = {
        line[0].text: [cell.text for cell in line[1:]]
        for line in make_differences(results, pair_with_first(results)).rows
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


def test_shadows_of_yet_another_experiment_do_not_count(results):
    """An audit with more kinds of attackers would seem to leak more."""
    matched = [row for row in results.rows if row.knowledge == "matched"]
    others = [
        row._replace(
            knowledge="other", by_target={m: [1.0] * len(v) for m, v in row.by_target.items()}
        )
        for row in matched
    ]
    more = results._replace(rows=[*results.rows, *others])
    plain, also = (enter({"one": audit, "two": results}) for audit in (results, more))
    assert [entry.outcome("auc").measured.values.tolist() for entry in plain] == [
        entry.outcome("auc").measured.values.tolist() for entry in also
    ]
    assert plain[0].by_kind["auc"].keys() == also[0].by_kind["auc"].keys()
