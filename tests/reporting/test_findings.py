"""Tables of findings, made by hand and of a synthetic fleet."""

import json
from math import inf, nan

import pytest
import torch

from attacks.bounds import Bounds
from attacks.cases import make_cases
from attacks.evaluate import evaluate
from attacks.findings import Differences, Exposures
from attacks.frontier import Beside, Frontier
from attacks.game import Game, ModelSignals
from attacks.joint_attacks import JointAttack
from attacks.metrics.differences import Difference
from attacks.metrics.epsilon import EpsilonBound
from attacks.metrics.exposure import Change
from attacks.metrics.intervals import Estimate, summarise
from attacks.shadow_split import ShadowSplit
from attacks.strongest import Strongest
from attacks.z_scores import Density, ZScores
from reporting.findings import FINDINGS, Body, Finding, find, make_tables
from reporting.results import plain
from reporting.tables import Cell

W2, W4 = "nearest-w2", "gptq-w4, group 64"  # models trained elsewhere have free names


def differ(first, second, value, p, shadows=nan):
    estimate = Estimate(value, value - 0.01, value + 0.01, 0.02)
    return Difference(first, second, estimate, p / 2, p, shadows)


def held(names, value):
    summary = summarise(torch.tensor([[0.0, 1.0, 2.0, 3.0]]), torch.tensor([[0, 1, 0, 1]]).bool())
    estimate = Estimate(value, value - 0.01, value + 0.01)
    summary = summary._replace(auc=estimate, tpr_1pct=Estimate(0.1, 0.05, 0.2))
    return JointAttack(names, summary, names[0], differ("joint", names[0], 0.03, 0.02))


def measured(members, non_members):
    """Z-scores of the targets; no shadow trained on an audited example."""
    empty = Density(nan, nan, [0.0])
    members, non_members = Density(members, 1.0, [1.0]), Density(non_members, 0.5, [1.0])
    return ZScores([0, 1], members, non_members, empty, Density(0, 1, [1.0]))


SURE = Estimate(1.0, 0.9, 1.0)
VALUES = {
    "differences": Differences(
        reference="full",
        against_reference={
            "auc": {
                W4: differ(W4, "full", -0.01, 0.0001, 0.126),
                W2: differ(W2, "full", -0.05, 0.0456, 0.5),
            },
            "tpr_1pct": {
                W4: differ(W4, "full", 0.021, 0.0123, 0.2),
                W2: differ(W2, "full", -0.0304, 0.06),
            },
        },
        beyond_gap={
            "full": differ("full", "the gap attack on full", 0.1, 0.0004),
            W2: differ(W2, f"the gap attack on {W2}", 0.0, 1.0),
        },
    ),
    "frontier": {
        "early stopping": Frontier(
            ["epoch-10", "epoch-15", "full"],
            {
                W4: Beside("above", nan, ("", ""), {}),
                W2: Beside(
                    "",
                    0.5,
                    ("epoch-10", "epoch-15"),
                    {
                        "auc": differ("early stopping", W2, 0.042, 0.0004),
                        "tpr_1pct": differ("early stopping", W2, -0.0304, 0.06),
                    },
                ),
            },
        ),
        "noise": Frontier(["noisy", "full"], {W2: Beside("below", nan, ("", ""), {})}),
    },
    "shadows": {
        "auc": {
            W4: ShadowSplit(
                Estimate(0.55, 0.5, 0.6),
                differ(f"{W4}, attack", f"{W4}, paper", 0.02, 0.0004),
                differ(f"{W4}, recalibration", f"{W4}, attack", -0.01, 1.0),
                differ(f"{W4}, quantizing", f"{W4}, recalibration", 0.04, 0.3),
                Estimate(0.6, 0.58, 0.63),
            ),
            W2: ShadowSplit(
                None, None, None, differ(f"{W2}, quantizing", f"{W2}, attack", 0.5, 0.01), SURE
            ),
        },
        "tpr_1pct": {
            W4: ShadowSplit(
                Estimate(0.02, 0.01, 0.035),
                differ(f"{W4}, attack", f"{W4}, paper", 0.031, 0.002),
                None,
                differ(f"{W4}, quantizing", f"{W4}, attack", -0.005, 0.9),
                Estimate(0.046, 0.03, 0.07),
            ),
        },
    },
    "z_scores": {
        "full": {"matched": measured(1.5, 0.0)},
        W4: {"matched": measured(1.0, 0.0), "unquantized": measured(1.0, 0.0)},
        W2: {
            "matched": measured(1.0, 0.0),
            "unquantized": measured(-1.0, -2.0),
            "recalibrated": measured(0.5, 0.25),
        },
    },
    "joint_lira": [
        held(("full", W2), 0.7),
        held(("full", W4, W2), 0.8),
        held(("full", W4, W2, "e"), 0.9),
    ],
    "calibration": {W2: Estimate(0.51, 0.45, 0.57)},
    "epsilon": {
        "full": Bounds(EpsilonBound(1.234, 0.5, 0.123, 0.0045, 80, 80), 0.5678, 16),
        W2: Bounds(EpsilonBound(0.0, inf, 0.0, 0.0, 80, 80), 0.0, 16),
        W4: Bounds(EpsilonBound(0.5, 0.5, 0.25, 0.05, 80, 80), 0.0, 16),
    },
    "exposure": Exposures(
        reference="full",
        attack="attack_r",
        changes={W4: Change(0, 0, nan, nan), W2: Change(12, 3, 0.876, 2.6)},
        variants=["full", W2],
        examples=torch.tensor([[0.5, nan], [0.75, nan]]),
        kept=torch.tensor([True, False]),
    ),
}
NOTHING = {
    "differences": Differences("full", {"auc": {}, "tpr_1pct": {}}, {}),
    **{key: {} for key in ("frontier", "shadows", "z_scores", "calibration", "epsilon")},
    "joint_lira": [],
    "exposure": Exposures("full", "gap", {}, ["full"], torch.zeros(1, 2), torch.ones(2) > 0),
}


