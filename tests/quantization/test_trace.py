from functools import reduce

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock
from torchvision.ops.misc import Conv2dNormActivation

from lightning_modules.networks import resnet20
from quantization.trace import Trace


class Network(nn.Module):
    """Two layers and what may follow them; `use` says how they are used."""

    def __init__(self, use, **modules):
        super().__init__()
        self.conv, self.other = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.relu = nn.BatchNorm2d(4), nn.ReLU()
        for name, module in modules.items():
            setattr(self, name, module)
        self.use = use

    def forward(self, images):
        return self.use(self, images)


@pytest.fixture
def images(rng):
    return torch.randn(2, 3, 8, 8, generator=rng)


@pytest.fixture
def randomise(rng):
    """Draw all parameters and statistics, negative slopes too, in evaluation mode."""

    def draw(network):
        for key, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                tensor.normal_(generator=rng).mul_(tensor[0].numel() ** -0.5)
            if key.endswith("running_var"):
                tensor.abs_().add_(0.3)
        return network.eval().requires_grad_(False)

    return draw


def names(operations):
    return [operation.function.__name__ for operation in operations]


def norm_by_function(net, x):
    norm = net.norm
    statistics = norm.running_mean, norm.running_var
    return functional.batch_norm(x, *statistics, norm.weight, norm.bias, eps=norm.eps)


INPLACE = nn.ReLU(inplace=True)
TAILS = {
    "modules": (lambda n, x: n.relu(n.norm(n.conv(x))), ["batch_norm", "relu"]),
    "in-place": (lambda n, x: INPLACE(n.norm(n.conv(x))), ["batch_norm", "relu"]),
    "F.relu": (lambda n, x: functional.relu(n.norm(n.conv(x))), ["batch_norm", "relu"]),
    "method": (lambda n, x: n.norm(n.conv(x)).relu_(), ["batch_norm", "relu_"]),
    "F.batch_norm": (lambda n, x: norm_by_function(n, n.conv(x)).relu(), ["batch_norm", "relu"]),
    "used-after": (lambda n, x: n.other(y := n.norm(n.conv(x)).relu()) + y, ["batch_norm", "relu"]),
    "relu": (lambda n, x: n.other(INPLACE(n.conv(x))), ["relu"]),
    "relu6": (lambda n, x: functional.relu6(n.conv(x)), ["relu6"]),
    "ReLU6": (lambda n, x: nn.ReLU6()(n.conv(x)), ["hardtanh"]),
    "leaky": (lambda n, x: functional.leaky_relu(n.conv(x), 0.3), ["leaky_relu"]),
    "gelu": (lambda n, x: nn.GELU(approximate="tanh")(n.conv(x)), ["gelu"]),
    "silu": (lambda n, x: nn.SiLU(inplace=True)(n.norm(n.conv(x))), ["batch_norm", "silu"]),
    "norm-only": (lambda n, x: n.other(n.norm(n.conv(x))), ["batch_norm"]),
    "norm-used-twice": (lambda n, x: (y := n.norm(n.conv(x))).relu() + y, ["batch_norm"]),
    "only-one-relu": (lambda n, x: n.conv(x).tanh().relu(), ["tanh"]),
    "end": (lambda n, x: n.conv(x), []),
    "pool": (lambda n, x: functional.max_pool2d(n.conv(x), 2).relu(), []),
    "conv-twice": (lambda n, x: n.conv(x).relu() + n.conv(-x).relu(), []),
    "added-too": (lambda n, x: n.relu(n.norm(y := n.conv(x))) + y, []),
    "added-before": (lambda n, x: (y := n.conv(x)) + n.relu(y), []),
    "two-relus": (lambda n, x: torch.cat([n.relu(y := n.conv(x)), functional.relu(y)]), []),
    "concatenated-too": (lambda n, x: torch.cat([n.relu(y := n.conv(x)), y], 1), []),
    "chunked-too": (lambda n, x: (y := n.conv(x)).relu().mean() + y.chunk(2)[0], []),
    "max-too": (lambda n, x: n.relu(y := n.conv(x)) * y.max(1, keepdim=True)[0], []),
    "keyword-too": (lambda n, x: n.relu(y := n.conv(x)) + torch.square(input=y), []),
    "keyword": (lambda n, x: torch.relu(input=n.conv(x)), []),
    "changed-by-index": (lambda n, x: zero_first(n.conv(x)).relu(), []),
    "written-elsewhere": (lambda n, x: write(y := n.conv(x)) - y.relu(), []),
    "viewed": (lambda n, x: n.conv(x).flatten(1).relu(), []),
}


