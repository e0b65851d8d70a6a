from itertools import pairwise

import pytest
import torch

from quantization.rounding.grid import LEVELS, Grid, dequantize, find_grid
from quantization.rounding.nearest import nearest

GRIDS = [(bits, symmetric) for bits in LEVELS for symmetric in (False, True)]


def awkward_rows(rng):
    """Rows of every kind a trained network has, at scales from 1e-30 to 1e30."""
    normal = torch.randn(12, 45, generator=rng)
    normal[1:3] = normal[1:3].abs() * torch.tensor([[1.0], [-1.0]])  # one-sided
    normal[3] = 0  # pruned
    normal[4], normal[5] = 0.3, -7.0  # constant
    normal[6, 1:] = 0  # a single weight
    normal[7] = normal[7].sign()  # two values
    normal[8, 0] = 50  # an outlier
    normal[9] *= 1e-30
    normal[10] *= 1e30
    normal[11] += 3
    return normal


def loss(row, step, zero, count):
    """The obvious loop: round, clip, sum |error|^2.4, in Python floats."""
    total = 0.0
    for w in row.tolist():
        code = min(max(round(w / step) + zero, 0), count - 1)
        total += abs((code - zero) * step - w) ** 2.4
    return total


def search(row, count, symmetric):
    """BRECQ's search by channel and candidate: every candidate's (loss, step, zero)."""
    low, high = min(0.0, row.min().item()), max(0.0, row.max().item())
    candidates = []
    for i in range(80):
        shrink = 1 - 0.01 * i
        if symmetric:
            step, zero = shrink * max(-low, high) / ((count - 1) // 2), count // 2
        else:
            step = shrink * (high - low) / (count - 1)
            zero = round(-shrink * low / step)
        candidates.append((loss(row, step, zero, count), step, zero))
    return candidates


@pytest.mark.parametrize(("bits", "symmetric"), [g for g in GRIDS if g != (1.58, True)])
def test_search_matches_the_loop_over_channels(rng, bits, symmetric):
    weight = torch.randn(6, 33, generator=rng) * torch.tensor([1e-3, 0.1, 1, 1, 5, 1])[:, None]
    weight[3] = weight[3].abs()
    weight[4, 0] = 40
    scale, zero, count = find_grid(weight, bits, symmetric)
    for row, step, z in zip(weight, scale.flatten().tolist(), zero.flatten().tolist(), strict=True):
        candidates = search(row, count, symmetric)
        best, _, best_zero = min(candidates)
        assert z == best_zero
        assert min(abs(step / other - 1) for _, other, _ in candidates) < 1e-6  # float32's rounding
        # Far steps can be equally good: |error|^2.4 by a float32 log and exp is off by up to 2.4
        # |log(error)| * 6e-8, which is 2e-6 for an error of a millionth of a step.
        assert loss(row, step, z, count) == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("columns", [1, 2, 9])
def test_ternary_step_beats_every_other_step(rng, columns):
    weight = torch.randn(20, columns, generator=rng)
    weight[0], weight[1, 0], weight[2] = 0, 30, 0.5
    grid = find_grid(weight, 1.58, symmetric=True)
    weight, values = weight.double(), dequantize(nearest(weight, grid), grid).double()
    ours = (values - weight).square().sum(1)
    # All k: the best step for any set of kept weights is their mean.
    ordered = weight.abs().sort(1, descending=True).values
    for k in range(1, columns + 1):
        step = ordered[:, :k].mean(1, keepdim=True)
        kept = (ordered[:, :k] - step).square().sum(1) + ordered[:, k:].square().sum(1)
        assert (ours <= kept * (1 + 1e-5) + 1e-12).all()
    for _ in range(300):
        step = ordered[:, :1] * 1.2 * torch.rand(20, 1, generator=rng)
        nearest_value = torch.minimum(ordered, (ordered - step).abs())
        assert (ours <= nearest_value.square().sum(1) * (1 + 1e-5) + 1e-12).all()


def test_ternary_step_by_hand():
    # k = 1: 3^2 / 1 = 9, k = 2: 5^2 / 2 = 12.5, k = 3: 5.5^2 / 3 = 10.1; so (3 + 2) / 2.
    weight = torch.tensor([[0.5, -3.0, 2.0]])
    grid = find_grid(weight, 1.58, symmetric=True)
    assert grid == Grid(torch.tensor([[2.5]]), torch.tensor([[1]], dtype=torch.uint8), 3)
    assert nearest(weight, grid).tolist() == [[1, 0, 2]]
    assert dequantize(nearest(weight, grid), grid).tolist() == [[0.0, -2.5, 2.5]]


def test_asymmetric_grid_by_hand():
    # From -1 to 2 in three steps of 1; every weight is a grid point, so nothing is shrunk.
    weight = torch.tensor([[-1.0, 0.0, 1.0, 2.0]])
    grid = find_grid(weight, 2, symmetric=False)
    assert (grid.scale.item(), grid.zero.item(), grid.levels) == (1.0, 1, 4)
    assert nearest(weight, grid).tolist() == [[0, 1, 2, 3]]


def test_symmetric_grid_by_hand():
    # Codes -2 .. 1 around zero 2; the largest step is the largest weight.
    weight = torch.tensor([[-1.0, 0.0, 1.0, 1.0]])
    grid = find_grid(weight, 2, symmetric=True)
    assert (grid.scale.item(), grid.zero.item(), grid.levels) == (1.0, 2, 4)
    assert nearest(weight, grid).tolist() == [[1, 2, 3, 3]]


def test_search_reaches_a_fifth_of_the_range():
    # 2,000 weights at 0.21 fit exactly at step 0.21, the last of the 80, and outvote the outlier.
    weight = torch.full((1, 2001), 0.21)
    weight[0, 0] = 1.0
    assert find_grid(weight, 2, symmetric=True).scale.item() == pytest.approx(0.21)


@pytest.mark.parametrize(("bits", "symmetric"), GRIDS)
def test_awkward_rows_stay_on_their_grid_within_half_a_step(rng, bits, symmetric):
    weight = awkward_rows(rng)
    grid = find_grid(weight, bits, symmetric)
    codes = nearest(weight, grid)
    values = dequantize(codes, grid)
    assert int(grid.zero.max()) < grid.levels == LEVELS[bits]
    assert (grid.scale > 0).all()
    assert values.isfinite().all()
    assert all(len(row.unique()) <= grid.levels for row in values)
    lowest = -grid.zero.float() * grid.scale
    highest = (grid.levels - 1 - grid.zero.float()) * grid.scale
    error = (values - weight).abs()
    inside = (lowest <= weight) & (weight <= highest)
    assert (error <= grid.scale / 2 * (1 + 1e-4))[inside].all()
    ends = torch.where(weight < lowest, lowest, highest).expand_as(weight)
    assert torch.equal(values[~inside], ends[~inside])


@pytest.mark.parametrize(("bits", "symmetric"), GRIDS)
def test_zero_constant_and_one_column_rows(bits, symmetric):
    weight = torch.tensor([[0.0], [0.7], [-0.7]])
    grid = find_grid(weight, bits, symmetric)
    values = dequantize(nearest(weight, grid), grid)
    assert values[0] == 0.0
    assert grid.scale[0] == 1.0
    torch.testing.assert_close(values, weight)


def test_weights_near_the_smallest_float_keep_a_zero_point_within_the_codes():
    weight = torch.tensor([[-382.0, 0.0]]) * 2.0**-149  # 1.498 smallest floats a step, rounded to 1
    assert find_grid(weight, 8, symmetric=False).zero.item() == 255


def test_more_levels_never_lose_more(rng):
    weight = torch.randn(8, 200, generator=rng)
    errors = []
    for bits in LEVELS:
        grid = find_grid(weight, bits, symmetric=False)
        errors.append((dequantize(nearest(weight, grid), grid) - weight).norm().item())
    assert all(fewer < more for fewer, more in pairwise(errors))


def test_nearest_is_the_nearest(rng):
    weight = torch.randn(5, 40, generator=rng) * 3
    grid = Grid(
        torch.rand(5, 1, generator=rng) + 0.1, torch.arange(5, dtype=torch.uint8)[:, None], 8
    )
    values = dequantize(torch.arange(8, dtype=torch.uint8).expand(5, 8), grid)
    closest = (weight[:, :, None] - values[:, None, :]).abs().argmin(2)
    assert torch.equal(nearest(weight, grid).long(), closest)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_refused(bad):
    weight = torch.zeros(2, 3)
    weight[1, 2] = bad
    with pytest.raises(ValueError, match=r"1 of 6 .* not finite.* lower the learning rate"):
        find_grid(weight, 4, symmetric=False)


def test_bits_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match=r"Bits must be one of 8, 4, 3, 2, 1.58, got 6"):
        find_grid(torch.ones(1, 1), 6, symmetric=False)
