import copy
import json
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, relu, unfold

from datamodules import Digits
from datamodules.views import normalise
from quantization import methods
from quantization.calibration import Calibration, DivergedError
from quantization.quantize import quantize_network
from quantization.rehearsal import check_network
from quantization.rounding.adaround import Settings
from quantization.rounding.descent import descend
from quantization.rounding.gptq import gptq
from quantization.rounding.gram import Quadratic, make_quadratic
from quantization.rounding.grid import LEVELS, dequantize, find_grid
from quantization.rounding.nearest import nearest
from quantization.rounding.obc import obc
from quantization.variant import Variant

METHODS = list(methods.METHODS)


class Net(nn.Module):
    """Residual blocks, a grouped and a depthwise convolution, biases, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.first, self.second = Block(groups=2), Block(groups=8)
        self.fc = nn.Linear(8 * 16, 10)

    def forward(self, images):
        features = relu(self.norm(self.stem(images)))
        features = self.second(self.first(features))
        return self.fc(nn.functional.avg_pool2d(features, 2).flatten(1))


class Block(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(8, 8, 3, padding=1, groups=groups)
        self.two = nn.Conv2d(8, 8, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, features):
        return relu(features + self.norm(self.two(relu(self.one(features)))))


@pytest.fixture(scope="module")
def digits():
    data = Digits()
    data.setup("fit")
    return normalise(data.pool.images, data.mean, data.std), data.pool.labels


@pytest.fixture(scope="module")
def network(digits):
    images, labels = digits
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Net()
    optimizer = torch.optim.SGD(made.parameters(), 0.05, 0.9)
    for _ in range(60):
        loss = cross_entropy(made(images[:300]), labels[:300])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return made.eval()


@pytest.fixture
def calibration(digits):
    images = digits[0][:128]
    return Calibration(images, lambda number: images.flip(3), torch.arange(128), "members", 0)


def logits_error(network, state, images):
    with torch.no_grad():
        expected = network(images)
        logits = torch.func.functional_call(network, state, (images,))
    return ((logits - expected).square().sum() / expected.square().sum()).item()


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


KINDS = ["w4", "w3", "w2", "w1.58", "w2-last8", "w1.58-last32", "w3-sym-bn"]
NAMES = [f"{method}-{kind}" for method in METHODS for kind in KINDS]
NAMES += ["brecq-w2-fisher", "adaround-w2-folded", "obc-w2-sym", "brecq-w1.58-asym"]
NAMES += ["adaround-w2-paper", "brecq-w2-paper-fisher", "brecq-w1.58-paper", "obc-w2-paper"]


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_is_on_a_grid_and_the_rest_is_unchanged(network, calibration, name):
    variant, before = Variant.parse(name), copy.deepcopy(network.state_dict())
    if variant.paper and variant.method == "obc":
        calibration = calibration._replace(rounds=2)
    quantized, record = quantize_network(network, variant, calibration, loop=Settings(iterations=5))
    state = quantized.state_dict()
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert not network.training
    assert state.keys() == before.keys()
    layers = ["stem", "first.one", "first.two", "second.one", "second.two", "fc"]
    for layer in layers:
        bits = variant.last_bits if layer == "fc" and variant.last_bits else variant.bits
        rows = state[f"{layer}.weight"].flatten(1)
        if bits == 32:
            assert torch.equal(state[f"{layer}.weight"], before[f"{layer}.weight"])
        else:
            assert max(len(row.unique()) for row in rows) <= LEVELS[bits]
    packed = [layer for layer in layers if not (layer == "fc" and variant.last_bits == 32)]
    assert sorted(layer.name for layer in record.layers) == sorted(packed)
    if not (variant.folds or variant.estimates_bn):
        rest = before.keys() - {f"{layer}.weight" for layer in packed}
        assert all(torch.equal(state[key], before[key]) for key in rest)
    json.dumps(record.as_json(calibration))


@pytest.mark.parametrize("bits", ["2", "1.58"])
def test_looking_at_images_helps(network, digits, calibration, bits):
    images = digits[0]
    errors = {}
    for method in METHODS:
        quantized, _ = quantize_network(network, Variant.parse(f"{method}-w{bits}"), calibration)
        errors[method] = logits_error(network, quantized.state_dict(), images)
    assert all(errors[method] < errors["nearest"] for method in METHODS[1:])
    assert max(errors["adaround"], errors["brecq"]) < errors["gptq"]


@pytest.mark.parametrize("name", ["adaround-w2", "brecq-w1.58-fisher", "obc-w2", "gptq-w4-bn"])
def test_a_variant_is_bitwise_the_same_whatever_ran_before(network, calibration, name):
    variant = Variant.parse(name)
    first = quantize_network(network, variant, calibration)[0].state_dict()
    torch.manual_seed(5)
    quantize_network(network, Variant.parse("adaround-w3"), calibration)
    again = quantize_network(network, variant, calibration)[0].state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_units_are_blocks_and_the_layers_outside_them(network, calibration):
    _, record = quantize_network(network, Variant.parse("brecq-w2"), calibration)
    assert record.units == ["stem", "first", "second", "fc"]
    assert [layer.unit for layer in record.layers] == [
        "stem", "first", "first", "second", "second", "fc",
    ]  # fmt: skip
    _, record = quantize_network(network, Variant.parse("adaround-w2"), calibration)
    assert record.units == ["stem", "first.one", "first.two", "second.one", "second.two", "fc"]


def test_records_by_hand(network, calibration):
    quantized, record = quantize_network(network, Variant.parse("adaround-w2"), calibration)
    for layer in record.layers:
        rows = network.state_dict()[f"{layer.name}.weight"].flatten(1)
        weight = quantized.weights[f"{layer.name}.weight"]
        share = (weight.codes != nearest(rows, weight.grid)).double().mean().item()
        assert layer.flipped == pytest.approx(share)
        assert layer.weights == rows.numel()
        assert layer.error_after <= layer.error_before
        assert layer.seconds > 0
    assert sum(layer.seconds for layer in record.layers) < record.seconds


@pytest.fixture
def solved(monkeypatch):
    """All calls of `obc` and `gptq`: rows, grid, Gram matrix and codes."""
    calls = []

    def spy(solve, rows, grid, gram):
        calls.append((rows.clone(), grid, gram.clone(), solve(rows, grid, gram)))
        return calls[-1][-1]

    for name in ("obc", "gptq"):
        method = methods.METHODS[name]
        protocol, solve = method.solve.func, method.solve.keywords["solve"]
        watched = method._replace(solve=partial(protocol, solve=partial(spy, solve)))
        monkeypatch.setitem(methods.METHODS, name, watched)
    return calls


def test_obc_solves_on_hessians_of_the_full_precision_network(network, calibration, solved):
    quantized, _ = quantize_network(network, Variant.parse("obc-w2"), calibration)
    with torch.no_grad():
        features = relu(network.norm(network.stem(calibration.images)))
        patches = unfold(features, 3, padding=1).transpose(1, 2).flatten(0, 1)
    weight = quantized.weights["first.one.weight"]
    rows = network.first.one.weight.detach().flatten(1)
    (gram,) = [gram for given, _, gram, _ in solved if torch.equal(given, rows)]
    assert_gram_close(gram, patches.reshape(-1, 2, 36).transpose(0, 1))
    assert torch.equal(obc(rows, weight.grid, gram), weight.codes)


@pytest.mark.parametrize("method", ["adaround", "gptq"])
def test_layers_are_fitted_to_inputs_from_quantized_layers(network, calibration, method):
    """The last layer's quadratic by hand: quantized inputs, full-precision targets."""
    quantized, record = quantize_network(network, Variant.parse(f"{method}-w2"), calibration)
    state = quantized.state_dict()
    with torch.no_grad():
        full = network(calibration.images)
        logits = torch.func.functional_call(network, state, (calibration.images,))
        hidden = {}
        for name, weights in (("full", {}), ("quantized", state)):
            handle = network.fc.register_forward_pre_hook(
                lambda module, args, name=name: hidden.__setitem__(name, args[0])
            )
            torch.func.functional_call(network, weights, (calibration.images,))
            handle.remove()
    error = (logits - full).square().sum() / full.square().sum()
    # The last layer's unit is the logits. Their difference is a tenth of them and more, so float32
    # knows its square to 1e-5.
    if method == "adaround":
        assert record.layers[-1].error_after == pytest.approx(error.item(), rel=1e-3)
    targets = hidden["full"] @ network.fc.weight.detach().T
    quadratic = make_quadratic(hidden["quantized"][None], targets)
    rows = network.fc.weight.detach()
    grid = find_grid(rows, 2, symmetric=False)
    alone = quadratic.error(dequantize(descend(rows, grid, quadratic), grid))
    ours = quadratic.error(dequantize(quantized.weights["fc.weight"].codes, grid))
    plain = quadratic.error(dequantize(nearest(rows, grid), grid))
    assert alone <= ours * 1.05 < plain