def zero_first(x):
    x[:, 0] = 0
    return x


def write(x):
    zeros = torch.zeros(x.shape)
    zeros[:] = x
    return zeros


@pytest.mark.parametrize("name", TAILS)
def test_the_tail_is_batchnorm_and_activation_that_alone_use_the_output(name, images, randomise):
    use, expected = TAILS[name]
    trace = Trace(randomise(Network(use)), images)
    assert names(trace.tail("conv")) == expected


@pytest.mark.parametrize(
    "norm",
    [nn.BatchNorm2d(4, track_running_stats=False), nn.InstanceNorm2d(4), nn.GroupNorm(2, 4)],
    ids=lambda norm: type(norm).__name__,
)
def test_no_tail_through_a_norm_of_the_images(norm, images, randomise):
    network = Network(lambda n, x: n.relu(n.norm(n.conv(x))), norm=norm)
    assert Trace(randomise(network), images).tail("conv") == []


@pytest.mark.parametrize("name", [name for name, (_, expected) in TAILS.items() if expected])
def test_the_tail_repeats_what_the_network_does(name, randomise, rng):
    """On other images, the tail gives the value that the network itself has there."""
    use, expected = TAILS[name]
    network = randomise(Network(use))
    trace = Trace(network, torch.randn(2, 3, 8, 8, generator=rng))
    others = torch.randn(5, 3, 6, 6, generator=rng)
    ours = reduce(
        lambda value, operation: operation(value), trace.tail("conv"), network.conv(others)
    )
    plain = network.norm(network.conv(others)) if "batch_norm" in expected else network.conv(others)
    activations = {
        "relu": torch.relu,
        "relu_": torch.relu,
        "relu6": lambda x: x.clamp(0, 6),
        "hardtanh": lambda x: x.clamp(0, 6),
        "leaky_relu": lambda x: torch.where(x > 0, x, 0.3 * x),
        "gelu": lambda x: functional.gelu(x, approximate="tanh"),
        "silu": lambda x: x * x.sigmoid(),
        "tanh": torch.tanh,
        "batch_norm": lambda x: x,
    }
    torch.testing.assert_close(ours, activations[expected[-1]](plain))


