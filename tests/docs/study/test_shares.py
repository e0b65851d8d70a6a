"""The three parts of a gain in privacy, and their shares, against sums and formulas."""

import numpy as np
import pytest
from scipy.stats import t

from docs.study.comparisons import SEEN_BY, Asked
from docs.study.fleets import ternary_of
from docs.study.numbers import MEASURES, STRONGEST
from docs.study.shares import others_table, shares_table, split


def test_the_parts_add_up_to_the_gain_and_their_shares_to_one(edition, base):
    for variant in ternary_of(base):
        for measure in MEASURES:
            for seen in SEEN_BY:
                gain = edition[Asked("frontier", "gain", variant, measure, seen)].estimate.value
                parts = split(edition, "frontier", variant, measure, seen)
                assert list(parts) == ["mismatch", "lost", "left"]
                total = sum(part.compared.estimate.value for part in parts.values())
                assert total == pytest.approx(gain)
                assert sum(part.share.value for part in parts.values()) == pytest.approx(1)


def test_the_gain_is_seen_with_full_precision_shadows(edition, base):
    rows = {row[:3]: row for row in base.results.rows}
    full = base.each("full", STRONGEST, "auc").numpy()
    papers = np.array(rows["obc-w1.58", "unquantized", "lira_online"].by_target["auc"])
    gain = edition[Asked("frontier", "gain", "obc-w1.58", "auc", "the paper's attacker")]
    assert gain.estimate.value == pytest.approx((full - papers).mean())


def test_a_share_has_the_union_of_fiellers_intervals(edition, base):
    """Every ratio r that a t-test of part - r gain does not reject, on any network."""
    full, own = (base.each(v, STRONGEST, "auc").numpy() for v in ("full", "obc-w1.58"))
    gain = full - base.each("obc-w1.58", SEEN_BY["full-precision shadows"], "auc").numpy()
    networks = edition.curve("frontier").networks("obc-w1.58", "auc")
    ratios = np.linspace(-1, 1, 4001)
    kept = []
    for network in networks:
        rest = (network.measured.values.numpy() - own)[:, None] - ratios * gain[:, None]
        score = abs(rest.mean(0)) / (rest.std(0, ddof=1) / len(own) ** 0.5)
        kept.append(ratios[score <= t.ppf(0.975, len(own) - 1)])
    share = split(edition, "frontier", "obc-w1.58", "auc", "full-precision shadows")["left"].share
    assert share.low == pytest.approx(min(map(min, kept)), abs=1e-3)
    assert share.high == pytest.approx(max(map(max, kept)), abs=1e-3)


def test_tables_have_a_row_per_measure_and_variant(edition, base):
    _, _, *rows = shares_table(edition, "frontier").splitlines()
    assert len(rows) == len(MEASURES) * len(ternary_of(base)) == 12
    assert rows[0].startswith("| AUC | adaround-w1.58 | +0.137 (+0.131 to +0.143) | +0.021 (")
    assert "; 15% (13 to 17) |" in rows[0]
    (tail,) = [row for row in rows if row.startswith("| TPR at 0.1% FPR | obc-w1.58 ")]
    assert "| ? +0.2 (-0.3 to +0.8); 1% (-2 to 4) |" in tail
    columns, _, *rows = others_table(edition, "frontier").splitlines()
    assert len(rows) == 12
    assert columns.endswith("| gain, the paper's attacker | mismatch, the paper's attacker |")