def test_too_few_images_are_refused(network, calibration):
    few = calibration._replace(images=calibration.images[:31])
    with pytest.raises(ValueError, match=r"`brecq-w2-paper` needs at least 32 .* got 31"):
        quantize_network(network, Variant.parse("brecq-w2-paper"), few)
    with pytest.raises(ValueError, match=r"`adaround-w2` needs at least 1 .* got 0"):
        quantize_network(network, Variant.parse("adaround-w2"))


@pytest.mark.parametrize("name", ["adaround-w2", "brecq-w2", "gptq-w2", "obc-w2"])
def test_values_that_are_not_finite_name_the_layer(network, calibration, name):
    broken = copy.deepcopy(network)
    with torch.no_grad():
        broken.norm.bias.fill_(torch.inf)
    unit = "first" if name == "brecq-w2" else "first.one"
    with pytest.raises(DivergedError, match=f"`{unit}` is given values that are not finite"):
        quantize_network(broken, Variant.parse(name), calibration)


def test_an_unused_layer_is_named_and_can_stay_at_full_precision(network, calibration):
    spare = copy.deepcopy(network)
    spare.spare = nn.Linear(3, 3)
    for call in (
        lambda patterns: quantize_network(
            spare, Variant.parse("adaround-w2"), calibration, patterns
        ),
        lambda patterns: check_network(
            spare, Variant.parse("adaround-w2"), calibration.images, patterns
        ),
    ):
        with pytest.raises(ValueError, match=r"`spare`: not called. Leave it .*'{\"spare\": 32}'"):
            call({})
        call({"spare": 32})


