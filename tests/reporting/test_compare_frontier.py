"""The frontier over experiments against a slow computation on the targets, and by simulation."""

import numpy as np
import pytest
from scipy.stats import binom, ttest_rel
from scipy.stats import t as student

from attacks.evaluate import Row
from attacks.metrics.intervals import Estimate, Summary
from reporting.compare import enter
from reporting.compare_frontier import find_frontier, sentences, tabulate, why_no_curve
from reporting.compare_views import comparison_lines
from reporting.pairing import pair_with_first
from reporting.results import METRICS, Results
from storage.experiment import Experiment
from storage.records import VariantFacts

TARGETS = 6
NONE = {"auc": None, "tpr_1pct": None}
STEPS = np.array([-2, -1, 0, 0, 1, 2]) / 100
ZIGZAG = np.array([1, -1, 1, -1, 1, -1]) / 200
# accuracy and AUC of each target, by variant: the points of the curve are 0.2 and 0.1 apart
CURVE = {
    "full": (0.9 + ZIGZAG, 0.8 + STEPS),
    "epoch-01": (0.6 + ZIGZAG, 0.6 + STEPS / 2),
    "epoch-02": (0.8 - ZIGZAG, 0.7 + STEPS[::-1]),
}
OTHER = {
    "full": (0.66 + STEPS / 4, 0.6 + ZIGZAG),
    "epoch-01": (0.6 + STEPS, 0.6 + STEPS),
    "w2": (0.5 + STEPS, 0.5 + STEPS),
    "w4": (0.95 + ZIGZAG, 0.6 + ZIGZAG),
}


def make_results(known, seed=0, targets=range(TARGETS), halves=0.0):
    """An audit; halving the shadows moves all targets by `halves`, in one way."""
    rows, facts = [], {}
    for variant, (accuracy, area) in known.items():
        values = {metric: list(area) for metric in METRICS}
        values["tpr_1pct"] = list(area / 10)
        near = [Estimate(float(np.mean(v)), 0.1, 0.9) for v in values.values()]
        moved = {metric: [[halves] * len(area)] for metric in METRICS}
        summary = Summary(*near, len(area), 100, 12, 1)
        rows.append(Row(variant, "matched", "lira", summary, 8, [], values, (), moved))
        mean = Estimate(float(np.mean(accuracy)), 0.1, 0.9)
        facts[variant] = VariantFacts(mean, 1, accuracy_by_target=list(accuracy))
    config = {"seed": seed, "fleet": {"shadows": 8, "targets": len(targets)}}
    experiment = Experiment(config, {}, {"data": "d"}, {}, {}, "0")
    named = {f"target-{number}": str(number) for number in targets}
    made = Results("name", "", experiment, {}, facts, rows, {}, [], [], [])
    return made._replace(audited=named)


def compare(**results):
    entries, pairings = enter(results), pair_with_first(results)
    return find_frontier(entries, pairings), entries, pairings


def by_hand(own_accuracy, own_area, targets):
    """The curve minus the variant, per target, on the first piece of the curve."""
    (first, low), (second, high) = (
        [values[targets] for values in CURVE[variant]] for variant in ("epoch-01", "epoch-02")
    )
    share = (own_accuracy.mean() - first.mean()) / (second.mean() - first.mean())
    slope = (high.mean() - low.mean()) / (second.mean() - first.mean())
    accuracy, area = ((1 - share) * a + share * b for a, b in ((first, second), (low, high)))
    return share, area + slope * (own_accuracy - accuracy) - own_area


@pytest.mark.parametrize("targets", [[0, 1, 2, 3, 4, 5], [5, 2, 0, 1, 7]], ids=["all", "four"])
def test_variants_are_compared_with_networks_of_equal_accuracy_target_by_target(targets):
    """The four common targets stand in another order in the second experiment."""
    picked = [target % TARGETS for target in targets]
    other = {variant: (a[picked], b[picked]) for variant, (a, b) in OTHER.items()}
    frontier, _, _ = compare(a=make_results(CURVE), b=make_results(other, targets=targets))
    assert frontier.variants == ["epoch-01", "epoch-02", "full"]
    assert list(frontier.beside) == ["b's full", "b's w2", "b's w4"]  # no snapshot
    common = [target for target in targets if target < TARGETS]
    share, gaps = by_hand(*(values[common] for values in OTHER["full"]), common)
    beside = frontier.beside["b's full"]
    assert (beside.outside, beside.stretch) == ("", ("epoch-01", "epoch-02"))
    assert beside.place == pytest.approx(share)
    oracle = ttest_rel(gaps, 0 * gaps)
    found = beside.differences["auc"]
    assert found.p == pytest.approx(oracle.pvalue)
    low, high = oracle.confidence_interval()
    assert found.estimate[:3] == pytest.approx((gaps.mean(), low, high))
    rate = beside.differences["tpr_1pct"]
    assert (rate.estimate.value, rate.p) == pytest.approx((gaps.mean() / 10, found.p))
    assert [d.p_holm for d in (found, rate)] == pytest.approx([2 * found.p] * 2)  # all that are
    outside = {name: beside.outside for name, beside in frontier.beside.items()}
    assert outside == {"b's full": "", "b's w2": "below", "b's w4": "above"}