def test_images_and_network_are_left_alone(images, randomise):
    network = randomise(Network(lambda n, x: n.conv(x.relu_())))
    before, state = images.clone(), {k: t.clone() for k, t in network.state_dict().items()}
    Trace(network, images)
    assert torch.equal(images, before)
    assert all(torch.equal(t, state[k]) for k, t in network.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_hooks_are_removed_after_an_exception(images):
    network = Network(lambda n, x: n.other(x))
    with pytest.raises(RuntimeError, match="channels"):
        Trace(network, images)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_the_networks_own_hooks_are_respected(images, randomise):
    network = randomise(Network(lambda n, x: n.conv(x).relu()))
    network.register_forward_pre_hook(lambda module, args: (2 * args[0],))
    assert names(Trace(network, images).tail("conv")) == ["relu"]


def test_layers_in_the_order_of_execution(images, randomise):
    def use(network, x):
        return network.fc(network.conv(network.last(network.other(network.conv(x)))).flatten(1))

    last, fc = nn.Conv2d(4, 3, 1), nn.Linear(256, 2)
    trace = Trace(randomise(Network(use, last=last, fc=fc, unused=nn.Linear(2, 2))), images)
    assert trace.layers == ["conv", "other", "last", "fc"]
    assert [trace.count(name) for name in ("conv", "other", "unused", "")] == [2, 1, 0, 1]


def of_class(network, kind):
    return [name for name, module in network.named_modules() if isinstance(module, kind)]


class Block(nn.Module):
    """y = act(BatchNorm(conv(..)) + BatchNorm(projection(x))), with options."""

    def __init__(self, use, **modules):
        super().__init__()
        self.one, self.two, self.down = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.n1, self.n2, self.n3 = (nn.BatchNorm2d(4) for _ in range(3))
        for name, module in modules.items():
            setattr(self, name, module)
        self.use = use

    def forward(self, x):
        return self.use(self, x)


def numerically(block, layer, images):
    """Change of the output, channel by channel, per small change of the layer's output."""
    factors = []
    for channel in range(4):

        def move(module, args, output, channel=channel):
            output = output.clone()
            output[:, channel] += 1e-3
            return output

        before = block(images)
        handle = layer.register_forward_hook(move)
        moved = (block(images) - before)[:, channel]
        handle.remove()
        factors.append(moved[before[:, channel] > 0.5].mean() / 1e-3)  # beyond the ReLU's bend
    return torch.stack(factors)


RESIDUAL = {
    "torchvision": lambda b, x: (b.n2(b.two(b.n1(b.one(x)).relu())) + b.n3(b.down(x))).relu(),
    "in-place": lambda b, x: b.n2(b.two(b.n1(b.one(x)).relu())).add_(b.n3(b.down(x))).relu_(),
    "bare": lambda b, x: b.two(b.one(x).relu()) + b.down(x),
    "three": lambda b, x: (b.n2(b.two(b.one(x).relu())) + x) + b.n3(b.down(x)),
}


@pytest.mark.parametrize("name", RESIDUAL)
def test_the_scale_is_the_measured_one(name, randomise, rng):
    block = randomise(Block(RESIDUAL[name])).double()
    images = torch.randn(8, 4, 6, 6, generator=rng, dtype=torch.double)
    trace = Trace(nn.Sequential(block), images)
    assert trace.scale_into("0.one", "0") is None
    for layer in ("two", "down"):
        scale = trace.scale_into(f"0.{layer}", "0")
        measured = numerically(block, getattr(block, layer), images)
        torch.testing.assert_close(scale.double(), measured, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("affine", [True, False])
def test_the_scale_by_hand(affine, rng):
    norm = nn.BatchNorm2d(4, affine=affine, eps=0.5)
    norm.running_var.copy_(torch.tensor([0.5, 3.5, 8.5, 15.5]))
    if affine:
        norm.weight.data = torch.tensor([1.0, -1.0, 6.0, 0.0])
    block = Block(lambda b, x: b.n2(b.two(b.one(x).relu())) + x, n2=norm).eval()
    trace = Trace(nn.Sequential(block), torch.randn(2, 4, 6, 6, generator=rng))
    expected = [1.0, -0.5, 2.0, 0.0] if affine else [1.0, 0.5, 1 / 3, 0.25]
    torch.testing.assert_close(trace.scale_into("0.two", "0"), torch.tensor(expected))


NO_SCALE = {
    "activated-before-the-sum": lambda b, x: b.n2(b.two(b.one(x).relu())).relu() + b.down(x),
    "activated-twice": lambda b, x: (b.two(b.one(x)) + b.down(x)).tanh().relu(),
    "multiplied": lambda b, x: b.two(b.one(x)) * b.down(x),
    "negated": lambda b, x: x - b.two(b.one(x)),
    "weighted": lambda b, x: torch.add(x, b.two(b.one(x)), alpha=0.5),
    "doubled": lambda b, x: (y := b.two(b.one(x))) + y,
    "used-twice": lambda b, x: ((y := b.two(b.one(x))) + x) * 1 + y,
    "other-shape": lambda b, x: x + b.two(b.one(x)).mean((2, 3), keepdim=True),
    "pooled": lambda b, x: functional.avg_pool2d(b.two(b.one(x)), 1) + x,
    "lost": lambda b, x: (b.two(b.one(x)), b.one.weight.sum() + x)[1],
}


@pytest.mark.parametrize("name", NO_SCALE)
def test_no_scale_where_the_output_is_not_simply_added(name, randomise, rng):
    block = randomise(Block(NO_SCALE[name]))
    trace = Trace(nn.Sequential(block), torch.randn(2, 4, 6, 6, generator=rng))
    assert trace.scale_into("0.two", "0") is None
    assert trace.scale_into("0.one", "0") is None


def test_no_scale_through_a_norm_of_the_images(rng):
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    block = Block(lambda b, x: b.n2(b.two(b.one(x))) + x, n2=norm).eval()
    trace = Trace(nn.Sequential(block), torch.randn(2, 4, 6, 6, generator=rng))
    assert trace.scale_into("0.two", "0") is None


def test_no_scale_for_a_projection_to_another_shape(rng):
    down = nn.Conv2d(4, 1, 1)  # is broadcast over channels as it is added
    block = Block(lambda b, x: b.two(b.one(x)) + b.down(x), down=down).eval()
    trace = Trace(nn.Sequential(block), torch.randn(2, 4, 6, 6, generator=rng))
    assert trace.scale_into("0.down", "0") is None
    assert trace.scale_into("0.two", "0").tolist() == [1.0] * 4


@pytest.mark.parametrize("normalised", [False, True])
def test_the_scale_of_linear_layers_is_per_row(normalised, rng):
    norm = nn.BatchNorm1d(7) if normalised else nn.Identity()  # over the tokens
    one, two = nn.Linear(4, 5), nn.Linear(5, 4)
    block = Block(lambda b, x: b.n2(b.two(b.one(x).relu())) + x, one=one, two=two, n2=norm).eval()
    trace = Trace(nn.Sequential(nn.Flatten(2), block), torch.randn(2, 7, 2, 2, generator=rng))
    scale = trace.scale_into("1.two", "1")
    assert (scale is None) if normalised else scale.tolist() == [1.0] * 4


def test_scales_of_resnet_blocks():
    network = resnet20(10, 3).eval()
    trace = Trace(network, torch.randn(2, 3, 8, 8))
    for name in of_class(network, BasicBlock):
        block = network.get_submodule(name)
        assert trace.scale_into(f"{name}.conv1", name) is None
        ends = {"conv2": block.bn2}
        if block.downsample is not None:
            ends["downsample.0"] = block.downsample[1]
        for layer, norm in ends.items():
            expected = norm.weight / (norm.running_var + norm.eps).sqrt()
            torch.testing.assert_close(trace.scale_into(f"{name}.{layer}", name), expected)


def test_mobilenet_projects_without_activation():
    network = torchvision.models.mobilenet_v2(width_mult=0.25).eval()
    trace = Trace(network, torch.randn(2, 3, 32, 32))
    for name in of_class(network, InvertedResidual):
        convolutions = [la for la in trace.layers if la.startswith(f"{name}.")]
        scales = [trace.scale_into(layer, name) for layer in convolutions]
        assert [scale is None for scale in scales] == [True] * (len(scales) - 1) + [False]
    activated = of_class(network, Conv2dNormActivation)
    tails = [names(trace.tail(f"{name}.0")) for name in activated]
    assert tails == [["batch_norm", "hardtanh"]] * len(activated)


@pytest.mark.parametrize(
    ("use", "does"),
    [
        (lambda weight: weight.T, "reads the weight's `T`"),
        (lambda weight: weight * 2, "passes the weight to `mul`"),
    ],
)
def test_what_a_network_does_with_a_weight_of_its_own_accord_is_told(images, use, does):
    network = Network(lambda n, x: n.conv(x).sum((1, 2, 3)) + use(n.fc.weight).sum())
    network.fc = nn.Linear(2, 3)
    assert (
        Trace(network.eval(), images).why_not_called("fc") == f"not called: Network itself {does}"
    )
