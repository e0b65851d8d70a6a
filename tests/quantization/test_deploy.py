import copy

import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, dropout

from lightning_modules.networks import build_network
from quantization.deploy import pack_weights, run_onnx, to_onnx, to_torchao, trace
from quantization.quantize import quantize_network
from quantization.variant import Variant

IMAGE = (1, 8, 8)
VARIANTS = ["w8", "w4", "w3", "w3-sym", "w2", "w1.58", "w1.58-asym", "w2-last8", "w1.58-last8"]
# Share of the largest logit: both sides sum the same float32 products, in another order. A sum of
# n terms is within n * 6e-8, and far closer on average; one wrong code moves a logit by 1%.
TOLERANCE = 1e-5


class Perceptron(nn.Sequential):
    """Linear layers alone."""

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 21), nn.ReLU(), nn.Linear(21, 10, bias=False))


class Awkward(nn.Module):
    """Grouped and depthwise convolutions, a 1d one, a layer under two names, a shared parameter,
    a linear layer on a sequence, one that nothing uses, and rows that do not fill bytes.
    """

    def __init__(self, one_dimensional=True):
        super().__init__()
        self.grouped = nn.Sequential(nn.Conv2d(1, 6, 3), nn.Conv2d(6, 9, 3, groups=3, bias=False))
        self.depthwise = nn.Conv2d(9, 9, 3, padding=1, groups=9)
        self.norm, self.again = nn.BatchNorm2d(9), self.depthwise
        self.sequence, self.line = nn.Linear(9, 9), nn.Identity()
        if one_dimensional:
            self.line = nn.Conv1d(9, 9, 3, padding=1)
        self.unused, self.fc = nn.Linear(7, 3), nn.Linear(9 * 16, 9)
        self.tied, self.head = nn.Linear(9, 9), nn.Linear(9, 10)
        self.sequence.weight = self.tied.weight

    def forward(self, images):
        features = self.norm(self.again(self.depthwise(self.grouped(images)).relu()))
        features = self.sequence(features.flatten(2).transpose(1, 2)).relu().transpose(1, 2)
        features = self.fc(self.line(features).flatten(1)).relu()
        return self.head(features + self.tied(features))


NETWORKS = {
    "convnet": lambda: build_network("convnet", 10, 1, {}),
    "resnet8": lambda: build_network("resnet8", 10, 1, {}),  # projections on its shortcuts
    "resnet20": lambda: build_network("resnet20", 10, 1, {}),
    "perceptron": Perceptron,
    "awkward": Awkward,
    "awkward2d": lambda: Awkward(one_dimensional=False),
}


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    images = (torch.tensor(data.images, dtype=torch.float32)[:, None] / 16 - 0.31) / 0.38
    return images, torch.tensor(data.target)


@pytest.fixture(scope="module")
def trained(digits):
    """A function of a network's name: a copy of it after 60 steps on most of the digits."""
    made = {}

    def get(name):
        if name not in made:
            torch.manual_seed(0)
            network = NETWORKS[name]()
            optimizer = torch.optim.Adam(network.parameters(), 0.01)
            images, labels = digits
            for step in range(60):
                batch = slice(100 + 28 * step, 128 + 28 * step)
                optimizer.zero_grad()
                cross_entropy(network(images[batch]), labels[batch]).backward()
                optimizer.step()
            network.eval()
            with torch.inference_mode():
                correct = network(images[:100]).argmax(1) == labels[:100]
            assert correct.float().mean() > 0.6
            made[name] = network
        return copy.deepcopy(made[name])

    return get


@torch.no_grad()
def logits_of(network, state, images, assign=False):
    network.load_state_dict(state, assign=assign)
    return network(images)


def quantize(network, name):
    return quantize_network(network, Variant.parse(f"nearest-{name}"))[0]


def values(tensor):
    return torch.from_numpy(numpy_helper.to_array(tensor).copy())


def read_back(model, tmp_path):
    onnx.save(model, tmp_path / "model.onnx")
    onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)
    loaded = onnx.load(tmp_path / "model.onnx")
    return loaded, {tensor.name: tensor for tensor in loaded.graph.initializer}


CASES = [("convnet", name) for name in ("w8", "w4", "w3", "w2", "w1.58", "w2-last8")]
CASES += [("perceptron", name) for name in VARIANTS]
CASES += [(n, v) for n in ("resnet8", "awkward") for v in ("w4", "w1.58-last8")]
CASES += [pytest.param("resnet20", name, marks=pytest.mark.slow) for name in VARIANTS]


