import pytest
import torch
from torch import nn
from torch.nn.functional import relu, unfold

from lightning_modules.networks import resnet8
from quantization.calibration import Calibration
from quantization.fit import fit_descent, fit_loop, fit_quadratic
from quantization.quantize import quantize_network
from quantization.reconstruct import Unit
from quantization.rounding.adaround import Settings, learn_rounding
from quantization.rounding.descent import descend
from quantization.rounding.gptq import gptq
from quantization.rounding.gram import Quadratic
from quantization.rounding.grid import dequantize, find_grid
from quantization.rounding.nearest import nearest
from quantization.task import LayerPlan
from quantization.variant import Variant


class Block(nn.Module):
    """A residual block with no activation at its end, so that its error is a quadratic."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.two = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, features):
        return features + self.norm(self.two(relu(self.one(features))))


def plan(layer, bits=2):
    rows = layer.weight.detach().flatten(1)
    return LayerPlan(layer, rows, find_grid(rows, bits, bits == 1.58), bits)


@pytest.fixture
def block(rng):
    made = Block().eval().requires_grad_(False)
    for tensor in made.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=rng))
    made.norm.running_var.abs_().add_(0.2)
    return made


@pytest.fixture
def unit(block):
    plans = {f"b.{name}": plan(block.get_submodule(name)) for name in ("one", "two")}
    slope = block.norm.weight / (block.norm.running_var + block.norm.eps).sqrt()
    axes = dict.fromkeys(["b", *plans], 0)
    return Unit("b", block, plans, {"b.one": None, "b.two": slope}, [], None, axes)


@pytest.fixture
def streams(rng):
    """Two chunks: full-precision inputs, and inputs from the quantized layers before."""
    full = [torch.randn(count, 4, 6, 6, generator=rng) for count in (12, 7)]
    return [torch.cat([x, x + 0.2 * torch.randn(x.shape, generator=rng)]) for x in full]


def halves(streams):
    full, quantized = zip(*(stream.chunk(2) for stream in streams), strict=True)
    return torch.cat(full), torch.cat(quantized)


def assert_gram_close(gram, patches):
    """Compare with a float64 sum: a float32 sum of n products is off by up to n 2^-24 of its terms.

    Twice that, because the patches themselves are outputs of float32 layers. By Cauchy-Schwarz the
    terms add up to no more than the root of the two diagonal entries' product.
    """
    expected = patches.double().mT @ patches.double()
    diagonal = expected.diagonal(dim1=1, dim2=2)
    largest = (diagonal[:, :, None] * diagonal[:, None]).sqrt()
    bound = 2 * patches.shape[1] * 2.0**-24 * largest
    assert ((gram.double() - expected).abs() <= bound).all()


def test_a_unit_runs_with_other_weights_and_keeps_its_own(block, unit, streams):
    full, _ = halves(streams)
    assert torch.equal(unit.forward({}, full), block(full))
    rows = {name: torch.zeros_like(plan.rows) for name, plan in unit.plans.items()}
    expected = full + block.norm(block.two.bias[:, None, None].expand(len(full), 4, 6, 6))
    torch.testing.assert_close(unit.forward(rows, full), expected)
    assert block.two.weight.any()


def test_a_layers_quadratic_is_the_error_of_its_blocks_output(block, unit, streams, rng):
    """For the last layer, the block's error; for an inner layer, its own on quantized inputs."""
    quadratics = {}

    def solve(rows, grid, quadratic):
        quadratics[len(quadratics)] = quadratic
        return nearest(rows, grid)

    fitted = fit_quadratic(unit, streams, rng, solve)
    full, quantized = halves(streams)
    one, two = unit.plans.values()
    first = {"b.one": dequantize(nearest(one.rows, one.grid), one.grid)}
    for scale in (0.5, 1.0):
        rows = two.rows * scale + 0.1
        ours = _total(quadratics[1], rows, unit.scales["b.two"])
        error = unit.forward(first | {"b.two": rows}, quantized) - block(full)
        assert ours == pytest.approx(error.double().square().sum().item(), rel=1e-4)
        rows = one.rows * scale + 0.1
        ours = _total(quadratics[0], rows, None)
        inner = nn.functional.conv2d(
            quantized, rows.reshape(4, 2, 3, 3), block.one.bias, 1, 1, groups=2
        )
        error = inner - block.one(full)
        assert ours == pytest.approx(error.double().square().sum().item(), rel=1e-4)
    assert torch.equal(fitted["b.two"].codes, nearest(two.rows, two.grid))
    assert all(layer.error_before == layer.error_after for layer in fitted.values())


def _total(quadratic, rows, scale):
    """The absolute error."""
    power = quadratic.power if scale is None else quadratic.power * scale.square()
    return quadratic.error(rows, scale) * power.double().sum().item()


def test_gptq_gets_the_patches_of_quantized_inputs(block, unit, streams, rng):
    grams = []

    def solve(rows, grid, quadratic):
        grams.append(quadratic.gram)
        return gptq(rows, grid, quadratic.gram)

    fitted = fit_quadratic(unit, streams, rng, solve)
    _, quantized = halves(streams)
    one, two = unit.plans.values()
    patches = unfold(quantized, 3, padding=1).transpose(1, 2).flatten(0, 1)
    by_group = patches.reshape(-1, 2, 18).transpose(0, 1)
    assert_gram_close(grams[0], by_group)
    assert torch.equal(fitted["b.one"].codes, gptq(one.rows, one.grid, grams[0]))
    weight = dequantize(fitted["b.one"].codes, one.grid).reshape(4, 2, 3, 3)
    inner = relu(nn.functional.conv2d(quantized, weight, block.one.bias, 1, 1, groups=2))
    patches = unfold(inner, 3, padding=1).transpose(1, 2).flatten(0, 1)[None]
    assert_gram_close(grams[1], patches)
    assert torch.equal(fitted["b.two"].codes, gptq(two.rows, two.grid, grams[1]))