def test_every_table_by_hand():
    tables = make_tables(VALUES)
    joint = [
        [(names, None), (auc, area), ("10.0% (5.0-20.0)", 0.1), ("full", None)]
        for names, auc, area in (
            (f"full + {W2}", "0.700 (0.690-0.710)", 0.7),
            (f"full + {W4} + {W2}", "0.800 (0.790-0.810)", 0.8),
            ("all 4 variants", "0.900 (0.890-0.910)", 0.9),
        )
    ]
    dash = ("-", None)
    assert [[list(row) for row in table.rows] for table in tables] == [
        [
            [
                *(("full", None), dash, dash, dash, dash),
                *(("+0.100 (+0.090 to +0.110)", 0.1), ("< 0.001", 0.0004)),
            ],
            [
                *((W4, None), ("-0.010 (-0.020 to +0.000)", -0.01), ("< 0.001", 0.0001)),
                *(("+2.1 (+1.1 to +3.1)", 0.021), ("0.012", 0.0123), dash, dash),
            ],
            [
                *((W2, None), ("-0.050 (-0.060 to -0.040)", -0.05), ("0.046", 0.0456)),
                *(("-3.0 (-4.0 to -2.0)", -0.0304), ("0.060", 0.06)),
                *(("+0.000 (-0.010 to +0.010)", 0), ("1.000", 1)),
            ],
        ],
        [
            [
                *((W4, None), ("early stopping", None)),
                *(("outside: more accurate than every network on the curve", None), *[dash] * 4),
            ],
            [
                *((W2, None), ("early stopping", None)),
                *(("epoch 12.5 (epoch-10 to epoch-15)", 0.5),),
                *(("+0.042 (+0.032 to +0.052)", 0.042), ("< 0.001", 0.0004)),
                *(("-3.0 (-4.0 to -2.0)", -0.0304), ("0.060", 0.06)),
            ],
            [
                *((W2, None), ("noise", None)),
                *(("outside: less accurate than noisy", None), *[dash] * 4),
            ],
        ],
        [
            [
                *((W4, None), ("AUC", None), ("0.550 (0.500-0.600)", 0.55)),
                *(("+0.020 (+0.010 to +0.030)", 0.02), ("< 0.001", 0.0004)),
                *(("-0.010 (-0.020 to +0.000)", -0.01), ("1.000", 1)),
                *(("+0.040 (+0.030 to +0.050)", 0.04), ("0.300", 0.3)),
                ("0.600 (0.580-0.630)", 0.6),
            ],
            [
                *((W2, None), ("AUC", None), *[dash] * 5),
                *(("+0.500 (+0.490 to +0.510)", 0.5), ("0.010", 0.01)),
                ("1.000 (0.900-1.000)", 1),
            ],
            [
                *((W4, None), ("TPR at 1% FPR", None), ("2.0% (1.0-3.5)", 0.02)),
                *(("+3.1 (+2.1 to +4.1)", 0.031), ("0.002", 0.002), dash, dash),
                *(("-0.5 (-1.5 to +0.5)", -0.005), ("0.900", 0.9)),
                ("4.6% (3.0-7.0)", 0.046),
            ],
        ],
        [
            [("full", None), ("1.50±1.00", 1.5), ("0.00±0.50", 0), *[dash] * 4],
            [(W4, None), *[("1.00±1.00", 1), ("0.00±0.50", 0)] * 2, dash, dash],
            [
                *((W2, None), ("1.00±1.00", 1), ("0.00±0.50", 0)),
                *(("-1.00±1.00", -1), ("-2.00±0.50", -2)),
                *(("0.50±1.00", 0.5), ("0.25±0.50", 0.25)),
            ],
        ],
        [[*row, ("+0.030 (+0.020 to +0.040)", 0.03), ("0.020", 0.02)] for row in joint],
        [[(W2, None), ("0.510 (0.450-0.570)", 0.51)]],
        [
            [("full", None), ("1.23 (TPR 12.3%, FPR 0.4%)", 1.234), ("0.57", 0.5678)],
            [(W2, None), ("0.00 (TPR 0.0%, FPR 0.0%)", 0), ("0.00", 0)],
            [(W4, None), ("0.50 (TPR 25.0%, FPR 5.0%)", 0.5), ("0.00", 0)],
        ],
        [
            [(W4, None), ("0 (-)", 0), ("0 (-)", 0), dash],
            [(W2, None), ("12 (3)", 12), ("3 (3)", 3), ("0.88", 0.876)],
        ],
    ]
    assert [table.key for table in tables] == list(VALUES)
    assert len({table.title for table in tables}) == len(tables)
    for table in tables:
        assert {len(row) for row in table.rows} == {len(table.columns)}
        assert table.note.endswith(".")
    by_key = {table.key: table for table in tables}
    assert by_key["differences"].columns == (
        *("variant", "AUC beyond full's", "p", "TPR at 1% FPR beyond full's, points", "p"),
        *("AUC beyond the gap attack's", "p"),
    )
    # 0.126, 0.5 and 0.2; the fourth is unknown
    assert "(here 13 to 50% of it, median 20%)" in by_key["differences"].note
    assert "comparisons by AUC and TPR at 1% FPR together" in by_key["differences"].note
    assert by_key["frontier"].columns == (
        *("variant", "curve", "as accurate as"),
        *("AUC less than there", "p", "TPR at 1% FPR less than there, points", "p"),
    )
    assert by_key["shadows"].columns[:3] == (
        *("variant", "metric", "online LiRA, full-precision shadows"),
    )
    assert by_key["z_scores"].columns[3:] == (
        *("members, full-precision shadows", "non-members, full-precision shadows"),
        *("members, recalibrated shadows", "non-members, recalibrated shadows"),
    )
    assert "correct ones of 16 guesses" in by_key["epsilon"].note
    assert by_key["exposure"].note.startswith("Against full.")
    assert "more than 0.1." in by_key["exposure"].note


