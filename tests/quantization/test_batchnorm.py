import copy
from itertools import permutations

import pytest
import torch
from torch import nn
from torch.nn import functional

from lightning_modules.networks import convnet, resnet8, resnet20, wide_resnet28_2
from quantization import batchnorm as module
from quantization.batchnorm import batchnorms, estimate_batchnorm, fold_batchnorm
from quantization.calibration import DivergedError
from quantization.rehearsal import check_network
from quantization.variant import Variant


@pytest.fixture
def randomise(rng):
    """Draw all parameters and statistics, so that slopes are negative too."""

    def draw(network):
        for key, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                tensor.normal_(generator=rng).mul_(1.5 * tensor[0].numel() ** -0.5)
            if key.endswith("running_var"):
                tensor.abs_().add_(0.3)
        return network.double().eval().requires_grad_(False)

    return draw


@pytest.fixture
def images(rng):
    return torch.randn(6, 3, 8, 8, generator=rng, dtype=torch.double)


def fold_and_compare(network, images):
    """Fold, and check logits on these and other images; return the network before and the pairs."""
    before, others = copy.deepcopy(network), -2 * images.flip(0)
    folded = fold_batchnorm(network, images)
    for batch in (images, others):
        torch.testing.assert_close(network(batch), before(batch), atol=1e-9, rtol=1e-9)
    return before, folded


def assert_folded(before, network, layer, norm):
    """Check that the slope is in the weight and that BatchNorm is a shift."""
    old, new = before.get_submodule(norm), network.get_submodule(norm)
    slope = (old.running_var + old.eps).rsqrt() * (1 if old.weight is None else old.weight)
    old_weight = before.get_parameter(f"{layer}.weight").flatten(1)
    new_weight = network.get_parameter(f"{layer}.weight").flatten(1)
    torch.testing.assert_close(new_weight, old_weight * slope[:, None])
    zeros, ones = torch.zeros_like(slope), torch.ones_like(slope)
    functional_slope = functional.batch_norm(
        ones[None], zeros, new.running_var, new.weight, None, eps=new.eps
    )
    torch.testing.assert_close(functional_slope[0], ones)


def test_every_convolution_of_resnet20_is_folded(randomise, images):
    network = randomise(resnet20(10, 3))
    before, folded = fold_and_compare(network, images)
    convolutions = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d)]
    assert sorted(folded) == sorted(convolutions)
    for name in folded:
        norm = name.replace("conv", "bn").replace("downsample.0", "downsample.1")
        assert_folded(before, network, name, norm)
    assert torch.equal(network.fc.weight, before.fc.weight)


def test_every_convolution_but_the_stem_of_convnet_is_folded(randomise, images):
    network = randomise(convnet(10, 3))
    before, folded = fold_and_compare(network, images)
    assert folded == ["layer1.0", "layer2.0", "layer3.0"]
    for name in folded:
        assert_folded(before, network, name, name.replace(".0", ".1"))


def test_a_norm_after_a_sum_is_left_alone(randomise, images):
    network = randomise(wide_resnet28_2(10, 3))
    before, folded = fold_and_compare(network, images)
    blocks = [f"layer{stage}.{at}" for stage in (1, 2, 3) for at in range(4)]
    # The stem's output goes into the first block's BatchNorm alone, as that block projects.
    assert folded == ["conv1", *(f"{name}.conv1" for name in blocks)]
    assert_folded(before, network, "conv1", "layer1.0.bn1")
    for name in blocks:
        assert_folded(before, network, f"{name}.conv1", f"{name}.bn2")
    for name in ("bn1", "layer1.1.bn1"):
        ours, theirs = network.get_submodule(name), before.get_submodule(name)
        assert torch.equal(ours.weight, theirs.weight)
        assert torch.equal(ours.running_mean, theirs.running_mean)


SMALL = {
    "bias": (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
    "no-bias": (nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)),
    "not-affine": (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)),
    "large-eps": (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=0.7)),
    "grouped": (nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6)),
    "1d": (nn.Flatten(2), nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)),
    "3d": (nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 4, (3, 2, 2)), nn.BatchNorm3d(4)),
    "linear": (nn.Flatten(), nn.Linear(192, 4), nn.BatchNorm1d(4)),
}


@pytest.mark.parametrize("name", SMALL)
def test_every_kind_of_layer_is_folded(name, randomise, images):
    network = randomise(nn.Sequential(*copy.deepcopy(SMALL[name]), nn.Tanh()))
    before, folded = fold_and_compare(network, images)
    layer = str(len(network) - 3)
    assert folded == [layer]
    assert_folded(before, network, layer, str(len(network) - 2))


def test_a_slope_of_zero_zeroes_the_row(randomise, images):
    network = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    network[1].weight[1] = 0
    _, folded = fold_and_compare(network, images)
    assert folded == ["0"]
    assert (network[0].weight[1] == 0).all()


