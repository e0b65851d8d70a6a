"""Bits that are chosen per layer, against slow forms of every step."""

import copy
from dataclasses import replace

import pytest
import torch
from scipy.special import rel_entr
from torch import nn
from torchvision.models import mobilenet_v2

from lightning_modules.networks import build_network
from quantization import search
from quantization.allocation import check_search, make_groups, tied_layers
from quantization.calibration import Calibration, DivergedError
from quantization.cost import count_layers, network_cost
from quantization.fisher import fisher_of_weights
from quantization.mixed_options import MixedOptions
from quantization.probe import Probe, compare
from quantization.quantize import quantize_network
from quantization.rounding.pack import pack
from quantization.search import choose_bits
from quantization.sensitivity import halves, measure
from quantization.shared import Shared
from quantization.variant import Variant

FEW = MixedOptions(candidates=(8, 3, 1.58, 32))


class Tied(nn.Module):
    """Two layers of one weight, a depthwise and a grouped convolution, and no BatchNorm."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.second.weight = self.first.weight
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.grouped = nn.Conv2d(4, 8, 3, groups=2, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 5)

    def forward(self, images):
        features = self.relu(self.first(images))
        features = self.relu(self.depthwise(features)) + self.second(self.second(features))
        return self.head(self.relu(self.grouped(features)).mean((2, 3)))


class Encoder(nn.Module):
    """A transformer on 9 tokens of 4 channels."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.embed, self.head = nn.Linear(4, 8), nn.Linear(8, 5)

    def forward(self, images):
        tokens = self.embed(images.flatten(2).mT)
        return self.head(self.layer(tokens).mean(1))


def resnet():
    return build_network("resnet8", 5, 4, {})


def single():
    return nn.Sequential(nn.Flatten(), nn.Linear(4 * 64, 5))


NETWORKS = {
    "resnet8": resnet,
    "group norm": lambda: build_network("resnet8_gn", 5, 4, {}),
    "tied": Tied,
    "transformer": Encoder,
    "one layer": single,
    "depthwise": lambda: mobilenet_v2(num_classes=5).features[:4].append(nn.AdaptiveAvgPool2d(1)),
}


def make(name, seed=0):
    """A network whose layers differ in importance, with BatchNorm's statistics of its inputs."""
    torch.manual_seed(seed)
    network = NETWORKS[name]()
    if name == "depthwise":
        network[0][0] = nn.Conv2d(4, 32, 3, 2, 1, bias=False)
        network = nn.Sequential(*network, nn.Flatten(), nn.Linear(24, 5))
    for step in range(3):
        network.train()(torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(step)))
    return network.eval()


def draw(count=60, seed=1):
    images = torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    return Calibration(images, lambda _: images, torch.arange(count), "members", 0)


def by_hand(network, changed, images):
    """Divergence and changed classes of two networks, by SciPy."""
    with torch.no_grad():
        p, q = (n(images.clone()).double().softmax(1).numpy() for n in (network, changed))
    return rel_entr(p, q).sum(1).mean(), 100 * (p.argmax(1) != q.argmax(1)).mean()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_probe_changes_weights_as_a_copy_would(name):
    network, images = make(name), torch.randn(150, 4, 8, 8)
    rng = torch.Generator().manual_seed(2)
    keys = [key for key, p in network.named_parameters() if p.ndim > 1]
    changes = [
        {key: network.get_parameter(key) + 0.1 * torch.randn(1, generator=rng)} for key in keys
    ]
    changes.append({key: change for one in changes for key, change in one.items()})
    probe = Probe(network)
    gaps = probe.gaps(images, changes)
    for change, gap in zip(changes, gaps, strict=True):
        changed = copy.deepcopy(network)
        with torch.no_grad():
            for key, weight in change.items():
                changed.get_parameter(key).copy_(weight)
        kl, moved = by_hand(network, changed, images)
        assert gap.kl == pytest.approx(kl, rel=1e-3, abs=1e-9)
        assert gap.changed == pytest.approx(moved, abs=1.5)  # of 150 images, two may be near a tie
    assert all(
        torch.equal(tensor, network.state_dict()[key])
        for key, tensor in probe.network.state_dict().items()
    )


