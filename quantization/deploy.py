"""Convert a quantized network for other programs: ONNX with packed weights, or torchao tensors."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from quantization.integers import VERSION, mark, to_integers, translation
from quantization.onnx_session import open_session
from quantization.quantized_network import QuantizedNetwork, QuantizedWeight
from quantization.ranges import quantize_activations
from quantization.rounding.pack import pack
from quantization.sites import watch

Image = tuple[int, ...]  # channels, height, width; or the features of a table
OnnxModel = Any  # `onnx.ModelProto`; the package need not be installed

WIDTH = {3: 2, 4: 2, 8: 4, 16: 4, 256: 8}  # bits of ONNX's integers by the number of levels
OPSET, IR_VERSION = 25, 13  # the first with INT2
# Share of the largest logit. Summing float32 in another order changed logits by at most 1e-6
# (WRN-28-2), rounding activations to 8 bits by 5e-3.
TOLERANCE = 1e-4


def to_onnx(network: nn.Module, image: Image, quantized: QuantizedNetwork | None) -> OnnxModel:
    """Build an ONNX model from `images` [batch, channels, height, width] to `logits`.

    Args:
        network: network of the same architecture; it stays as it is.
        image: channels, height and width of an image; the batch may have any size.
        quantized: the weights; None for the network's own at full precision.

    Returns:
        A model whose output `logits` is [batch, classes].

    Raises:
        ValueError: the network cannot be traced, or onnxruntime computes other logits.
    """
    network = _loaded(network, quantized)
    if quantized is not None and quantized.activations:
        return _to_integers(network, image, quantized)
    model = trace(network, image)
    if quantized is not None:
        pack_weights(model, quantized)
    _check_logits(network, lambda images: run_onnx(model, images), image)
    return model


def _to_integers(network: nn.Module, image: Image, quantized: QuantizedNetwork) -> OnnxModel:
    """The same with quantized activations, computed by kernels on integers.

    Sums of integers and rounded biases put some activations on the other side of the middle between
    two codes, and layers behind carry that on. Two roundings of the same values differ by sqrt(2)
    of what one changes; so twice that is allowed.
    """
    ranges, plain = quantized.activations, copy.deepcopy(network)
    marked = copy.deepcopy(network)
    watch(marked, ranges, lambda site, tensor: mark(tensor, *ranges[site]))
    model, by_value = trace(marked, image, translation(), VERSION), _by_value(quantized)
    to_integers(model, lambda values: by_value.get(_value(values)))
    images = torch.randn(64, *image, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before, repeated = plain(images), torch.equal(plain(images), plain(images))
        expected = quantize_activations(network, ranges)(images)
    difference = (run_onnx(model, images) - expected).square().mean().sqrt().item()
    size = expected.square().mean().sqrt().item()
    allowed = 2 * (expected - before).square().mean().sqrt().item() + TOLERANCE * size
    if not (difference <= allowed and repeated):
        raise ValueError(
            f"The logits of the integer kernels must be within {allowed:.2g} of the network's"
            f" (root mean square), got a difference of {difference:.2g}. If"
            f" {type(network).__name__} draws random numbers in evaluation mode, leave them out."
        )
    return model


def to_torchao(network: nn.Module, image: Image, quantized: QuantizedNetwork) -> dict[str, Tensor]:
    """Build a state dict for `load_state_dict(state, assign=True)`; arguments as in `to_onnx`.

    Raises:
        ValueError: torchao does not compute a layer, or computes other logits.
    """
    from torchao.quantization import IntxUnpackedToInt8Tensor

    network = _loaded(network, quantized)
    by_value, state = _by_value(quantized), network.state_dict()
    for key, tensor in state.items():
        if (weight := by_value.get(_value(tensor))) is None:
            continue
        if tensor.ndim not in (2, 4):
            raise ValueError(
                f"`{key}` must belong to a linear layer or a Conv2d, because torchao computes no"
                f" other, got shape {weight.shape}. Use `--format onnx` or `state_dict`."
            )
        codes, zero = _signed(weight)
        state[key] = IntxUnpackedToInt8Tensor(
            qdata=codes.reshape(weight.shape),
            scale=weight.grid.scale[(...,) + (None,) * (tensor.ndim - 2)],
            zero_point=zero[(...,) + (None,) * (tensor.ndim - 2)],
            target_dtype=getattr(torch, f"int{(weight.grid.levels - 1).bit_length()}"),
            block_size=(1, *weight.shape[1:]),
            dtype=tensor.dtype,
            activation_quantization=None,
        )
    deployed = copy.deepcopy(network)
    deployed.load_state_dict(state, assign=True)
    try:
        _check_logits(network, deployed, image)
    except NotImplementedError as error:
        raise ValueError(
            f"torchao must compute every operation of {type(network).__name__} with its weights,"
            f" got: {str(error).partition(', types=')[0]}. Use `--format onnx` or `state_dict`."
        ) from error
    return state


def trace(
    network: nn.Module,
    image: Image,
    own: Mapping[Any, Any] | None = None,
    version: tuple[int, int] = (OPSET, IR_VERSION),
) -> OnnxModel:
    """Trace a network in evaluation mode, keeping BatchNorm apart from the convolutions.

    Args:
        network: the network.
        image: shape of an image.
        own: translations of operations that are not PyTorch's.
        version: versions of ONNX's operations and of its files.

    Raises:
        ValueError: the network cannot be traced.
    """
    import onnx
    from onnxscript import optimizer, rewriter

    try:
        program = torch.onnx.export(
            network,
            (torch.zeros(2, *image),),
            dynamo=True,
            optimize=False,  # would fold BatchNorm into weights, which then have no codes
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["images"],
            output_names=["logits"],
            opset_version=version[0],
            custom_translation_table=dict(own or {}),
            verbose=False,
        )
    except Exception as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise ValueError(
            f"{type(network).__name__} must be traceable by torch.export with a batch of any size,"
            f" got: {reason} Change it, or use `--format state_dict`."
        ) from error
    model = program.model_proto  # type: ignore[union-attr]
    weights = list(model.graph.initializer)
    for weight in weights:  # as inputs, weights are beyond the optimizer's reach
        value = onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
        model.graph.input.append(value)
    model.graph.ClearField("initializer")
    model = rewriter.rewrite(optimizer.optimize(model))
    del model.graph.input[1:]
    model.graph.initializer.extend(weights)
    model.graph.ClearField("value_info")
    for part in (model, model.graph, *model.graph.node, *model.graph.initializer):
        part.ClearField("metadata_props")  # paths of source files on this machine
    model.ir_version = version[1]
    return model


def pack_weights(model: OnnxModel, quantized: QuantizedNetwork) -> None:
    """Replace every quantized weight by its codes and a DequantizeLinear.

    Raises:
        RuntimeError: the model was traced with different weights.
    """
    from onnx import TensorProto, helper, numpy_helper

    by_value = _by_value(quantized)
    kept, nodes = [], []
    for tensor in model.graph.initializer:
        weight = by_value.get(_value(torch.from_numpy(numpy_helper.to_array(tensor).copy())))
        if weight is None:
            kept.append(tensor)
            continue
        bits, name = WIDTH[weight.grid.levels], tensor.name
        kind = getattr(TensorProto, f"INT{bits}")
        for part, values in zip(("codes", "zero"), _signed(weight), strict=True):
            shape = weight.shape if part == "codes" else [len(values)]
            # two's complement, and, unlike in our files, no gaps between rows
            content = pack(values.byte().reshape(1, -1) & (2**bits - 1), 2**bits).numpy()
            kept.append(helper.make_tensor(f"{name}.{part}", kind, shape, content.tobytes(), True))
        kept.append(numpy_helper.from_array(weight.grid.scale.flatten().numpy(), f"{name}.scale"))
        inputs, output = [f"{name}.codes", f"{name}.scale", f"{name}.zero"], name
        consumers = {node.op_type for node in model.graph.node if name in node.input}
        if not consumers <= {"Conv", "Gemm"} and len(weight.shape) == 2:
            # Flatten leaves a matrix as it is. Without it, onnxruntime 1.32 fuses a linear layer
            # on sequences into MatMulNBits, which rounds activations to 8 bits: 0.5% of a logit.
            output = f"{name}.matrix"
            nodes.append(helper.make_node("Flatten", [output], [name], axis=1))
        dequantize = helper.make_node("DequantizeLinear", inputs, [output], name=name, axis=0)
        nodes.insert(0, dequantize)
    nodes += model.graph.node
    if unpacked := [tensor.name for tensor in kept if tensor.name in quantized.weights]:
        raise RuntimeError(
            f"Load the quantized weights before `trace`: {', '.join(unpacked)} differ."
        )
    model.graph.ClearField("initializer")
    model.graph.ClearField("node")
    model.graph.initializer.extend(kept)
    model.graph.node.extend(nodes)


def run_onnx(model: OnnxModel, images: Tensor) -> Tensor:
    """Compute logits with onnxruntime on the CPU."""
    # onnxruntime's own default is every core
    session = open_session(model.SerializeToString(), torch.get_num_threads())
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def _loaded(network: nn.Module, quantized: QuantizedNetwork | None) -> nn.Module:
    """A copy of the network for inference, with the quantized weights."""
    network = copy.deepcopy(network).eval()
    if quantized is not None:
        network.load_state_dict(quantized.state_dict())
    return network


def _by_value(quantized: QuantizedNetwork) -> dict[tuple[tuple[int, ...], bytes], QuantizedWeight]:
    """Weights by their dequantized values.

    Two names of one weight have a set of codes each, and the network keeps the last set, while the
    ONNX exporter picks either name. Looking weights up by value settles which codes apply.
    """
    return {_value(weight.dequantize()): weight for weight in quantized.weights.values()}


def _value(tensor: Tensor) -> tuple[tuple[int, ...], bytes]:
    return tuple(tensor.shape), tensor.detach().contiguous().numpy().tobytes()


def _signed(weight: QuantizedWeight) -> tuple[Tensor, Tensor]:
    """Codes and zero points as int8, both shifted down by half the levels."""
    half = weight.grid.levels // 2
    codes, zero = (part.short() - half for part in (weight.codes, weight.grid.zero))
    return codes.to(torch.int8), zero.to(torch.int8)


def _check_logits(network: nn.Module, deployed: Callable[[Tensor], Tensor], image: Image) -> None:
    """Raise ValueError unless both give the same logits for 8 images of noise."""
    images = torch.randn(8, *image, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network(images)
        difference = (deployed(images) - expected).abs().max().item()
    allowed = TOLERANCE * expected.abs().max().item()
    if not difference <= allowed:
        raise ValueError(
            f"The exported logits must be within {allowed:.2g} of the network's, got a difference"
            f" of {difference:.2g}. If {type(network).__name__} draws random numbers in evaluation"
            " mode, use `--format state_dict`."
        )
