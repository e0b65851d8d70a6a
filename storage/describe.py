"""The experiment that a command asks for: its options, its data and this machine, described."""

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from torch import nn

from datamodules.images import ImageDataModule
from quantization.rounding.grid import Bits
from storage.experiment import SIZES, Experiment, is_private
from storage.own_code import fingerprint

# Options that may differ between two calls on one run folder: places of files, and hardware.
PLACES = {"root", "download"}
PATHS = {"cache", "file", "labels"}  # the same, if they are paths; a user's own data may differ
HARDWARE = {"accelerator", "strategy", "devices", "num_nodes", "benchmark"}


def describe(
    config: Namespace,
    data: ImageDataModule,
    network: nn.Module,
    queries: list[str],
    variants: Sequence[str],
    processes: int = 1,
) -> Experiment:
    """The experiment that a command asks for; `processes` train a model together."""
    options, trainer = config.data.init_args.as_dict(), config.trainer.as_dict()
    if processes > 1 and not trainer["sync_batchnorm"]:  # each normalises its share of a batch
        trainer["images_per_batchnorm"] = options["batch_size"] / processes
    kept = {
        "seed": config.seed,
        "data": {
            "class_path": f"{type(data).__module__}.{type(data).__qualname__}",
            "init_args": {
                key: str(value) if isinstance(value, Path) else value
                for key, value in options.items()
                if not _is_place(key, value)
            },
        },
        "model": config.model.as_dict(),
        "prune": config.prune.as_dict(),
        "federated": config.federated.as_dict() | {"record": [*config.federated.record]},
        "continual": _plain(config.continual.as_dict()),
        "trainer": {k: v for k, v in trainer.items() if k not in HARDWARE},
        "fleet": {"shadows": config.fleet.shadows, "targets": config.fleet.targets},
        "queries": queries,
        "calibration": config.calibration.as_dict(),
        "layer_bits": config.layer_bits,
        "mixed": config.mixed.as_dict() | {"candidates": [*config.mixed.candidates]},
        "quantize": list(dict.fromkeys(variants)),
        "quantize_snapshots": config.quantize_snapshots,
        "record_embeddings": config.record_embeddings,
        "snapshots": sorted(config.snapshots),
    }
    # Opacus solves for the noise that a wanted epsilon takes, Torch-Pruning finds the channels
    extras = {"opacus": is_private(kept), "torch-pruning": kept["prune"]["method"]}
    packages = ("torch", "lightning", "bitleak", *(name for name in extras if extras[name]))
    sizes = dict(zip(SIZES, data.pool.shape[1:], strict=False))  # a table has but its features
    return Experiment(
        config=kept,
        input={"num_classes": data.num_classes, **sizes},
        fingerprints=_fingerprint(config.layer_bits, data, network) | fingerprint(variants),
        versions={package: version(package) for package in packages}
        | {"threads": config.threads}
        | _describe_gpu(config.trainer.accelerator),
        places={
            key: str(Path(value).expanduser().resolve())
            for key, value in options.items()
            if _is_place(key, value) and key != "download" and value is not None
        },
        id=uuid.uuid4().hex[:8],
    )


def _plain(continual: dict[str, Any]) -> dict[str, Any]:
    """The options of learning in tasks; of models that do not, nothing reads any."""
    return continual if continual["tasks"] is not None else {}


def _is_place(option: str, value: object) -> bool:
    return option in PLACES or (option in PATHS and isinstance(value, Path | None))


def _describe_gpu(accelerator: str) -> dict[str, str]:
    """The GPU that trains and the libraries that compute on it; empty if a CPU trains."""
    if accelerator == "cpu" or not torch.cuda.is_available():
        return {}
    return {
        "gpu": torch.cuda.get_device_name(),
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
    }


def _fingerprint(
    layer_bits: Mapping[str, Bits], data: ImageDataModule, network: nn.Module
) -> dict[str, str]:
    shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    fingerprints = {
        "data": data.fingerprint(),
        "network": hashlib.sha256(repr(shapes).encode()).hexdigest()[:16],
    }
    if layer_bits:  # the last pattern that matches decides, so their order counts
        order = ", ".join(f"{pattern}: {bits:g}" for pattern, bits in layer_bits.items())
        fingerprints["layer_bits"] = order
    return fingerprints
