"""One folder an experiment: where each file lies, and whether the folder is the one asked for."""

import errno
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock
from jaxtyping import Bool
from safetensors import SafetensorError, safe_open
from torch import Tensor

from storage.checksums import is_sealed
from storage.experiment import Experiment, check_same
from storage.files import save_whole, write_whole
from storage.names import ModelName, fleet_names


class RunFolder:
    """The files of one experiment, by name.

    Args:
        path: the folder; its layout is in the README.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.resolve().name

    @property
    def experiment_file(self) -> Path:
        return self.path / "experiment.yaml"

    @property
    def membership_file(self) -> Path:
        return self.path / "membership.safetensors"

    def model(self, name: ModelName) -> Path:
        """The folder of one model."""
        return self.path / "models" / str(name)

    def checkpoint(self, name: ModelName) -> Path:
        """What an interrupted fit goes on from."""
        return self.model(name) / "last.ckpt"

    def progress(self, name: ModelName) -> Path:
        """How far the model is."""
        return self.model(name) / "progress.json"

    def error(self, name: ModelName) -> Path:
        """The traceback of what stopped the model, until it is tried again."""
        return self.model(name) / "error.txt"

    def lock(self, name: ModelName) -> Path:
        """Held by the process that works on the model."""
        return self.model(name) / ".lock"

    def weights(self, name: ModelName, variant: str) -> Path:
        """Weights of one variant; `full` for those that were trained."""
        return self.model(name) / f"{variant}.safetensors"

    def record(self, name: ModelName, variant: str) -> Path:
        """What the quantizer of one variant did, layer by layer."""
        return self.model(name) / f"{variant}.json"

    def read_record(self, name: ModelName, variant: str) -> dict[str, Any] | None:
        """What `record` holds, or None where there is none: `full`, and in older folders.

        Raises:
            ValueError: the file is damaged.
        """
        path = self.record(name, variant)
        if not path.exists():
            return None
        try:
            record: dict[str, Any] = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(
                f"{path} is not a whole record ({error}). Delete it, and the audit does without."
            ) from error
        return record

    def calibrated(
        self, variant: str, finished: Sequence[ModelName], members: Bool[Tensor, "models examples"]
    ) -> Bool[Tensor, "models examples"] | None:
        """Which model's quantizer looked at which of its training examples; None if at none."""
        masks, names = torch.zeros_like(members), self.names()
        for name in finished:
            used = (self.read_record(name, variant) or {}).get("calibration")
            if not used or used["source"] != "members":
                return None
            masks[names.index(name), used["indices"]] = True
        return masks

    def signals(self, name: ModelName, variant: str) -> Path:
        """Signals of one variant."""
        return self.model(name) / "signals" / f"{variant}.safetensors"

    def missing(self, name: ModelName, variants: Iterable[str]) -> list[str]:
        """Those of `variants` whose weights or signals the model still lacks."""
        return [
            variant
            for variant in variants
            if not (self.weights(name, variant).exists() and self.signals(name, variant).exists())
        ]

    def is_finished(self, name: ModelName, variants: Sequence[str]) -> bool:
        """Whether a model has all its files, and their checksums."""
        files = [
            file(name, variant) for file in (self.weights, self.signals) for variant in variants
        ]
        return all(file.exists() for file in files) and is_sealed(self.model(name), files)

    def clear(self, name: ModelName) -> None:
        """Delete what was made of weights that are gone, and will be trained from the start."""
        if self.weights(name, "full").exists() or self.checkpoint(name).exists():
            return
        folder = self.model(name)
        for path in [*folder.glob("*-w*"), *folder.glob("signals/*")]:
            path.unlink()

    def attempt(self, name: ModelName) -> int:
        """How many trainings of this model failed and were set aside."""
        count = 0
        while self._set_aside(name, count).exists():
            count += 1
        return count

    def set_aside(self, name: ModelName) -> Path:
        """Rename a failed model's folder, so that it is trained again; nothing is deleted."""
        aside = self._set_aside(name, self.attempt(name))
        self.model(name).rename(aside)
        return aside

    def _set_aside(self, name: ModelName, count: int) -> Path:
        return self.path / "models" / f"{name}.failed-{count}"

    def read(self) -> Experiment:
        """The experiment as it was last asked for.

        Raises:
            FileNotFoundError: there is no experiment in this folder.
        """
        if not self.experiment_file.exists():
            raise FileNotFoundError(
                f"No experiment in {self.path}: no {self.experiment_file.name} there. Is that the "
                "folder? Train one by "
                f"`python train.py --config recipes/digits.yaml --run_dir {self.path}`."
            )
        try:
            experiment = yaml.safe_load(self.experiment_file.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            experiment = error
        if not isinstance(experiment, dict):
            raise ValueError(
                f"{self.experiment_file} is damaged ({experiment}). Restore it from a copy, or "
                "train into a new folder with `--run_dir`."
            )
        return experiment

    def open(self, asked: Experiment, members: Bool[Tensor, "models examples"]) -> Experiment:
        """Create the folder, or go on with it if it holds the experiment that is asked for.

        Args:
            asked: `config`, every option that makes a difference to a number; `fingerprints` of
                what options only name (data, network); `versions`.
            members: the membership matrix, shadows first.

        Returns:
            The stored experiment, grown by what `asked` adds (models, precisions).

        Raises:
            ValueError: the folder holds another experiment; the message names each field, both
                values and the ways out. Nothing is changed then.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path / ".lock"):  # two slices of one fleet may start at the same time
            experiment = self.preview(asked, members)
            text = yaml.safe_dump(experiment, sort_keys=False)  # fails before anything is written
            matrix = _split(asked, members)
            # First this, then the options: a kill in between leaves rows that nobody asks for.
            save_whole(self.membership_file, matrix, {"sha256": _digest(matrix)})
            write_whole(self.experiment_file, lambda path: path.write_text(text))
        return experiment

    def preview(self, asked: Experiment, members: Bool[Tensor, "models examples"]) -> Experiment:
        """What `open` would return, and raise of the folder's content; nothing is written."""
        experiment = asked | {"id": uuid.uuid4().hex[:8]}
        if self.experiment_file.exists():
            stored = self.read()
            check_same(self.path, stored, asked)
            both = [*stored["config"]["quantize"], *asked["config"]["quantize"]]
            union = asked["config"] | {"quantize": list(dict.fromkeys(both))}
            moved = {key: asked[key] for key in ("places",) if key in asked}
            experiment = stored | {"config": union} | moved
        if self.membership_file.exists():
            _check_rows(self.membership_file, _split(asked, members))
        return experiment

    def check_writable(self) -> None:
        """Raise what creating the folder, or a file in it, would.

        Raises:
            OSError: something else has its name, or it cannot be written to.
        """
        there = next(path for path in (self.path, *self.path.resolve().parents) if path.exists())
        if not there.is_dir():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(there))
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))

    def membership(self) -> Bool[Tensor, "models examples"]:
        """Which model trained on which pool example, a row each of `names`."""
        fleet = self.read()["config"]["fleet"]
        matrix = _read_rows(self.membership_file)
        rows = matrix["shadows"][: fleet["shadows"]], matrix["targets"][: fleet["targets"]]
        if (len(rows[0]), len(rows[1])) != (fleet["shadows"], fleet["targets"]):
            raise ValueError(
                f"{self.membership_file} has {len(rows[0])} shadows and {len(rows[1])} targets, "
                f"the experiment {fleet['shadows']} and {fleet['targets']}. Run train.py again."
            )
        return torch.cat(rows)

    def names(self) -> list[ModelName]:
        """Every model of the fleet, shadows first."""
        fleet = self.read()["config"]["fleet"]
        return fleet_names(fleet["shadows"], fleet["targets"])


