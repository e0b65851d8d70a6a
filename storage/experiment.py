"""An experiment: every option that changes a number, as its file has it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from attacks.game import FULL
from storage.names import (
    CLIENTS_FILE,
    ModelName,
    OfSnapshot,
    fleet_names,
    round_file,
    snapshot_name,
    task_file,
    task_name,
)

FORMAT = 1  # of experiment.yaml and of the folder that it describes
# Options without which a folder cannot be read.
REQUIRED = ("fleet", "queries", "quantize")
SIZES = "channels", "height", "width"


class Experiment(NamedTuple):
    """Every option that changes a number, and fingerprints of the data and network they name.

    Attributes:
        config: the options, nested as on the command line.
        input: sizes of the network's input and output: `num_classes`, `channels`, `height`,
            `width`; `channels` alone for a table's features.
        fingerprints: hashes of the data, of the network's shapes and of own quantizers' source, and
            the order of `layer_bits`.
        versions: versions of the packages, the number of threads, and the GPU if one trains.
        places: where the data lies on this machine.
        id: drawn once per folder; W&B runs are named by it.
    """

    config: dict[str, Any]
    input: dict[str, int]
    fingerprints: dict[str, str]
    versions: dict[str, str | int]
    places: dict[str, str]
    id: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return tuple(self.input[size] for size in SIZES if size in self.input)

    @property
    def variants(self) -> list[str]:
        """Names of all variants: `full`, the snapshots, and what quantization makes of each."""
        early = [v for s in self.snapshots for v in (s, *self.quantized_by_snapshot.get(s, ()))]
        return [FULL, *early, *self.quantized]

    @property
    def quantized(self) -> list[str]:
        """Names of the quantized variants at the end of training."""
        quantized: list[str] = self.config["quantize"]
        return quantized

    @property
    def quantized_by_snapshot(self) -> dict[str, list[str]]:
        """Names of each snapshot's quantized variants; empty if only the end is quantized."""
        if not self.config.get("quantize_snapshots", False):
            return {}
        return {s: [str(OfSnapshot(s, name)) for name in self.quantized] for s in self.snapshots}

    @property
    def quantized_snapshots(self) -> list[str]:
        """Names of all quantized snapshots, in the order of training."""
        return [name for names in self.quantized_by_snapshot.values() for name in names]

    @property
    def whole(self) -> list[str]:
        """Variants whose outputs for all classes are recorded: quantized learners of tasks."""
        return [*self.quantized, *self.quantized_snapshots] if self.continual else []

    @property
    def snapshots(self) -> dict[str, int]:
        """Epoch of each snapshot by the variant's name, in the order of training."""
        if self.continual:
            return {task_name(n): end for n, end in enumerate(self.stage_ends[:-1], 1)}
        federated, epochs = self.federated, self.config.get("snapshots", [])
        return {snapshot_name(epoch, federated): epoch for epoch in epochs}

    @property
    def compared(self) -> list[str]:
        """Variants that are compared with one another; not those that lack some of the tasks."""
        early = {*self.snapshots, *self.quantized_snapshots} if self.continual else set()
        return [variant for variant in self.variants if variant not in early]

    @property
    def shadows(self) -> int:
        """Number of shadow models."""
        return int(self.config["fleet"]["shadows"])

    @property
    def targets(self) -> int:
        """Number of targets; with 0, every shadow is audited by the others."""
        return int(self.config["fleet"]["targets"])

    @property
    def names(self) -> list[ModelName]:
        """Every model of the fleet, shadows first."""
        return fleet_names(self.shadows, self.targets)

    @property
    def audited(self) -> list[ModelName]:
        """The targets; without any, every shadow is audited by the others."""
        return self.names[self.shadows if self.targets else 0 :]

    @property
    def queries(self) -> list[str]:
        """Views of an example that the attacker asks for."""
        queries: list[str] = self.config["queries"]
        return queries

    @property
    def private(self) -> bool:
        """Whether its models are trained by DP-SGD."""
        return is_private(self.config)

    @property
    def pruned(self) -> bool:
        """Whether channels of its models are removed in training."""
        return self.config.get("prune", {}).get("method") is not None

    @property
    def federated(self) -> bool:
        """Whether its models are trained over clients."""
        return self.config.get("federated", {}).get("clients") is not None

    @property
    def clients(self) -> int | None:
        """Number of clients of each model; None of models that have none."""
        clients: int | None = self.config.get("federated", {}).get("clients")
        return clients

    @property
    def rounds(self) -> list[int]:
        """Rounds whose uploads are recorded, in order; none of models that have no clients."""
        rounds: list[int] = self.config.get("federated", {}).get("record", [])
        return rounds

    @property
    def attribute(self) -> int | None:
        """Column of a table whose values are tried in recorded rounds; None for none."""
        column: int | None = self.config.get("federated", {}).get("attribute")
        return column

    @property
    def continual(self) -> bool:
        """Whether its models learn in tasks."""
        return bool(self.stage_ends)

    @property
    def stage_ends(self) -> list[int]:
        """Epochs done at the end of each task's stage; none of models that learn no tasks."""
        ends: list[int] = self.config.get("continual", {}).get("ends", [])
        return ends

    @property
    def recorded(self) -> dict[str, int]:
        """What is recorded of a model's training: file in its folder -> epoch that it belongs to.

        Epoch 0 marks what is drawn before training, and can be drawn again.
        """
        rounds = {round_file(number): number for number in self.rounds}
        tasks = {task_file(number): end for number, end in enumerate(self.stage_ends, 1)}
        return ({CLIENTS_FILE: 0} if rounds else {}) | rounds | tasks

    @property
    def adversary(self) -> str | None:
        """Who acts maliciously in federated training; None if everybody is honest."""
        adversary: str | None = self.config.get("federated", {}).get("adversary")
        return adversary

    @property
    def embedded(self) -> list[ModelName]:
        """Models whose embeddings are recorded: those that are audited, if it was asked for."""
        return self.audited if self.config.get("record_embeddings", False) else []

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as stored in experiment.yaml and results.json."""
        return {"format": FORMAT, **self._asdict()}


def read_experiment(path: Path) -> Experiment:
    """Read experiment.yaml.

    Raises:
        ValueError: the file is damaged, or another version of BitLeak wrote it.
    """
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        stored = error
    if not isinstance(stored, dict):
        raise ValueError(
            f"{path} is damaged ({stored}). Restore it from a copy, or train into a new folder "
            "with `--run_dir`."
        )
    check_format(path, stored.pop("format", 0), FORMAT, "Train into a new folder")
    missing = [field for field in Experiment._fields if field not in stored]
    config = stored.get("config")
    missing += [key for key in REQUIRED if not isinstance(config, dict) or key not in config]
    if missing:
        raise ValueError(
            f"{path} is damaged: it lacks {', '.join(missing)}. Restore it from a copy, or train "
            "into a new folder with `--run_dir`."
        )
    return Experiment(**{field: stored[field] for field in Experiment._fields})


def check_format(path: Path, given: object, expected: int, way_out: str) -> None:
    """Raise ValueError unless a file has the format that this version reads."""
    if given != expected:
        raise ValueError(
            f"{path} was written by another version of BitLeak (format {given or 'none'}, this "
            f"version reads {expected}). {way_out}, or use the version that wrote it."
        )


def is_private(config: Mapping[str, Any]) -> bool:
    """Whether options ask for training by DP-SGD."""
    options = config["model"].get("dp", {})
    return any(options.get(key) is not None for key in ("noise", "epsilon"))
