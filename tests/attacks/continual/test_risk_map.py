"""What leverages let expect, against closed forms and drawn residuals."""

import math

import pytest
import torch
from scipy.stats import norm

from attacks.continual.paired import shadows_paired
from attacks.continual.risk_map import as_members, expected_auc, expected_tpr, map_risk
from attacks.metrics.roc import auc, roc

LEVERAGES = torch.tensor([0.0, 0.2, 0.5, 0.9], dtype=torch.float64)


def test_one_column_has_closed_forms():
    for h, area, rate in zip(
        LEVERAGES, expected_auc(LEVERAGES), expected_tpr(LEVERAGES, 0.01), strict=True
    ):
        assert area.item() == pytest.approx(2 / math.pi * math.atan(1 / (1 - h)))
        assert rate.item() == pytest.approx(2 * norm.cdf(norm.ppf(0.505) / (1 - h)) - 1)


def test_several_columns_tell_what_drawn_residuals_tell(rng):
    noise = torch.randn(2, 20_000, 3, generator=rng, dtype=torch.float64)
    sides = noise[0] * 0.5**0.5, noise[1] / 0.5**0.5  # h = 0.5
    squares = torch.cat([side.square().sum(1) for side in sides])
    curve = roc(-squares, torch.arange(40_000) < 20_000)
    half = torch.tensor([0.5])
    assert expected_auc(half, 3).item() == pytest.approx(auc(curve).item(), abs=0.005)
    at = curve.tpr[(curve.fpr <= 0.05).nonzero()[-1, 0]].item()
    assert expected_tpr(half, 0.05, 3).item() == pytest.approx(at, abs=0.01)


def test_leverages_of_members_and_others_are_comparable():
    found = as_members(torch.tensor([[0.5, 1.0]]), torch.tensor([[True, False]]))
    assert found.tolist() == [[0.5, 0.5]]


def test_examples_of_large_leverage_are_at_risk(learners, cell_of):
    cell = cell_of(learners, 2, 2)
    members, leverage = cell.members[8:], cell.leverage["float64"][8:]
    risk = map_risk("residual_lira_paired", shadows_paired(cell), leverage, members)
    assert sum(group.examples for group in risk.groups) == len(cell.labels)
    order = as_members(leverage, members).mean(0).argsort()
    last = order[-risk.groups[-1].examples :]
    curves = [
        auc(roc(scores[last], inside[last])).item()
        for scores, inside in zip(shadows_paired(cell), members, strict=True)
    ]
    assert risk.groups[-1].found.value == pytest.approx(sum(curves) / 2)
    assert [g.expected for g in risk.groups] == sorted(g.expected for g in risk.groups)
    assert risk.correlation.value > 0.2


def test_groups_without_members_have_no_map(learners, cell_of):
    cell = cell_of(learners, 0, 0)
    chosen = cell.leverage["float64"][8:], torch.arange(len(cell.labels)).expand(2, -1) < 3
    assert map_risk("any", shadows_paired(cell), *chosen) is None
