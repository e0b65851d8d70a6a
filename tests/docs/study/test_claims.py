"""What the page says of the kept results, against formulas written anew and by sentence."""

import json

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp

from attacks.metrics.intervals import Estimate
from docs.study import sentences
from docs.study.claims import (
    CLAIMS,
    SHADOW_ATTACKS,
    TERNARY,
    Comparisons,
    against_guessing,
    contrasts,
    order,
)
from docs.study.numbers import MEASURES, PAPERS, STRONGEST, Study, accuracy, leak, missed
from docs.study.page import HERE, KEPT, Page, render
from docs.study.verdicts import Uncorrected

PAPER, BEST = "the paper's attacker", "the strongest attack"


@pytest.fixture(scope="module")
def by_target():
    rows = json.loads((HERE / KEPT).read_text())["rows"]
    return {(r["variant"], r["knowledge"], r["attack"]): r["by_target"] for r in rows}


def of_kind(by_target, variant, knowledge, attack, measure):
    """One number per target; the strongest of a kind is that of the other five targets."""
    if attack:
        return np.array(by_target[variant, knowledge, attack][measure])
    kinds = knowledge, "none"
    rows = [
        np.array(r[measure]) for (v, k, _), r in by_target.items() if v == variant and k in kinds
    ]
    first = max(rows, key=lambda row: row[5:].mean())[:5]
    return np.concatenate([first, max(rows, key=lambda row: row[:5].mean())[5:]])


def fieller(x, y):
    """Roots of t^2 = q: mean(x - r y)^2 n / var(x - r y) = q, by the quadratic formula in r."""
    n, q = len(x), t.ppf(0.975, len(x) - 1) ** 2
    (xx, xy), (_, yy) = np.cov(x, y)
    mean_x, mean_y = x.mean(), y.mean()
    linear = -2 * (n * mean_x * mean_y - q * xy)
    roots = np.roots([n * mean_y**2 - q * yy, linear, n * mean_x**2 - q * xx])
    return mean_x / mean_y, *sorted(roots.real)


@pytest.mark.parametrize("attack", SHADOW_ATTACKS)
@pytest.mark.parametrize("measure", MEASURES)
def test_shares_match_the_formula(study, by_target, attack, measure):
    for variant in TERNARY:
        full = of_kind(by_target, "full", "matched", attack, measure)
        unquantized = of_kind(by_target, variant, "unquantized", attack, measure)
        matched = of_kind(by_target, variant, "matched", attack, measure)
        expected = fieller(matched - unquantized, full - unquantized)
        assert study.mismatch(variant, attack, measure)[:3] == pytest.approx(expected, rel=1e-6)


def test_the_headline_is_that_of_the_kept_results(comparisons):
    finding = sentences.finding(comparisons)
    assert (
        "by the strongest attack: shown in AUC; not shown in the tail (TPR at 1% and 0.1" in finding
    )
    assert "12 to 16% is the attacker's mismatch by the strongest attack" in finding
    assert "and 24 to 42% by LiRA, the paper's attack" in finding
    assert (
        "TPR at 0.1% FPR, mismatch is shown for none of 3 methods (1 before correction" in finding
    )
    assert "leak 0.10 to 0.18 AUC and 20 to 27 points of TPR at 1% FPR less than full" in finding
    assert "are 1.3 to 8.7 points less accurate" in finding


def weaken(comparisons, keys):
    """The same comparisons, with some of them far from shown."""
    tests = {
        key: Uncorrected(c.estimate, c.p, c.margin) for key, c in comparisons._compared.items()
    }
    return Comparisons(comparisons.study, tests | {k: tests[k]._replace(p=1.0) for k in keys})


def test_the_headline_is_graded_by_how_many_methods_show_it(comparisons):
    one = [missed("obc-w1.58", None, "auc"), missed("obc-w1.58", "lira_online", "auc")]
    finding = sentences.finding(weaken(comparisons, one))
    assert "by the strongest attack: shown in part in AUC; not shown in the tail (TPR" in finding
    assert "15 to 16% (2 of 3 methods) is the attacker's mismatch" in finding
    assert "40 to 42% (2 of 3 methods)" in finding
    keys = [missed(v, attack, "auc") for v in TERNARY for attack in (None, "lira_online")]
    keys += [leak(v, "full", STRONGEST, "auc") for v in TERNARY] + [accuracy(TERNARY[1], "full")]
    finding = sentences.finding(weaken(comparisons, keys))
    assert "by the strongest attack: not shown." in finding
    assert "no shown share is the attacker's mismatch" in finding
    assert "leak no AUC (shown for none of 3)" in finding
    assert "2.3 to 8.7 points (shown for 2 of 3) less accurate" in finding


def test_adaround_is_not_shown_to_be_less_accurate_than_brecq_at_2_bits(comparisons):
    lines = sentences.trades(comparisons, [CLAIMS["order_ternary"], CLAIMS["order_two"]])
    (two,) = [
        x for x in lines.splitlines() if x.startswith("- adaround-w2 leaks less in AUC than b")
    ]
    assert two.endswith("no difference of accuracy shown.")
    (ternary,) = [
        x for x in lines.splitlines() if x.startswith("- brecq-w1.58 leaks more in AUC than")
    ]
    assert ternary.endswith("brecq-w1.58 is more accurate.")


