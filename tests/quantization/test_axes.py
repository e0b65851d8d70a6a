import copy

import pytest
import torch
from torch import nn

from quantization import fit
from quantization.advice import leave_out
from quantization.axes import find_axes
from quantization.calibration import Calibration
from quantization.quantize import quantize_network
from quantization.rounding.adaround import Settings
from quantization.variant import Variant


class Uses(nn.Module):
    """A linear layer on tokens that `use` arranges."""

    def __init__(self, use):
        super().__init__()
        self.linear, self.use = nn.Linear(4, 4), use

    def forward(self, images):
        return self.use(self, images[:, 0])


ARRANGED = {
    "images-first": (lambda net, x: net.linear(x), 0),
    "tokens-first": (lambda net, x: net.linear(x.transpose(0, 1)), 1),
    "last-but-one": (lambda net, x: net.linear(x.permute(1, 0, 2)[:, None]), 2),
    "flat, image by image": (lambda net, x: net.linear(x.flatten(0, 1)), 0),
    "windows": (lambda net, x: net.linear(x.reshape(-1, 3, 4)), 0),
    "as many tokens as images": (lambda net, x: net.linear(x[:, :2].transpose(0, 1)), 1),
    "flat, token by token": (lambda net, x: net.linear(x.transpose(0, 1).flatten(0, 1)), None),
    "a table": (lambda net, x: net.linear(torch.ones(3, 4)), None),
}


@pytest.mark.parametrize("name", ARRANGED)
@pytest.mark.parametrize("images", [1, 2, 5])
def test_the_axis_of_images_is_found(rng, name, images):
    use, expected = ARRANGED[name]
    network = Uses(use).eval()
    found = find_axes(
        network, {"linear": network.linear}, torch.randn(images, 1, 6, 4, generator=rng)
    )
    if images > 1 or name != "flat, token by token":  # one image's tokens are in order
        assert found == ({} if expected is None else {"linear": expected})


@pytest.fixture
def calibration(rng):
    images = torch.randn(40, 1, 6, 4, generator=rng)
    return Calibration(images, lambda number: images, torch.arange(40), "members", 0)


class Mixed(nn.Module):
    """Two layers that are given tokens of all images in turn, and one that is not."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.inner = nn.ModuleDict({"one": nn.Linear(4, 4), "two": nn.Linear(4, 4)})

    def forward(self, images):
        tokens = self.stem(images[:, 0]).transpose(0, 1)
        flat = self.inner["two"](self.inner["one"](tokens.flatten(0, 1)).relu())
        return flat.unflatten(0, (6, -1)).mean(0)


def test_layers_whose_images_alternate_are_all_named(calibration):
    network = Mixed().eval()
    for name in ("adaround-w2", "brecq-w2", "gptq-w2"):
        with pytest.raises(
            ValueError,
            match=r"`inner.one`, `inner.two`: the outputs do not belong to one image after the"
            r" other.* '\{\"inner.\*\": 32\}'`, or use `nearest` or `obc`",
        ):
            quantize_network(network, Variant.parse(name), calibration)
        quantized, _ = quantize_network(network, Variant.parse(name), calibration, {"inner.*": 32})
        assert quantized.weights.keys() == {"stem.weight"}
    assert len(quantize_network(network, Variant.parse("obc-w2"), calibration)[0].weights) == 3


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["fc"], '{"fc": 32}'),
        (["b.0.attn.q", "b.0.attn.k", "b.1.attn.q", "b.1.attn.k"], '{"*.attn.*": 32}'),
        (["b.0.attn.q", "b.1.attn.q"], '{"*.attn.q": 32}'),
        (["b.0.attn.q", "b.0.attn.k"], '{"b.0.attn.*": 32}'),
        (["b.0.attn.q", "b.0.attn.k", "b.0.fc"], '{"b.0.*": 32}'),
        (["b.0.fc", "b.1.attn.k"], '{"b.0.fc": 32, "b.1.attn.k": 32}'),
        (["b.0.fc", "b.1.fc", "fc"], '{"*.fc": 32, "fc": 32}'),
    ],
)
def test_patterns_match_exactly_the_layers_to_leave_out(names, expected):
    layers = [f"b.{n}.{layer}" for n in (0, 1) for layer in ("attn.q", "attn.k", "fc")] + ["fc"]
    what = "it" if len(names) == 1 else "them"
    advice = leave_out(names, layers)
    assert advice == f"Leave {what} at full precision with `--layer_bits '{expected}'`"


class Mixer(nn.Module):
    """A residual block of two linear layers on tokens, or of the same convolutions on positions."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear
        self.one = nn.Linear(4, 8) if linear else nn.Conv1d(4, 8, 1)
        self.two = nn.Linear(8, 4) if linear else nn.Conv1d(8, 4, 1)

    def forward(self, x):
        return x + self.two(self.one(x).relu())


