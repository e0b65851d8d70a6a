"""Write one model of a run folder the way it is deployed: what was audited is what runs.

onnx has packed INT2, INT4 or INT8 weights behind DequantizeLinear, torchao a byte a weight in a
state dict of its tensors, and state_dict float32 safetensors for any code that has the network.
"""

import copy
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from quantization.model import QuantizedNetwork, QuantizedWeight
from quantization.pack import pack
from quantization.storage import load_quantized, load_weights
from quantization.variant import FULL

Image = tuple[int, int, int]  # channels, height, width
OnnxModel = Any  # `onnx.ModelProto`, of a package that need not be installed

NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torchao": ("torchao",), "state_dict": ()}
SUFFIX = {"onnx": "onnx", "torchao": "pt", "state_dict": "safetensors"}
WIDTH = {3: 2, 4: 2, 8: 4, 16: 4, 256: 8}  # bits of ONNX's integers for so many levels
OPSET, IR_VERSION = 25, 13  # the first with INT2
# Of the largest logit. Summing float32 in another order gave 1e-6 at most (WRN-28-2), activations
# rounded to 8 bits 5e-3.
TOLERANCE = 1e-4


def to_onnx(network: nn.Module, image: Image, quantized: QuantizedNetwork | None) -> OnnxModel:
    """An ONNX model from `images` [batch, channels, height, width] to `logits` [batch, classes].

    Args:
        network: of the same architecture; it stays as it is.
        image: channels, height, width of an image; the batch may be of any size.
        quantized: the weights; None for the network's own, at full precision.

    Raises:
        ValueError: the network cannot be traced, or onnxruntime computes other logits.
    """
    network = _loaded(network, quantized)
    model = trace(network, image)
    if quantized is not None:
        pack_weights(model, quantized)
    _check_logits(network, lambda images: run_onnx(model, images), image)
    return model