def _split(asked: Experiment, members: Bool[Tensor, "models examples"]) -> dict[str, Tensor]:
    shadows = asked["config"]["fleet"]["shadows"]
    return {"shadows": members[:shadows], "targets": members[shadows:]}


def _read_rows(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            rows = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            digest = (file.metadata() or {}).get("sha256")  # older folders have none
    except SafetensorError as error:
        rows, digest = {}, str(error)
    if digest not in (None, _digest(rows)):
        raise ValueError(
            f"{path} is not what was written. Delete it and run train.py again: it is drawn from "
            "the seed."
        )
    return rows


def _digest(rows: Mapping[str, Tensor]) -> str:
    content = b"".join(rows[key].contiguous().numpy().tobytes() for key in sorted(rows))
    return hashlib.sha256(content).hexdigest()


def _check_rows(path: Path, drawn: Mapping[str, Tensor]) -> None:
    """Raise if the stored membership, which models were trained by, is not what is drawn now."""
    for role, stored in _read_rows(path).items():
        shared = min(len(stored), len(drawn[role]))
        if not torch.equal(stored[:shared], drawn[role][:shared]):
            raise ValueError(
                f"{path} differs from what this seed draws for its {role}. It was changed, or "
                "another version of torch draws otherwise: use the version in experiment.yaml, or "
                "train into a new folder with `--run_dir`. Nothing was changed."
            )
