"""Exported integers, by the kernels that onnxruntime really ran and by sums of integers."""

import copy
import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn
from torch.nn.functional import relu, relu6

from lightning_modules.networks import build_network
from quantization.calibration import Calibration
from quantization.deploy import run_onnx, to_onnx
from quantization.onnx_session import open_session
from quantization.quantize import quantize_network
from quantization.ranges import quantize_activations
from quantization.variant import Variant

FLOAT = {"Conv", "FusedConv", "NhwcFusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Add"}


class Depthwise(nn.Module):
    """An inverted residual block of MobileNetV2, whose second BatchNorm has a ReLU6."""

    def __init__(self):
        super().__init__()
        self.stem, self.wide = nn.Conv2d(1, 4, 3, bias=False), nn.Conv2d(4, 12, 1, bias=False)
        self.deep = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False)
        self.narrow, self.fc = nn.Conv2d(12, 4, 1, bias=False), nn.Linear(4, 10)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in (4, 12, 12, 4))

    def forward(self, images):
        x = relu(self.norms[0](self.stem(images)))
        y = relu6(self.norms[1](self.wide(x)))
        x = x + self.norms[3](self.narrow(relu6(self.norms[2](self.deep(y)))))
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Tokens(nn.Module):
    """Linear layers on sequences, without BatchNorm."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.fc = (
            nn.Linear(8, 12),
            nn.Linear(12, 8, bias=False),
            nn.Linear(8, 10),
        )

    def forward(self, images):
        x = images[:, 0]
        x = x + self.two(relu(self.one(x)))
        return self.fc(x.mean(1))


NETWORKS = {
    "resnet8": lambda: build_network("resnet8", 10, 1, {}),
    "convnet": lambda: build_network("convnet", 10, 1, {}),
    "mlp": lambda: build_network("mlp", 10, 1, {"widths": [24]}, (1, 8, 8)),
    "depthwise": Depthwise,
    "tokens": Tokens,
}
KERNELS = {  # all layers, and additions
    "resnet8": {"QLinearConv": 9, "QGemm": 1, "QLinearAdd": 3},
    "convnet": {"QLinearConv": 3, "QGemm": 1},
    "mlp": {"QGemm": 2},
    "depthwise": {"QLinearConv": 4, "QGemm": 1, "QLinearAdd": 1},
}


def images_for(rng, count=64):
    return torch.randn(count, 1, 8, 8, generator=rng)


def made(network, name, images):
    """A network with statistics and slopes of either sign, quantized, and its computation."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.normal_(0.8, 0.5)
                module.bias.normal_(0.2, 0.3)
        network.train()
        for _ in range(20):
            network(images)
    network.eval()
    calibration = Calibration(images, lambda _: images, torch.arange(len(images)), "members", 0)
    quantized = quantize_network(network, Variant.parse(name), calibration)[0]
    network.load_state_dict(quantized.state_dict())
    with torch.inference_mode():
        plain = network(images)
        logits = quantize_activations(network, quantized.activations)(images)
    return quantized, plain, logits


def kernels(model, images, folder):
    """How often each kernel ran, by the profile of a session."""
    prefix = str(folder / "profile")
    session = open_session(
        model.SerializeToString(), 1, enable_profiling=True, profile_file_prefix=prefix
    )
    session.run(None, {"images": images.numpy()})
    events = json.loads(Path(session.end_profiling()).read_text())
    names = [event["args"].get("op_name") for event in events if event["cat"] == "Node"]
    return Counter(name for name in names if name)


CASES = [(n, v) for n in KERNELS for v in ("nearest-w8-a8", "adaround-w4-a8")]
CASES += [("resnet8", "nearest-w4-a4"), ("depthwise", "nearest-w1.58-a8"), ("mlp", "obc-w2-a4")]


@pytest.mark.parametrize(("architecture", "name"), CASES)
def test_all_layers_run_on_integer_kernels(rng, tmp_path, architecture, name):
    images = images_for(rng)
    network = NETWORKS[architecture]()
    quantized, plain, logits = made(network, name, images)
    fresh = NETWORKS[architecture]().eval()
    model = to_onnx(fresh, (1, 8, 8), quantized)
    onnx.checker.check_model(model, full_check=True)
    ran = kernels(model, images, tmp_path)
    assert KERNELS[architecture].items() <= ran.items()
    assert not FLOAT & ran.keys()

    session = run_onnx(model, images)
    noise = (logits - plain).square().mean().sqrt()
    assert (session - logits).square().mean().sqrt() <= 2 * noise
    assert (run_onnx(model, images[:1]) - session[:1]).abs().max() <= 1e-5 * session.abs().max()
    if name.endswith("a8"):
        assert (session - logits).abs().max() <= 0.05 * logits.abs().max()


def test_linear_layers_on_sequences_run_on_integer_kernels(rng, tmp_path):
    images, network = images_for(rng), Tokens()
    quantized, _, logits = made(network, "nearest-w4-a8", images)
    model = to_onnx(Tokens().eval(), (1, 8, 8), quantized)
    ran = kernels(model, images, tmp_path)
    assert ran["MatMulIntegerToFloat"] + ran["QLinearMatMul"] + ran["DynamicQuantizeMatMul"] == 2
    assert "MatMul" not in ran
    assert (run_onnx(model, images) - logits).abs().max() <= 0.02 * logits.abs().max()


