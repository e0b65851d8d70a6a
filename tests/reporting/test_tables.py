"""Tables of findings, made by hand and of a synthetic fleet."""

import json
from itertools import groupby
from math import inf, nan

import pytest
import torch

from attacks.evaluate import evaluate
from attacks.findings import Bounds, Findings, Versions, find
from attacks.game import Observed, make_cases
from attacks.metrics.differences import Difference
from attacks.metrics.epsilon import EpsilonBound
from attacks.metrics.exposure import Change
from attacks.metrics.intervals import Estimate, summarise
from attacks.strongest import Strongest
from attacks.z_scores import Density, Standing
from reporting.results import flat
from reporting.tables import make_sections, sentences

W2, W4 = "nearest-w2", "gptq-w4, group 64"  # others' models have free names


def differ(first, second, value, p):
    return Difference(first, second, Estimate(value, value - 0.01, value + 0.01, 0.02), p / 2, p)


def held(names, value):
    summary = summarise(
        torch.tensor([[0.0, 1.0, 2.0, 3.0]]), torch.tensor([[0, 1, 0, 1]]).bool(), 2
    )
    estimate = Estimate(value, value - 0.01, value + 0.01)
    summary = summary._replace(auc=estimate, tpr_1pct=Estimate(0.1, 0.05, 0.2))
    return Versions(names, summary, names[0], differ("joint", names[0], 0.03, 0.02))


def stood(members, others):
    """What the targets show; shadows did not train on any audited example."""
    empty = Density(nan, nan, [0.0])
    return Standing(
        [0, 1], Density(members, 1, [1.0]), Density(others, 0.5, [1.0]), empty, Density(0, 1, [1.0])
    )


EVERYTHING = Findings(
    reference="full",
    attack="attack_r",
    against_reference=[differ(W4, "full", -0.01, 0.0001), differ(W2, "full", -0.05, 0.0456)],
    against_full_shadows=[differ(f"{W4}, matched shadows", f"{W4}, full shadows", 0.04, 0.3)],
    beyond_gap=[
        differ("full", "the gap attack on full", 0.1, 0.0004),
        differ(W2, f"the gap attack on {W2}", 0.0, 1.0),
    ],
    versions=[
        held(("full", W2), 0.7),
        held(("full", W4, W2), 0.8),
        held(("full", W4, W2, "e"), 0.9),
    ],
    calibration={W2: Estimate(0.51, 0.45, 0.57)},
    bounds={
        "full": Bounds(EpsilonBound(1.234, 0.5, 0.123, 0.0045, 80, 80), 0.5678, 16),
        W2: Bounds(EpsilonBound(0.0, inf, 0.0, 0.0, 80, 80), 0.0, 16),
        W4: Bounds(None, 0.0, 16),
    },
    convergence={"full": ("attack_r", {2: Estimate(0.6, 0.5, 0.7), 4: Estimate(0.65, 0.6, 0.7)})},
    exposures={"full": torch.tensor([0.5, nan]), W2: torch.tensor([0.75, nan])},
    changes={W4: Change(0, 0, nan), W2: Change(12, 3, 0.876)},
    standing={
        "full": {"matched": stood(1.5, 0)},
        W2: {"matched": stood(1, 0), "full": stood(-1, -2)},
    },
)
NOTHING = Findings("full", "gap", [], [], [], [], {}, {}, {}, {}, {}, {})


def test_every_table_by_hand():
    found = make_sections(EVERYTHING)
    assert [section.rows for section in found] == [
        [
            ("full", "-", "-", "+0.100 (+0.090 to +0.110)", "< 0.001"),
            (W4, "-0.010 (-0.020 to +0.000)", "< 0.001", "-", "-"),
            (W2, "-0.050 (-0.060 to -0.040)", "0.046", "+0.000 (-0.010 to +0.010)", "1.000"),
        ],
        [(W4, "+0.040 (+0.030 to +0.050)", "0.300")],
        [
            ("full", "1.50±1.00", "0.00±0.50", "-", "-"),
            (W2, "1.00±1.00", "0.00±0.50", "-1.00±1.00", "-2.00±0.50"),
        ],
        [
            (names, auc, "10.0% (5.0-20.0)", "full", "+0.030 (+0.020 to +0.040)", "0.020")
            for names, auc in (
                (f"full + {W2}", "0.700 (0.690-0.710)"),
                (f"full + {W4} + {W2}", "0.800 (0.790-0.810)"),
                ("all 4 versions", "0.900 (0.890-0.910)"),
            )
        ],
        [(W2, "0.510 (0.450-0.570)")],
        [
            ("full", "1.23 (TPR 12.3%, FPR 0.4%)", "0.57"),
            (W2, "0.00 (TPR 0.0%, FPR 0.0%)", "0.00"),
            (W4, "-", "0.00"),
        ],
        [(W4, "0", "0", "-"), (W2, "12", "3", "0.88")],
    ]
    assert len({section.title for section in found}) == len(found)
    for section in found:
        assert {len(row) for row in section.rows} == {len(section.columns)}
        assert section.note.endswith(".")
    assert found[0].columns[1] == "AUC beyond full's"
    assert "makes 16 guesses" in found[5].note
    assert found[6].note.startswith("Against full.")
    assert "more than 0.1." in found[6].note