def test_the_papers_order_is_refuted_in_auc_and_not_shown_in_its_own_measure(comparisons):
    claim = CLAIMS["order_ternary"]
    assert claim.pairs == [
        ("brecq-w1.58", "adaround-w1.58"),
        ("brecq-w1.58", "obc-w1.58"),
        ("adaround-w1.58", "obc-w1.58"),
    ]
    assert order("2").text == "at 2 bits, leakage rises in the order adaround, obc, brecq"
    for attacker in (PAPER, BEST):
        verdicts = comparisons.judge(claim, attacker)
        assert verdicts["auc"].status == "refuted"
        assert verdicts["tpr_01pct"].status == "not shown"


def test_three_versions_gain_in_some_sets_only_and_little(comparisons):
    counts = sentences.joint_counts(comparisons).splitlines()
    three = next(line for line in counts if line.startswith("- three quantized versions"))
    shown, nothing = three.split("nothing shown")
    assert "w2," in shown
    assert "w4" in nothing
    assert "w2-nonmembers" in nothing
    assert "gain shown for 4 of 9" in shown
    assert "(4 small)" in shown
    assert "nothing shown for 27 of 27 (27 small)" in counts[0]


def test_four_bits_leak_alike_in_auc_and_not_in_the_tail(comparisons):
    claim = CLAIMS["four"]
    assert comparisons.overall(claim, PAPER) == "held in AUC; not shown in the tail"
    assert comparisons.judge(claim, BEST)["auc"].status == "held"
    assert comparisons.judge(claim, BEST)["tpr_1pct"].status == "held in part"
    obc = comparisons[leak("obc-w4", "full", PAPERS, "tpr_1pct")]
    assert obc.shown == "less"
    loss = sentences.largest_loss(comparisons, claim, "tpr_1pct")
    assert loss.startswith("obc-w4 by the paper's attacker: 7% (4 to 9)")
    assert loss.endswith("this loss is shown")
    half, _, double, _ = sentences.other_margins(comparisons, claim).splitlines()
    assert half.startswith("- With a margin of 2.5%, by the paper's attacker: held in AUC; refuted")
    assert double.startswith("- With a margin of 10%, by the paper's attacker: held in AUC and TPR")


def test_every_comparison_of_a_table_is_corrected_and_no_other(comparisons, monkeypatch):
    """The family of the correction is what the page looks up: all of it, and nothing else."""
    used = set()
    look_up = Comparisons.__getitem__
    monkeypatch.setattr(Comparisons, "__getitem__", lambda c, k: used.add(k) or look_up(c, k))
    render(Page(comparisons, None))
    assert used == set(comparisons._compared)
    assert len(comparisons) == len(used) > 300
    assert len(list(contrasts())) >= len(set(contrasts()))


def test_an_auc_against_guessing_matches_scipy():
    areas = [0.52, 0.49, 0.53, 0.51, 0.5]
    area = Estimate(np.mean(areas), 0.4, 0.6, np.std(areas))
    found = against_guessing(area, 5, 0.02)
    assert found.p == pytest.approx(ttest_1samp(areas, 0.5).pvalue)
    assert found.estimate[:3] == pytest.approx((0.01, -0.1, 0.1))
    assert against_guessing(Estimate(0.5, 0.5, 0.5, 0.0), 5, 0.02).p == 1


def test_members_are_classified_correctly_more_often(study):
    """The gap attack's AUC is (1 + TPR - FPR) / 2, and its balanced accuracy the same."""
    rows = {row.attack: row for row in study.rows["full", "none"]}
    gap = rows["gap"].summary
    assert gap.auc.value == pytest.approx(gap.balanced_accuracy.value)
    assert sentences.overfit(study) == f"{100 * (2 * gap.balanced_accuracy.value - 1):.0f}" == "48"


def test_another_attack_recovers_what_matched_shadows_add(study, by_target):
    for variant in TERNARY:
        lira = np.array(by_target[variant, "unquantized", "lira_online"]["auc"])
        matched = np.array(by_target[variant, "matched", "lira_online"]["auc"])
        rmia = np.array(by_target[variant, "unquantized", "rmia_offline"]["auc"])
        value, low, high = (100 * share for share in fieller(rmia - lira, matched - lira))
        expected = f"{value:.0f}% ({low:.0f} to {high:.0f}) on {variant}"
        assert expected in sentences.switching(study)


def test_a_small_mismatch_is_called_small(comparisons):
    """By the strongest attack 0.016 to 0.021 for BRECQ, of a margin of 0.022."""
    pair = comparisons[missed("brecq-w1.58", None, "auc")]
    assert pair.sign == "↑≈"
    text = sentences.small_mismatch(comparisons)
    assert text.endswith("for 1 of 3 by the strongest of each kind and none of 3 by `lira_online`.")


def test_a_study_has_no_config_without_an_experiment(study):
    assert Study(study.results._replace(experiment=None)).config == {}


def test_a_claim_is_judged_by_each_attacker_and_measure(comparisons):
    first, second = sentences.judged(comparisons, CLAIMS["four"]).splitlines()
    assert first == (
        "- By the paper's attacker: AUC **held** (3 of 3); TPR at 1% FPR **not shown** (0 of 3); "
        "TPR at 0.1% FPR **not shown** (0 of 3)."
    )
    assert second.startswith("- By the strongest attack: AUC **held** (3 of 3)")
    last = sentences.judged(comparisons, CLAIMS["last"])
    assert "test accuracy **held in part** (8 of 12)" in last
