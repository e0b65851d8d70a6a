"""Telling calibration examples from other members, on signals with a planted difference."""

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from attacks.calibration_set import calibration_auc
from attacks.cases import Case, make_cases
from attacks.game import Game, ModelSignals


class OnDisk:
    """A signal on disk: a list selects models, a slice of examples is read, and no more."""

    def __init__(self, tensor):
        self.tensor, self.shape, self.dtype = tensor, tensor.shape, tensor.dtype

    def __getitem__(self, index):
        if isinstance(index, list):
            return OnDisk(self.tensor[index])
        dots, examples = index
        assert dots is ...
        assert isinstance(examples, slice)
        return self.tensor[..., examples]


def measure(phi, members, calibrated, cases):
    """The AUC on one variant."""
    game = Game({"w2": ModelSignals(phi)}, members, cases, {"w2": calibrated})
    return calibration_auc(game, "w2")


def fleet(synthetic_fleet, rng, planted, share=0.5, shadows=16, targets=3, examples=200):
    """Members' phi is higher by 2 nats, that of calibration examples by `planted` more."""
    phi, members = synthetic_fleet(shadows, targets, examples, leak=2)
    calibrated = (torch.rand(members.shape, generator=rng) < share) & members
    return phi + planted * calibrated[:, None], members, calibrated, make_cases(shadows, targets)


@pytest.mark.parametrize("planted", [3.0, -3.0])
def test_a_planted_leak_is_detected(synthetic_fleet, rng, planted):
    """Whichever way calibration moves the signal, online LiRA learns it from the shadows."""
    area = measure(*fleet(synthetic_fleet, rng, planted))
    assert area.low > 0.8
    assert area.low < area.value < area.high <= 1


@pytest.mark.parametrize("targets", [1, 6])
def test_without_leakage_it_is_a_guess(synthetic_fleet, rng, targets):
    """Though membership itself leaks a lot."""
    area = measure(*fleet(synthetic_fleet, rng, 0.0, targets=targets, examples=400))
    assert area.low <= 0.5 <= area.high
    assert area.high - area.low < 0.25


def test_a_false_calibration_set_is_a_guess(synthetic_fleet, rng):
    phi, members, _, cases = fleet(synthetic_fleet, rng, 3.0, targets=6, examples=400)
    other = (torch.rand(members.shape, generator=rng) < 0.5) & members
    area = measure(phi, members, other, cases)
    assert area.low <= 0.5 <= area.high


def usable_by_loop(members, calibrated, target, shadows):
    usable = []
    for j in range(members.shape[1]):
        both = sum(bool(members[m, j] and calibrated[m, j]) for m in shadows)
        only = sum(bool(members[m, j] and not calibrated[m, j]) for m in shadows)
        if members[target, j] and both >= 2 and only >= 2:
            usable.append(j)
    return usable


def slow_auc(phi, members, calibrated, target, shadows):
    """One example and query at a time; None where the target has too few of a kind."""
    usable = usable_by_loop(members, calibrated, target, shadows)
    truth = [bool(calibrated[target, j]) for j in usable]
    if min(sum(truth), len(truth) - sum(truth)) < 2:
        return None
    scores = np.zeros(len(usable))
    for a in range(phi.shape[1]):
        centres, stds = {}, {}
        for side in (True, False):
            values = [
                [phi[m, a, j].item() for m in shadows if members[m, j] and calibrated[m, j] == side]
                for j in usable
            ]
            centres[side] = np.array([np.median(signals) for signals in values])
            residuals = np.concatenate(
                [np.array(signals) - c for signals, c in zip(values, centres[side], strict=True)]
            )
            stds[side] = np.sqrt(np.mean(residuals**2))
        own = phi[target, a, usable].double().numpy()
        log_in, log_out = (norm.logpdf(own, centres[side], stds[side]) for side in (True, False))
        scores += log_in - log_out
    return roc_auc_score(truth, scores)


@pytest.mark.parametrize("share", [0.25, 0.6])
@pytest.mark.parametrize("wrap", [lambda x: x, OnDisk], ids=["memory", "disk"])
@pytest.mark.parametrize("numbers", [1, 1 << 22])
def test_matches_a_slow_loop(synthetic_fleet, rng, monkeypatch, share, wrap, numbers):
    """Counts are unequal, one target has nothing to tell apart, and slices do not matter."""
    signals = fleet(synthetic_fleet, rng, 1.0, share, shadows=12, examples=90)
    phi, members, calibrated, cases = signals
    calibrated[cases[1].target] = False
    areas = [slow_auc(phi, members, calibrated, *case) for case in cases]
    assert [area is None for area in areas] == [False, True, False]
    usable = len(usable_by_loop(members, calibrated, *cases[0]))
    assert 0 < usable < members[cases[0].target].sum()
    monkeypatch.setattr("attacks.slices.NUMBERS", numbers)
    area = measure(wrap(phi), members, calibrated, cases)
    assert area.value == pytest.approx((areas[0] + areas[2]) / 2, abs=1e-12)


@pytest.mark.parametrize("wild", [1e6, -1e6, torch.nan, torch.inf])
def test_examples_with_too_few_shadows_do_not_count(synthetic_fleet, rng, wild):
    phi, members, calibrated, cases = fleet(synthetic_fleet, rng, 1.0, 0.3, targets=1)
    before = measure(phi, members, calibrated, cases)
    usable = usable_by_loop(members, calibrated, *cases[0])
    excluded = torch.ones(members.shape[1], dtype=torch.bool)
    excluded[usable] = False
    assert 20 < excluded.sum() < 180
    changed = phi.clone()
    changed[..., excluded] = wild
    assert measure(changed, members, calibrated, cases) == before
    # nor do the signals of models that did not train on an example
    changed = torch.where(members[:, None], phi, wild)
    assert measure(changed, members, calibrated, cases) == before


def test_only_members_count_as_calibrated(synthetic_fleet, rng):
    phi, members, calibrated, cases = fleet(synthetic_fleet, rng, 1.0)
    more = calibrated | ~members
    expected = measure(phi, members, calibrated, cases)
    assert measure(phi, members, more, cases) == expected


def test_without_both_kinds_of_members_there_is_no_auc(synthetic_fleet, rng):
    phi, members, calibrated, cases = fleet(synthetic_fleet, rng, 1.0)
    assert measure(phi, members, members.clone(), cases) is None  # all members
    assert measure(phi, members, torch.zeros_like(members), cases) is None
    few = [Case(target, shadows[:2]) for target, shadows in cases]  # one member per example
    assert measure(phi, members, calibrated, few) is None


def test_a_single_example_of_a_kind_gives_no_auc(synthetic_fleet, rng):
    """DeLong's interval would refuse it, and stop the audit."""
    phi, members, calibrated, cases = fleet(synthetic_fleet, rng, 1.0, targets=1)
    usable = usable_by_loop(members, calibrated, *cases[0])
    calibrated[-1] = False
    calibrated[-1, usable[3]] = True
    assert measure(phi, members, calibrated, cases) is None
    calibrated[-1, usable] = True
    calibrated[-1, usable[3]] = False
    assert measure(phi, members, calibrated, cases) is None
