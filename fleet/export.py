"""Write one model of a run folder for deployment; the audited network is the one that runs.

onnx holds packed INT2, INT4 or INT8 weights behind DequantizeLinear, and with quantized activations
a graph for integer kernels; torchao holds one byte per weight in a state dict of its tensors;
state_dict holds float32 safetensors for any code that has the network.
"""

from pathlib import Path

from storage.command_line import (
    CommandLine,
    answer_help,
    make_command_line,
    quote,
    show_every_character,
)

NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torchao": ("torchao",), "state_dict": ()}
SUFFIX = {"onnx": "onnx", "torchao": "pt", "state_dict": "safetensors"}


def make_parser() -> CommandLine:
    """All options of the command."""
    parser = make_command_line("python -m fleet.export", __doc__)
    parser.add_argument(
        "run", type=Path, help="run folder that train.py filled, such as runs/digits"
    )
    parser.add_argument("model", help="such as target-000")
    parser.add_argument("variant", help="such as nearest-w2, or full")
    parser.add_argument("--format", choices=list(NEEDS), required=True, help="format of the file")
    parser.add_argument("--output", type=Path, help="file to write (default: in RUN/export)")
    return parser


answer_help(make_parser, "export.py", "bitleak-export")  # before imports that take seconds

import sys
from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from attacks.game import FULL
from lightning_modules.networks import build_network
from pruning.cut import load
from quantization.deploy import Image, to_onnx, to_torchao
from quantization.quantized_network import QuantizedNetwork
from storage.experiment import Experiment
from storage.files import save_whole, write_whole
from storage.names import is_snapshot, of_snapshot
from storage.run_folder import RunFolder
from storage.weights import load_quantized, load_weights


def read(path: Path) -> tuple[dict[str, Tensor], QuantizedNetwork | None]:
    """Read a network's state, and its codes if it has any.

    It has none in `full`, a snapshot and a control, and from a quantizer of whole networks.

    Raises:
        ValueError: the file is damaged, or the training diverged.
    """
    state = load_weights(path)
    unquantized = path.stem == FULL or is_snapshot(path.stem)
    quantized = None if unquantized else load_quantized(path)
    if quantized is not None and not quantized.variant.has_codes:
        quantized = None
    unpacked = quantized is not None and not quantized.weights
    if unpacked or any(tensor.isnan().any() for tensor in state.values()):
        raise ValueError(
            f"{path} must hold a trained network, got one that diverged, whose weights are stored"
            " unpacked. Run train.py with its options and `--fleet.retrain_failed true`."
        )
    return state, quantized


def choose_output(run_dir: Path, output: Path | None, name: str) -> Path:
    """The file to write: `output` if it is given, otherwise RUN/export/`name`.

    Raises:
        FileNotFoundError: the folder of `output` does not exist.
        ValueError: `output` is a folder, or lies among the run's own models.
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


def build(experiment: Experiment, state: dict[str, Tensor]) -> tuple[nn.Module, Image]:
    """Build the network of an experiment with these weights; also return the shape of its images.

    Raises:
        ValueError: the network has changed since it was trained.
    """
    sizes, model = experiment.input, experiment.config["model"]
    name, args = model["network"], model["network_args"]
    image = experiment.shape
    network = build_network(name, sizes["num_classes"], sizes["channels"], args or {}, image)
    try:
        load(network, state)  # which pruning may have narrowed
    except RuntimeError as error:
        raise ValueError(
            f"`{name}` must be the network that was trained, got another one ({error}). Undo the"
            " change, or pass `--format state_dict`."
        ) from error
    return network, image


def export(run_dir: Path, model: str, variant: str, kind: str, output: Path | None) -> str:
    """Read a model, convert it and write the file; returns a line with its path and size.

    Raises:
        FileNotFoundError: there is no such run, model, variant or folder of `output`.
        ValueError: the weights are damaged or diverged, or the format cannot hold the network.
        ModuleNotFoundError: the format needs a package that is not installed.
    """
    if missing := [name for name in NEEDS[kind] if find_spec(name) is None]:
        raise ModuleNotFoundError(
            f"`--format {kind}` needs {', '.join(missing)}. Run `pip install -e '.[export]'`."
        )
    run = RunFolder(run_dir)
    experiment = run.read()
    names = {str(name): name for name in experiment.names}
    if model not in names:
        raise FileNotFoundError(f"No model `{model}` in {run_dir}: it has {', '.join(names)}.")
    source = run.weights(names[model], variant)
    if not source.exists():
        known = ", ".join(sorted(path.stem for path in source.parent.glob("*.safetensors")))
        parts = of_snapshot(variant)
        added = parts.quantized if parts else variant
        more = " --quantize_snapshots true" if parts else ""
        raise FileNotFoundError(
            f"No variant `{variant}` of {model} in {run_dir}: it has {known or 'none yet'}. Run"
            f" train.py with the run's options and `--quantize {quote(added)}{more}` to add it."
        )
    target = choose_output(run_dir, output, f"{model}-{variant}.{SUFFIX[kind]}")
    state, quantized = read(source)
    if quantized is not None and quantized.activations and kind != "onnx":
        raise ValueError(
            f"`{variant}` quantizes activations, and {kind} holds weights alone, which give other"
            " logits than those that were audited. Pass `--format onnx`."
        )
    if kind == "state_dict":
        save_whole(target, state)
    elif kind == "onnx":
        content = to_onnx(*build(experiment, state), quantized).SerializeToString()
        write_whole(target, lambda path: path.write_bytes(content))
    elif quantized is not None:
        converted = to_torchao(*build(experiment, state), quantized)
        write_whole(target, lambda path: torch.save(converted, path))
    else:
        raise ValueError(f"torchao has nothing to pack in `{variant}`. Pass onnx or state_dict.")
    before = run.weights(names[model], FULL).stat().st_size
    return f"{target}: {target.stat().st_size:,} bytes, {before:,} at full precision."


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    show_every_character()
    config = make_parser().read(arguments)
    try:
        print(export(config.run, config.model, config.variant, config.format, config.output))
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"fleet.export: {error}")


if __name__ == "__main__":
    main()
