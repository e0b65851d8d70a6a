from inspect import unwrap

import numpy as np
import pytest
import torch

from quantization.rounding import obc as module
from quantization.rounding.grid import LEVELS, Grid, dequantize, find_grid
from quantization.rounding.nearest import nearest
from quantization.rounding.obc import obc

GRIDS = [(bits, symmetric) for bits in LEVELS for symmetric in (False, True) if bits != 8]


def gram(rng, columns, inputs=None, groups=1, dtype=torch.float32):
    """Sum of x x^T per group, over correlated inputs after a ReLU."""
    inputs = 3 * columns + 5 if inputs is None else inputs
    mixing = torch.randn(groups, columns, columns, generator=rng) / columns**0.5
    x = torch.randn(groups, inputs, columns, generator=rng) @ (mixing + 0.5 * mixing.sign())
    x = (x + 0.3).relu().double()
    return (x.mT @ x).to(dtype)


def one_row(w0, step, zero, levels, hessian, outliers=True):
    """OBQ by its definition: every step refits the remaining weights to the errors so far."""
    w, left, fixed = w0.copy(), np.flatnonzero(w0).tolist(), []
    q = np.where(w0 == 0, 0.0, np.nan)
    while left:
        inverse = np.linalg.inv(hessian[np.ix_(left, left)])
        if fixed:
            error = q[fixed] - w0[fixed]
            w[left] = w0[left] - inverse @ hessian[np.ix_(left, fixed)] @ error
        rounded = (np.clip(np.round(w[left] / step) + zero, 0, levels - 1) - zero) * step
        square = (w[left] - rounded) ** 2
        best = int(np.argmin(square / np.diag(inverse)))
        if outliers and (square > (step / 2) ** 2 * (1 + 1e-12)).any() and w[left[best]] != 0:
            best = int(np.argmax(square))
        q[left[best]] = rounded[best]
        fixed.append(left.pop(best))
    return np.round(q / step + zero).astype(np.uint8)