def test_logits_that_are_not_finite_lose_everything():
    logits = torch.zeros(3, 2)
    assert compare(logits, torch.full((3, 2), torch.nan)) == (torch.inf, torch.inf)
    assert compare(logits, logits) == (0, 0)
    assert compare(torch.tensor([[0.0, 1]]), torch.tensor([[1.0, 0]])).changed == 100


@pytest.mark.parametrize(
    ("method", "name"),
    [
        *(("nearest", "resnet8"), ("adaround", "resnet8"), ("brecq", "resnet8")),
        *(("gptq", "tied"), ("obc", "tied"), ("brecq", "tied"), ("adaround", "transformer")),
    ],
)
def test_a_layers_loss_is_that_of_a_network_with_that_layer_alone_quantized(method, name):
    network, calibration = make(name), draw()
    variant = Variant.parse(f"{method}-mix4")
    groups = make_groups(network, variant, {}, FEW, calibration.images)
    measured = measure(network, variant, groups, calibration, Shared())
    images = halves(calibration)[0]
    for group in groups[::3]:
        others = {n: 32 for other in groups for n in other.names if other is not group}
        for bits in (8, 3, 1.58):
            # so few images that every place is looked at, and nothing is drawn
            alone, _ = quantize_network(
                network, Variant.parse(f"{method}-w{bits}"), calibration, others
            )
            for own in group.keys:
                codes = measured.weights[group.name][bits][own[0]].codes
                if method != "brecq" or name != "resnet8":  # which has blocks
                    assert torch.equal(codes, alone.weights[own[0]].codes)
            changed = copy.deepcopy(network)
            state = {
                key: weight.dequantize()
                for own in group.keys
                for key, weight in measured.weights[group.name][bits].items()
                if key in own
            }
            with torch.no_grad():
                for key, weight in state.items():
                    changed.get_parameter(key).copy_(weight)
            kl, moved = by_hand(network, changed, images)
            loss = measured.losses[group.name][bits]
            assert loss.kl == pytest.approx(kl, rel=1e-3, abs=1e-9)
            assert loss.changed == pytest.approx(moved, abs=3.4)
        assert measured.losses[group.name][32] == (0, 0, 0)


