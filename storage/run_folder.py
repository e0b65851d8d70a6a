"""The folder of an experiment: the path of every file, its experiment and its membership."""

import errno
import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

import torch
import yaml
from filelock import FileLock
from jaxtyping import Bool
from safetensors import SafetensorError, safe_open
from torch import Tensor

from storage.checksums import is_sealed
from storage.command_line import quote
from storage.experiment import Experiment, read_experiment
from storage.files import as_unicode, save_whole, write_text
from storage.names import (
    CLIENTS_FILE,
    EXPERIMENT_FILE,
    MEMBERSHIP_FILE,
    ModelName,
    round_file,
)
from storage.same_experiment import check_same, grow


class RunFolder:
    """Paths of an experiment's files, and the reading and writing of those that all models share.

    Args:
        path: the folder; docs/run_folder.md describes its layout.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = as_unicode(path.resolve().name)

    @property
    def experiment_file(self) -> Path:
        return self.path / EXPERIMENT_FILE

    @property
    def membership_file(self) -> Path:
        return self.path / MEMBERSHIP_FILE

    def model(self, name: ModelName) -> Path:
        """The folder of one model."""
        return self.path / "models" / str(name)

    def set_aside(self, name: ModelName, attempt: int) -> Path:
        """Where the folder of a failed training of a model is kept."""
        return self.path / "models" / f"{name}.failed-{attempt}"

    def attempt(self, name: ModelName) -> int:
        """Number of trainings of this model that failed and were set aside."""
        count = 0
        while self.set_aside(name, count).exists():
            count += 1
        return count

    def checkpoint(self, name: ModelName) -> Path:
        """The Lightning checkpoint from which an interrupted fit goes on."""
        return self.model(name) / "last.ckpt"

    def progress(self, name: ModelName) -> Path:
        """The file that says how far a model is."""
        return self.model(name) / "progress.json"

    def error(self, name: ModelName) -> Path:
        """The traceback of the error that stopped a model, until the model is tried again."""
        return self.model(name) / "error.txt"

    def lock(self, name: ModelName) -> Path:
        """The lock held by the process that works on a model."""
        return self.model(name) / ".lock"

    def weights(self, name: ModelName, variant: str) -> Path:
        """The weights of one variant."""
        return self.model(name) / f"{variant}.safetensors"

    def record(self, name: ModelName, variant: str) -> Path:
        """The quantizer's record of one variant, layer by layer; of `full`, that of DP-SGD."""
        return self.model(name) / f"{variant}.json"

    def signals(self, name: ModelName, variant: str) -> Path:
        """The signals of one variant."""
        return self.model(name) / "signals" / f"{variant}.safetensors"

    def embeddings(self, name: ModelName, variant: str) -> Path:
        """The embeddings of one variant, where they were asked for."""
        return self.model(name) / "embeddings" / f"{variant}.safetensors"

    def clients(self, name: ModelName) -> Path:
        """Which client holds each example, of a model that is trained over clients."""
        return self.model(name) / CLIENTS_FILE

    def round(self, name: ModelName, number: int) -> Path:
        """What is recorded of one round, counted from 1, of such a model."""
        return self.model(name) / round_file(number)

    def missing(
        self,
        name: ModelName,
        variants: Iterable[str],
        embedded: Collection[ModelName] = (),
        rounds: Collection[int] = (),
    ) -> list[str]:
        """Variants of which a model still lacks a file, and other files that it lacks.

        Args:
            name: the model.
            variants: variants that it must have.
            embedded: models whose embeddings are recorded.
            rounds: rounds that are recorded, of a model that is trained over clients.
        """
        kinds = self._kinds(name, embedded)
        lacking = [v for v in variants if not all(file(name, v).exists() for file in kinds)]
        others = (path for path in self._of_rounds(name, rounds) if not path.exists())
        return lacking + [path.relative_to(self.model(name)).as_posix() for path in others]

    def is_finished(
        self,
        name: ModelName,
        variants: Sequence[str],
        embedded: Collection[ModelName] = (),
        rounds: Collection[int] = (),
    ) -> bool:
        """Whether a model has all its files and their checksums."""
        files = [file(name, v) for file in self._kinds(name, embedded) for v in variants]
        files += self._of_rounds(name, rounds)
        return all(file.exists() for file in files) and is_sealed(self.model(name), files)

    def _of_rounds(self, name: ModelName, rounds: Collection[int]) -> list[Path]:
        """The files that only models trained over clients have."""
        return [self.clients(name), *(self.round(name, n) for n in rounds)] if rounds else []

    def _kinds(
        self, name: ModelName, embedded: Collection[ModelName]
    ) -> list[Callable[[ModelName, str], Path]]:
        """The files of each variant."""
        return [self.weights, self.signals, *([self.embeddings] if name in embedded else [])]

    def read(self) -> Experiment:
        """The experiment as it was last asked for.

        Raises:
            FileNotFoundError: there is no experiment in this folder.
            ValueError: its file is damaged, or another version of BitLeak wrote it.
        """
        if not self.experiment_file.exists():
            raise FileNotFoundError(
                f"No experiment in {self.path}: no {EXPERIMENT_FILE} there. Is that the "
                "folder? Train one by "
                f"`python train.py --config recipes/digits.yaml --run_dir {quote(self.path)}`."
            )
        return read_experiment(self.experiment_file)

    def open(self, asked: Experiment, members: Bool[Tensor, "models examples"]) -> Experiment:
        """Create the folder, or open it if it holds the experiment that is asked for.

        Args:
            asked: the experiment.
            members: the membership matrix, shadows first.

        Returns:
            The stored experiment, grown by what `asked` adds (models, variants).

        Raises:
            ValueError: the folder holds another experiment; the message names each field, both
                values and the ways out. Nothing is changed.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path / ".lock"):  # two slices of one fleet may start at the same time
            experiment = self.preview(asked, members)
            text = yaml.safe_dump(
                experiment.as_dict(), sort_keys=False
            )  # fails before anything is written
            matrix = _split(asked, members)
            # The matrix first: a kill between the two writes leaves rows that nobody reads.
            save_whole(self.membership_file, matrix, {"sha256": _digest(matrix)})
            write_text(self.experiment_file, text)
        return experiment

    def preview(self, asked: Experiment, members: Bool[Tensor, "models examples"]) -> Experiment:
        """Return and raise what `open` would, but write nothing."""
        experiment = asked
        if self.experiment_file.exists():
            stored = self.read()
            check_same(self.path, stored, asked)
            experiment = grow(stored, asked)
        if self.membership_file.exists():
            _check_rows(self.membership_file, _split(asked, members))
        return experiment

    def check_writable(self) -> None:
        """Raise the error that creating the folder, or a file in it, would raise.

        Raises:
            OSError: a file has the folder's name, or the folder cannot be written to.
        """
        nearest = next(path for path in (self.path, *self.path.resolve().parents) if path.exists())
        if not nearest.is_dir():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(nearest))
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(nearest))

    def membership(self) -> dict[ModelName, Bool[Tensor, " examples"]]:
        """Which pool examples each model trained on; models in the order of the fleet.

        Raises:
            ValueError: the file is damaged, or does not hold the models of the experiment.
        """
        experiment, matrix = self.read(), _read_rows(self.membership_file)
        shadows = matrix["shadows"][: experiment.shadows]
        targets = matrix["targets"][: experiment.targets]
        if (len(shadows), len(targets)) != (experiment.shadows, experiment.targets):
            raise ValueError(
                f"{self.membership_file} has {len(shadows)} shadows and {len(targets)} targets, "
                f"the experiment {experiment.shadows} and {experiment.targets}. Run train.py again."
            )
        return dict(zip(experiment.names, torch.cat([shadows, targets]), strict=True))


def _split(asked: Experiment, members: Bool[Tensor, "models examples"]) -> dict[str, Tensor]:
    return {"shadows": members[: asked.shadows], "targets": members[asked.shadows :]}


def _read_rows(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            rows = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            digest = (file.metadata() or {}).get("sha256")
    except SafetensorError as error:
        rows, digest = {}, str(error)
    if digest != _digest(rows):
        raise ValueError(
            f"{path} is not what was written. Delete it and run train.py again: it is drawn from "
            "the seed."
        )
    return rows


def _digest(rows: Mapping[str, Tensor]) -> str:
    content = b"".join(rows[key].contiguous().numpy().tobytes() for key in sorted(rows))
    return hashlib.sha256(content).hexdigest()


def _check_rows(path: Path, drawn: Mapping[str, Tensor]) -> None:
    """Raise if the stored membership, on which models were trained, is not what is drawn now."""
    for role, stored in _read_rows(path).items():
        shared = min(len(stored), len(drawn[role]))
        if not torch.equal(stored[:shared], drawn[role][:shared]):
            raise ValueError(
                f"{path} differs from what this seed draws for its {role}. The file was changed, "
                "or this version of torch draws other numbers: use the version in experiment.yaml, "
                "or train into a new folder with `--run_dir`. Nothing was changed."
            )
