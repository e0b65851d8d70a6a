import numpy as np
import pytest
import torch

from quantization.rounding import gptq as module
from quantization.rounding.gptq import gptq
from quantization.rounding.grid import LEVELS, Grid, dequantize, find_grid
from quantization.rounding.nearest import nearest

GRIDS = [(bits, symmetric) for bits in LEVELS for symmetric in (False, True) if bits != 8]


def gram(rng, columns, inputs=None, groups=1, dtype=torch.float32):
    """Sum of x x^T per group, over correlated inputs of different sizes after a ReLU."""
    inputs = 3 * columns + 5 if inputs is None else inputs
    mixing = torch.randn(groups, columns, columns, generator=rng) / columns**0.5
    x = torch.randn(groups, inputs, columns, generator=rng) @ (mixing + 0.5 * mixing.sign())
    x = (x + 0.3).relu().double() * torch.rand(columns, generator=rng).add(0.2)
    return (x.mT @ x).to(dtype)


def loop(weight, grid, hessian, damping):
    """One row and column at a time; remaining columns are refitted to all errors so far."""
    codes = np.zeros(weight.shape, dtype=np.uint8)
    for r, row in enumerate(weight.double().numpy()):
        h = hessian[r // (len(weight) // len(hessian))].double().numpy().copy()
        order = np.argsort(-np.diag(h), kind="stable").tolist()
        dead = np.diag(h) == 0
        mean = np.diag(h)[~dead].mean() if (~dead).any() else 0.0
        h += np.diag(dead + damping * mean)
        w0 = np.where(dead, 0.0, row)
        w, error = w0.copy(), np.zeros_like(w0)
        step, zero = float(grid.scale[r]), int(grid.zero[r])
        for i, j in enumerate(order):
            codes[r, j] = np.clip(np.round(w[j] / step) + zero, 0, grid.levels - 1)
            error[j] = (codes[r, j] - float(zero)) * step - w0[j]
            done, left = order[: i + 1], order[i + 1 :]
            if left:
                pull = h[np.ix_(left, done)] @ error[done]
                w[left] = w0[left] - np.linalg.solve(h[np.ix_(left, left)], pull)
    return torch.from_numpy(codes)


def losses(weight, grid, codes, hessian):
    """(w - q)^T H (w - q) of each row, for a single group."""
    error = (dequantize(codes, grid) - weight).double()
    return ((error @ hessian[0].double()) * error).sum(1)


@pytest.mark.parametrize("damping", [0.0, 0.01])
@pytest.mark.parametrize(("bits", "symmetric"), GRIDS)
def test_codes_match_the_slow_loop(rng, bits, symmetric, damping):
    weight = torch.randn(8, 24, generator=rng) * torch.logspace(-4, 4, 8)[:, None]
    weight[0, 0] *= 20  # an outlier
    weight[1] = 0  # pruned
    weight[2, torch.rand(24, generator=rng) < 0.4] = 0
    hessian = gram(rng, 24)
    hessian[0, [3, 17]] = hessian[0, :, [3, 17]] = 0  # inputs that are always zero
    grid = find_grid(weight, bits, symmetric)
    codes = gptq(weight, grid, hessian, damping)
    assert torch.equal(codes, loop(weight, grid, hessian, damping))
    assert int(codes.max()) < grid.levels


@pytest.mark.parametrize("block", [1, 5, 40, 128])
def test_the_block_size_changes_nothing(rng, monkeypatch, block):
    weight, hessian = torch.randn(5, 40, generator=rng), gram(rng, 40)
    grid = find_grid(weight, 2, symmetric=False)
    monkeypatch.setattr(module, "BLOCK", block)
    assert torch.equal(gptq(weight, grid, hessian), loop(weight, grid, hessian, 0.01))


@pytest.mark.parametrize("scale", [0.3, 0.6])
def test_weights_beyond_the_grid_match_the_slow_loop(rng, scale):
    weight, hessian = torch.randn(6, 40, generator=rng), gram(rng, 40)
    grid = Grid(torch.full((6, 1), scale), torch.arange(6, dtype=torch.uint8)[:, None] % 4, 4)
    assert torch.equal(gptq(weight, grid, hessian), loop(weight, grid, hessian, 0.01))


@pytest.mark.parametrize(("groups", "rows", "columns"), [(4, 12, 18), (16, 16, 9), (16, 16, 1)])
def test_grouped_and_depthwise_layers_match_the_slow_loop(rng, groups, rows, columns):
    weight, hessian = torch.randn(rows, columns, generator=rng), gram(rng, columns, 50, groups)
    weight[1, 0] = weight[2] = 0
    hessian[1, 0] = hessian[1, :, 0] = 0
    hessian[2] = 0  # a group that sees nothing
    grid = find_grid(weight, 2, symmetric=False)
    assert torch.equal(gptq(weight, grid, hessian), loop(weight, grid, hessian, 0.01))


def test_largest_inputs_first_by_hand():
    # Grid {0, 1}; column 1 has h = 4, so 0.6 -> 1 first: an error of +0.4 moves column 0 by
    # -h_01 / h_00 * 0.4 = -0.2 to 0.4, so 0. The other way, 0.6 -> 1 moves column 1 to 0.5.
    weight, grid = torch.tensor([[0.6, 0.6]]), Grid(torch.ones(1, 1), torch.zeros(1, 1).byte(), 2)
    hessian = torch.tensor([[[2.0, 1.0], [1.0, 4.0]]])
    assert gptq(weight, grid, hessian, damping=0.0).tolist() == [[0, 1]]


@pytest.mark.parametrize(("bits", "symmetric"), GRIDS)
@pytest.mark.parametrize("columns", [1, 140])
def test_uncorrelated_inputs_give_the_nearest_codes(rng, bits, symmetric, columns):
    weight = torch.randn(7, columns, generator=rng)
    weight[0] = 0
    grid = find_grid(weight, bits, symmetric)
    assert torch.equal(gptq(weight, grid, torch.eye(columns)[None]), nearest(weight, grid))


@pytest.mark.parametrize("scale", [2.0**-60, 1.0, 2.0**60])
def test_singular_without_damping_is_rescued_at_any_scale(rng, scale):
    weight, hessian = (
        torch.randn(20, 30, generator=rng),
        gram(rng, 30, inputs=12, dtype=torch.float64),
    )
    grid = find_grid(weight, 2, symmetric=False)
    codes = gptq(weight, grid, scale * hessian, damping=0.0)
    assert torch.equal(codes, loop(weight, grid, hessian, 1e-8))
    plain = nearest(weight, grid)
    loss = losses(weight, grid, codes, hessian).sum()
    assert loss < 0.5 * losses(weight, grid, plain, hessian).sum()


def test_singular_up_to_rounding_is_rescued(rng):
    # In float32 the eigenvalues that should be 0 are about -1e-7 of the largest, so 1e-8 fails too.
    weight, hessian = torch.randn(20, 30, generator=rng), gram(rng, 30, inputs=12)
    assert torch.linalg.eigvalsh(hessian.double()).min() < 0
    grid = find_grid(weight, 2, symmetric=False)
    loss = losses(weight, grid, gptq(weight, grid, hessian, damping=0.0), hessian).sum()
    assert loss < 0.5 * losses(weight, grid, nearest(weight, grid), hessian).sum()


@pytest.mark.parametrize(("bits", "symmetric"), GRIDS)
def test_loses_less_than_nearest(rng, bits, symmetric):
    weight, hessian = torch.randn(32, 60, generator=rng), gram(rng, 60)
    grid = find_grid(weight, bits, symmetric)
    ours = losses(weight, grid, gptq(weight, grid, hessian), hessian)
    assert ours.mean() < 0.8 * losses(weight, grid, nearest(weight, grid), hessian).mean()


def test_parameters_are_accepted_and_left_alone(rng):
    weight, hessian = torch.nn.Parameter(torch.randn(4, 9, generator=rng)), gram(rng, 9)
    before, h = weight.detach().clone(), hessian.clone()
    gptq(weight, find_grid(before, 2, symmetric=False), hessian)
    assert torch.equal(weight, before)
    assert torch.equal(hessian, h)


def test_hessian_that_is_not_finite_is_refused():
    hessian = torch.full((1, 3, 3), torch.nan)
    grid = find_grid(torch.ones(2, 3), 4, symmetric=False)
    with pytest.raises(ValueError, match=r"must be finite, got 9 of 9 .* look for NaN"):
        gptq(torch.ones(2, 3), grid, hessian)


def test_hessian_that_does_not_fit_is_refused():
    grid = find_grid(torch.ones(6, 3), 4, symmetric=False)
    with pytest.raises(ValueError, match=r"divisor of 6, got 4 x 3 x 3\. Sum x x\^T"):
        gptq(torch.ones(6, 3), grid, torch.ones(4, 3, 3))
