"""Attention is quantized as the layers that it could have been written with."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision.models import SwinTransformer, VisionTransformer

from quantization.attention import unfused, write_out
from quantization.calibration import Calibration
from quantization.quantize import quantize_network
from quantization.quantized_network import layer_bits
from quantization.rounding.adaround import Settings
from quantization.variant import Variant

VARIANTS = ["nearest-w2", "adaround-w2", "brecq-w2-fisher", "obc-w1.58", "gptq-w2"]
LOOP = Settings(iterations=40, lr=1e-2)


@pytest.fixture
def calibration(rng):
    images = torch.randn(40, 1, 6, 8, generator=rng)
    return Calibration(images, lambda number: images, torch.arange(40), "members", 0)


def randomise(network, rng):
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=rng) * len(parameter) ** -0.5
    return network.eval().requires_grad_(False)


class Net(nn.Module):
    """Rows of an image as tokens of `attend`, which is given the network and the tokens."""

    def __init__(self, attend, **modules):
        super().__init__()
        self.embed = nn.Linear(8, 8)
        for name, module in modules.items():
            setattr(self, name, module)
        self.fc = nn.Linear(8, 5)
        self.attend = attend

    def forward(self, images):
        return self.fc(self.attend(self, self.embed(images[:, 0])).mean(1))


def by_pytorch(net, tokens, **options):
    return net.attn(tokens, tokens, tokens, need_weights=False, **options)[0]


def by_hand(net, tokens):
    q, k, v = (x.unflatten(-1, (2, 4)).transpose(1, 2) for x in net.qkv(tokens).chunk(3, -1))
    return net.proj((q @ k.mT / 2).softmax(-1).matmul(v).transpose(1, 2).flatten(2))


def check_better_than_nearest(network, images, quantized):
    """Its logits are nearer to the network's than those of nearest codes, unless it has these."""
    nearest, _ = quantize_network(network, Variant.parse(f"nearest-w{quantized.variant.bits:g}"))
    errors = []
    for state in (quantized.state_dict(), nearest.state_dict()):
        copied = copy.deepcopy(network)
        copied.load_state_dict(state)
        with torch.no_grad():
            errors.append((copied(images) - network(images)).square().mean())
    assert errors[0] < errors[1] or quantized.variant == nearest.variant


@pytest.mark.parametrize("name", [*VARIANTS, "adaround-w2-paper"])
@pytest.mark.parametrize("batch_first", [True, False])
def test_codes_are_those_of_projections_written_by_hand(calibration, rng, name, batch_first):
    def attend(net, tokens):
        return by_pytorch(net, tokens.transpose(0, 1)).transpose(0, 1)

    attend = by_pytorch if batch_first else attend
    theirs = Net(attend, attn=nn.MultiheadAttention(8, 2, batch_first=batch_first))
    ours = randomise(Net(by_hand, qkv=nn.Linear(8, 24), proj=nn.Linear(8, 8)), rng)
    names = {"qkv.": "attn.in_proj_", "proj.": "attn.out_proj."}
    rename = {
        key: next((key.replace(a, b) for a, b in names.items() if key.startswith(a)), key)
        for key in ours.state_dict()
    }
    theirs.load_state_dict({rename[key]: value for key, value in ours.state_dict().items()})
    variant = Variant.parse(name)
    loop = LOOP if variant.paper else None
    expected, record = quantize_network(ours, variant, calibration, loop=loop)
    quantized, found = quantize_network(theirs.eval(), variant, calibration, loop=loop)
    assert quantized.weights.keys() == {rename[key] for key in expected.weights}
    for key, weight in expected.weights.items():
        assert torch.equal(quantized.weights[rename[key]].codes, weight.codes)
    assert quantized.state_dict().keys() == theirs.state_dict().keys()
    layers = {layer.name for layer in found.layers}
    assert layers == {"embed", "attn.in_proj", "attn.out_proj", "fc"}
    assert len(record.layers) == 4