@pytest.mark.parametrize(
    "parts",
    [
        (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)),
        (nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)),
        (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
        (nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)),
        (nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4)),
    ],
)
def test_pairs_that_cannot_be_folded_are_left_alone(parts, randomise, images):
    network = randomise(nn.Sequential(*copy.deepcopy(parts)))
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    assert fold_batchnorm(network, images) == []
    assert all(torch.equal(t, before[key]) for key, t in network.state_dict().items())


class Shared(nn.Module):
    """One BatchNorm behind two convolutions."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.norm = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, images):
        return self.norm(self.one(images)) * self.norm(self.two(images))


def test_a_shared_norm_is_left_alone(randomise, images):
    _, folded = fold_and_compare(randomise(Shared()), images)
    assert folded == []


class Hidden(nn.Module):
    """Uses a convolution's output, or its weight, in a way that one pass does not show."""

    def __init__(self, use):
        super().__init__()
        self.conv, self.norm, self.use = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), use

    def forward(self, images):
        features = self.conv(images)
        return self.norm(features).relu().mean((2, 3)) + self.use(self, features)


HIDDEN = {
    "numpy": lambda net, x: torch.from_numpy(x.numpy().mean((2, 3))),
    "number": lambda net, x: x[:0].sum() + float(x.numpy().std()),
    "weight": lambda net, x: net.conv.weight.sum((1, 2, 3)),
    "slope": lambda net, x: net.norm.weight,
}


@pytest.mark.parametrize("name", ["numpy", "weight", "slope"])
def test_a_use_that_cannot_be_followed_is_refused(name, randomise, images):
    network = randomise(Hidden(HIDDEN[name]))
    with pytest.raises(ValueError, match=r"into conv changed the logits by [\d.]+: .*`-folded`"):
        fold_batchnorm(network, images)


