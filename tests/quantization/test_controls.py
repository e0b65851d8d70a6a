"""Controls: noise of the size of a variant's change, and its zeros, in the trained weights."""

import copy
import json

import pytest
import torch
from torch import nn

from quantization.calibration import Calibration
from quantization.controls import add_noise, copy_zeros
from quantization.quantize import quantize_network
from quantization.rehearsal import check_network
from quantization.rounding.adaround import Settings
from quantization.shared import Shared
from quantization.timing import estimate_seconds
from quantization.variant import UNQUANTIZED, Variant
from storage.weights import load_quantized, load_weights, save_quantized, stored_bytes

BASES = ["nearest-w8", "nearest-w2", "adaround-w1.58", "adaround-w1.58-asym", "obc-w2-last8"]
BASES += ["brecq-w1.58-last32-nonmembers", "gptq-w3-sym", "adaround-w1.58-asym-paper"]


class Net(nn.Module):
    """A convolution, BatchNorm, a layer with two names and one whose weight another one lends."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.square = self.again = nn.Linear(6, 6)
        self.tied, self.fc = nn.Linear(6, 6), nn.Linear(6, 4)
        self.tied.weight = self.square.weight

    def forward(self, images):
        features = self.norm(self.stem(images)).relu().mean((2, 3))
        return self.fc(self.tied(self.again(self.square(features).relu()).relu()))


@pytest.fixture
def network(rng):
    network = Net().eval()
    network.norm.running_var.mul_(3)
    return network


@pytest.fixture
def calibration(rng):
    images = torch.randn(64, 1, 6, 6, generator=rng)
    return Calibration(images, lambda _: images, torch.arange(64), "members", 0)


def quantize(network, calibration, name, **options):
    variant, loop = Variant.parse(name), Settings(iterations=5)
    return quantize_network(network, variant, calibration, loop=loop, **options)


def root_mean_square(values):
    return values.double().square().mean().sqrt().item()


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("factor", ["", "0.5", "0.01", "20"])
def test_noise_has_the_mean_square_of_each_layers_change(network, calibration, base, factor):
    full = network.state_dict()
    quantized = quantize(network, calibration, base)[0].state_dict()
    noisy = quantize(network, calibration, f"{base}-noise{factor}", seed=5)[0].state_dict()
    assert noisy.keys() == full.keys()
    weights = {"stem.weight", "square.weight", "again.weight", "tied.weight", "fc.weight"}
    weights -= {"fc.weight"} if "last32" in base else set()
    assert {key for key in full if not torch.equal(full[key], noisy[key])} == weights
    for key in weights:
        change = noisy[key].double() - full[key].double()
        difference = quantized[key].double() - full[key].double()
        expected = float(factor or 1) * root_mean_square(difference)
        # a sum in float32 is off by up to 2^-24 of itself
        rounding = 2.0**-24 * root_mean_square(noisy[key])
        assert root_mean_square(change) == pytest.approx(expected, rel=1e-12, abs=rounding)
        assert len(change.unique()) > 0.9 * change.numel()
    assert torch.equal(noisy["tied.weight"], noisy["square.weight"])
    assert torch.equal(noisy["again.weight"], noisy["square.weight"])


@pytest.mark.parametrize("base", BASES)
def test_zeros_are_those_of_the_codes(network, calibration, base):
    full, (quantized, _) = network.state_dict(), quantize(network, calibration, base)
    state = quantize(network, calibration, f"{base}-zeros")[0].state_dict()
    assert state.keys() == full.keys()
    for key, weight in full.items():
        if key in quantized.weights:
            codes, grid, shape = quantized.weights[key]
            zero = (codes == grid.zero).reshape(shape)
            assert not state[key][zero].any()
            assert torch.equal(state[key][~zero], weight[~zero])
        else:
            assert torch.equal(state[key], weight)
    shares = {key: (state[key] == 0).double().mean().item() for key in quantized.weights}
    if "1.58" in base:
        assert all(0.1 < share < 0.9 for share in shares.values())


def test_noise_is_gaussian_and_differs_between_layers_bases_and_models(rng):
    """Kurtosis and correlations of 10,000 draws have a standard error of 0.05 and of 0.01."""
    layers = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 100))
    with torch.no_grad():
        layers[1].weight.copy_(layers[0].weight)
    full = layers.state_dict()

    def noise(name, layer=0, seed=0):
        state = quantize(layers, None, name, seed=seed)[0].state_dict()
        change = (state[f"{layer}.weight"] - full[f"{layer}.weight"]).double().flatten()
        return change / change.square().mean().sqrt()

    draw = noise("nearest-w2-noise")
    assert draw.mean().abs() < 0.05
    assert draw.pow(4).mean().item() == pytest.approx(3, abs=0.25)
    others = [noise("nearest-w2-noise", layer=1), noise("nearest-w2-noise", seed=1)]
    others += [noise("nearest-w1.58-noise"), full["0.weight"].flatten().double()]
    for other in others:
        assert torch.corrcoef(torch.stack([draw, other]))[0, 1].abs() < 0.05
    half = noise("nearest-w2-noise0.5")  # on the line from full precision to the whole noise
    torch.testing.assert_close(half, draw, atol=1e-4, rtol=0)


def test_what_else_is_quantized_changes_no_noise(network, calibration):
    alone = quantize(network, None, "nearest-w2-noise", seed=3)[0].state_dict()
    torch.manual_seed(9)
    random = torch.get_rng_state()
    patterns = {"stem": UNQUANTIZED}
    shared = Shared()
    for name in ("nearest-w2", "nearest-w2-noise0.5", "nearest-w2-zeros"):
        quantize(network, None, name, seed=3, shared=shared, patterns=patterns)
    fewer = quantize(network, None, "nearest-w2-noise", seed=3, shared=shared, patterns=patterns)
    state = fewer[0].state_dict()
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(state.pop("stem.weight"), network.stem.weight)
    assert all(torch.equal(tensor, alone[key]) for key, tensor in state.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["nearest-w8-noise", "adaround-w1.58-last32-zeros"])
def test_other_dtypes_get_float32_weights_where_they_are_quantized(
    network, calibration, tmp_path, dtype, name
):
    other = copy.deepcopy(network).to(dtype)
    made, _ = quantize(other, calibration, name)
    expected = quantize(copy.deepcopy(other).float(), calibration, name)[0].state_dict()
    for key, tensor in made.state_dict().items():
        assert torch.equal(tensor.float(), expected[key])
        quantized = key.endswith("weight") and "norm" not in key
        quantized &= "last32" not in name or key != "fc.weight"
        assert tensor.dtype == (torch.float32 if quantized else other.state_dict()[key].dtype)
    save_quantized(tmp_path / "file", made)
    assert stored_bytes(other, Variant.parse(name)) == (tmp_path / "file").stat().st_size


@pytest.mark.parametrize("name", ["adaround-w1.58-noise0.5", "nearest-w2-zeros"])
def test_a_control_of_stored_codes_is_bitwise_the_same(network, calibration, tmp_path, name):
    """In a file, each name of a tied weight has codes of its own."""
    expected, record = quantize(network, calibration, name)
    base, _ = quantize(network, calibration, str(Variant.parse(name).base))
    save_quantized(tmp_path / "base", base)
    stored = load_quantized(tmp_path / "base")
    made, again = quantize(network, calibration, name, solved=stored)
    assert again._replace(seconds=0.0) == record._replace(seconds=0.0)
    state, tensors = made.state_dict(), expected.state_dict()
    assert all(torch.equal(state[key], tensors[key]) for key in tensors)
    assert torch.equal(state["tied.weight"], state["again.weight"])


def test_a_control_leaves_the_network_and_says_what_it_is(network, calibration, tmp_path):
    before = copy.deepcopy(network.state_dict())
    made, record = quantize(network, calibration, "adaround-w2-noise")
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())
    assert (str(made.variant), made.weights) == ("adaround-w2-noise", {})
    assert (record.layers, record.units) == ([], [])
    stored = json.loads(json.dumps(record.as_json(calibration)))
    assert stored["objective"].startswith("Gaussian noise of the mean square of adaround-w2's")
    assert stored["calibration"]["indices"] == list(range(64))
    save_quantized(tmp_path / "file", made)
    loaded, state = load_weights(tmp_path / "file"), made.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_a_control_is_rehearsed_and_costs_what_its_base_does(network, calibration, monkeypatch):
    with pytest.raises(ValueError, match=r"`layer_bits` has `nowhere`, which matches no layer"):
        check_network(network, Variant.parse("obc-w2-noise"), calibration.images, {"nowhere": 4})
    tried = []

    def spy(network, variant, *arguments, **options):
        tried.append(str(variant))
        return quantize_network(network, variant, *arguments, **options)

    monkeypatch.setattr("quantization.timing.quantize_network", spy)
    seconds = estimate_seconds(network, Variant.parse("gptq-w2-noise"), calibration)
    assert seconds > 0
    assert {*tried} == {"nearest-w2", "gptq-w2"}


def test_by_hand():
    trained, quantized = torch.tensor([[1.0, -2.0, 0.5]]), torch.tensor([[0.0, -2.0, 0.0]])
    assert copy_zeros(trained, quantized).tolist() == [[0, -2, 0]]
    assert torch.equal(add_noise(trained, trained.clone(), 3.0, 7), trained)
    noise = add_noise(trained, quantized, 2.0, 7).double() - trained.double()
    assert noise.square().sum().item() == pytest.approx(4 * 1.25, rel=1e-6)