def test_importance_weights_the_places_of_a_quadratic(unit, streams, rng):
    importance = torch.rand(19, 1, 6, 6, generator=rng).expand(19, 4, 6, 6)
    grams = []

    def solve(rows, grid, quadratic):
        grams.append(quadratic.gram)
        return nearest(rows, grid)

    fit_quadratic(unit._replace(importance=importance), streams, rng, solve)
    _, quantized = halves(streams)
    patches = unfold(quantized, 3, padding=1).transpose(1, 2).flatten(0, 1)
    patches = patches * importance[:, 0].flatten()[:, None].sqrt()
    by_group = patches.reshape(-1, 2, 18).transpose(0, 1)
    assert_gram_close(grams[0], by_group)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loop_gets_quantized_inputs_and_full_precision_targets(
    block, unit, streams, rng, weighted
):
    settings = Settings(iterations=40, lr=3e-2, batch=8)
    full, quantized = halves(streams)
    importance = torch.rand(19, 4, 6, 6, generator=rng) if weighted else None
    unit = unit._replace(importance=importance)
    fitted = fit_loop(unit, streams, torch.Generator().manual_seed(2), settings)
    expected = learn_rounding(
        {name: plan.rows for name, plan in unit.plans.items()},
        {name: plan.grid for name, plan in unit.plans.items()},
        unit.forward,
        quantized,
        torch.cat([block(stream.chunk(2)[0]) for stream in streams]),  # the same bits, by chunk
        settings,
        torch.Generator().manual_seed(2),
        importance,
    )
    assert all(torch.equal(fitted[name].codes, expected[name]) for name in expected)
    _check_errors(fitted, unit, block, full, quantized)


@pytest.mark.parametrize("bits", [4, 2, 1.58])
def test_descent_lowers_the_error_of_the_units_output(block, unit, streams, rng, bits):
    plans = {name: plan(before.layer, bits) for name, before in unit.plans.items()}
    unit = unit._replace(plans=plans)
    fitted = fit_descent(unit, streams, rng)
    full, quantized = halves(streams)
    _check_errors(fitted, unit, block, full, quantized)
    last = fitted["b.two"]
    assert last.error_after < 0.95 * last.error_before  # white inputs: little to compensate
    alone = fit_quadratic(unit, streams, rng, descend)
    rows = {name: dequantize(alone[name].codes, p.grid) for name, p in plans.items()}
    error = (unit.forward(rows, quantized) - block(full)).square().sum() / block(
        full
    ).square().sum()
    # both are float32 sums of 2,736 squares, of differences that are a tenth of the outputs or more
    assert last.error_after <= error.item() * (1 + 1e-5)


def _check_errors(fitted, unit, block, full, quantized):
    for before in (True, False):
        rows = {
            name: dequantize(nearest(p.rows, p.grid) if before else fitted[name].codes, p.grid)
            for name, p in unit.plans.items()
        }
        error = (unit.forward(rows, quantized) - block(full)).square().sum()
        expected = (error / block(full).square().sum()).item()
        for layer in fitted.values():
            ours = layer.error_before if before else layer.error_after
            assert ours == pytest.approx(expected, rel=1e-4)


def test_a_sample_of_positions_estimates_the_error_over_all(rng):
    """On large images, places are drawn for each image."""
    layer = nn.Conv2d(2, 3, 3)
    streams = [torch.randn(4, 2, 130, 130, generator=rng)]
    one = plan(layer.requires_grad_(False))
    grams = []

    def solve(rows, grid, quadratic: Quadratic):
        grams.append(quadratic.gram)
        return nearest(rows, grid)

    unit = Unit("", layer, {"": one}, {"": None}, [], None, {"": 0})
    fitted = fit_quadratic(unit, streams, rng, solve)[""]
    assert grams[0][0].diagonal().mean() == pytest.approx(16_384, rel=0.05)
    full, quantized = streams[0].chunk(2)
    rows = dequantize(fitted.codes, one.grid)
    error = unit.forward({"": rows}, quantized) - layer(full)
    # relative to the output's power without its bias
    power = (layer(full) - layer.bias[:, None, None]).square().sum()
    assert fitted.error_after == pytest.approx((error.square().sum() / power).item(), rel=0.05)


LAYOUTS = {"channels-last": torch.channels_last, "contiguous": torch.contiguous_format}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", ["adaround-w2", "brecq-w2-paper", "gptq-w2"])
def test_every_layer_computes_in_the_networks_layout(monkeypatch, variant, layout, rng):
    """A layer is seen with the images and the weight of each of its calls."""
    seen, real = [], nn.Conv2d._conv_forward

    def watch(self, images, weight, bias):
        seen.extend(part.is_contiguous(memory_format=LAYOUTS[layout]) for part in (images, weight))
        return real(self, images, weight, bias)

    network = resnet8(10, 3).to(memory_format=LAYOUTS[layout]).eval()
    images = torch.randn(130, 3, 8, 8, generator=rng).to(memory_format=LAYOUTS[layout])
    calibration = Calibration(images, lambda _: images, torch.arange(130), "members", 0)
    monkeypatch.setattr(nn.Conv2d, "_conv_forward", watch)
    quantize_network(network, Variant.parse(variant), calibration, None, Settings(iterations=2))
    assert len(seen) > 40
    assert all(seen)
