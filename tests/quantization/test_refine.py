from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.functional import relu

from quantization import refine as module
from quantization.reconstruct import Unit
from quantization.refine import refine
from quantization.rounding.grid import dequantize, find_grid
from quantization.rounding.nearest import nearest
from quantization.task import LayerPlan


class Block(nn.Module):
    def __init__(self, inplace=False):
        super().__init__()
        self.one = nn.Conv2d(3, 4, 3, padding=1)
        self.act = nn.ReLU(inplace)
        self.two = nn.Conv2d(4, 3, 1)

    def forward(self, features):
        return relu(features + self.two(self.act(self.one(features))))


def make_unit(block, bits, importance=None):
    plans = {}
    for name in ("one", "two"):
        layer = block.get_submodule(name)
        rows = layer.weight.detach().flatten(1)
        plans[name] = LayerPlan(layer, rows, find_grid(rows, bits, bits == 1.58), bits)
    axes = dict.fromkeys(["", *plans], 0)
    return Unit("", block, plans, dict.fromkeys(plans), [], importance, axes)


def problem(rng, bits=2, inplace=False, weighted=False):
    """A unit, its inputs by chunk, targets, nearest codes and its layers' Gram matrices."""
    block = Block(inplace).eval().requires_grad_(False)
    for tensor in block.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=rng))
    importance = 2 * torch.rand(9, 3, 5, 5, generator=rng) if weighted else None
    unit = make_unit(block, bits, importance)
    inputs = [torch.randn(count, 3, 5, 5, generator=rng) for count in (6, 3)]
    targets = [block(chunk) + 0.1 for chunk in inputs]
    codes = {name: nearest(plan.rows, plan.grid) for name, plan in unit.plans.items()}
    patches = nn.functional.unfold(torch.cat(inputs), 3, padding=1).transpose(1, 2).flatten(0, 1)
    middle = relu(block.one(torch.cat(inputs))).permute(0, 2, 3, 1).flatten(0, 2)
    grams = {"one": (patches.mT @ patches)[None], "two": (middle.mT @ middle)[None]}
    return unit, inputs, targets, codes, grams


def exact(unit, codes, inputs, targets):
    rows = {name: dequantize(codes[name], plan.grid) for name, plan in unit.plans.items()}
    error = unit.forward_tail(rows, torch.cat(inputs)).double() - torch.cat(targets)
    weight = 1 if unit.importance is None else unit.importance.double()
    return (error.square() * weight).sum().item()


@pytest.mark.parametrize("bits", [1.58, 2, 4])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_exact_error_falls_and_codes_stay_on_the_grid(rng, bits, weighted):
    unit, inputs, targets, codes, grams = problem(rng, bits, weighted=weighted)
    refined = refine(unit, inputs, targets, codes, grams, rng)
    before, after = (exact(unit, choice, inputs, targets) for choice in (codes, refined))
    assert after < 0.97 * before
    assert all(int(refined[name].max()) < unit.plans[name].grid.levels for name in refined)


def test_every_pass_starts_from_the_last_and_none_is_worse(rng, monkeypatch):
    unit, inputs, targets, codes, grams = problem(rng)
    monkeypatch.setattr(module, "WORTH", 1.0)
    errors = []
    for passes in range(5):
        monkeypatch.setattr(module, "PASSES", passes)
        generator = torch.Generator().manual_seed(1)
        refined = refine(unit, inputs, targets, codes, grams, generator)
        errors.append(exact(unit, refined, inputs, targets))
    assert errors[0] == exact(unit, codes, inputs, targets)
    # `refine` sums by chunk in float32, so a step that it takes may change nothing, up to 1e-6
    assert all(after <= before * (1 + 1e-6) for before, after in pairwise(errors))
    assert errors[4] < errors[1]


def test_a_step_that_raises_the_error_is_undone(rng, monkeypatch):
    unit, inputs, targets, codes, grams = problem(rng)
    monkeypatch.setattr(module, "improve", lambda codes, grid, model: torch.zeros_like(codes))
    refined = refine(unit, inputs, targets, codes, grams, rng)
    worse = {name: torch.zeros_like(layer) for name, layer in codes.items()}
    assert exact(unit, worse, inputs, targets) > exact(unit, codes, inputs, targets)
    assert all(torch.equal(refined[name], codes[name]) for name in codes)


def test_slopes_match_finite_differences(rng):
    unit, inputs, targets, codes, _ = problem(rng, weighted=True)
    unit.module.double()
    unit = unit._replace(importance=unit.importance.double())
    inputs, targets = [x.double() for x in inputs], [t.double() for t in targets]
    rows = {n: dequantize(codes[n], p.grid).double() for n, p in unit.plans.items()}
    _, find_slopes = module._try(unit, rows, inputs, targets)
    slopes = find_slopes()
    for name in rows:
        for index in (0, 2):
            sides = []
            for step in (1e-6, -1e-6):
                moved = {n: r.clone() for n, r in rows.items()}
                moved[name][1, index] += step
                sides.append(module._try(unit, moved, inputs, targets)[0])
            numeric = (sides[0] - sides[1]) / 2e-6
            assert slopes[name][1, index].item() == pytest.approx(numeric, rel=1e-4, abs=1e-4)


def test_curvature_is_that_of_the_jacobian(rng):
    """The mean over many random signs against diag(J^T J) computed in full."""
    unit, inputs, _, codes, _ = problem(rng)
    rows = {name: dequantize(codes[name], plan.grid) for name, plan in unit.plans.items()}
    x = inputs[0]
    draws = [module._curvature(unit, rows, x, rng)["one"] for _ in range(300)]
    block = unit.module
    one = nn.functional.conv2d(x, rows["one"].reshape(4, 3, 3, 3), block.one.bias, padding=1)

    def rest(middle):
        two = nn.functional.conv2d(relu(middle), rows["two"].reshape(3, 4, 1, 1), block.two.bias)
        return relu(x + two)

    jacobian = torch.autograd.functional.jacobian(rest, one)  # outputs x middle
    squares = jacobian.square().sum((0, 1, 2, 3)).mean((0, 2, 3))
    torch.testing.assert_close(torch.stack(draws).mean(0).flatten(), squares, rtol=0.1, atol=0)


def test_operations_in_place_change_nothing(rng):
    results = []
    for inplace in (False, True):
        parts = problem(torch.Generator().manual_seed(3), inplace=inplace)
        results.append(refine(*parts, torch.Generator().manual_seed(1)))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