class MixerNet(nn.Module):
    def __init__(self, linear):
        super().__init__()
        self.block, self.again, self.fc = Mixer(linear), Mixer(linear), nn.Linear(4, 3)
        self.linear = linear

    def forward(self, images):
        tokens = images[:, 0] if self.linear else images[:, 0].mT
        tokens = self.again(self.block(tokens))
        return self.fc(tokens.mean(1 if self.linear else 2))


def twins():
    """The same network with linear layers on [images, tokens, features], and with convolutions."""
    tokens, places = MixerNet(True).eval(), MixerNet(False).eval()
    for (key, parameter), other in zip(tokens.named_parameters(), places.parameters(), strict=True):
        other.data.copy_(parameter.data.reshape(other.shape))
        assert key
    return tokens, places


@pytest.mark.parametrize("name", ["brecq-w2-paper-fisher", "obc-w2", "gptq-w2", "adaround-w2"])
def test_layers_on_tokens_get_the_codes_of_convolutions_over_positions(calibration, name):
    loop = Settings(iterations=60, lr=1e-2) if "paper" in name else None
    variant = Variant.parse(name)
    found = [quantize_network(net, variant, calibration, loop=loop) for net in twins()]
    (tokens, record), (places, other) = found
    assert record.units == other.units
    assert record.units[:2] == (
        ["block", "again"] if "brecq" in name else ["block.one", "block.two"]
    )
    for key, weight in tokens.weights.items():
        assert torch.equal(weight.codes, places.weights[key].codes)


def test_fisher_weights_tokens_as_it_weights_positions(calibration, monkeypatch):
    """Weights of the error of each layer at each token; the order of places is the same."""
    seen = []
    collect = fit.collect_targets

    def collecting(unit, *rest):
        targets = collect(unit, *rest)
        seen.append({name: targets[0].weights[name] for name in targets[0].weights})
        return targets

    monkeypatch.setattr(fit, "collect_targets", collecting)
    for network in twins():
        quantize_network(network, Variant.parse("brecq-w2-fisher"), calibration)
    half = len(seen) // 2
    assert [set(weights) for weights in seen[:2]] == [
        {"block.one", "block.two"},
        {"again.one", "again.two"},
    ]
    for ours, theirs in zip(seen[:2], seen[half : half + 2], strict=True):
        for name, weights in ours.items():
            torch.testing.assert_close(weights, theirs[name], rtol=1e-4, atol=1e-5)


def test_batchnorm_over_tokens_is_not_mistaken_for_one_over_rows(calibration):
    """As many tokens as rows: folding would scale the wrong axis, and does nothing instead."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.norm, self.fc = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)

        def forward(self, images):
            return self.fc(self.norm(self.linear(images[:, 0])).relu().mean(1))

    network = Net().eval()
    network.norm.running_var.uniform_(0.5, 2)
    folded, _ = quantize_network(network, Variant.parse("adaround-w8-folded"), calibration)
    copied = copy.deepcopy(network)
    copied.load_state_dict(folded.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(
            copied(calibration.images), network(calibration.images), rtol=0.05, atol=0.01
        )
    assert torch.equal(folded.state_dict()["norm.running_var"], network.norm.running_var)
