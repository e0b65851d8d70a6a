"""ONNX graphs that ONNX Runtime computes with integer kernels.

Every quantized activation is a QuantizeLinear and a DequantizeLinear, every quantized weight int8
codes with zero point 0 and a DequantizeLinear, and every bias int32 codes. The runtime fuses what
lies between a DequantizeLinear and a QuantizeLinear into one kernel on integers, so BatchNorm is
folded into the layer before it, and an activation function that the saturation of the codes repeats
is left out. Activations are uint8: of int8 ones, onnxruntime 1.32 fused 3 of 9 convolutions.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from quantization.onnx_graph import Array, Graph, Node, OnnxModel
from quantization.quantized_network import QuantizedWeight
from quantization.rounding.pack import pack

DOMAIN = "bitleak"  # of the node that stands for a quantized activation until it is replaced
VERSION = 21, 10  # of operations and files: the first with 4-bit integers
FEW = 16  # levels that fit into 4 bits
LARGEST_BIAS = 2.0**30  # of int32, which leaves room for the products that are added to it
SMALLEST_STEP = 1e-25  # its product with a step of activations is a normal float32 number


@torch.library.custom_op("bitleak::quantized", mutates_args=())
def mark(values: Tensor, scale: float, zero: int, levels: int) -> Tensor:
    """A place in a graph where `fake_quantize` is applied."""
    return values.clone()


@mark.register_fake
def _(values: Tensor, scale: float, zero: int, levels: int) -> Tensor:
    return torch.empty_like(values)


def translation() -> dict[Any, Any]:
    """What `torch.onnx.export` makes of `mark`: a node of our own, which `to_integers` replaces."""
    from onnx import defs
    from onnxscript.values import Opset

    if not defs.has("Quantized", DOMAIN):
        kind, parameter = defs.OpSchema.AttrType, defs.OpSchema.FormalParameter
        schema = defs.OpSchema(
            "Quantized",
            DOMAIN,
            1,
            inputs=[parameter("values", "T")],
            outputs=[parameter("quantized", "T")],
            type_constraints=[("T", ["tensor(float)"], "")],
            attributes=[
                defs.OpSchema.Attribute("scale", kind.FLOAT, required=True),
                defs.OpSchema.Attribute("zero", kind.INT, required=True),
                defs.OpSchema.Attribute("levels", kind.INT, required=True),
            ],
        )
        defs.register_schema(schema)
    opset = Opset(DOMAIN, 1)

    def translate(values: Any, scale: float, zero: int, levels: int) -> Any:  # noqa: ANN401
        return opset.Quantized(values, scale=scale, zero=zero, levels=levels)

    return {torch.ops.bitleak.quantized.default: translate}


class Step(NamedTuple):
    """What a node of our own says: the grid of an activation."""

    scale: float
    zero: int
    levels: int

    @classmethod
    def of(cls, node: Node) -> "Step":
        """Read a node's attributes."""
        from onnx.helper import get_attribute_value

        return cls(**{a.name: get_attribute_value(a) for a in node.attribute})


def to_integers(model: OnnxModel, find: Callable[[Tensor], QuantizedWeight | None]) -> None:
    """Rewrite a model that was traced with `translation`, in place.

    Args:
        model: the traced model, with the dequantized weights.
        find: the quantized weight with these values, if there is one.

    Raises:
        ValueError: a layer has quantized inputs, but weights that are no codes or do not fit into
            int8; the runtime would quantize them in a way of its own.
    """
    graph = Graph(model)
    _merge(graph)
    for node in list(graph.nodes):
        maker = graph.maker(node.input[0]) if node.op_type in ("Conv", "Gemm", "MatMul") else None
        if maker is not None and maker.domain == DOMAIN:
            _quantize_layer(graph, node, find, Step.of(maker))
    for node in [node for node in graph.nodes if node.domain == DOMAIN]:
        _drop_activation(graph, node)
        _write_activation(graph, node)
    graph.write()
    kept = [entry for entry in model.opset_import if entry.domain != DOMAIN]
    model.ClearField("opset_import")
    model.opset_import.extend(kept)


def _merge(graph: Graph) -> None:
    """Quantize a tensor once, however many layers and sums take it."""
    first: dict[Any, str] = {}
    for node in [node for node in graph.nodes if node.domain == DOMAIN]:
        known = first.setdefault((node.input[0], Step.of(node)), node.output[0])
        if known != node.output[0]:
            graph.rename(node.output[0], known)
            graph.remove(node)