@pytest.mark.parametrize(
    ("key", "title"),
    [
        ("differences", "Do two variants leak differently?"),
        ("frontier", "What the same loss of accuracy buys otherwise"),
        ("shadows", "What quantizing the shadows is worth to the attacker"),
        ("z_scores", "Where members and non-members stand among the shadows"),
        ("joint_lira", "An attacker who holds several variants of a model"),
        ("calibration", "Was a training example used to calibrate the quantizer?"),
        ("epsilon", "Lower bounds on epsilon"),
        ("exposure", "Who becomes safer, and who more exposed"),
    ],
)
def test_only_tables_with_rows_are_made(key, title):
    assert make_tables(NOTHING) == []
    (table,) = make_tables(NOTHING | {key: VALUES[key]})
    assert (table.key, table.title) == (key, title)


@pytest.mark.parametrize("field", ["against_reference", "beyond_gap"])
def test_either_difference_suffices_for_a_table(field):
    differences = VALUES["differences"]
    part = NOTHING["differences"]._replace(**{field: getattr(differences, field)})
    (table,) = make_tables({"differences": part})
    assert table.key == "differences"


def test_a_tail_at_a_tenth_of_a_percent_is_named():
    auc, rate = VALUES["differences"].against_reference.values()
    value = Differences("full", {"auc": auc, "tpr_01pct": rate}, {})
    (table,) = make_tables({"differences": value})
    assert table.columns[3] == "TPR at 0.1% FPR beyond full's, points"
    assert "comparisons by AUC and TPR at 0.1% FPR together" in table.note


