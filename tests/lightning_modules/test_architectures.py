import copy
from functools import partial
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn.functional import relu
from torchvision.models.densenet import DenseNet
from torchvision.models.resnet import BasicBlock

from lightning_modules.architectures import PreActivationBlock, convnet, mlp, small_densenet
from lightning_modules.networks import NETWORKS, build_network
from quantization.calibration import Calibration
from quantization.quantize import quantize_network
from quantization.trace import Trace
from quantization.variant import Variant

# By hand: every convolution in * out * k^2, BatchNorm 2 a channel, linear in * out + out.
PARAMETERS = {
    "resnet18": 11_173_962,
    # torchvision's 25,557,032 and 7,978,856 for 1,000 classes, with another stem and classifier
    "resnet50": 25_557_032 - 64 * 3 * (49 - 9) - (2048 + 1) * 990,
    "densenet121": 7_978_856 - 64 * 3 * (49 - 9) - (1024 + 1) * 990,
    "resnet20": 272_474,  # 0.27 M in the paper, whose shortcuts have no parameters: 269,722
    "resnet8": 78_042,
    "resnet8_gn": 78_042,
    "wide_resnet28_2": 1_467_610,  # "1.5 M"
    "convnet": 24_346,
    "convnet_gn": 24_346,
}
CONVOLUTIONS = {
    "resnet18": 20, "resnet50": 53, "densenet121": 120, "resnet20": 21, "resnet8": 9,
    "wide_resnet28_2": 28, "convnet": 3, "resnet8_gn": 9, "convnet_gn": 3,
}  # fmt: skip
DEEP = ["densenet121", "resnet50"]  # seconds per pass
FAN_IN = {"densenet121"}  # as its authors and torchvision draw it; the others by fan out