def test_a_layer_is_a_sum_of_integers(rng):
    """A linear layer's logits, from codes in a loop over int64."""
    network, images = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), images_for(rng)
    for name in ("nearest-w8-a8", "nearest-w3-a8", "nearest-w8-a4"):
        quantized, _, _ = made(network, name, images)
        (codes, grid, _), step = quantized.weights["1.weight"], quantized.activations["1"]
        bias = quantized.rest["1.bias"]
        pixels = (images.flatten(1) / torch.tensor(step.scale)).round() + step.zero
        integers = pixels.clamp(0, step.levels - 1).long() - step.zero
        weights = codes.long() - grid.zero.long()
        scale = grid.scale[:, 0].double() * step.scale
        sums = integers @ weights.T + (bias.double() / scale).round().long()
        model = to_onnx(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), (1, 8, 8), quantized)
        session = run_onnx(model, images)
        assert torch.allclose(session.double(), sums * scale, rtol=1e-5, atol=1e-5)


def test_channels_that_batchnorm_turns_or_silences(rng, tmp_path):
    """Slopes that are negative, zero or tiny beside a large bias, in one convolution."""
    images = images_for(rng)
    network = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(216, 10))
    with torch.no_grad():
        network[1].running_mean.normal_()
        network[1].weight.copy_(torch.tensor([1.0, -1.0, 0.0, 0.0, 1e-12, -1e-30]))
        network[1].bias.copy_(torch.tensor([0.1, 0.2, 5.0, 0.0, 3.0, -2.0]))
    network.eval()
    calibration = Calibration(images, lambda _: images, torch.arange(64), "members", 0)
    for name in ("nearest-w8-a8", "nearest-w4-a8"):
        quantized = quantize_network(network, Variant.parse(name), calibration)[0]
        model = to_onnx(network, (1, 8, 8), quantized)
        assert kernels(model, images, tmp_path)["QLinearConv"] == 1
        tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        scales = [array for name, array in tensors.items() if name.endswith("scale")]
        assert all((scale > 1e-37).all() and np.isfinite(scale).all() for scale in scales)
        work = copy.deepcopy(network)
        work.load_state_dict(quantized.state_dict())
        with torch.inference_mode():
            logits = quantize_activations(work, quantized.activations)(images)
        assert (run_onnx(model, images) - logits).abs().max() <= 0.02 * logits.abs().max()


@pytest.mark.parametrize(("name", "kind"), [("w8", "INT8"), ("w4", "UINT4"), ("w1.58", "UINT4")])
def test_weights_of_few_bits_are_packed(rng, name, kind):
    quantized, *_ = made(build_network("resnet8", 10, 1, {}), f"nearest-{name}-a8", images_for(rng))
    model = to_onnx(build_network("resnet8", 10, 1, {}), (1, 8, 8), quantized)
    wanted = getattr(TensorProto, kind)
    packed = [t for t in model.graph.initializer if t.data_type == wanted and len(t.dims) > 1]
    assert len(packed) == len(quantized.weights)
    assert not [
        t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) > 1
    ]
    size = sum(len(t.raw_data) for t in packed)
    count = sum(weight.codes.numel() for weight in quantized.weights.values())
    assert size == pytest.approx(count * (1 if kind == "INT8" else 0.5), abs=len(packed))
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 21)]


def test_asymmetric_weights_of_8_bits_are_refused(rng):
    """The kernels subtract one zero point from all channels; onnxruntime fails at run time."""
    quantized, *_ = made(build_network("convnet", 10, 1, {}), "nearest-w8-a8-asym", images_for(rng))
    with pytest.raises(ValueError, match=r"`layer1.0.weight` must .* int8, .* Remove `-asym`"):
        to_onnx(build_network("convnet", 10, 1, {}), (1, 8, 8), quantized)


def test_a_layer_at_full_precision_stays_so(rng, tmp_path):
    images = images_for(rng)
    quantized, *_ = made(build_network("convnet", 10, 1, {}), "nearest-w8-a8-last32", images)
    model = to_onnx(build_network("convnet", 10, 1, {}), (1, 8, 8), quantized)
    ran = kernels(model, images, tmp_path)
    assert ran["QLinearConv"] == 3
    assert "QGemm" not in ran


def test_a_range_within_an_activation_function_is_kept(rng):
    """ReLU6 repeats no saturation where the range goes on behind 6."""
    quantized, *_ = made(Depthwise(), "nearest-w8-a8", images_for(rng))
    step = quantized.activations["narrow"]
    wide = quantized._replace(
        activations={**quantized.activations, "narrow": step._replace(scale=1.0)}
    )
    clips = [
        sum(node.op_type == "Clip" for node in to_onnx(Depthwise(), (1, 8, 8), q).graph.node)
        for q in (quantized, wide)
    ]
    assert clips == [0, 1]


def test_random_logits_are_refused(rng):
    class Random(nn.Sequential):
        def forward(self, images):
            return nn.functional.dropout(super().forward(images))

    def build():
        return Random(nn.Flatten(), nn.Linear(64, 10))

    quantized, *_ = made(build(), "nearest-w8-a8", images_for(rng))
    with pytest.raises(ValueError, match=r"logits of the integer kernels must be within .* Random"):
        to_onnx(build(), (1, 8, 8), quantized)