@pytest.mark.parametrize("name", ["nearest-w2", "obc-w1.58", "gptq-w2"])
@pytest.mark.parametrize("sizes", [{}, {"kdim": 8, "vdim": 6}])
def test_cross_attention_sees_three_inputs(calibration, rng, name, sizes):
    """Three linear layers by hand, each on its own input; queries are fewer than keys."""
    value_size = sizes.get("vdim", 8)

    def by_three(net, tokens):
        given = tokens[:, :3], tokens.tanh(), tokens[..., :value_size]
        projected = (net.get_submodule(n)(x) for n, x in zip("qkv", given, strict=True))
        q, k, v = (x.unflatten(-1, (2, 4)).transpose(1, 2) for x in projected)
        return net.proj((q @ k.mT / 2).softmax(-1).matmul(v).transpose(1, 2).flatten(2))

    def by_attention(net, tokens):
        given = tokens[:, :3], tokens.tanh(), tokens[..., :value_size]
        return net.attn(*given)[0]

    layers = {"q": nn.Linear(8, 8), "k": nn.Linear(8, 8), "v": nn.Linear(value_size, 8)}
    ours = randomise(Net(by_three, **layers, proj=nn.Linear(8, 8)), rng)
    attention = nn.MultiheadAttention(8, 2, batch_first=True, **sizes)
    theirs = Net(by_attention, attn=attention).eval().requires_grad_(False)
    theirs.embed, theirs.fc, attention.out_proj = ours.embed, ours.fc, ours.proj
    attention.in_proj_bias.copy_(torch.cat([ours.get_submodule(n).bias for n in "qkv"]))
    weights = [ours.get_submodule(n).weight for n in "qkv"]
    if sizes:
        for own, weight in zip("qkv", weights, strict=True):
            attention.get_parameter(f"{own}_proj_weight").copy_(weight)
    else:
        attention.in_proj_weight.copy_(torch.cat(weights))
    expected = quantize_network(ours, Variant.parse(name), calibration)[0].weights
    found = quantize_network(theirs, Variant.parse(name), calibration)[0].weights
    codes = [expected[f"{n}.weight"].codes for n in "qkv"]
    if sizes:
        for own, code in zip("qkv", codes, strict=True):
            assert torch.equal(found[f"attn.{own}_proj_weight"].codes, code)
    else:
        assert torch.equal(found["attn.in_proj_weight"].codes, torch.cat(codes))
        assert found["attn.in_proj_weight"].shape == (24, 8)
    assert torch.equal(found["attn.out_proj.weight"].codes, expected["proj.weight"].codes)


class Shifted(nn.MultiheadAttention):
    """A user's own attention on top of PyTorch's."""

    def forward(self, query, *rest, **options):
        return super().forward(query + 1, *rest, **options)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("own", [nn.MultiheadAttention, Shifted])