def test_dead_channels_and_inputs_are_quantized_to_zero(network, calibration):
    dead = copy.deepcopy(network)
    with torch.no_grad():
        dead.first.one.weight[3] = 0
        dead.norm.weight[2] = 0
        dead.norm.bias[2] = -1  # an input that is always 0
    for method in METHODS:
        quantized, _ = quantize_network(dead, Variant.parse(f"{method}-w2"), calibration)
        assert not quantized.state_dict()["first.one.weight"][3].any()


def test_tied_weights_layers_with_two_names_and_bare_layers(calibration):
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = self.b = nn.Linear(64, 64)
            self.c = nn.Linear(64, 64)
            self.c.weight = self.a.weight

        def forward(self, images):
            return self.c(relu(self.b(relu(self.a(images.flatten(1))))))

    odd = Odd().eval()
    for method in METHODS:
        state = quantize_network(odd, Variant.parse(f"{method}-w2"), calibration)[0].state_dict()
        assert torch.equal(state["a.weight"], state["b.weight"])
        assert torch.equal(state["a.weight"], state["c.weight"])
        bare = nn.Conv2d(1, 4, 3).double().eval()
        quantized, record = quantize_network(bare, Variant.parse(f"{method}-w2"), calibration)
        assert quantized.weights.keys() == {"weight"}
        assert [layer.name for layer in record.layers] == [""]


def test_a_quadratic_around_the_layers_own_output(rng):
    rows, inputs = torch.randn(4, 6, generator=rng), torch.randn(50, 6, generator=rng)
    other = torch.randn(4, 6, generator=rng)
    quadratic = Quadratic.around(rows, (inputs.T @ inputs)[None])
    expected = (inputs @ (other - rows).T).square().sum() / (inputs @ rows.T).square().sum()
    assert quadratic.error(other) == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("name", ["gptq-w2", "gptq-w1.58"])
