"""Roundings of updates: exact means of QSGD, the codes of `quantization/rounding`, bytes."""

import pytest
import torch

from quantization.rounding.grid import LEVELS, TERNARY, dequantize, find_grid
from quantization.rounding.nearest import nearest
from quantization.rounding.pack import pack
from quantization.updates import (
    BITS,
    UPDATES,
    parse_update,
    positive_levels,
    qsgd,
    round_tensor,
    update_bytes,
)

GRAIN = 8


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def slow_qsgd(value, scale, count, uniform):
    """The definition for one number: l / count or (l + 1) / count, the upper one by its chance."""
    a = count * abs(value) / scale
    low = int(a)
    chosen = low + 1 if uniform >= 1 - (a - low) else low
    return (value > 0) * 2 * scale * chosen / count - scale * chosen / count if value else 0.0


@pytest.mark.parametrize("count", [1, 7, 127])
def test_the_mean_of_qsgd_over_all_chances_is_exactly_the_value(count):
    """Values in eighths of a step have chances in eighths: eight equal cases are all there are."""
    scale = torch.tensor(float(count))  # so that a step is 1
    values = torch.arange(-GRAIN * count, GRAIN * count + 1) / GRAIN
    cases = [
        qsgd(values, scale, count, torch.full_like(values, (case + 0.5) / GRAIN))
        for case in range(GRAIN)
    ]
    assert torch.equal(torch.stack(cases).mean(0), values)
    for rounded in cases:
        assert torch.equal(rounded, rounded.round())
        assert ((rounded - values).abs() < 1).all()


@pytest.mark.parametrize("count", [1, 7, 127])
def test_qsgd_is_its_definition_number_by_number(rng, count):
    values, uniforms = torch.randn(200, generator=rng).double(), torch.rand(200, generator=rng)
    values[0] = 0
    scale = values.norm()
    rounded = qsgd(values, scale, count, uniforms.double())
    slow = [
        slow_qsgd(v, scale.item(), count, u)
        for v, u in zip(values.tolist(), uniforms.double().tolist(), strict=True)
    ]
    torch.testing.assert_close(rounded, torch.tensor(slow, dtype=torch.float64))


def test_the_chance_of_the_upper_neighbour_has_no_slack():
    """0.3 of a step rounds up for uniforms from 0.7 on."""
    values = torch.tensor([0.3, 0.3, -0.3, -0.3], dtype=torch.float64)
    uniforms = torch.tensor([0.6999999, 0.7000001, 0.6999999, 0.7000001], dtype=torch.float64)
    assert qsgd(values, torch.tensor(1.0).double(), 1, uniforms).tolist() == [0, 1, 0, -1]


@pytest.mark.parametrize("bits", BITS)
def test_samples_of_qsgd_average_to_the_tensor(rng, bits):
    tensor, draws = torch.randn(6, 5, generator=rng), generator()
    rounding = parse_update(f"qsgd-w{bits:g}")
    mean = torch.stack([round_tensor(tensor, rounding, draws) for _ in range(4000)]).mean(0)
    scale = tensor.abs().max() if bits == TERNARY else tensor.norm()
    deviation = scale / positive_levels(bits) / 2 / 4000**0.5  # of a mean, at most
    assert ((mean - tensor).abs() < 5 * deviation).all()


@pytest.mark.parametrize("bits", BITS)
def test_a_tensor_has_no_more_values_than_its_bits_allow(rng, bits):
    tensor = torch.randn(3, 50, 7, generator=rng)
    for method in ("qsgd", "nearest"):
        rounded = round_tensor(tensor, parse_update(f"{method}-w{bits:g}"), generator())
        assert rounded.shape == tensor.shape
        assert len(rounded.unique()) <= LEVELS[bits]
        assert len((rounded[rounded > 0]).unique()) <= positive_levels(bits)


@pytest.mark.parametrize("bits", BITS)
def test_nearest_is_the_rounding_of_weights_with_one_row(rng, bits):
    tensor = torch.randn(4, 3, 3, 3, generator=rng)
    grid = find_grid(tensor.reshape(1, -1), bits, symmetric=True)
    expected = dequantize(nearest(tensor.reshape(1, -1), grid), grid).view(tensor.shape)
    assert torch.equal(round_tensor(tensor, parse_update(f"nearest-w{bits:g}"), rng), expected)


def test_full_precision_changes_nothing(rng):
    tensor = torch.randn(5, 4, generator=rng)
    assert round_tensor(tensor, parse_update("full"), rng) is tensor


@pytest.mark.parametrize("name", UPDATES)
def test_nothing_becomes_nothing_and_one_number_itself(name):
    rounding = parse_update(name)
    zeros = torch.zeros(3, 2)
    assert torch.equal(round_tensor(zeros, rounding, generator()), zeros)
    assert round_tensor(torch.zeros(0), rounding, generator()).numel() == 0
    one = round_tensor(torch.tensor(-0.7), rounding, generator())
    assert one.shape == ()
    assert one.item() == pytest.approx(-0.7, rel=0.01)


def test_a_seed_fixes_the_rounding_and_another_draws_anew(rng):
    tensor, rounding = torch.randn(100, generator=rng), parse_update("qsgd-w4")
    same = [round_tensor(tensor, rounding, generator(seed)) for seed in (1, 1, 2)]
    assert torch.equal(same[0], same[1])
    assert not torch.equal(same[0], same[2])


def test_bytes_are_those_of_packed_codes_and_scales(rng):
    tensors = [torch.randn(size, generator=rng) for size in (1, 13, 64)]
    sizes = [len(tensor) for tensor in tensors]
    for bits in BITS:
        packed = 0
        for tensor in tensors:
            grid = find_grid(tensor[None], bits, symmetric=True)
            packed += pack(nearest(tensor[None], grid), grid.levels).numel() + 4
        assert update_bytes(sizes, parse_update(f"nearest-w{bits:g}")) == packed
        assert update_bytes(sizes, parse_update(f"qsgd-w{bits:g}")) == packed
    assert update_bytes(sizes, parse_update("full")) == 4 * sum(sizes)
    assert update_bytes([0], parse_update("qsgd-w2")) == 0


@pytest.mark.parametrize("name", ["qsgd", "qsgd-w3", "nearest-w32", "adaround-w4", ""])
def test_an_unknown_rounding_is_refused_with_the_known(name):
    with pytest.raises(ValueError, match=r"one of full, qsgd-w8, .*nearest-w1\.58, got `"):
        parse_update(name)