def test_the_cheap_form_is_the_divergence_of_small_changes():
    """One weight at a time it is exact to second order, over enough draws of the labels."""
    network = single().eval()
    images = torch.randn(50, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    repeated = images.repeat(40, 1, 1, 1)
    fisher = fisher_of_weights(network, ["1.weight"], repeated, generator)["1.weight"]
    for row, column in ((0, 0), (3, 100), (4, 255)):
        weight = network[1].weight.detach().clone()
        weight[row, column] += 0.05
        (gap,) = Probe(network).gaps(images, [{"1.weight": weight}])
        assert fisher[row, column].item() * 0.05**2 / 2 == pytest.approx(gap.kl, rel=0.15)


def stored(quantized):
    """Bytes of all weights with their scales and zero points, counted in what is packed."""
    keys, total = set(), 0
    for key, (codes, grid, _) in quantized.weights.items():
        if (identity := codes.data_ptr()) not in keys:
            keys.add(identity)
            total += pack(codes, grid.levels).nbytes + grid.scale.nbytes + grid.zero.nbytes
        assert key
    return total


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("asked", ["nearest-mix9", "adaround-mix9", "nearest-aiq0.9"])
def test_every_kind_of_network_gets_bits_within_its_budget(name, asked):
    network, calibration = make(name), draw()
    variant = Variant.parse(asked)
    quantized, record = quantize_network(network, variant, calibration)
    found = record.search
    assert found is not None
    kept = {key: quantized.rest[key] for key in quantized.rest if key.endswith("weight")}
    full = {key for key in kept if found.bits.get(key.removesuffix(".weight")) == 32}
    size = stored(quantized) + sum(kept[key].nbytes for key in full)
    assert found.bytes == size
    if variant.mean_bits is not None:
        assert found.bytes <= found.budget
        assert found.mean_bits <= variant.mean_bits
    assert found.checked[0].expected == min(c.expected for c in found.checked) or variant.aiq
    best = min(found.checked, key=lambda choice: choice.objective)
    assert (found.measured, found.expected) == (best.measured, best.expected)
    levels = {bits.name: bits.bits for bits in record.layers}
    assert all(found.bits[layer] == own for layer, own in levels.items())


def test_the_choice_is_the_best_of_all_allocations_by_the_sum_of_losses():
    network, calibration = make("tied"), draw()
    for name in ("nearest-mix8", "nearest-aiq0.9", "nearest-aiq0.5"):
        variant, shared = Variant.parse(name), Shared()
        options = replace(FEW, candidates=(8, 3, 1.58))
        _, record = choose_bits(network, variant, calibration, {}, options, shared)
        groups = make_groups(network, variant, {}, options, calibration.images)
        layers = count_layers(network, calibration.images)
        best = float("inf")
        loss = "kl" if variant.aiq is None else "changed"
        for bits in torch.cartesian_prod(*[torch.tensor(options.candidates)] * len(groups)):
            own = [round(b.item(), 2) for b in bits]
            size = sum(g.bytes(b) for g, b in zip(groups, own, strict=True))
            lost = sum(
                getattr(record.losses[g.name][f"{b:g}"], loss)
                for g, b in zip(groups, own, strict=True)
            )
            if variant.mean_bits is not None:
                best = min(best, lost) if size <= record.budget else best
                continue
            cost = network_cost(
                layers,
                {k: b for g, b in zip(groups, own, strict=True) for keys in g.keys for k in keys},
            )
            value = -variant.aiq * cost.intensity / 60 + (1 - variant.aiq) * lost / 10
            best = min(best, value)
        first = record.checked[0]
        if variant.mean_bits is not None:
            assert first.expected == pytest.approx(best)
        else:
            change = (1 - variant.aiq) * (first.measured - first.expected) / 10
            assert first.objective - change == pytest.approx(best)


def test_greedy_is_never_better_by_the_sum_of_losses():
    network, calibration, shared = make("resnet8"), draw(), Shared()
    for budget in ("2.9", "4", "6", "9"):
        exact, greedy = (
            quantize_network(
                network, Variant.parse(f"nearest-mix{budget}{end}"), calibration, shared=shared
            )[1].search
            for end in ("", "-greedy")
        )
        assert greedy.bytes <= greedy.budget
        assert exact.checked[0].expected <= greedy.expected * (1 + 1e-12)


@pytest.mark.parametrize("method", ["nearest", "adaround"])
def test_losses_are_measured_once_and_budgets_do_not_depend_on_each_other(method, monkeypatch):
    network, calibration, shared = make("resnet8"), draw(), Shared()
    calls, real = [], measure
    monkeypatch.setattr(search, "measure", lambda *given: calls.append(1) or real(*given))
    ends = "mix4", "mix3-greedy", "mix3", "aiq0.9", "mix3-a8", "aiq0.9-a8", "aiq0.9-a4"
    names = [f"{method}-{end}" for end in ends]
    together = {
        name: quantize_network(network, Variant.parse(name), calibration, shared=shared, mixed=FEW)
        for name in names
    }
    assert len(calls) == 2  # beside `-a`, 8-bit weights are symmetric
    for name in names[2:]:
        alone, record = quantize_network(network, Variant.parse(name), calibration, mixed=FEW)
        quantized, before = together[name]
        assert record.search._replace(seconds=0) == before.search._replace(seconds=0)
        assert alone.weights.keys() == quantized.weights.keys()
        for key, weight in alone.weights.items():
            assert torch.equal(weight.codes, quantized.weights[key].codes)


def test_patterns_and_the_last_layer_stay_as_they_are():
    network, calibration = make("resnet8"), draw()
    patterns = {"layer2.*": 4, "conv1": 32}
    variant = Variant.parse("nearest-mix9-last8")
    quantized, record = quantize_network(network, variant, calibration, patterns)
    bits = record.search.bits
    assert {bits[name] for name in bits if name.startswith("layer2")} == {4}
    assert (bits["conv1"], bits["fc"]) == (32, 8)
    assert "conv1.weight" in quantized.rest
    assert {*record.search.losses["fc"]} == {"8"}


def test_the_bits_of_a_record_give_the_same_bits_to_another_network():
    calibration = draw()
    _, record = quantize_network(make("resnet8"), Variant.parse("nearest-mix5"), calibration)
    bits = record.search.bits
    other = make("resnet8", seed=5)
    for name in ("nearest-mix5", "nearest-w4"):  # all layers are fixed, whatever the name says
        _, again = quantize_network(other, Variant.parse(name), calibration, bits)
        layers = {layer.name: layer.bits for layer in again.layers}
        assert layers == {name: own for name, own in bits.items() if own != 32}


def test_layers_that_are_added_are_tied_only_if_asked():
    network, images = make("resnet8"), draw().images
    tied = [
        {"layer1.0.conv2", "conv1"},
        {"layer2.0.conv2", "layer2.0.downsample.0"},
        {"layer3.0.conv2", "layer3.0.downsample.0"},
    ]
    assert tied_layers(network, images) == tied
    variant = Variant.parse("nearest-mix5")
    for option in ("free", "sums"):
        options = MixedOptions(tie=option)
        groups = make_groups(network, variant, {}, options, images)
        assert len(groups) == 10 - 3 * (option == "sums")
        _, record = choose_bits(network, variant, draw(), {}, options, Shared())
        for names in tied * (option == "sums"):
            assert len({record.bits[name] for name in names}) == 1


def refuse(network, name, message, patterns=None, options=None):
    options = options or MixedOptions()
    with pytest.raises(ValueError, match=message):
        check_search(network, Variant.parse(name), patterns or {}, options, draw(2).images)


def test_what_cannot_be_searched_is_one_line_before_training():
    network = make("resnet8")
    refuse(network, "nearest-mix1.5", r"take at least 1\.79\d bits each on average, got 1.5. Raise")
    refuse(network, "nearest-mix33", "take at most 32 bits each on average, got 33. Lower it")
    eight = MixedOptions(candidates=(8, 4))
    refuse(network, "nearest-mix4", r"take at least 4\.1\d+ bits", options=eight)
    refuse(network, "nearest-mix9", r"take at most 8\.1\d+ bits", options=eight)
    refuse(
        network,
        "nearest-mix6",
        "`layer2.0.conv2`, `layer2.0.downsample.0` have the same bits because of `--mixed.tie sums`"
        ".* fixed at 4 and 8: no candidate is left",
        {"layer2.0.conv2": 4, "layer2.0.downsample.0": 8},
        MixedOptions(tie="sums"),
    )
    refuse(network, "nearest-mix3", "`layer_bits` has `nope`, which matches no layer", {"nope": 4})
    check_search(network, Variant.parse("nearest-mix1.81"), {}, MixedOptions(), draw(2).images)
    check_search(single(), Variant.parse("nearest-mix8"), {}, MixedOptions(), draw(2).images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": ()}, "`mixed.candidates` must be different bits of 8, 4.*, got none"),
        ({"candidates": (8, 8)}, "`mixed.candidates` must be different bits .* got 8, 8"),
        ({"candidates": (8, 5)}, "`mixed.candidates` must be among 8, 4, 3, 2, 1.58, 32, got 5"),
        ({"ai_scale": 0.0}, "`mixed.ai_scale` must be above 0 and finite, got 0"),
        ({"loss_scale": float("inf")}, "`mixed.loss_scale` must be above 0 and finite, got inf"),
        ({"batch": 0}, "`mixed.batch` must be 1 image or more, got 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MixedOptions(**options)


def test_a_network_that_diverged_is_told_from_one_that_cannot_be_searched():
    network = make("one layer")
    with torch.no_grad():
        network[1].bias[0] = torch.nan
    with pytest.raises(DivergedError):
        quantize_network(network, Variant.parse("nearest-mix9"), draw())


class Touchy(nn.Module):
    """Gives NaN as soon as its first weight is not exactly as it was."""

    def __init__(self):
        super().__init__()
        self.flatten, self.fragile, self.head = nn.Flatten(), nn.Linear(256, 8), nn.Linear(8, 5)
        self.register_buffer("known", self.fragile.weight.detach().clone())

    def forward(self, images):
        logits = self.head(self.fragile(self.flatten(images)))
        return logits if torch.equal(self.fragile.weight, self.known) else logits * torch.nan


def test_a_layer_that_loses_everything_is_named():
    options = MixedOptions(candidates=(8, 4))
    network, variant = Touchy().eval(), Variant.parse("nearest-mix8")
    with pytest.raises(ValueError, match="`fragile`: no candidate is left"):
        choose_bits(network, variant, draw(), {}, options, Shared())
    _, record = choose_bits(
        network, Variant.parse("nearest-mix32"), draw(), {"fragile": 32}, MixedOptions(), Shared()
    )
    assert record.bits["fragile"] == 32
