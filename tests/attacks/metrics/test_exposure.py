"""Exposures by hand and by a slow loop."""

from math import isnan, nan

import numpy as np
import pytest
import torch
from scipy.stats import norm, spearmanr
from sklearn.metrics import roc_auc_score

from attacks.metrics.exposure import MOVED, change, exposure, most_exposed, noise


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
    """Three targets; no target trained on the last example, whose shares do not count."""
    members = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [0, 0, 1, 1, 0]]).bool()
    before = torch.tensor([[0.9, 0.8, 0.5, 0, 0], [0.9, 0.6, 1, 0.5, 1], [0, 1, 0.5, 0.5, 0]])
    after = torch.tensor([[0.4, 0.7, 0.8, 1, 1], [0.6, 0.6, 0, 0.6, 0], [1, 0, 1.0, 0.56, 1]])
    safer, exposed, correlation, _ = change(before.double(), after.double(), members)
    # means 0.9, 0.7, 0.5, 0.5 and 0.5, 0.65, 0.9, 0.58: two moved by less than MOVED
    assert (safer, exposed) == (1, 1)
    assert MOVED == 0.1
    # ranks 4, 3, 1.5, 1.5 and 1, 3, 4, 2
    assert correlation == pytest.approx(np.corrcoef([4, 3, 1.5, 1.5], [1, 3, 4, 2])[0, 1])


def test_change_counts_what_a_loop_counts(rng):
    before, after = torch.rand(2, 3, 300, generator=rng).double().round(decimals=1) + 0.01
    members = torch.rand(3, 300, generator=rng) < 0.4
    before[:, 1], members[:, 1] = before[:, 2], members[:, 2]
    inside = [mask.nonzero().flatten() for mask in members.T]
    pairs = zip(before.T, after.T, inside, strict=True)
    known = [(b[i].mean().item(), a[i].mean().item()) for b, a, i in pairs if len(i)]
    safer, exposed, correlation, _ = change(before, after, members)
    assert safer == sum(a - b < -MOVED for b, a in known)
    assert exposed == sum(a - b > MOVED for b, a in known)
    assert correlation == pytest.approx(spearmanr(*zip(*known, strict=True)).statistic, abs=1e-12)
    assert change(after, before, members)[:2] == (exposed, safer)
    assert change(before, before, members) == pytest.approx((0, 0, 1, 0))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([0.5, 0.5, 0.5], [0.2, 0.6, 0.5]),  # an always right model's gap attack
        ([0.2, 0.6, 0.5], [0.5, 0.5, 0.5]),
        ([0.2, nan, nan], [0.3, nan, nan]),
        ([nan, nan], [nan, nan]),
    ],
    ids=["before", "after", "one", "none"],
)
def test_there_is_no_correlation_where_nothing_varies(before, after):
    """Nor a warning, which pytest would turn into an error."""
    before = torch.tensor([before])
    changed = change(before, torch.tensor([after]), ~before.isnan())
    assert isnan(changed.correlation)
    assert isnan(changed.noise)  # a single target


def test_noise_by_hand():
    """Half the difference of two targets, and sqrt(2) times that for one of its own."""
    both = torch.tensor([[0.3, 0.11, 0.2, 0.9], [-0.3, -0.1, 0.1, 0.75]]).double()
    members = torch.ones(2, 4).bool()
    # contrasts of 0.3, 0.105, 0.05 and 0.075
    assert noise(both, members) == 1
    alone = torch.cat([both, torch.full((2, 5), 0.2).double()], 1)
    once = torch.tensor([[1], [0]]).bool().expand(2, 5)
    # 0.424, 0.148, 0.071, 0.106: three of four, of the five others too
    assert noise(alone, torch.cat([members, once], 1)) == pytest.approx((2 + 5 * 3 / 4) / 2)


@pytest.mark.parametrize("targets", [2, 3, 6, 9])
@pytest.mark.parametrize(("own", "shared"), [(0.2, 0.0), (0.2, 0.1), (0.1, 0.1)])
def test_noise_counts_what_gaussians_move(rng, targets, own, shared):
    """Each target's own noise, and what all targets share, whether they trained on it or not."""
    examples = 6000
    members = torch.rand(targets, examples, generator=rng) < 0.5
    moves = own * torch.randn(targets, examples, generator=rng, dtype=torch.float64)
    moves += shared * torch.randn(examples, generator=rng, dtype=torch.float64)
    count = members.sum(0)[members.any(0)].numpy()
    expected = norm.cdf(-MOVED / np.sqrt(own**2 / count + shared**2)).sum()
    assert noise(moves, members) == pytest.approx(expected, rel=0.08)


def test_true_changes_are_no_noise(rng):
    members = torch.rand(5, 500, generator=rng) < 0.5
    moves = 0.1 * torch.randn(5, 500, generator=rng, dtype=torch.float64)
    truth = torch.randn(500, generator=rng, dtype=torch.float64)
    assert noise(moves + truth * members, members) == noise(moves, members) > 0


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
