"""Names of models, files and modes; importing them does not import torch."""

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

Role = Literal["shadow", "target"]
WandbMode = Literal["disabled", "offline", "online"]

EXPERIMENT_FILE = "experiment.yaml"
MEMBERSHIP_FILE = "membership.safetensors"
CLIENTS_FILE = "clients.safetensors"  # of a federation: who holds which example


_BITS = re.compile(r"-(?=(?:w|mix|aiq)\d)")
_SNAPSHOT = re.compile(r"(?:epoch|round|task)-\d+")
_OF_SNAPSHOT = re.compile(rf"({_SNAPSHOT.pattern})-(?=[\w.]+-)(.+)")


class ModelName(NamedTuple):
    """One model of a fleet; `str()` gives the name of its folder and of its W&B run."""

    role: Role
    number: int

    def __str__(self) -> str:
        return f"{self.role}-{self.number:03d}"


def snapshot_name(epoch: int, federated: bool = False) -> str:
    """Name of the variant at the end of an epoch, counted from 1: `epoch-05`, or `round-05`."""
    return f"{'round' if federated else 'epoch'}-{epoch:02d}"


def task_name(number: int) -> str:
    """Name of the variant at the end of a task's stage, counted from 1."""
    return f"task-{number}"


def task_number(variant: str) -> int:
    """Number of the task that `task_name` was given."""
    return int(variant.removeprefix("task-"))


def round_file(number: int) -> str:
    """Path of what is recorded of a federation's round, in its model's folder."""
    return f"rounds/{number:02d}.safetensors"


def task_file(number: int) -> str:
    """Path of what is recorded at the end of a task's stage, in its model's folder."""
    return f"tasks/{number:02d}.safetensors"


def is_snapshot(variant: str) -> bool:
    """Whether a variant is a state on the way to the end of training."""
    return _SNAPSHOT.fullmatch(variant) is not None


class OfSnapshot(NamedTuple):
    """The parts of a quantized snapshot's name: `task-2` and `nearest-w4` of `task-2-nearest-w4`.

    No quantizer's name has a hyphen, so no variant at the end of training is read as one.
    """

    snapshot: str
    quantized: str

    def __str__(self) -> str:
        return f"{self.snapshot}-{self.quantized}"


def of_snapshot(variant: str) -> OfSnapshot | None:
    """The parts of a quantized snapshot's name; None for every other name."""
    match = _OF_SNAPSHOT.fullmatch(variant)
    return OfSnapshot(match[1], match[2]) if match else None


class Parts(NamedTuple):
    """The parts of a variant's name: `obc`, `w2` and `last8` of `obc-w2-last8`."""

    method: str
    bits: str
    settings: str


def split_variant(variant: str) -> Parts:
    """Split the name of a variant; one without bits is a method alone.

    By the name only: models that were trained elsewhere have variants of any name.
    """
    method, *rest = _BITS.split(variant, maxsplit=1)
    bits, _, settings = "".join(rest).partition("-")
    return Parts(method, bits, settings)


def in_order(variants: Iterable[str]) -> list[str]:
    """The snapshots among some variants, in the order of training."""
    return sorted(filter(is_snapshot, variants), key=lambda name: int(name.rpartition("-")[2]))


def fleet_names(shadows: int, targets: int) -> list[ModelName]:
    """All models of a fleet in the order of the membership matrix: shadows, then targets."""
    names = [ModelName("shadow", number) for number in range(shadows)]
    return names + [ModelName("target", number) for number in range(targets)]


def parse_slice(text: str, num_models: int) -> list[int]:
    """Positions of the models that `--fleet.models` names.

    Args:
        text: positions and inclusive ranges such as "0-7,12"; shadows count from 0, targets follow.
        num_models: number of shadows and targets together.

    Returns:
        The positions in increasing order, without repeats.

    Raises:
        ValueError: the text is no list of positions, or names a model that the fleet lacks.
    """
    chosen: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None:
            raise ValueError(f"`fleet.models` takes positions like 0-7,12, got {text!r}.")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(
                f"`fleet.models` takes the smaller position first, got {part.strip()}. Pass "
                f"{last}-{first}."
            )
        if last >= num_models:
            raise ValueError(
                f"`fleet.models` must lie within 0-{num_models - 1}, got {part.strip()}. Raise "
                "`--fleet.shadows` or `--fleet.targets` for more models."
            )
        chosen.update(range(first, last + 1))
    return sorted(chosen)
