"""Exposures by hand and by a slow loop."""

from math import isnan, nan

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from attacks.metrics.exposure import MOVED, change, exposure, most_exposed


def test_exposures_by_hand():
    """A tie counts half; the mean is over targets that trained on the example, none on the last."""
    scores = torch.tensor(
        [
            [5.0, 2.0, 2.0, 9.0, 0.0],
            [1.0, 1.0, 7.0, 3.0, 2.0],
        ]
    )
    members = torch.tensor([[0, 1, 1, 0, 0], [1, 0, 1, 0, 0]]).bool()
    # above one of 5, 9, 0; above none of 1, 3, 2, one of which ties; above all of them
    expected = [1 / 6, 1 / 3, (1 / 3 + 1) / 2, nan, nan]
    np.testing.assert_allclose(exposure(scores, members), expected, rtol=1e-12)


def slow(scores, members):
    exposures = []
    for example in range(scores.shape[1]):
        shares = []
        for row, inside in zip(scores.tolist(), members.tolist(), strict=True):
            if inside[example]:
                below = [
                    (row[example] > other) + (row[example] == other) / 2
                    for other, has in zip(row, inside, strict=True)
                    if not has
                ]
                shares.append(np.mean(below))
        exposures.append(np.mean(shares) if shares else nan)
    return np.array(exposures)


@pytest.mark.parametrize("decimals", [0, 6], ids=["ties", "no-ties"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exposures_match_a_slow_loop(rng, decimals, dtype):
    share = torch.tensor([[0.5], [0.1], [0.9], [0.3]])  # targets of unequal halves
    members = torch.rand(4, 60, generator=rng) < share
    members[:, 7], members[:, 8] = False, True
    scores = (torch.randn(4, 60, generator=rng, dtype=dtype) + members).round(decimals=decimals)
    scores[0, :3], scores[1, 2:5] = torch.inf, -torch.inf
    scores[3] = 0.25  # this target's scores tell nothing
    exposures = exposure(scores, members)
    assert exposures.dtype == torch.float64
    assert isnan(exposures[7])
    np.testing.assert_allclose(exposures, slow(scores, members), rtol=1e-12)


def test_the_mean_exposure_of_one_target_is_its_auc(rng):
    members = torch.rand(1, 90, generator=rng) < 0.4
    scores = (torch.randn(1, 90, generator=rng) + members).round(decimals=1)
    exposures = exposure(scores, members)
    assert exposures.nanmean().item() == pytest.approx(
        roc_auc_score(members[0], scores[0]), abs=1e-12
    )
    assert torch.equal(
        exposure(scores.double().exp(), members).nan_to_num(), exposures.nan_to_num()
    )


def test_change_by_hand():
    before = torch.tensor([0.9, 0.8, 0.5, 0.5, nan, 0.7, nan]).double()
    after = torch.tensor([0.5, 0.75, 0.9, 0.58, 0.9, nan, nan]).double()
    safer, exposed, correlation = change(before, after)
    assert (safer, exposed) == (1, 1)  # the second and the fourth moved by less than MOVED
    assert MOVED == 0.1
    # ranks 4, 3, 1.5, 1.5 and 1, 3, 4, 2
    assert correlation == pytest.approx(np.corrcoef([4, 3, 1.5, 1.5], [1, 3, 4, 2])[0, 1])


def test_change_counts_what_a_loop_counts(rng):
    before, after = torch.rand(2, 300, generator=rng).double().round(decimals=1) + 0.01
    before[::7], after[::5] = nan, nan
    before[1] = before[2]
    known = [(b, a) for b, a in zip(before.tolist(), after.tolist(), strict=True) if b > 0 < a]
    safer, exposed, correlation = change(before, after)
    assert safer == sum(a - b < -MOVED for b, a in known)
    assert exposed == sum(a - b > MOVED for b, a in known)
    assert correlation == pytest.approx(spearmanr(*zip(*known, strict=True)).statistic, abs=1e-12)
    assert change(after, before)[:2] == (exposed, safer)
    assert change(before, before) == pytest.approx((0, 0, 1))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([0.5, 0.5, 0.5], [0.2, 0.6, 0.5]),  # an always right model's gap attack
        ([0.2, 0.6, 0.5], [0.5, 0.5, 0.5]),
        ([0.2, nan, nan], [0.3, 0.4, nan]),
        ([nan, nan], [nan, nan]),
    ],
    ids=["before", "after", "one", "none"],
)
def test_there_is_no_correlation_where_nothing_varies(before, after):
    """Nor a warning, which pytest would turn into an error."""
    changed = change(torch.tensor(before), torch.tensor(after))
    assert isnan(changed.correlation)


def test_most_exposed_by_hand():
    exposures = torch.tensor([0.5, nan, 0.9, 0.5, nan, 0.9, 0.0])
    assert most_exposed(exposures, 3).tolist() == [2, 5, 0]  # the first of tied examples
    assert most_exposed(exposures, 99).tolist() == [
        2,
        5,
        0,
        3,
        6,
    ]  # two are unknown
    assert (
        most_exposed(exposures.repeat(50), 99).tolist()
        == [i for i in range(350) if i % 7 in (2, 5)][:99]
    )
    assert most_exposed(exposures, 0).tolist() == []
    assert most_exposed(torch.full((4,), nan), 2).tolist() == []