@pytest.mark.parametrize("kind", ["self", "key is value", "all differ", "unbatched"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False, "add_bias_kv": True},
        {"add_zero_attn": True},
        {"add_bias_kv": True, "add_zero_attn": True, "kdim": 6, "vdim": 5},
    ],
)
def test_written_out_attention_computes_the_same(rng, options, kind, own, batch_first):
    attention = randomise(own(8, 2, batch_first=batch_first, **options), rng)
    sizes = [8, options.get("kdim", 8), options.get("vdim", 8)]
    q, k, v = (torch.randn(3, 5, size, generator=rng) for size in sizes)
    if kind in ("self", "unbatched") and "kdim" not in options:
        k = v = q
    elif kind == "key is value" and "kdim" not in options:
        k = v = torch.randn(3, 5, 8, generator=rng)
    given = [q[0], k[0], v[0]] if kind == "unbatched" else [q, k, v]
    if kind != "unbatched" and not batch_first:
        swapped = {id(x): x.transpose(0, 1) for x in given}
        given = [swapped[id(x)] for x in given]
    masks = [{}]
    if kind != "unbatched":
        hidden = torch.rand(3, 5, generator=rng) < 0.3
        hidden[:, 0] = False
        table = torch.randn(5, 5, generator=rng)
        causal = torch.ones(5, 5).triu(1).bool()
        heads = torch.randn(6, 5, 5, generator=rng)
        masks += [{"key_padding_mask": hidden}, {"attn_mask": table}, {"attn_mask": heads}]
        masks += [{"attn_mask": causal, "is_causal": True, "key_padding_mask": hidden}]
    masks = [{**mask, **more} for mask in masks for more in ({}, {"need_weights": False})]
    masks += [{"average_attn_weights": False}]

    class Calls(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = attention

        def forward(self, images):
            return [self.module(*given, **mask) for mask in masks]

    calls = Calls()
    written = copy.deepcopy(calls)
    write_out(written, torch.zeros(1, 1, 1, 1))
    assert type(written.module).__name__ == own.__name__
    for (expected, weights), (found, own_weights) in zip(calls(None), written(None), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(own_weights, weights, rtol=1e-4, atol=1e-5)


class Multiplies(nn.Module):
    """Layers that are called, or whose weights are passed to a function with some bias."""

    def __init__(self, called, bias):
        super().__init__()
        self.one, self.two = nn.Linear(8, 8, bias=bias != "none"), nn.Linear(8, 8)
        self.fc, self.called, self.bias = nn.Linear(8, 5), called, bias

    def block(self, x):
        if self.bias == "changed":
            bias = self.one.bias.clone()
            bias[4:] = 0
            hidden = functional.linear(x, self.one.weight, bias)
        elif self.called:
            hidden = self.one(x)
        else:
            hidden = functional.linear(x, self.one.weight, bias=self.one.bias)
        return x + self.two(hidden.relu())

    def forward(self, images):
        x = self.block(images[:, 0])
        if self.called:
            return self.fc(x.mean(1))
        return functional.linear(x.mean(1), self.fc.weight, self.fc.bias)


@pytest.mark.parametrize("name", [*VARIANTS, "adaround-w2-paper"])
@pytest.mark.parametrize("bias", ["own", "none", "changed"])
def test_a_weight_passed_to_a_function_is_a_layers(calibration, rng, name, bias):
    """Where the bias is changed, the network that calls its layers has the changed one."""
    variant, loop = Variant.parse(name), LOOP if name.endswith("paper") else None
    theirs = randomise(Multiplies(False, bias), rng)
    ours = Multiplies(True, "own" if bias == "changed" else bias).eval().requires_grad_(False)
    ours.load_state_dict(theirs.state_dict())
    if bias == "changed":
        ours.one.bias[4:] = 0
    expected, record = quantize_network(ours, variant, calibration, loop=loop)
    found, _ = quantize_network(theirs, variant, calibration, loop=loop)
    assert len(record.layers) == 3
    changed = bias == "changed" and name.startswith(("adaround", "brecq"))
    for key, weight in expected.weights.items():
        # behind another bias there is no activation of its own to look at
        assert changed or torch.equal(found.weights[key].codes, weight.codes)
    assert type(theirs.one) is nn.Linear
    assert functional.linear is torch._C._nn.linear


@pytest.mark.parametrize("name", VARIANTS)
def test_windows_of_torchvisions_swin(rng, name):
    """Its attention passes weights to a function, and sees four windows of an image as images."""
    network = SwinTransformer([2, 2], 8, [1, 1], [2, 2], [2, 2], num_classes=5).eval()
    images = torch.randn(24, 3, 16, 16, generator=rng)
    calibration = Calibration(images, lambda _: images, torch.arange(24), "members", 0)
    variant = Variant.parse(name)
    quantized, record = quantize_network(network, variant, calibration)
    assert len(record.layers) == len(quantized.weights) == 11
    if variant.method == "brecq":
        blocks = ["features.1.0", "features.3.0"]
        assert record.units == [
            "features.0.0",
            blocks[0],
            "features.2.reduction",
            blocks[1],
            "head",
        ]
    check_better_than_nearest(network, images, quantized)


def test_the_fused_path_is_off_inside_and_as_before_outside():
    for before in (False, True):
        torch.backends.mha.set_fastpath_enabled(before)
        with unfused():
            inside = functional.linear
            with unfused():
                assert not torch.backends.mha.get_fastpath_enabled()
            assert functional.linear is inside
            assert not torch.backends.mha.get_fastpath_enabled()
        assert torch.backends.mha.get_fastpath_enabled() is before


@pytest.mark.parametrize("name", VARIANTS)
def test_codes_of_an_encoder_with_tokens_first_are_those_with_images_first(calibration, rng, name):
    """PyTorch's default has tokens on the first axis, where images are expected."""

    def first(net, tokens):
        return net.encoder(tokens.transpose(0, 1)).transpose(0, 1)

    def make(attend, batch_first):
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)
        encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        return Net(attend, encoder=encoder)

    theirs = randomise(make(lambda net, tokens: net.encoder(tokens), True), rng)
    ours = make(first, False).eval()
    ours.load_state_dict(theirs.state_dict())
    variant = Variant.parse(name)
    expected, record = quantize_network(theirs, variant, calibration)
    found, own = quantize_network(ours, variant, calibration)
    assert own.units == record.units
    if variant.method == "brecq":
        assert own.units == ["embed", "encoder.layers.0", "encoder.layers.1", "fc"]
    # sums in another order decide near ties otherwise, and then change what comes after
    pairs = [(found.weights[key].codes, weight.codes) for key, weight in expected.weights.items()]
    assert len(pairs) == 10
    assert min((one == other).float().mean() for one, other in pairs) > 0.9


@pytest.mark.parametrize("name", VARIANTS)
def test_a_vision_transformer_of_torchvision(rng, name):
    network = VisionTransformer(
        image_size=8, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16,
        num_classes=5,
    )  # fmt: skip
    nn.init.normal_(network.heads.head.weight)
    images = torch.randn(40, 3, 8, 8, generator=rng)
    calibration = Calibration(images, lambda _: images, torch.arange(40), "members", 0)
    quantized, record = quantize_network(network.eval(), Variant.parse(name), calibration)
    assert len(record.layers) == len(quantized.weights) == 10
    blocks = [f"encoder.layers.encoder_layer_{number}" for number in range(2)]
    if name.startswith("brecq"):
        assert record.units == ["conv_proj", *blocks, "heads.head"]
    check_better_than_nearest(network, images, quantized)


def test_layers_of_attention_have_names_for_patterns():
    network = nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 2))
    variant = Variant.parse("nearest-w2")
    bits = layer_bits(network, variant, {"*.in_proj": 32, "1.out*": 8})
    assert bits == {"0.weight": 2, "1.in_proj_weight": 32, "1.out_proj.weight": 8}
    bare = layer_bits(nn.MultiheadAttention(4, 2, vdim=3), variant, {"v_proj": 4})
    assert bare == {
        "q_proj_weight": 2,
        "k_proj_weight": 2,
        "v_proj_weight": 4,
        "out_proj.weight": 2,
    }