def test_snapshots_are_said_to_be_corrected_by_themselves():
    value = VALUES["differences"]
    (table,) = make_tables({"differences": value})
    assert "apart (Holm). " in table.note
    (table,) = make_tables({"differences": value._replace(snapshots=["epoch-05"])})
    assert "apart (Holm); snapshots of training by themselves. " in table.note


def test_an_unknown_part_of_the_shadows_is_called_unknown():
    auc = {W2: differ(W2, "full", -0.05, 0.0456)}
    (table,) = make_tables({"differences": Differences("full", {"auc": auc, "tpr_1pct": auc}, {})})
    assert "(here it is unknown and missing, because half of the shadows do not" in table.note
    assert "intervals and p hold for these shadows alone)" in table.note


def test_variants_of_equal_bits_are_told_from_all_variants():
    (joint, *_), quantizers = VALUES["joint_lira"], ("nearest", "adaround", "obc", "gptq")
    alike = joint._replace(variants=tuple(f"{name}-w1.58" for name in quantizers))
    every = joint._replace(variants=("full", *alike.variants))
    epochs = joint._replace(variants=("full", "epoch-05", "epoch-10", "epoch-15"))
    both = joint._replace(variants=(*epochs.variants, W2))
    (table,) = make_tables({"joint_lira": [alike, every, epochs, both]})
    assert [row[0].text for row in table.rows] == [
        "all 4 variants of w1.58",
        "all 5 variants",
        "full + all 3 snapshots",
        "all 5 variants, 3 of them snapshots",
    ]
    assert "(Holm); holders of a snapshot are corrected by themselves." in table.note
    (table,) = make_tables({"joint_lira": [alike, every]})
    assert table.note.endswith("for the number of rows (Holm).")


def test_convergence_is_for_its_figure_alone():
    assert FINDINGS["convergence"].table is None
    assert make_tables({"convergence": {"full": None}}) == []


def test_full_precision_alone_is_compared_with_the_gap_attack():
    gap = {"full": VALUES["differences"].beyond_gap["full"]}
    value = NOTHING["differences"]._replace(beyond_gap=gap)
    (table,) = make_tables({"differences": value})
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["full", "-", "-", "-", "-", "+0.100 (+0.090 to +0.110)", "< 0.001"]
    ]


def conclude(game, attacks):
    best = Strongest(game)
    for variant in game.variants:
        best.add(evaluate(game, variant, attacks))
    return find(game, best)


@pytest.mark.parametrize("leak", [0.0, 2.0])
@pytest.mark.parametrize("targets", [1, 3])
def test_tables_of_real_findings_hold_numbers(synthetic_fleet, rng, leak, targets):
    """Without a leak a threshold is infinite; where all is classified correctly no rank differs."""
    phi, members = synthetic_fleet(8, targets, 80, leak)
    correct = torch.ones_like(phi)
    noise = torch.randn(phi.shape, generator=rng)
    signals = {"full": ModelSignals(phi, correct), W2: ModelSignals(phi + noise, correct)}
    calibrated = {"full": members, W2: members}
    game = Game(signals, members, make_cases(8, targets), calibrated)
    for attacks in (["gap"], ["gap", "attack_r", "lira_offline_fixed"]):
        values = conclude(game, attacks)
        read = json.loads(json.dumps(plain(values), allow_nan=False))
        assert list(read) == list(FINDINGS)
        differences = read["differences"]
        assert differences["reference"] == "full"
        for metric, found in values["differences"].against_reference.items():
            read_back = differences["against_reference"][metric][W2]
            assert read_back["p"] == pytest.approx(found[W2].p)
        for table in make_tables(values):
            assert table.rows
            for row in table.rows:
                assert len(row) == len(table.columns)
                assert not any("nan" in cell.text or "inf" in cell.text for cell in row)
                json.dumps(row, allow_nan=False)


def test_a_registered_finding_is_computed_and_has_a_table(game, strongest, monkeypatch):
    """One registry entry suffices."""

    def compute(game, best):
        return {variant: len(best.variants[variant].alike) for variant in game.variants}

    def tabulate(value):
        rows = [(Cell(variant), Cell(str(count), count)) for variant, count in value.items()]
        return Body(("variant", "targets"), rows, "A toy.")

    monkeypatch.setitem(FINDINGS, "toy", Finding("How many targets?", compute, tabulate))
    values = find(game, strongest)
    assert values["toy"] == dict.fromkeys(game.variants, 2)
    table = make_tables(values)[-1]
    assert table[:3] == ("toy", "How many targets?", ("variant", "targets"))
    assert table.rows[0] == (("full", None), ("2", 2))
