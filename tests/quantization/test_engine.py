"""Quantizers of whole networks: torchao's, and every way in which an engine may be none."""

import copy
import warnings

import pytest
import torch
from torch import nn

from quantization.calibration import Calibration, DivergedError
from quantization.engine import WholeNetwork, run_engine
from quantization.quantize import quantize_network
from quantization.rehearsal import check_network
from quantization.timing import estimate_seconds
from quantization.variant import Variant
from storage.weights import load_quantized, load_weights, save_quantized, stored_bytes


def whole(network, images, bits):
    """Round every weight of a linear layer to 2^bits - 1 levels, each row by its largest."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            step = module.weight.data.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
            module.weight.data = (module.weight.data / step).round() * step
    return network


@pytest.fixture
def network(rng):
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)
    network = nn.Sequential(*layers).eval()
    for layer in (network[0], network[4]):
        layer.weight.data = torch.randn(layer.weight.shape, generator=rng)
    return network


@pytest.fixture
def images(rng):
    return torch.randn(16, 1, 8, 8, generator=rng)


@pytest.fixture
def make(monkeypatch, forget_own):
    """A variant whose engine is a function."""

    def make(function, name="engines.own-w4"):
        monkeypatch.setattr("quantization.own.imported", lambda *_: function)
        forget_own()
        return Variant.parse(name)

    return make


def calibrate(images):
    return Calibration(images, lambda _: images, torch.arange(len(images)), "members", 3)


def test_an_engine_gets_a_copy_and_its_weights_are_kept(make, network, images, tmp_path):
    seen = []

    def engine(network, images, bits):
        seen.append((images, bits, network.training))
        return whole(network, images, bits)

    variant, before = make(engine), copy.deepcopy(network.state_dict())
    assert (variant.calibrates, str(variant)) == (True, "engines.own-w4")
    quantized, record = quantize_network(network, variant, calibrate(images))
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())
    ((given, bits, training),) = seen
    assert torch.equal(given, images)
    assert (bits, training) == (4, False)
    state = quantized.state_dict()
    expected = whole(copy.deepcopy(network), images, 4).state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in state)
    assert (record.objective, record.layers, record.units) == ("by engines.own, as a whole", [], [])
    assert record.as_json(calibrate(images))["calibration"]["images"] == 16
    save_quantized(tmp_path / "w.safetensors", quantized)
    loaded = load_weights(tmp_path / "w.safetensors")
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)
    assert load_quantized(tmp_path / "w.safetensors").variant == variant
    assert (tmp_path / "w.safetensors").stat().st_size == stored_bytes(network, variant)
    assert 0 < estimate_seconds(network, variant, calibrate(images)) < 60


def test_what_an_engine_draws_follows_from_the_models_seed(make, network, images):
    def engine(network, images, bits):
        network[4].weight.data += torch.rand(5, 144)
        return network

    variant = make(engine)
    check_network(network, variant, images[:2], {})
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first, _ = quantize_network(network, variant, calibrate(images))
    assert torch.equal(torch.get_rng_state(), state)
    second, _ = quantize_network(network, variant, calibrate(images))
    other, _ = quantize_network(network, variant, calibrate(images)._replace(seed=4))
    weights = [made.rest["4.weight"] for made in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_an_engine_may_compute_gradients(make, network, images):
    def engine(network, images, bits):
        network(images).square().sum().backward()
        network[4].weight.data -= 0.01 * network[4].weight.grad
        return network

    made, _ = quantize_network(network, make(engine), calibrate(images))
    assert not torch.equal(made.rest["4.weight"], network[4].weight)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_torchaos_weights_are_what_is_audited(make, network, images, bits, tmp_path):
    """A library of other people: what its network computes is what our file gives."""
    ao = pytest.importorskip("torchao.quantization")
    made = []

    def torchao(network, images, bits):
        dtype = getattr(torch, f"int{bits}")
        ao.quantize_(network, ao.IntxWeightOnlyConfig(dtype, ao.PerAxis(0)))
        made.append(network)
        return network

    variant = make(torchao, f"vendors.torchao-w{bits}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchao's own
        check_network(network, variant, images[:2], {})
        quantized, _ = quantize_network(network, variant, calibrate(images))
    save_quantized(tmp_path / "w.safetensors", quantized)
    state = load_weights(tmp_path / "w.safetensors")
    assert type(state["4.weight"]) is torch.Tensor
    assert not torch.equal(state["4.weight"], network[4].weight)
    assert all(len(row.unique()) <= 2**bits for row in state["4.weight"])
    plain = copy.deepcopy(network)
    plain.load_state_dict(state)
    torch.testing.assert_close(plain(images), made[-1](images), rtol=1e-5, atol=1e-5)


def unchanged(network, images, bits):
    return network


def nothing(network, images, bits):
    whole(network, images, bits)


def renamed(network, images, bits):
    return nn.Sequential(whole(network, images, bits))


def smaller(network, images, bits):
    network[4] = nn.Linear(144, 4)
    return network


def exploded(network, images, bits):
    network[4].weight.data /= 0
    return network


def noisy(network, images, bits):
    """As with activations of few bits."""
    network[2].register_forward_hook(lambda module, args, output: (output * 2).round() / 2)
    return whole(network, images, bits)


def failing(network, images, bits):
    raise KeyError("no kernel\nfor this")


DRAWS = iter(range(10))


def drawing(network, images, bits):
    network[4].bias.data += next(DRAWS) + 1
    return network


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (unchanged, "change some weight, and all are as they were"),
        (nothing, "return a network, got NoneType"),
        (renamed, "keep the state dict's keys, and `0.weight` is no tensor in it"),
        (smaller, r"keep the shape of `4.weight`, \[5, 144\], got \[4, 144\]"),
        (exploded, "keep `4.weight` finite, got 720 numbers that are not"),
        (
            noisy,
            r"return a network that is told by its weights, but its logits are \d.* off .*`aud",
        ),
        (failing, r"run on this network \(KeyError: 'no kernel\\nfor this', .*test_engine.py:\d+"),
        (drawing, "give the same weights twice"),
    ],
)
def test_what_is_no_engine_is_refused_before_anything_is_trained(
    make, network, images, engine, message
):
    with pytest.raises(ValueError, match=f"`--quantize`: `engines.own` must {message}") as error:
        check_network(network, make(engine), images[:2], {})
    assert "Expected is engine(network, images, bits) -> network." in str(error.value)
    assert "\n" not in str(error.value)


def test_what_only_layers_have_is_refused(make, network, images):
    with pytest.raises(ValueError, match=r"`--layer_bits` does not reach `engines\.own`"):
        check_network(network, make(whole), images[:2], {"4": 8})
    for suffix in ("-last8", "-sym"):
        with pytest.raises(ValueError, match=r"is given the bits alone; write `engines\.own-w4`"):
            make(whole, f"engines.own-w4{suffix}")
    with pytest.raises(ValueError, match=r"`-bn` changes nothing for engines\.own"):
        make(whole, "engines.own-w4-bn")
    assert make(whole, "engines.own-w4-nonmembers").calibration == "nonmembers"


def test_a_network_in_half_precision_is_quantized_in_single(network, images):
    quantizer = WholeNetwork(whole, "engines.own")
    state = run_engine(quantizer, network.bfloat16(), images, 4, 0)
    assert {tensor.dtype for tensor in state.values() if tensor.is_floating_point()} == {
        torch.float32  # as it is audited
    }


def halved(network, images, bits):
    for parameter in network.parameters():
        parameter.data /= 2
    return network


def test_a_head_that_starts_at_zero_gives_logits_of_zero(make, network, images):
    """As those of torchvision's and timm's vision transformers."""
    for parameter in network[4].parameters():
        nn.init.zeros_(parameter)
    check_network(network, make(halved), images[:2], {})
    with pytest.raises(ValueError, match=r"logits are .* off .* which reach 0: activ"):
        run_engine(WholeNetwork(shifted, "engines.own"), network, images, 4, 0)


def shifted(network, images, bits):
    network.register_forward_hook(lambda module, args, output: output + 1e-6)
    return halved(network, images, bits)


def test_a_buffer_may_be_infinite_from_the_start(make, network, images):
    """As the mask of a causal attention."""
    mask = torch.full((3, 3), -torch.inf).triu(1)
    network.register_buffer("mask", mask)
    check_network(network, make(whole), images[:2], {})
    made, _ = quantize_network(network, make(whole), calibrate(images))
    assert torch.equal(made.rest["mask"], mask)


def test_a_network_that_diverged_is_none_of_its_engines_faults(make, network, images):
    network[4].weight.data *= 1e38
    with pytest.raises(DivergedError, match="`Sequential` gives values that are not finite"):
        quantize_network(network, make(whole), calibrate(images))
    with pytest.raises(ValueError, match="not finite before any training"):
        check_network(network, make(whole), images[:2], {})


def test_an_engine_on_a_cpu_starts_no_gpu(make, network, images, monkeypatch):
    """PyTorch forks the generators of all GPUs unless it is told which, and warns of several."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    asked = []
    monkeypatch.setattr("torch.cuda.get_rng_state", lambda device: asked.append(device))
    monkeypatch.setattr("torch.cuda.set_rng_state", lambda state, device: asked.append(device))
    quantize_network(network, make(whole), calibrate(images))
    assert asked == []