def loop(weight, grid, hessian, damping):
    """`one_row` for each row, with its group's Hessian: dead inputs decoupled, then damped."""
    codes = []
    for r, row in enumerate(weight.double().numpy()):
        h = hessian[r // (len(weight) // len(hessian))].double().numpy().copy()
        dead = np.diag(h) == 0
        mean = np.diag(h)[~dead].mean() if (~dead).any() else 0.0
        h += np.diag(dead + damping * mean)
        step, zero = float(grid.scale[r]), int(grid.zero[r])
        codes.append(one_row(np.where(dead, 0.0, row), step, zero, grid.levels, h))
    return torch.from_numpy(np.stack(codes))


def losses(weight, grid, codes, hessian):
    """(w - q)^T H (w - q) of each row, for a single group."""
    error = (dequantize(codes, grid) - weight).double()
    return ((error @ hessian[0].double()) * error).sum(1)


def awkward(rng, rows, columns):
    """Weights with an outlier, a pruned row and single zeros, in rows of different scales."""
    weight = torch.randn(rows, columns, generator=rng) * torch.logspace(-4, 4, rows)[:, None]
    weight[0, 0] *= 20
    weight[1] = 0
    weight[2, torch.rand(columns, generator=rng) < 0.4] = 0
    weight[3, -1] = 0
    return weight


@pytest.mark.parametrize("damping", [0.0, 0.01])
@pytest.mark.parametrize(("bits", "symmetric"), GRIDS)
def test_codes_match_the_slow_loop(rng, bits, symmetric, damping):
    weight, hessian = awkward(rng, 8, 24), gram(rng, 24)
    hessian[0, [3, 17]] = hessian[0, :, [3, 17]] = 0  # inputs that are always zero
    grid = find_grid(weight, bits, symmetric)
    codes = obc(weight, grid, hessian, damping)
    assert torch.equal(codes, loop(weight, grid, hessian, damping))
    assert int(codes.max()) < grid.levels


@pytest.mark.parametrize(("bits", "symmetric"), [(4, False), (2, False), (1.58, True)])
def test_codes_match_the_slow_loop_over_several_blocks(rng, bits, symmetric):
    columns = 2 * module.BLOCK + 9
    weight, hessian = awkward(rng, 5, columns), gram(rng, columns)
    grid = find_grid(weight, bits, symmetric)
    assert torch.equal(obc(weight, grid, hessian), loop(weight, grid, hessian, 0))


@pytest.mark.parametrize("block", [1, 4, 7])
@pytest.mark.parametrize("space", [1, 3 * 30**2, 2**24])
def test_blocks_and_batches_change_nothing(rng, monkeypatch, block, space):
    weight, hessian = awkward(rng, 12, 30), gram(rng, 30, groups=2)
    grid = find_grid(weight, 2, symmetric=False)
    monkeypatch.setattr(module, "BLOCK", block)
    monkeypatch.setattr(module, "SPACE", space)
    assert torch.equal(obc(weight, grid, hessian), loop(weight, grid, hessian, 0))


@pytest.mark.parametrize("scale", [0.3, 0.6])
def test_weights_beyond_the_grid_match_the_slow_loop(rng, scale):
    # Steps so small that many weights are outliers at first, and more once errors are passed on.
    weight, hessian = torch.randn(6, 40, generator=rng), gram(rng, 40)
    grid = Grid(torch.full((6, 1), scale), torch.arange(6, dtype=torch.uint8)[:, None] % 4, 4)
    codes = obc(weight, grid, hessian)
    assert torch.equal(codes, loop(weight, grid, hessian, 0))
    h = hessian[0].double().numpy()
    for r, row in enumerate(weight.double().numpy()):
        cheapest = one_row(row, float(grid.scale[r]), int(grid.zero[r]), 4, h, outliers=False)
        assert codes[r].tolist() != cheapest.tolist()


def test_outlier_goes_first_by_hand():
    # Grid {0, 1}. Errors 0.1 and 2 - 1; 0.1 is cheapest, but 2 is off the grid and goes first. Its
    # error of -1 moves the other by -h_12 / h_11 * -1 = 0.5 to 0.6, so 1. Cheapest first: 0.
    weight, grid = torch.tensor([[0.1, 2.0]]), Grid(torch.ones(1, 1), torch.zeros(1, 1).byte(), 2)
    hessian = torch.tensor([[[2.0, 1.0], [1.0, 2.0]]])
    assert obc(weight, grid, hessian).tolist() == [[1, 1]]


@pytest.mark.parametrize(("groups", "rows", "columns"), [(4, 12, 18), (16, 16, 9), (16, 16, 1)])
def test_grouped_and_depthwise_layers_match_the_slow_loop(rng, groups, rows, columns):
    weight, hessian = torch.randn(rows, columns, generator=rng), gram(rng, columns, 50, groups)
    weight[1, 0] = weight[2] = 0
    hessian[1, 0] = hessian[1, :, 0] = 0
    hessian[2] = 0  # a group that sees nothing
    grid = find_grid(weight, 2, symmetric=False)
    assert torch.equal(obc(weight, grid, hessian), loop(weight, grid, hessian, 0))


@pytest.mark.parametrize(("bits", "symmetric"), GRIDS)
@pytest.mark.parametrize("columns", [1, 70])
def test_uncorrelated_inputs_give_the_nearest_codes(rng, bits, symmetric, columns):
    weight = torch.randn(7, columns, generator=rng)
    weight[0] = 0
    grid = find_grid(weight, bits, symmetric)
    assert torch.equal(obc(weight, grid, torch.eye(columns)[None]), nearest(weight, grid))


def test_dead_inputs_give_zeros(rng):
    weight = torch.randn(4, 10, generator=rng)
    grid = find_grid(weight, 3, symmetric=False)
    codes = obc(weight, grid, torch.zeros(1, 10, 10))
    assert torch.equal(codes, grid.zero.expand(4, 10))


@pytest.mark.parametrize("damping", [1e-6, 0.1])
def test_nearly_singular_matrices_with_damping_match_the_slow_loop(rng, damping):
    weight, hessian = torch.randn(6, 30, generator=rng), gram(rng, 30, inputs=12)
    grid = find_grid(weight, 2, symmetric=False)
    assert torch.equal(
        obc(weight, grid, hessian.double(), damping), loop(weight, grid, hessian, damping)
    )


@pytest.mark.parametrize("scale", [2.0**-60, 1.0, 2.0**60])
def test_singular_without_damping_is_rescued_at_any_scale(rng, scale):
    weight, hessian = (
        torch.randn(20, 30, generator=rng),
        gram(rng, 30, inputs=12, dtype=torch.float64),
    )
    hessian[0, 5] = hessian[0, 4]  # two inputs that are always equal, and one that never varies
    hessian[0, :, 5] = hessian[0, :, 4]
    hessian[0, 9] = hessian[0, :, 9] = 0
    grid = find_grid(weight, 2, symmetric=False)
    codes = obc(weight, grid, scale * hessian)
    assert torch.equal(codes, loop(weight, grid, hessian, 1e-8))
    kept = torch.arange(30) != 9
    better = losses(weight[:, kept], grid, codes[:, kept], hessian[:, kept][:, :, kept])
    plain = nearest(weight, grid)[:, kept]
    assert (
        better.sum()
        < 0.5 * losses(weight[:, kept], grid, plain, hessian[:, kept][:, :, kept]).sum()
    )


def test_a_factor_by_luck_is_refused():
    # Singular except for its last digit: it factors, but its inverse would be rounding errors.
    hessian = torch.tensor([[[1.0, 1.0], [1.0, 1.0 + 2.0**-50]]], dtype=torch.float64)
    assert torch.linalg.cholesky_ex(hessian).info.item() == 0
    damped, factor = module.factorize(hessian, 0.0)
    torch.testing.assert_close(damped, hessian + 1e-8 * torch.eye(2), rtol=1e-13, atol=0)
    torch.testing.assert_close(factor @ factor.mT, damped, rtol=1e-13, atol=0)


def test_singular_up_to_rounding_is_rescued(rng):
    # In float32 the eigenvalues that should be 0 are about -1e-7 of the largest, so 1e-8 fails too.
    weight, hessian = torch.randn(20, 30, generator=rng), gram(rng, 30, inputs=12)
    assert torch.linalg.eigvalsh(hessian.double()).min() < 0
    grid = find_grid(weight, 2, symmetric=False)
    loss = losses(weight, grid, obc(weight, grid, hessian), hessian).sum()
    assert loss < 0.5 * losses(weight, grid, nearest(weight, grid), hessian).sum()


@pytest.mark.parametrize(("bits", "symmetric"), GRIDS)
def test_loses_less_than_nearest(rng, bits, symmetric):
    weight, hessian = torch.randn(32, 60, generator=rng), gram(rng, 60)
    grid = find_grid(weight, bits, symmetric)
    ours = losses(weight, grid, obc(weight, grid, hessian), hessian)
    assert ours.mean() < 0.7 * losses(weight, grid, nearest(weight, grid), hessian).mean()


def test_parameters_are_accepted_and_left_alone(rng):
    weight, hessian = torch.nn.Parameter(torch.randn(4, 9, generator=rng)), gram(rng, 9)
    before, h = weight.detach().clone(), hessian.clone()
    grid = find_grid(before, 2, symmetric=False)
    codes = obc(weight, grid, hessian)
    assert not codes.is_inference()
    assert torch.equal(weight, before)
    assert torch.equal(hessian, h)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_hessian_that_is_not_finite_is_refused(bad):
    hessian = torch.eye(3)[None].clone()
    hessian[0, 1, 2] = bad
    grid = find_grid(torch.ones(2, 3), 4, symmetric=False)
    with pytest.raises(ValueError, match=r"must be finite, got 1 of 9 .* look for NaN"):
        obc(torch.ones(2, 3), grid, hessian)


def test_hessian_with_a_negative_diagonal_is_refused():
    grid = find_grid(torch.ones(2, 3), 4, symmetric=False)
    with pytest.raises(ValueError, match=r"diagonal of squares, got -1\. Sum x x\^T"):
        obc(torch.ones(2, 3), grid, -torch.eye(3)[None])


@pytest.mark.parametrize(
    ("shape", "given"),
    [((1, 4, 4), "1 x 4 x 4"), ((4, 3, 3), "4 x 3 x 3"), ((3, 3), "3 x 3"), ((0, 3, 3), "0 x 3")],
)
def test_hessian_that_does_not_fit_is_refused(shape, given):
    # Unwrapped, because in tests jaxtyping would raise first.
    expected = rf"must be groups x 3 x 3 for 6 rows .* divisor of 6, got {given}.*Sum x x\^T"
    with pytest.raises(ValueError, match=expected):
        unwrap(module.check_hessian)(torch.ones(6, 3), torch.ones(shape))


GIB = 2**30


@pytest.mark.parametrize(
    ("device", "free", "unused", "share", "expected"),
    [
        ("cpu", 0, 0, 1.0, 2**23),
        ("cuda", 140 * GIB, 0, 1.0, 2**30),  # 8 GiB, four copies take 32
        ("cuda", 64 * GIB, 0, 1.0, 2**30),
        ("cuda", 63 * GIB, 0, 1.0, 2**29),
        ("cuda", 40 * GIB, 24 * GIB, 1.0, 2**30),  # what an earlier layer left in PyTorch's cache
        ("cuda", 33 * GIB, 0, 1.0, 2**29),
        ("cuda", 140 * GIB, 0, 0.25, 2**29),  # a share of 36 GiB of 144
        ("cuda", 20 * GIB, 0, 0.25, 2**28),
        ("cuda", 0, 0, 1.0, 1),
    ],
)
def test_a_gpu_takes_as_many_rows_as_fit_four_times_in_half_of_what_it_may_use(
    monkeypatch, device, free, unused, share, expected
):
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", {gpu: (free, 144 * GIB)}.get)
    monkeypatch.setattr(torch.cuda, "memory_reserved", {gpu: unused + GIB}.get)
    monkeypatch.setattr(torch.cuda, "memory_allocated", {gpu: GIB}.get)
    # torch 2.6 does not have it
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", {gpu: share}.get, False)
    assert module.batch_space(torch.device(device)) == expected


def test_rows_with_zeros_of_their_own_take_four_times_the_space_of_their_inverses(rng):
    """The assumption of `batch_space`, by the memory that the operations are given."""
    rows, columns = 32, 96
    inputs = torch.randn(400, columns, generator=rng, dtype=torch.double)
    hessian = (inputs.T @ inputs).expand(rows, -1, -1)
    zero = torch.rand(rows, columns, generator=rng) < 0.1
    with torch.profiler.profile(profile_memory=True) as profile:
        module._without(hessian.contiguous(), zero)
    changes = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    assert 3.5 < peak / (8 * rows * columns**2) < 4.5