@pytest.mark.parametrize(
    ("fields", "titles"),
    [
        ((), []),
        (("against_reference",), ["Is the difference between two precisions one?"]),
        (("beyond_gap",), ["Is the difference between two precisions one?"]),
        (("against_full_shadows",), ["What quantizing the shadows is worth to the attacker"]),
        (("standing",), ["Where members and others stand among the shadows"]),
        (("versions",), ["An attacker who holds several versions of a model"]),
        (("calibration",), ["Was a training example used to calibrate the quantizer?"]),
        (("bounds",), ["Lower bounds on epsilon"]),
        (("changes",), ["Who becomes safer, and who more exposed"]),
        (("convergence", "exposures"), []),  # figures and a file of their own
    ],
    ids=str,
)
def test_only_tables_with_rows(fields, titles):
    some = NOTHING._replace(**{field: getattr(EVERYTHING, field) for field in fields})
    assert [section.title for section in make_sections(some)] == titles


def test_full_precision_alone_is_compared_with_the_gap_attack():
    some = NOTHING._replace(beyond_gap=EVERYTHING.beyond_gap[:1])
    (section,) = make_sections(some)
    assert section.rows == [("full", "-", "-", "+0.100 (+0.090 to +0.110)", "< 0.001")]


def test_sentences():
    shown, hidden = differ(W2, "full", -0.05, 0.0456), differ("w8", "full", 0.004, 0.5)
    some = NOTHING._replace(
        against_reference=[shown, hidden],
        beyond_gap=EVERYTHING.beyond_gap,  # not in words
    )
    assert sentences(some) == [
        f"{W2} leaks 0.04 to 0.06 less AUC than full.",
        "w8 and full: no difference shown (AUC -0.01 to 0.01).",
    ]
    assert sentences(NOTHING) == []


def test_flat_by_hand():
    found = flat(EVERYTHING)
    assert set(found) == set(Findings._fields) - {"exposures"}  # exposure.csv has them
    read = json.loads(json.dumps(found, allow_nan=False))
    assert read["reference"] == "full"
    assert read["calibration"] == {W2: {"value": 0.51, "low": 0.45, "high": 0.57, "spread": 0.0}}
    assert read["changes"][W2] == {"safer": 12, "exposed": 3, "correlation": 0.876}
    assert read["changes"][W4]["correlation"] is None
    assert read["bounds"][W2]["tested"]["threshold"] is None
    assert read["bounds"]["full"]["tested"]["threshold"] == 0.5
    assert read["bounds"][W4]["tested"] is None
    attack, points = read["convergence"]["full"]
    assert attack == "attack_r"
    assert [(count, point["value"]) for count, point in points.items()] == [("2", 0.6), ("4", 0.65)]
    assert read["standing"][W2]["full"]["others"] == {"mean": -2, "std": 0.5, "heights": [1.0]}
    assert read["standing"][W2]["full"]["shadows_in"]["mean"] is None
    assert read["versions"][1]["names"] == ["full", W4, W2]
    assert read["versions"][1]["summary"]["auc"]["value"] == 0.8
    assert read["against_reference"][1]["first"] == W2
    assert read["against_reference"][1]["estimate"]["value"] == -0.05
    assert read["against_reference"][1]["p_holm"] == 0.0456


@pytest.mark.parametrize("leak", [0.0, 2.0])
@pytest.mark.parametrize("targets", [1, 3])
def test_real_findings_are_written(synthetic_fleet, rng, leak, targets):
    """Without a leak a threshold is infinite, and where all is right nothing correlates."""
    phi, members = synthetic_fleet(8, targets, 80, leak)
    right = torch.ones_like(phi)
    noise = torch.randn(phi.shape, generator=rng)
    seen = {"full": Observed(phi, right), W2: Observed(phi + noise, right)}
    cases = make_cases(8, targets)
    for attacks in (["gap"], ["gap", "attack_r", "lira_offline_fixed"]):
        best = Strongest(members[[case.target for case in cases]])
        for _, made in groupby(evaluate(seen, members, cases, attacks), lambda s: s.row.variant):
            best.add(list(made))
        found = find(seen, members, cases, best, {"full": members, W2: members})
        read = json.loads(json.dumps(flat(found), allow_nan=False))
        assert read["reference"] == "full"
        assert read["against_reference"][0]["p"] == pytest.approx(found.against_reference[0].p)
        for section in make_sections(found):
            assert section.rows
            assert {len(row) for row in section.rows} == {len(section.columns)}
            assert not any("nan" in cell or "inf" in cell for row in section.rows for cell in row)