def test_gptq_matches_a_slow_loop_over_layers(network, calibration, name, solved):
    """The loop uses hooks on a network whose weights are replaced layer by layer, and every patch.

    Gram matrices are compared, and then the codes that each gives: codes of slightly different
    matrices can differ where a weight lies between two of them.
    """
    variant, images = Variant.parse(name), calibration.images
    weights = quantize_network(network, variant, calibration)[0].weights
    work = copy.deepcopy(network).requires_grad_(False)
    inputs = []
    layers = ["stem", "first.one", "first.two", "second.one", "second.two", "fc"]
    for layer, (given, given_grid, gram, _) in zip(layers, solved, strict=True):
        module = work.get_submodule(layer)
        handle = module.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
        work(images)
        handle.remove()
        patches, groups = inputs.pop(), 1
        if isinstance(module, nn.Conv2d):
            patches = unfold(patches, module.kernel_size, padding=module.padding)
            patches, groups = patches.transpose(1, 2).flatten(0, 1), module.groups
        by_group = patches.reshape(len(patches), groups, -1).transpose(0, 1)
        rows = module.weight.flatten(1)
        grid = find_grid(rows, variant.bits, variant.bits == 1.58)
        assert torch.equal(given, rows)
        assert all(map(torch.equal, given_grid[:2], grid[:2]))
        assert_gram_close(gram, by_group)
        codes = gptq(rows, grid, gram)
        assert torch.equal(weights[f"{layer}.weight"].codes, codes), layer
        module.weight.copy_(dequantize(codes, grid).reshape(module.weight.shape))


@pytest.mark.parametrize("name", ["brecq-w2", "brecq-w2-paper"])
def test_a_blocks_error_is_measured_behind_its_activation(network, calibration, name):
    variant = Variant.parse(name if "paper" not in name else f"{name}-fisher")
    quantized, record = quantize_network(
        network, variant, calibration, loop=Settings(iterations=20, lr=1e-2)
    )
    ends = []
    handle = network.second.register_forward_hook(lambda module, args, out: ends.append(out))
    with torch.no_grad():
        network(calibration.images)
        torch.func.functional_call(network, quantized.state_dict(), (calibration.images,))
    handle.remove()
    error = ((ends[1] - ends[0]).square().sum() / ends[0].square().sum()).item()
    (after,) = {layer.error_after for layer in record.layers if layer.unit == "second"}
    assert after == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize("name", ["nearest-w2-bn", "adaround-w2", "brecq-w2-fisher", "obc-w2-bn"])
