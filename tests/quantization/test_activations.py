import pytest
import torch

from quantization.activations import ActivationGrid, codes_of, fake_quantize, find_range, make_grid


def test_codes_worked_by_hand():
    grid = ActivationGrid(0.5, 3, 16)
    values = torch.tensor([-9.0, -1.5, -0.26, -0.25, 0.0, 0.25, 0.75, 5.9, 6.0, 9.0])
    codes = torch.tensor([0, 0, 2, 3, 3, 3, 5, 15, 15, 15])  # ties to even, saturated at the ends
    assert torch.equal(codes_of(values, grid), codes.float())
    assert torch.equal(fake_quantize(values, grid), (codes - 3) * 0.5)


@pytest.mark.parametrize("bits", [8, 4])
def test_quantizing_twice_is_quantizing_once(rng, bits):
    for scale in (1e-30, 0.1234567, 3e20):
        values = scale * torch.randn(10_000, generator=rng)
        grid = find_range(values, bits)
        once = fake_quantize(values, grid)
        assert torch.equal(fake_quantize(once, grid), once)
        inside = (codes_of(values, grid) > 0) & (codes_of(values, grid) < grid.levels - 1)
        assert ((once - values).abs() <= 0.5001 * grid.scale)[inside].all()
        assert 0.0 in once


def test_not_finite_values_stay_visible():
    grid = ActivationGrid(0.5, 3, 16)
    values = torch.tensor([torch.nan, torch.inf, -torch.inf])
    assert str(fake_quantize(values, grid).tolist()) == "[nan, 6.0, -1.5]"
    assert fake_quantize(torch.empty(0, 3), grid).shape == (0, 3)


def slow_error(values, low, high, levels):
    """Sum over single values in Python's float64."""
    scale = (high - low) / (levels - 1)
    zero = round(-low / scale)
    error = 0.0
    for value in values.tolist():
        code = min(max(round(value / scale) + zero, 0), levels - 1)
        error += abs((code - zero) * scale - value) ** 2.4
    return error


def slow_search(values, levels, percents):
    """The least error over all pairs of shrunk ends."""
    lowest, highest = min(values.min().item(), 0), max(values.max().item(), 0)
    lows = percents if lowest < 0 else [0]
    highs = percents if highest > 0 else [0]
    ranges = [(low * lowest / 100, high * highest / 100) for low in lows for high in highs]
    return min(slow_error(values, *ends, levels) for ends in ranges)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("bits", [8, 4])
def test_one_ended_ranges_are_those_of_the_slow_search(rng, bits, sign):
    values = sign * torch.randn(300, generator=rng).relu() ** 3
    grid = find_range(values, bits)
    assert grid.zero == (0 if sign > 0 else grid.levels - 1)
    low, high = -grid.zero * grid.scale, (grid.levels - 1 - grid.zero) * grid.scale
    best = slow_search(values, grid.levels, range(1, 101))
    # float32 steps may round single values elsewhere
    assert slow_error(values, low, high, grid.levels) == pytest.approx(best, rel=1e-3)


def test_two_ended_ranges_are_nearly_those_of_the_slow_search(rng):
    for power in (1, 3):
        draw = torch.randn(80, generator=rng)
        values = draw.sign() * draw.abs() ** power + 0.3
        grid = find_range(values, 4)
        low, high = -grid.zero * grid.scale, (15 - grid.zero) * grid.scale
        best = slow_search(values, 16, range(10, 101, 2))
        plain = slow_error(values, values.min().item(), values.max().item(), 16)
        found = slow_error(values, low, high, 16)
        assert found <= 1.1 * best
        assert found <= plain * (1 + 1e-6)


@pytest.mark.parametrize("values", [[0.0, 0.0], [0.0], [1e-44, 0.0]])
def test_zeros_have_step_one(values):
    grid = find_range(torch.tensor(values), 8)
    assert grid == ActivationGrid(1.0, 0, 256)
    assert fake_quantize(torch.tensor(values), grid).tolist() == [0.0] * len(values)


@pytest.mark.parametrize("constant", [3.0, -0.7, 1e20])
def test_a_constant_keeps_its_value(constant):
    values = torch.full((5,), constant)
    grid = find_range(values, 4)
    assert fake_quantize(values, grid) == pytest.approx(values, rel=1e-6)


def test_ranges_contain_zero_and_scales_are_float32():
    grid = make_grid(-0.3, 1.0, 256)
    assert grid.scale == torch.tensor(1.3 / 255).item()
    assert grid.zero == 59  # 0.3 * 255 / 1.3 = 58.8


def test_values_without_a_range_are_refused():
    with pytest.raises(ValueError, match="An activation without values has no range"):
        find_range(torch.empty(0), 8)
    with pytest.raises(ValueError, match="2 of 3 activations are not finite"):
        find_range(torch.tensor([torch.nan, 1, torch.inf]), 8)