def _quantize_layer(
    graph: Graph, node: Node, find: Callable[[Tensor], QuantizedWeight | None], inputs: Step
) -> None:
    name, transpose = node.input[1], graph.maker(node.input[1])
    if node.op_type == "MatMul" and transpose is not None and transpose.op_type == "Transpose":
        name = transpose.input[0]
    values = graph.tensors.get(name)
    weight = None if values is None else find(torch.from_numpy(values.copy()))
    if weight is None:
        raise ValueError(
            f"`{node.name}`, a {node.op_type} with quantized inputs, must have a quantized weight,"
            f" got `{name}`, which the tracer has changed. Remove `-a` from the variant."
        )
    codes = (weight.codes.short() - weight.grid.zero.short()).numpy().astype(np.float64)
    if codes.min() < -128 or codes.max() > 127:
        raise ValueError(
            f"`{name}` must have codes that fit into int8, got {codes.min():.0f} to"
            f" {codes.max():.0f} with their zero points subtracted: integer kernels subtract one"
            " zero point from all channels. Remove `-asym` from the variant."
        )
    slope, bias = np.ones(len(codes)), np.zeros(len(codes))
    if node.op_type != "MatMul":
        slope, bias = _fold(graph, node, len(codes))
    scale = weight.grid.scale.double().numpy()[:, 0] * np.abs(slope)
    # a channel of which BatchNorm leaves little beside its bias, whose codes must fit
    least = np.maximum(np.abs(bias) / (LARGEST_BIAS * inputs.scale), SMALLEST_STEP)
    shrink = np.where(scale < least, scale / least, 1) * np.where(slope < 0, -1, 1)
    scale = np.maximum(scale, least)
    codes = np.rint(codes * shrink[:, None]).clip(-128, 127).astype(np.int8)
    integers = _write_codes(graph, node, name, codes.reshape(weight.shape))
    if node.op_type == "MatMul":
        integers = graph.add_before(node, "Transpose", [integers], f"{name}.columns")
        node.input[1] = _dequantize(graph, node, integers, scale, np.int8, 1)
        return
    weight_name = _dequantize(graph, node, integers, scale, np.int8)
    del node.input[1:]
    product = scale * inputs.scale  # which the kernels take for granted
    graph.tensors[f"{name}.bias"] = np.rint(bias / product).astype(np.int32)
    node.input.extend([weight_name, _dequantize(graph, node, f"{name}.bias", product, np.int32)])


def _fold(graph: Graph, node: Node, rows: int) -> tuple[Array, Array]:
    """Remove the BatchNorm behind a layer; returns its slope, and the layer's bias with it."""
    bias = np.zeros(rows)
    if len(node.input) > 2:
        bias = graph.tensors[node.input[2]].astype(np.float64)
    users = graph.users(node.output[0])
    norm = users[0]
    if len(users) > 1 or getattr(norm, "op_type", "") != "BatchNormalization":
        return np.ones(rows), bias
    gamma, beta, mean, variance = (graph.tensors[n].astype(np.float64) for n in norm.input[1:])
    slope = gamma / np.sqrt(variance + next(a.f for a in norm.attribute if a.name == "epsilon"))
    graph.remove(norm)
    node.output[0] = norm.output[0]
    return slope, (bias - mean) * slope + beta


def _write_codes(graph: Graph, node: Node, name: str, codes: Array) -> str:
    """Write int8 codes; those of few levels in 4 bits, which a session unpacks as it starts."""
    from onnx import TensorProto, helper

    rows = codes.reshape(len(codes), -1).astype(np.int32)
    lowest = np.minimum(rows.min(1), 0)
    if (rows.max(1) - lowest).max() >= FEW:
        graph.tensors[f"{name}.int8"] = codes
        return f"{name}.int8"
    content = pack(torch.from_numpy((rows - lowest[:, None]).reshape(1, -1)).byte(), FEW)
    packed = helper.make_tensor(
        f"{name}.codes", TensorProto.UINT4, codes.shape, content.numpy().tobytes(), True
    )
    graph.packed.append(packed)
    graph.tensors[f"{name}.lowest"] = lowest.reshape(-1, *[1] * (codes.ndim - 1)).astype(np.int32)
    wide = graph.add_before(node, "Cast", [packed.name], f"{name}.int32", to=TensorProto.INT32)
    moved = graph.add_before(node, "Add", [wide, f"{name}.lowest"], f"{name}.moved")
    return graph.add_before(node, "Cast", [moved], f"{name}.int8", to=TensorProto.INT8)


def _dequantize(
    graph: Graph, node: Node, codes: str, scale: Array, kind: type, axis: int = 0
) -> str:
    graph.tensors[f"{codes}.scale"] = scale.astype(np.float32)
    graph.tensors[f"{codes}.zero"] = np.zeros(len(scale), kind)
    inputs = [codes, f"{codes}.scale", f"{codes}.zero"]
    return graph.add_before(node, "DequantizeLinear", inputs, f"{codes}.values", axis=axis)


def _drop_activation(graph: Graph, node: Node) -> None:
    """Remove the ReLU, or the like, before an activation whose codes end where it would."""
    grid, maker = Step.of(node), graph.maker(node.input[0])
    if maker is None or len(graph.users(node.input[0])) > 1:
        return
    if maker.op_type == "Relu":
        ends = [0.0, np.inf]
    elif maker.op_type == "Clip" and all(name in graph.tensors for name in maker.input[1:]):
        ends = [float(graph.tensors[name]) for name in maker.input[1:]]
    else:
        return
    codes = [np.rint(np.float32(end) / np.float32(grid.scale)) + grid.zero for end in ends]
    if codes[0] <= 0 and codes[1] >= grid.levels - 1:
        node.input[0] = maker.input[0]
        graph.remove(maker)


def _write_activation(graph: Graph, node: Node) -> None:
    grid, name = Step.of(node), node.output[0]
    graph.tensors[f"{name}.scale"] = np.array(grid.scale, np.float32)
    graph.tensors[f"{name}.zero"] = np.array(grid.zero, np.uint8)
    ends = [f"{name}.scale", f"{name}.zero"]
    codes = graph.add_before(node, "QuantizeLinear", [node.input[0], *ends], f"{name}.codes")
    if grid.levels < 256:  # kernels have 8 bits
        for end, code in (("first", 0), ("last", grid.levels - 1)):
            graph.tensors[f"{name}.{end}"] = np.array(code, np.uint8)
        limits = [f"{name}.first", f"{name}.last"]
        codes = graph.add_before(node, "Clip", [codes, *limits], f"{name}.few")
    graph.add_before(node, "DequantizeLinear", [codes, *ends], name)
    graph.remove(node)