@pytest.mark.parametrize(("architecture", "name"), CASES)
def test_onnxruntime_computes_our_logits_from_our_codes(
    trained, digits, tmp_path, architecture, name
):
    network, images = trained(architecture), digits[0]
    quantized = quantize(network, name)
    before = copy.deepcopy(network.state_dict())
    model, tensors = read_back(to_onnx(network, IMAGE, quantized), tmp_path)
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())

    expected = logits_of(network, quantized.state_dict(), images)
    logits = run_onnx(model, images)
    assert logits.shape == (1797, 10)
    assert (logits - expected).abs().max() <= TOLERANCE * expected.abs().max()

    packed = {key.removesuffix(".codes") for key in tensors if key.endswith(".codes")}
    left = {"awkward": {"unused.weight", "again.weight", "depthwise.weight"}}
    left["awkward"] |= {"sequence.weight", "tied.weight"}  # under one of their names each
    assert quantized.weights.keys() - packed <= left.get(architecture, set())
    assert len(packed) == len(quantized.weights) - (3 if architecture == "awkward" else 0)
    for key in packed:
        codes, grid, shape = quantized.weights[key]
        bits = {3: 2, 4: 2, 8: 4, 16: 4, 256: 8}[grid.levels]
        for part, expected_codes in (("codes", codes.reshape(shape)), ("zero", grid.zero[:, 0])):
            tensor = tensors[f"{key}.{part}"]
            assert tensor.data_type == getattr(TensorProto, f"INT{bits}")
            assert len(tensor.raw_data) == -(-expected_codes.numel() * bits // 8)
            signed = torch.from_numpy(numpy_helper.to_array(tensor).astype("int16"))
            assert torch.equal(signed + grid.levels // 2, expected_codes.short())
        assert torch.equal(values(tensors[f"{key}.scale"]), grid.scale[:, 0])


def test_no_float_weight_is_left(trained, tmp_path):
    network = trained("resnet8")
    quantized = quantize(network, "w2")
    _, tensors = read_back(to_onnx(network, IMAGE, quantized), tmp_path)
    floats = {k for k, t in tensors.items() if t.data_type == TensorProto.FLOAT}
    scales = {f"{key}.scale" for key in quantized.weights}
    assert floats == scales | {k for k, t in quantized.rest.items() if t.is_floating_point()}
    numbers = sum(w.codes.numel() for w in quantized.weights.values())
    rows = sum(len(w.codes) for w in quantized.weights.values())
    rest = 4 * sum(tensor.numel() for tensor in quantized.rest.values())
    size = (tmp_path / "model.onnx").stat().st_size
    content = numbers / 4 + rows * (4 + 1 / 4) + rest  # codes, scales and zero points, the rest
    # the graph itself: names, shapes and attributes of 29 nodes and 77 tensors
    assert content < size < content + 12_000


@pytest.mark.parametrize("architecture", ["convnet", "awkward"])
def test_dequantized_weights_are_bit_for_bit_the_audited_ones(trained, architecture):
    network = trained(architecture)
    quantized = quantize(network, "w3")
    model = to_onnx(network, IMAGE, quantized)
    nodes = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    for node in nodes:
        value = onnx.helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)
        model.graph.output.append(value)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    outputs = session.run([n.output[0] for n in nodes], {"images": torch.zeros(1, *IMAGE).numpy()})
    for node, output in zip(nodes, outputs, strict=True):
        weight = quantized.weights[node.output[0].removesuffix(".matrix")]
        assert torch.equal(torch.from_numpy(output), weight.dequantize())


def test_the_reference_evaluator_agrees(trained, digits):
    network, images = trained("awkward"), digits[0][:20]
    quantized = quantize(network, "w2-last8")
    model = to_onnx(network, IMAGE, quantized)
    expected = logits_of(network, quantized.state_dict(), images)
    logits = torch.from_numpy(ReferenceEvaluator(model).run(None, {"images": images.numpy()})[0])
    assert (logits - expected).abs().max() <= TOLERANCE * expected.abs().max()


def test_full_precision_keeps_batchnorm_apart(trained, digits, tmp_path):
    network, images = trained("resnet8"), digits[0]
    model, tensors = read_back(to_onnx(network, IMAGE, None), tmp_path)
    state = network.state_dict()
    assert all(
        torch.equal(values(tensors[key]), tensor)
        for key, tensor in state.items()
        if tensor.is_floating_point()
    )
    assert [node.op_type for node in model.graph.node].count("BatchNormalization") == 9
    expected = logits_of(network, state, images)
    assert (run_onnx(model, images) - expected).abs().max() <= TOLERANCE * expected.abs().max()


def test_no_path_of_this_machine_is_in_the_file(trained):
    content = to_onnx(trained("perceptron"), IMAGE, None).SerializeToString()
    assert b".py" not in content
    assert b"stack_trace" not in content


@pytest.mark.parametrize("kind", ["layer", "parameter"])
def test_of_two_sets_of_codes_the_last_one_counts(digits, kind):
    """A head with 8 bits that is also an inner layer with 2 bits: one weight, loaded twice."""
    images = digits[0]
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()
    if kind == "layer":
        network[3] = network[1]
    else:
        network[3].weight = network[1].weight
    quantized = quantize(network, "w2-last8")
    expected = logits_of(network, quantized.state_dict(), images)
    logits = run_onnx(to_onnx(network, IMAGE, quantized), images)
    assert (logits - expected).abs().max() <= TOLERANCE * expected.abs().max()
    state = to_torchao(network, IMAGE, quantized)
    assert torch.equal(logits_of(network, state, images, assign=True), expected)


CASES = [("convnet", name) for name in VARIANTS]
CASES += [(n, v) for n in ("resnet8", "perceptron") for v in ("w4", "w3", "w2", "w1.58-last8")]


@pytest.mark.parametrize(("architecture", "name"), CASES)
def test_torchao_gives_exactly_our_logits(trained, digits, tmp_path, architecture, name):
    network, images = trained(architecture), digits[0]
    quantized = quantize(network, name)
    expected = logits_of(network, quantized.state_dict(), images)
    torch.save(to_torchao(network, IMAGE, quantized), tmp_path / "model.pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert torch.equal(logits_of(NETWORKS[architecture]().eval(), state, images, True), expected)
    for key, (codes, grid, shape) in quantized.weights.items():
        bits = {3: 2, 4: 2, 8: 3, 16: 4, 256: 8}[grid.levels]
        assert state[key].target_dtype == getattr(torch, f"int{bits}")
        assert state[key].block_size == (1, *shape[1:])
        assert torch.equal(state[key].qdata + grid.levels // 2, codes.reshape(shape).to(torch.int8))


def test_torchao_computes_awkward_layers(trained, digits):
    network, images = trained("awkward2d"), digits[0]
    quantized = quantize(network, "w3")
    expected = logits_of(network, quantized.state_dict(), images)
    state = to_torchao(network, IMAGE, quantized)
    logits = logits_of(network, state, images, assign=True)
    # torch multiplies a transposed sequence by another kernel where weights are a subclass
    assert (logits - expected).abs().max() <= TOLERANCE * expected.abs().max()
    for key, weight in quantized.weights.items():
        assert torch.equal(state[key].dequantize(), weight.dequantize())


class Attention(nn.Module):
    """Rows of an image as tokens that attend to each other, or to one query."""

    def __init__(self, cross):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)
        self.attention, self.cross = nn.MultiheadAttention(8, 2, batch_first=True), cross

    def forward(self, images):
        tokens = self.encoder(images[:, 0])
        query = tokens[:, :1] if self.cross else tokens
        return self.attention(query, tokens, tokens)[0].mean(1)


@pytest.mark.parametrize("variant", ["nearest-w4", "nearest-w1.58"])
def test_attention_is_packed(variant):
    """Both formats check the logits, of the fused path too, themselves."""
    for cross in (False, True):
        network = Attention(cross).eval()
        quantized = quantize_network(network, Variant.parse(variant))[0]
        model = to_onnx(network, IMAGE, quantized)
        floats = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT]
        assert not [t.name for t in floats if len(t.dims) > 1]
        if cross:
            with pytest.raises(ValueError, match=r"torchao must compute .*split.*`--format onnx`"):
                to_torchao(network, IMAGE, quantized)
        else:
            assert to_torchao(network, IMAGE, quantized).keys() == network.state_dict().keys()


def test_networks_that_a_format_cannot_hold_are_refused(trained):
    network = trained("awkward")
    with pytest.raises(ValueError, match=r"`line.weight` must belong to a linear .* Use `--format"):
        to_torchao(network, IMAGE, quantize(network, "w2"))

    class Random(Perceptron):
        def forward(self, images):
            return dropout(super().forward(images))

    for convert in (to_onnx, to_torchao):
        with pytest.raises(ValueError, match=r"logits must be within .* got a difference .*Random"):
            convert(Random(), IMAGE, quantize(Random(), "w2"))

    class Branching(Perceptron):
        def forward(self, images):
            return super().forward(images if images.sum() > 0 else -images)

    with pytest.raises(ValueError, match=r"Branching must be traceable .* got: .* state_dict"):
        to_onnx(Branching(), IMAGE, None)
    with pytest.raises(RuntimeError, match=r"Load the quantized weights before `trace`: 1.weight"):
        pack_weights(trace(Perceptron().eval(), IMAGE), quantize(Perceptron(), "w2"))