def test_an_ill_conditioned_network_is_folded_although_float32_hides_it(images):
    """A shift of 1e5 leaves float32 two digits of what follows it."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    with torch.no_grad():
        network[0].bias.fill_(1e5)
        network[1].running_mean.fill_(1e5)
        network[1].running_var.copy_(torch.tensor([0.3, 0.5, 1.0, 2.0]))
        exact = copy.deepcopy(network).double()
        single, double = network.float()(images.float()), exact(images.double())
        assert (single - double).abs().max() > 1e-3 * double.abs().max()
    assert fold_batchnorm(network.float(), images.float()) == ["0"]
    torch.testing.assert_close(network[0].weight[3], exact[0].weight[3].float() / 2**0.5)
    assert torch.equal(network[1].weight, torch.ones(4))


def test_a_deep_narrow_network_is_folded_although_float32_hides_it(randomise):
    """120 layers amplify rounding until float32 is off by 5%, and float64 by 2.5e-10."""
    rng = torch.Generator().manual_seed(0)
    parts = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()]
    for _ in range(120):
        parts += [nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()]
    network = nn.Sequential(*parts, nn.Flatten(), nn.Linear(144, 5)).eval()
    for key, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            tensor.normal_(generator=rng).mul_(1.5 * tensor[0].numel() ** -0.5)
        if key.endswith("running_var"):
            tensor.abs_().add_(0.3)
    images, before = torch.randn(6, 3, 8, 8, generator=rng), copy.deepcopy(network)
    folded = fold_batchnorm(network, images)
    assert folded == [str(at) for at in range(0, 363, 3)]
    with torch.no_grad():
        old, new = before(images), network(images)
        assert (new - old).abs().max() > 1e-3 * old.abs().max()
        for name in folded:
            norm = before[int(name) + 1]
            slope = norm.weight * (norm.running_var + norm.eps).rsqrt()
            expected = before[int(name)].weight * slope[:, None, None, None]
            torch.testing.assert_close(network[int(name)].weight, expected)


ALIKE = (
    ("conv1", "layer1.0.conv1", "layer1.0.conv2"),
    ("layer2.0.conv1", "layer2.0.conv2", "layer2.0.downsample.0"),
    ("layer3.0.conv1", "layer3.0.conv2", "layer3.0.downsample.0"),
)  # convolutions of a resnet8, by channels


@pytest.mark.parametrize(
    ("layer", "other"), [pair for names in ALIKE for pair in permutations(names, 2)]
)
def test_every_wrong_pair_is_refused(layer, other, randomise, images, monkeypatch):
    """A convolution is folded with the BatchNorm of another one that has as many channels."""

    def fold_wrongly(network, images):
        # the wrong pair first, because a BatchNorm that is folded has no slope left
        pairs = {layer: other} | {n: n for names in ALIKE for n in names if n != layer}
        for conv, name in pairs.items():
            norm = name.replace("conv", "bn").replace("downsample.0", "downsample.1")
            module._fold(network.get_submodule(conv), network.get_submodule(norm))
        return [layer]

    network = randomise(resnet8(10, 3)).float()
    before = copy.deepcopy(network.state_dict())
    monkeypatch.setattr(module, "_fold_pairs", fold_wrongly)
    with pytest.raises(ValueError, match=rf"into {layer} changed the logits by"):
        fold_batchnorm(network, images.float())
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


class Casting(nn.Module):
    """Computes in float32, whatever it is given."""

    def __init__(self, back):
        super().__init__()
        self.conv, self.norm, self.back = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), back

    def forward(self, images):
        features = self.norm(self.conv(images)) if self.back else self.conv(images.float())
        return features.mean((2, 3)).float()


@pytest.mark.parametrize(("back", "said"), [(False, "must compute in"), (True, "must return")])
def test_a_network_that_is_not_for_float64_is_refused_before_training(images, back, said):
    network = Casting(back).float().eval()
    message = rf"Casting {said} float64 .*to the input's dtype .*remove `-folded`"
    with pytest.raises(ValueError, match=message):
        check_network(network, Variant.parse("adaround-w4-folded"), images.float(), {})
    check_network(network, Variant.parse("adaround-w4"), images.float(), {})


def test_a_diverged_network_is_reported_as_diverged(randomise, images):
    network = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    network[1].bias[0] = torch.inf
    with pytest.raises(DivergedError, match="logits on the calibration images are not finite"):
        fold_batchnorm(network, images)


def test_a_use_that_can_be_followed_is_left_alone(randomise, images):
    for use in (HIDDEN["number"], lambda net, x: x.data.amax((2, 3))):
        _, folded = fold_and_compare(randomise(Hidden(use)), images)
        assert folded == []


@pytest.mark.parametrize("work", [fold_batchnorm, estimate_batchnorm])
def test_images_are_left_alone(work, randomise, images):
    network = randomise(nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    before = images.clone()
    work(network, images)
    assert torch.equal(images, before)


def test_batchnorms_are_those_with_running_statistics():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False))
    assert batchnorms(network) == [network[0]]


@pytest.mark.parametrize(
    "network", [nn.Sequential(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(3, track_running_stats=False)]
)
@pytest.mark.parametrize(
    "work", [batchnorms, lambda n: estimate_batchnorm(n, torch.ones(2, 3, 8, 8))]
)
def test_a_network_without_batchnorm_is_refused(network, work):
    with pytest.raises(ValueError, match=r"has no BatchNorm with running .* `-bn` and `-folded`"):
        work(network)


def two_norms(randomise):
    return randomise(
        nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5)
        )
    )


def test_estimates_are_means_over_batches(randomise, rng, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 4)
    network, images = (
        two_norms(randomise),
        torch.randn(12, 3, 8, 8, generator=rng, dtype=torch.double),
    )
    means, variances = {1: [], 4: []}, {1: [], 4: []}
    for batch in images.split(4):  # each BatchNorm normalises by the batch
        x = batch
        for at, part in enumerate(network):
            if at in means:
                mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
                means[at].append(mean)
                variances[at].append(x.var((0, 2, 3)))
                shape = (1, -1, 1, 1)
                x = (x - mean.view(shape)) * (variance + part.eps).rsqrt().view(shape)
                x = x * part.weight.view(shape) + part.bias.view(shape)
            else:
                x = part(x)
    estimate_batchnorm(network, images)
    for at in means:
        torch.testing.assert_close(network[at].running_mean, torch.stack(means[at]).mean(0))
        torch.testing.assert_close(network[at].running_var, torch.stack(variances[at]).mean(0))


def test_batches_have_about_the_same_size(randomise, rng, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 4)
    network, sizes = two_norms(randomise), []
    network.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    estimate_batchnorm(network, torch.randn(9, 3, 8, 8, generator=rng, dtype=torch.double))
    assert sizes == [3, 3, 3]  # 4, 4 and 1 would let one image count as much as four


def test_everything_else_is_left_alone(randomise, rng):
    network = randomise(
        nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4, momentum=0.3),
            nn.Dropout(0.5),
            nn.BatchNorm2d(4, momentum=None),
            nn.BatchNorm2d(4, track_running_stats=False),
        )
    )
    parameters = {key: tensor.clone() for key, tensor in network.named_parameters()}
    images = torch.randn(6, 3, 8, 8, generator=rng, dtype=torch.double)
    estimate_batchnorm(network, images)
    assert not any(part.training for part in network.modules())
    assert [network[1].momentum, network[3].momentum, network[4].momentum] == [0.3, None, 0.1]
    assert all(torch.equal(t, parameters[key]) for key, t in network.named_parameters())
    # Dropout would have doubled the second moment of what the second BatchNorm sees.
    x = network[0](images)
    x = functional.batch_norm(x, None, None, network[1].weight, network[1].bias, training=True)
    torch.testing.assert_close(network[3].running_var, x.var((0, 2, 3)))