def test_shadows_of_both_experiments_add_to_the_variance():
    quiet, _, _ = compare(a=make_results(CURVE), b=make_results(OTHER))
    moved = make_results(CURVE, halves=0.02), make_results(OTHER, halves=0.01)
    noisy, _, _ = compare(**dict(zip("ab", moved, strict=True)))
    _, gaps = by_hand(*OTHER["full"], range(TARGETS))
    over = gaps.var(ddof=1) / TARGETS
    variance = over + 0.02**2 + 0.01**2
    freedom = variance**2 / (over**2 / (TARGETS - 1) + 0.02**4 + 0.01**4)
    before, after = (f.beside["b's full"].differences["auc"] for f in (quiet, noisy))
    assert after.estimate.value == before.estimate.value
    statistic = gaps.mean() / variance**0.5
    assert after.p == pytest.approx(2 * student.sf(abs(statistic), freedom))
    assert after.p > 2 * before.p


def test_p_is_corrected_over_all_experiments():
    results = {"a": make_results(CURVE), "b": make_results(OTHER), "c": make_results(OTHER)}
    frontier, _, _ = compare(**results)
    for name in "bc":
        for difference in frontier.beside[f"{name}'s full"].differences.values():
            assert difference.p_holm == pytest.approx(min(1, 4 * difference.p))


def test_sentences_table_and_lines_by_hand():
    others = {"b": make_results(OTHER), "c": make_results(OTHER, seed=1)}
    frontier, entries, pairings = compare(a=make_results(CURVE), **others)
    (sentence,) = sentences(frontier, "abc")  # c is not paired
    assert sentence.startswith("b's full leaks 0.030 AUC (")
    assert "less than a network of a of equal accuracy that was stopped early (at about" in sentence
    table = tabulate(frontier, "a")
    assert table.title == ("What the same accuracy costs otherwise: against early stopping of a")
    texts = [[cell.text for cell in line] for line in table.rows]
    assert table.columns[:3] == ("variant", "as accurate as", "AUC less than there")
    assert texts[0][:2] == ["b's full", "epoch 1.3 (epoch-01 to epoch-02)"]
    assert texts[0][2].startswith("+0.030 (+")
    assert texts[1][:3] == ["b's w2", "outside: less accurate than epoch-01", "-"]
    lines = comparison_lines(entries, [NONE] * len(entries), pairings, frontier)
    by_name = {(line["experiment"], line["variant"]): line for line in lines}
    own, found = by_name["b", "full"], frontier.beside["b's full"].differences["auc"]
    assert own["as_accurate_as"] == texts[0][1]
    ends = [own[f"auc_stopped_early_{key}"] for key in ("less", "less_low", "less_high")]
    assert ends == list(found.estimate[:3])
    assert (own["auc_stopped_early_p"], own["auc_stopped_early_p_holm"]) == found[3:5]
    for name in (("a", "full"), ("c", "full"), ("b", "epoch-01")):
        assert by_name[name]["as_accurate_as"] is by_name[name]["auc_stopped_early_less"] is None


def test_without_snapshots_or_pairs_there_is_no_frontier():
    alone = make_results({"full": OTHER["full"]})
    nothing = "Nothing is compared with networks of a that were stopped early, because it "
    for first, second, reason in (
        (alone, make_results(CURVE), "has no snapshots. Name one first that has them: b."),
        (
            alone,
            alone,
            "has no snapshots. Train it into a new folder with `--snapshots`, for example "
            "`--snapshots 5 10 15`, and audit it.",
        ),
        (
            make_results({"epoch-01": CURVE["epoch-01"]}),
            alone,
            "was audited without `full`, the end of its training. Audit it with that, too.",
        ),
    ):
        frontier, entries, _ = compare(a=first, b=second)
        assert frontier is None
        assert why_no_curve(entries) == nothing + reason
    apart, entries, pairings = compare(a=make_results(CURVE), b=make_results(OTHER, seed=1))
    assert not apart.beside
    assert sentences(apart, "ab") == [
        "Nothing is compared with networks of a that were stopped early, because no experiment is "
        "paired with it."
    ]
    lines = comparison_lines(entries, [NONE] * len(entries), pairings, apart)
    assert "as_accurate_as" not in lines[0]


def test_targets_that_all_differ_alike_show_nothing():
    """What a t over them would call certain."""
    same = {variant: (0 * a + a.mean(), 0 * b + b.mean()) for variant, (a, b) in CURVE.items()}
    other = {"full": (np.full(TARGETS, 0.7), np.full(TARGETS, 0.6))}
    frontier, _, _ = compare(a=make_results(same), b=make_results(other))
    found = frontier.beside["b's full"].differences["auc"]
    assert found.estimate[:3] == pytest.approx((0.05, -1, 1))
    assert found.p == found.p_holm == 1


def test_a_variant_on_the_curve_differs_in_5_percent():
    """200 simulations; 18 or more would be found with a probability of 0.01 if 5% are."""
    rng, runs, found = np.random.default_rng(0), 200, 0

    def train(accuracy):
        """A better network leaks more; both are measured with noise."""
        measured = accuracy + 0.005 * rng.standard_normal(TARGETS)
        return measured, accuracy - 0.1 + 0.01 * rng.standard_normal(TARGETS)

    for _ in range(runs):
        curve = {"full": train(0.9), "epoch-01": train(0.6), "epoch-02": train(0.8)}
        frontier, _, _ = compare(a=make_results(curve), b=make_results({"full": train(0.73)}))
        found += frontier.beside["b's full"].differences["auc"].p < 0.05
    assert binom.sf(17, runs, 0.05) < 0.02
    assert found <= 17