@pytest.mark.parametrize(
    ("name", "channels", "size"),
    [*product(sorted(PARAMETERS.keys() - DEEP), [1, 3], [8, 9, 32, 64]), *product(DEEP, [1], [9])],
)
def test_any_size_gives_one_logit_a_class(rng, name, channels, size):
    network = build_network(name, 7, channels, {}).eval()
    images = torch.randn(2, channels, size, size, generator=rng)
    with torch.no_grad():
        logits = network(images)
        alone = network(images[:1])
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    torch.testing.assert_close(alone, logits[:1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_by_hand(name):
    network = build_network(name, 10, 3, {})
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[name]
    gray = build_network(name, 10, 1, {})
    stem = 64 if name in ("resnet18", "resnet50", "densenet121") else 16
    assert PARAMETERS[name] - sum(p.numel() for p in gray.parameters()) == 2 * 9 * stem


@pytest.mark.parametrize("name", PARAMETERS)
def test_layers_are_what_the_name_says(name):
    modules = list(build_network(name, 10, 3, {}).modules())
    convolutions = [m for m in modules if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == CONVOLUTIONS[name]
    assert all(m.bias is None for m in convolutions)
    norm, other = nn.BatchNorm2d, nn.GroupNorm
    if name.endswith("_gn"):
        norm, other = other, norm
    assert any(isinstance(m, norm) for m in modules)
    assert not any(isinstance(m, other) for m in modules)
    assert isinstance([m for m in modules if isinstance(m, nn.Conv2d | nn.Linear)][-1], nn.Linear)


@pytest.mark.parametrize("name", PARAMETERS)
def test_gradients_reach_every_parameter(rng, name):
    network = build_network(name, 10, 1, {})
    network(torch.randn(2, 1, 8, 8, generator=rng)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


@pytest.mark.parametrize("name", PARAMETERS)
def test_weights_follow_the_seed_and_he(name):
    torch.manual_seed(1)
    first = build_network(name, 10, 3, {})
    torch.manual_seed(1)
    second = build_network(name, 10, 3, {})
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    for module in first.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 2000:
            fan = module.in_channels if name in FAN_IN else module.out_channels
            expected = (2 / (fan * module.kernel_size[0] ** 2)) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("stride", [1, 2])
def test_pre_activation_block_is_its_formula(rng, stride):
    block = PreActivationBlock(3, 5 if stride == 2 else 3, stride).eval()
    features = torch.randn(2, 3, 8, 8, generator=rng)
    kept = features.clone()
    relu = torch.relu
    active = relu(block.bn1(features))
    shortcut = features if block.downsample is None else block.downsample(active)
    expected = shortcut + block.conv2(relu(block.bn2(block.conv1(active))))
    torch.testing.assert_close(block(features), expected)
    assert torch.equal(features, kept)
    assert (block.downsample is None) == (stride == 1)


@pytest.mark.parametrize("name", ["convnet_gn", "resnet8_gn"])
def test_groupnorm_keeps_the_examples_of_a_batch_apart(rng, name):
    network = build_network(name, 7, 3, {})
    images = torch.randn(4, 3, 8, 8, generator=rng)
    alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(network(images), alone)


def test_the_residual_block_with_groupnorm_is_that_of_torchvision(rng):
    ours = build_network("resnet8_gn", 7, 3, {}).layer2[0]
    downsample, norm = copy.deepcopy(ours.downsample), partial(nn.GroupNorm, 8)
    theirs = BasicBlock(16, 32, 2, downsample, norm_layer=norm)
    theirs.load_state_dict(ours.state_dict())
    features = torch.randn(2, 16, 8, 8, generator=rng)
    kept = features.clone()
    assert torch.equal(ours(features), theirs(features))
    assert torch.equal(features, kept)


def test_every_name_is_tested():
    assert {*PARAMETERS, "mlp"} == set(NETWORKS)


def test_dense_layers_give_the_logits_of_torchvision(rng):
    """With the same weights: one tensor per layer instead of a list, and the stem left out."""
    theirs = DenseNet(4, (2, 3), 8, bn_size=2, num_classes=5).eval()
    ours = small_densenet(copy.deepcopy(theirs), 3).eval()
    for stem in (theirs, ours):
        stem.features.conv0, stem.features.pool0 = nn.Conv2d(3, 8, 1), nn.Identity()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 8, 8, generator=rng)
    assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize("name", ["brecq-w2", "brecq-w2-fisher", "obc-w2"])
def test_brecq_reconstructs_dense_layers(rng, name):
    network = small_densenet(DenseNet(4, (2, 2), 8, bn_size=2, num_classes=5), 1).eval()
    images = torch.randn(32, 1, 8, 8, generator=rng)
    variant = Variant.parse(name)
    calibration = Calibration(images, lambda _: images, torch.arange(32), "members", 0)
    quantized, record = quantize_network(network, variant, calibration)
    layers = [f"features.denseblock{b}.denselayer{n}" for b in (1, 2) for n in (1, 2)]
    if variant.spec.fits_blocks:
        assert [unit for unit in record.units if "dense" in unit] == layers
    convolutions = {key for key, weight in network.state_dict().items() if weight.ndim > 1}
    assert set(quantized.weights) == convolutions
    with torch.no_grad():
        before = network(images)
        network.load_state_dict(quantized.state_dict())
        after = network(images)
    assert 0 < (after - before).square().mean() < before.var()


@pytest.mark.parametrize("name", ["resnet50", "densenet121"])
def test_blocks_of_deep_networks(name):
    trace = Trace(build_network(name, 10, 3, {}).eval(), torch.zeros(2, 3, 8, 8))
    blocks = {"resnet50": 3 + 4 + 6 + 3, "densenet121": 6 + 12 + 24 + 16}
    assert len(trace.blocks()) == blocks[name]


@pytest.mark.parametrize("shape", [(12,), (1, 1, 12), (3, 2, 2)])
def test_mlp_is_its_formula_whatever_the_shape(rng, shape):
    network = mlp(7, shape, [5, 4], dropout=0.5).eval()
    assert sum(p.numel() for p in network.parameters()) == 13 * 5 + 6 * 4 + 5 * 7
    examples = torch.randn(6, *shape, generator=rng)
    hidden = examples.reshape(6, 12)
    for layer in (network.layer1[0], network.layer2[0]):
        hidden = relu(hidden @ layer.weight.T + layer.bias)
    expected = hidden @ network.fc.weight.T + network.fc.bias
    torch.testing.assert_close(network(examples), expected)
    assert not torch.equal(network.train()(examples), expected)  # dropout
    assert [m.p for m in network.modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5]


def test_mlp_without_hidden_layers_is_linear():
    assert [*dict(mlp(3, (4,), [], dropout=0.5).named_children())] == ["flatten", "fc"]


def test_the_width_of_a_convnet_multiplies_every_layer():
    """By hand as above: 9 in out, 2 per channel of BatchNorm, and the classifier."""
    network = build_network("convnet", 10, 1, {"width": 8})
    by_hand = 9 * (8 + 8 * 16 + 16 * 32) + 2 * (8 + 16 + 32) + 32 * 10 + 10
    assert sum(p.numel() for p in network.parameters()) == by_hand
    same = build_network("convnet", 10, 1, {"width": 16}).state_dict()
    standard = build_network("convnet", 10, 1, {}).state_dict()
    assert {k: v.shape for k, v in same.items()} == {k: v.shape for k, v in standard.items()}


def test_a_convnet_refuses_a_width_of_nothing():
    with pytest.raises(ValueError, match="`width` must be 1 or more, got 0"):
        convnet(10, 1, width=0)


def test_mlp_refuses_empty_layers():
    with pytest.raises(ValueError, match=r"`widths` must be 1 or more each, got \[8, 0\]"):
        mlp(3, (4,), [8, 0])
