"""What is said of variants of learners of tasks: every rule, and the table by hand."""

import pytest

from attacks.continual.variants import RoundedLeak, VariantLeak
from attacks.metrics.differences import Difference
from attacks.metrics.intervals import Estimate
from reporting.continual_variants import variant_sentences, variants_table

RATE = Estimate(0.05, 0.04, 0.06)


def around(value):
    return Estimate(value, value - 0.02, value + 0.02)


def difference(value, p=0.01):
    return Difference("", "", Estimate(value, value - 0.01, value + 0.01), p, p)


def variant(name, auc, beyond=None, rounded=None):
    return VariantLeak(name, around(auc), RATE, [around(auc)] * 2, True, beyond, rounded)


@pytest.fixture
def leak(bare_leak):
    variants = [
        variant("full", 0.9),
        variant(
            "nearest-w4",
            0.7,
            difference(-0.2),
            RoundedLeak(around(0.7), around(0.55), difference(0.15)),
        ),
        variant(
            "obc-w2",
            0.89,
            difference(-0.01, 0.2),
            RoundedLeak(around(0.6), around(0.61), difference(-0.01, 0.4)),
        ),
        variant("brecq-w2", 0.95, difference(0.05)),
    ]
    return bare_leak._replace(variants=variants)


def test_sentences_by_their_rules(leak):
    assert variant_sentences(leak) == [
        "Task by task, by the strongest attack and beside full, less is found of nearest-w4 (AUC "
        "0.19 to 0.21 less); more is found of brecq-w2 (AUC 0.04 to 0.06 more); no difference is "
        "shown for obc-w2.",
        "Heads over the target's own features, rounded with and without each example as the "
        "network was, find, beside LiRA with matched shadows, of nearest-w4 AUC 0.700 "
        "(0.680-0.720) (AUC 0.14 to 0.16 more) and of obc-w2 AUC 0.600 (0.580-0.620) (no "
        "difference shown).",
    ]


def test_other_models_and_networks_that_are_not_quantized_have_none(leak):
    plain = leak._replace(variants=leak.variants[:1])
    assert variant_sentences(None) == variant_sentences(plain) == []


def test_the_table_by_hand(leak):
    table = variants_table(leak)
    full, rounded, _, without = [[cell.text for cell in row] for row in table.rows]
    assert len(table.columns) == len(full) == len(rounded)
    area, lower = "0.900 (0.880-0.920)", "0.700 (0.680-0.720)"
    assert full == ["full", area, "5.0% (4.0-6.0)†", *["-"] * 6, area, area]
    assert rounded == [
        *("nearest-w4", lower, "5.0% (4.0-6.0)†", "-0.200 (-0.210 to -0.190)", "0.010"),
        *(lower, "0.550 (0.530-0.570)", "+0.150 (+0.140 to +0.160)", "0.010", lower, lower),
    ]
    assert without[5:9] == ["-"] * 4
    plain = variants_table(leak._replace(variants=[leak.variants[0], leak.variants[3]]))
    assert "AUC, rounded heads" not in plain.columns
    assert "AUC, rounded heads" in table.columns