def test_mode_gradients_and_global_randomness_are_unchanged(network, calibration, name):
    training = copy.deepcopy(network).train()
    training.norm.weight.requires_grad_(False)
    before = copy.deepcopy(training.state_dict())
    expected = quantize_network(network, Variant.parse(name), calibration)[0].state_dict()
    random = torch.get_rng_state()
    state = quantize_network(training, Variant.parse(name), calibration)[0].state_dict()
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(state[key], expected[key]) for key in expected)
    assert all(torch.equal(before[key], value) for key, value in training.state_dict().items())
    assert all(module.training for module in training.modules())
    frozen = [key for key, parameter in training.named_parameters() if not parameter.requires_grad]
    assert frozen == ["norm.weight"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_other_dtypes_are_quantized_as_float32_and_keep_the_rest(
    network, calibration, method, dtype
):
    other, variant = copy.deepcopy(network).to(dtype), Variant.parse(f"{method}-w2")
    quantized = quantize_network(other, variant, calibration)[0]
    expected = quantize_network(copy.deepcopy(other).float(), variant, calibration)[0]
    for key, weight in expected.weights.items():
        assert torch.equal(quantized.weights[key].codes, weight.codes)
    assert all(torch.equal(t, other.state_dict()[key]) for key, t in quantized.rest.items())
    assert quantized.rest["fc.bias"].dtype == dtype


@pytest.mark.parametrize("method", METHODS)
def test_a_tied_weight_is_named_after_the_layer_that_is_called(calibration, method):
    """The layer that is registered first only lends its weight."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lender, self.user = nn.Linear(64, 8), nn.Linear(64, 8)
            self.user.weight = self.lender.weight

        def forward(self, images):
            return self.user(images.flatten(1))

    tied = Tied().eval()
    quantized, record = quantize_network(tied, Variant.parse(f"{method}-w2"), calibration)
    state = quantized.state_dict()
    assert torch.equal(state["lender.weight"], state["user.weight"])
    assert max(len(row.unique()) for row in state["user.weight"]) <= 4
    expected = "lender" if method == "nearest" else "user"
    assert [layer.name for layer in record.layers] == [expected]


class PreActivation(Block):
    """BatchNorm and activation of its output lie outside of it."""

    def forward(self, features):
        return features + self.norm(self.two(relu(self.one(features))))


class PreActivations(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(1, 8, 3, padding=1), PreActivation(groups=2)
        self.norm, self.fc = nn.BatchNorm2d(8), nn.Linear(8, 10)

    def forward(self, images):
        return self.fc(relu(self.norm(self.block(self.stem(images)))).mean((2, 3)))


def test_fisher_weights_a_block_that_batchnorm_follows(calibration, monkeypatch):
    requested = []

    def ones(network, modules, images, generator, axes):
        requested.extend(modules)
        return {}

    monkeypatch.setattr("quantization.reconstruct.fisher_diagonal", ones)
    network = PreActivations().eval()
    _, record = quantize_network(network, Variant.parse("brecq-w2-fisher"), calibration)
    assert record.units == ["stem", "block", "fc"]
    assert requested == ["stem", "block", "fc"]


@pytest.mark.parametrize(
    "name", ["adaround-w2", "brecq-w2-fisher", "gptq-w2", "brecq-w2-paper", "adaround-w2-folded"]
)
@pytest.mark.parametrize(("where", "factor"), [("stem", 1e19), ("stem", 3e37), ("fc", 3e37)])
def test_finite_weights_with_unusable_outputs_have_diverged(
    network, calibration, name, where, factor
):
    """Also values whose squares overflow, and those of the last layer, which no layer is given."""
    broken = copy.deepcopy(network)
    with torch.no_grad():
        broken.norm.running_mean.zero_()
        broken.get_submodule(where).weight.mul_(factor)
    with pytest.raises(DivergedError, match=r"values that are not finite, or beyond 1e\+15"):
        quantize_network(broken, Variant.parse(name), calibration, loop=Settings(iterations=2))


def test_one_dimensional_convolutions(calibration):
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Conv1d(8, 12, 3, padding=1, stride=2, groups=2)
            self.two = nn.Conv1d(12, 6, 1)
            self.fc = nn.Linear(24, 10)

        def forward(self, images):
            return self.fc(relu(self.two(relu(self.one(images[:, 0])))).flatten(1))

    rows = Rows().eval()
    errors = {}
    for method in METHODS:
        quantized, record = quantize_network(rows, Variant.parse(f"{method}-w2"), calibration)
        assert [layer.name for layer in record.layers] == ["one", "two", "fc"]
        errors[method] = logits_error(rows, quantized.state_dict(), calibration.images)
    assert all(errors[method] < errors["nearest"] for method in METHODS[1:])


def test_batchnorm_is_estimated_from_the_quantized_network(network, calibration):
    plain = quantize_network(network, Variant.parse("nearest-w2"), calibration)[0].state_dict()
    state = quantize_network(network, Variant.parse("nearest-w2-bn"), calibration)[0].state_dict()
    stem = nn.functional.conv2d(calibration.images, plain["stem.weight"], padding=1)
    stem = stem.double()
    mean, variance = stem.mean((0, 2, 3)), stem.var((0, 2, 3))
    # BatchNorm may sum its 8,192 float32 values in any order.
    spread = {"atol": 1e-5 * variance.max().sqrt().item(), "rtol": 1e-5}
    torch.testing.assert_close(state["norm.running_mean"].double(), mean, **spread)
    torch.testing.assert_close(state["norm.running_var"].double(), variance, **spread)
    changed = [key for key in plain if not torch.equal(plain[key], state[key])]
    assert all("running" in key or "tracked" in key for key in changed)


def test_a_network_without_batchnorm_to_estimate_is_refused(calibration):
    bare = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    with pytest.raises(ValueError, match=r"Sequential has no BatchNorm .*`-bn`"):
        quantize_network(bare, Variant.parse("nearest-w2-bn"), calibration)
    with pytest.raises(ValueError, match="no BatchNorm"):
        check_network(bare, Variant.parse("obc-w2-paper"), calibration.images, {})
