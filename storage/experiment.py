"""What an experiment is, and whether two of them are the same one."""

import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from torch import nn

from datamodules.images import ImageDataModule

Experiment = dict[str, Any]

# What may be raised: it adds models and leaves the others as they are.
GROWING = ("fleet.shadows", "fleet.targets")
# What may differ between two calls on one run folder: where things are, and what they run on.
PLACES = {"root", "download"}
HARDWARE = {"accelerator", "strategy", "devices", "num_nodes", "benchmark"}


def describe(
    config: Namespace,
    data: ImageDataModule,
    network: nn.Module,
    queries: list[str],
    variants: Sequence[str],
) -> Experiment:
    """Every option that makes a difference to a number; a run folder belongs to one of these."""
    options = config.data.init_args.as_dict()
    kept = {
        "seed": config.seed,
        "data": {
            "class_path": f"{type(data).__module__}.{type(data).__qualname__}",
            "init_args": {
                key: str(value) if isinstance(value, Path) else value
                for key, value in options.items()
                if key not in PLACES
            },
        },
        "model": config.model.as_dict(),
        "trainer": {k: v for k, v in config.trainer.as_dict().items() if k not in HARDWARE},
        "fleet": {"shadows": config.fleet.shadows, "targets": config.fleet.targets},
        "queries": queries,
        "calibration": config.calibration.as_dict(),
        "layer_bits": config.layer_bits,
        "quantize": list(dict.fromkeys(variants)),
    }
    versions: dict[str, str | int] = {
        package: version(package) for package in ("torch", "lightning", "bitleak")
    }
    versions["threads"] = config.threads
    shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    fingerprints = {
        "data": data.fingerprint(),
        "network": hashlib.sha256(repr(shapes).encode()).hexdigest()[:16],
    }
    if config.layer_bits:  # where two patterns match the later one holds, so their order counts
        order = ", ".join(f"{pattern}: {bits:g}" for pattern, bits in config.layer_bits.items())
        fingerprints["layer_bits"] = order
    _, channels, height, width = data.pool.images.shape
    sizes = {"num_classes": data.num_classes}
    sizes |= {"channels": channels, "height": height, "width": width}
    places = {key: str(Path(value).resolve()) for key, value in options.items() if key == "root"}
    return {
        "config": kept,
        "input": sizes,
        "fingerprints": fingerprints,
        "versions": versions,
        "places": places,
    }


def _flatten(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _compared(experiment: Experiment) -> dict[str, Any]:
    """What makes two experiments the same one: not the precisions, whose files just add up."""
    config = {key: value for key, value in experiment["config"].items() if key != "quantize"}
    facts = {f"{key}'s fingerprint": value for key, value in experiment["fingerprints"].items()}
    return _flatten(config) | facts


def differing(experiments: Mapping[str, Experiment]) -> dict[str, list[str]]:
    """What is not the same in all experiments: values by option, in the order of the experiments.

    Precisions do not count, nor the folder's id; "-" is an option that an experiment does not
    record, "unknown" any of one that was trained elsewhere, whose `Experiment` is empty.
    """
    asked = [
        _compared(some) | _flatten({"versions": some["versions"]}) if some else None
        for some in experiments.values()
    ]
    known = [options for options in asked if options is not None]
    found = {}
    for key in dict.fromkeys(key for options in known for key in options):
        values = {repr(options.get(key)) for options in known}
        if len(values) > 1 or len(known) < len(asked):
            found[key] = [
                "unknown" if options is None else _show(options, key) for options in asked
            ]
    return found


def _show(options: Mapping[str, Any], key: str) -> str:
    value = options.get(key, "-")
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def check_same(path: Path, stored: Experiment, asked: Experiment) -> None:
    """Raise if `asked` is not the stored experiment, or one that it can grow into.

    Raises:
        ValueError: naming each field that differs, both values and the ways out.
    """
    before, after = _compared(stored), _compared(asked)
    differences = [
        f"  {field}: {before.get(field)!r} in the folder, {after.get(field)!r} asked"
        for field in dict.fromkeys([*before, *after])
        if before.get(field) != after.get(field)
        and not (field in GROWING and after[field] > before[field])
        and not (field not in before and after[field] is False)  # an option newer than the folder
    ]
    if differences:
        raise ValueError(
            f"{path} holds another experiment:\n" + "\n".join(differences) + "\n"
            "Ask for what is in the folder, or train into a new one with `--run_dir`. Shadows and "
            "targets can be raised, not lowered. Nothing was changed."
        )