def to_torchao(network: nn.Module, image: Image, quantized: QuantizedNetwork) -> dict[str, Tensor]:
    """A state dict for `load_state_dict(state, assign=True)`; arguments as `to_onnx`.

    Raises:
        ValueError: a layer is of a kind that torchao does not compute, or does differently.
    """
    from torchao.quantization import IntxUnpackedToInt8Tensor

    network = _loaded(network, quantized)
    by_value, state = _by_value(quantized), network.state_dict()
    for key, tensor in state.items():
        if (weight := by_value.get(_value(tensor))) is None:
            continue
        if tensor.ndim not in (2, 4):
            raise ValueError(
                f"`{key}` must be of a linear layer or a Conv2d, all that torchao computes, got"
                f" shape {weight.shape}. Take `--format onnx` or `state_dict`."
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
    _check_logits(network, deployed, image)
    return state


def trace(network: nn.Module, image: Image) -> OnnxModel:
    """The graph of a network in evaluation, its BatchNorm left beside the convolutions.

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
            optimize=False,  # it would fold BatchNorm into weights, which then have no codes
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["images"],
            output_names=["logits"],
            opset_version=OPSET,
            verbose=False,
        )
    except Exception as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise ValueError(
            f"{type(network).__name__} must be traceable by torch.export with a batch of any size,"
            f" got: {reason} Change it, or take `--format state_dict`."
        ) from error
    model = program.model_proto  # type: ignore[union-attr]
    weights = list(model.graph.initializer)
    for weight in weights:  # as inputs, weights are out of the optimizer's reach
        value = onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
        model.graph.input.append(value)
    model.graph.ClearField("initializer")
    model = rewriter.rewrite(optimizer.optimize(model))
    del model.graph.input[1:]
    model.graph.initializer.extend(weights)
    model.graph.ClearField("value_info")
    for part in (model, model.graph, *model.graph.node, *model.graph.initializer):
        part.ClearField("metadata_props")  # where on this machine each line of code lies
    model.ir_version = IR_VERSION
    return model


def pack_weights(model: OnnxModel, quantized: QuantizedNetwork) -> None:
    """Put codes and a DequantizeLinear in the place of every weight that was quantized.

    Raises:
        RuntimeError: the model was traced with other weights.
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
            # two's complement, and unlike in our files no gap between the rows
            content = pack(values.byte().reshape(1, -1) & (2**bits - 1), 2**bits).numpy()
            kept.append(helper.make_tensor(f"{name}.{part}", kind, shape, content.tobytes(), True))
        kept.append(numpy_helper.from_array(weight.grid.scale.flatten().numpy(), f"{name}.scale"))
        inputs, output = [f"{name}.codes", f"{name}.scale", f"{name}.zero"], name
        consumers = {node.op_type for node in model.graph.node if name in node.input}
        if not consumers <= {"Conv", "Gemm"} and len(weight.shape) == 2:
            # Flatten does nothing to a matrix. Without it, onnxruntime 1.32 fuses a linear layer
            # on sequences to MatMulNBits, which rounds activations to 8 bits: 0.5% of a logit.
            output = f"{name}.matrix"
            nodes.append(helper.make_node("Flatten", [output], [name], axis=1))
        dequantize = helper.make_node("DequantizeLinear", inputs, [output], name=name, axis=0)
        nodes.insert(0, dequantize)
    nodes += model.graph.node
    if left := [tensor.name for tensor in kept if tensor.name in quantized.weights]:
        raise RuntimeError(f"Load the quantized weights before `trace`: {', '.join(left)} differ.")
    model.graph.ClearField("initializer")
    model.graph.ClearField("node")
    model.graph.initializer.extend(kept)
    model.graph.node.extend(nodes)


def run_onnx(model: OnnxModel, images: Tensor) -> Tensor:
    """Logits by onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # its own default is every core
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def _loaded(network: nn.Module, quantized: QuantizedNetwork | None) -> nn.Module:
    """A copy for inference."""
    network = copy.deepcopy(network).eval()
    if quantized is not None:
        network.load_state_dict(quantized.state_dict())
    return network


def _by_value(quantized: QuantizedNetwork) -> dict[tuple[tuple[int, ...], bytes], QuantizedWeight]:
    """Weights by what they dequantize to.

    Two names of one weight have a set of codes each, of which the network keeps the last; and the
    ONNX exporter picks one of the names. By value there is no doubt.
    """
    return {_value(weight.dequantize()): weight for weight in quantized.weights.values()}


def _value(tensor: Tensor) -> tuple[tuple[int, ...], bytes]:
    return tuple(tensor.shape), tensor.detach().contiguous().numpy().tobytes()


def _signed(weight: QuantizedWeight) -> tuple[Tensor, Tensor]:
    """Codes and zero points as int8, both moved down by half the levels."""
    half = weight.grid.levels // 2
    codes, zero = (part.short() - half for part in (weight.codes, weight.grid.zero))
    return codes.to(torch.int8), zero.to(torch.int8)


def _check_logits(network: nn.Module, deployed: Callable[[Tensor], Tensor], image: Image) -> None:
    """Raise a ValueError unless both give the same logits for 8 images of noise."""
    images = torch.randn(8, *image, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network(images)
        difference = (deployed(images) - expected).abs().max().item()
    allowed = TOLERANCE * expected.abs().max().item()
    if not difference <= allowed:
        raise ValueError(
            f"The exported logits must be within {allowed:.2g} of the network's, got a difference"
            f" of {difference:.2g}. Does {type(network).__name__} draw random numbers in"
            " evaluation? Take `--format state_dict` then."
        )


def read(path: Path) -> tuple[dict[str, Tensor], QuantizedNetwork | None]:
    """A network's state, and its codes unless it is at full precision.

    Raises:
        ValueError: the file is damaged, or the training had diverged.
    """
    state = load_weights(path)
    quantized = None if path.stem == FULL else load_quantized(path)
    unpacked = quantized is not None and not quantized.weights
    if unpacked or any(tensor.isnan().any() for tensor in state.values()):
        raise ValueError(
            f"{path} must hold a trained network, got one that diverged, whose weights are stored"
            " unpacked. Run train.py with its options and `--fleet.retrain_failed true`."
        )
    return state, quantized


def choose_output(run_dir: Path, output: Path | None, name: str) -> Path:
    """Where to write: RUN/export/`name` if nothing else is asked.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a folder, or a place among the run's own files.
    """
    if output is None:
        return run_dir / "export" / name
    if not output.parent.is_dir():
        raise FileNotFoundError(f"No folder {output.parent} for `--output`. Create it first.")
    if output.is_dir() or (run_dir / "models").resolve() in output.resolve().parents:
        raise ValueError(
            f"`--output` must be a file apart from the run's own models, got {output}. Leave it out"
            f" for {run_dir / 'export' / name}."
        )
    return output


def build(experiment: dict[str, Any], state: dict[str, Tensor]) -> tuple[nn.Module, Image]:
    """The network of an experiment, with these weights, and the images that it takes.

    Raises:
        ValueError: it is not said how large images are, or the network was changed since.
    """
    from lightning_modules.networks import build_network

    if (sizes := experiment.get("input")) is None:
        raise ValueError(
            "experiment.yaml must say what the network takes, and was written before train.py did."
            " Add a line, with your data's numbers, such as `input: {num_classes: 10, channels: 1,"
            " height: 8, width: 8}`, or take `--format state_dict`."
        )
    name, args = (experiment["config"]["model"][key] for key in ("network", "network_args"))
    network = build_network(name, sizes["num_classes"], sizes["channels"], args or {})
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"`{name}` must be the network that was trained, got another one ({error}). Undo what"
            " changed in it, or take `--format state_dict`."
        ) from error
    return network, (sizes["channels"], sizes["height"], sizes["width"])


def export(run_dir: Path, model: str, variant: str, kind: str, output: Path | None) -> str:
    """Read, convert, write; returns where the file is and its size.

    Raises:
        FileNotFoundError: no such run, model, variant or folder of `output`.
        ValueError: the weights are damaged or diverged, or the format cannot hold the network.
        ModuleNotFoundError: the format needs a package that is not installed.
    """
    # In here alone: packages do not import each other, but this command wires them.
    from lightning_modules.run_folder import RunFolder, save_whole, write_whole

    if missing := [name for name in NEEDS[kind] if find_spec(name) is None]:
        raise ModuleNotFoundError(
            f"`--format {kind}` needs {', '.join(missing)}. Run `pip install -e '.[export]'`."
        )
    run = RunFolder(run_dir)
    names = {str(name): name for name in run.names()}
    if model not in names:
        raise FileNotFoundError(f"No model `{model}` in {run_dir}: it has {', '.join(names)}.")
    source = run.weights(names[model], variant)
    if not source.exists():
        known = ", ".join(sorted(path.stem for path in source.parent.glob("*.safetensors")))
        raise FileNotFoundError(
            f"No variant `{variant}` of {model} in {run_dir}: it has {known or 'none yet'}. Run"
            f" train.py with the run's options and `--quantize {variant}` to add it."
        )
    target = choose_output(run_dir, output, f"{model}-{variant}.{SUFFIX[kind]}")
    state, quantized = read(source)
    if kind == "state_dict":
        save_whole(target, state)
    elif kind == "onnx":
        content = to_onnx(*build(run.read(), state), quantized).SerializeToString()
        write_whole(target, lambda path: path.write_bytes(content))
    elif quantized is not None:
        converted = to_torchao(*build(run.read(), state), quantized)
        write_whole(target, lambda path: torch.save(converted, path))
    else:
        raise ValueError("torchao has nothing to pack in `full`. Take onnx or state_dict.")
    before = run.weights(names[model], FULL).stat().st_size
    return f"{target}: {target.stat().st_size:,} bytes, {before:,} at full precision."


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = ArgumentParser(
        prog="python -m quantization.export", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("run", type=Path, help="folder that train.py filled, as in runs/digits")
    parser.add_argument("model", help="as in target-000")
    parser.add_argument("variant", help="as in nearest-w2, or full")
    parser.add_argument("--format", choices=list(NEEDS), required=True, help="of the file")
    parser.add_argument("--output", type=Path, help="file to write (default: in RUN/export)")
    config = parser.parse_args(arguments)
    try:
        print(export(config.run, config.model, config.variant, config.format, config.output))
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"quantization.export: {error}")


if __name__ == "__main__":
    main()
