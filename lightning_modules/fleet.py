"""The models of one experiment: their names, their order, and which of them a process takes."""

import re
from importlib.util import find_spec
from typing import Literal, NamedTuple

Role = Literal["shadow", "target"]


class ModelName(NamedTuple):
    """One model of the fleet; `str()` is the name of its folder and its W&B run."""

    role: Role
    number: int

    def __str__(self) -> str:
        return f"{self.role}-{self.number:03d}"


class Fleet:
    """How many models an experiment has, and which of them this process takes.

    Args:
        shadows: models that the attacker learns from; an even number, for they come in
            complementary pairs.
        targets: models that are audited; with 0, every shadow is audited by the others.
        models: which models to train here, as in 0-7,12: shadows from 0, then targets; default all.
        retrain_failed: set models that diverged aside, and train them from another start.
        workers: how many models to train at once, each in a process of its own; needs Ray.
        gpus_per_model: share of a GPU that each of several workers takes; 0.25 packs four on one.
        address: of a Ray cluster, `auto` or host:port; by default Ray stays on this machine.
        dry_run: check everything, try some steps, print what is to be done and what it costs, and
            write nothing.

    Raises:
        ValueError: counts that cannot be, or several workers without Ray.
    """

    def __init__(
        self,
        shadows: int = 16,
        targets: int = 4,
        models: str | None = None,
        retrain_failed: bool = False,
        workers: int = 1,
        gpus_per_model: float = 0.0,
        address: str | None = None,
        dry_run: bool = False,
    ) -> None:
        if workers < 1:
            raise ValueError(f"`fleet.workers` must be 1 or more, got {workers}.")
        if not 0 <= gpus_per_model <= 1:
            raise ValueError(f"`fleet.gpus_per_model` must be 0 to 1, got {gpus_per_model}.")
        self.shadows, self.targets = shadows, targets
        self.models, self.retrain_failed = models, retrain_failed
        self.workers, self.gpus_per_model, self.address = workers, gpus_per_model, address
        self.dry_run = dry_run
        if self.by_ray and find_spec("ray") is None:
            raise ValueError(
                "`--fleet.workers` and `--fleet.address` need Ray, which is not installed: "
                "`pip install -e '.[ray]'`, or train one model after another with "
                "`--fleet.workers 1`."
            )
        if gpus_per_model and not self.by_ray:
            raise ValueError("`fleet.gpus_per_model` needs `--fleet.workers` of 2 or more.")

    @property
    def by_ray(self) -> bool:
        """Whether models are trained in processes of Ray's, not in this one."""
        return self.workers > 1 or self.address is not None


def fleet_names(shadows: int, targets: int) -> list[ModelName]:
    """Every model of a fleet in the order of the membership matrix: shadows first, then targets."""
    names = [ModelName("shadow", number) for number in range(shadows)]
    return names + [ModelName("target", number) for number in range(targets)]


def parse_slice(text: str, num_models: int) -> list[int]:
    """Positions of the models that `--fleet.models` names.

    Args:
        text: positions and inclusive ranges, as in "0-7,12"; shadows count from 0, targets follow.
        num_models: shadows and targets together.

    Returns:
        The positions in increasing order, each once.

    Raises:
        ValueError: the text does not parse, or names a model that the fleet does not have.
    """
    chosen: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None:
            raise ValueError(f"`fleet.models` takes positions like 0-7,12, got {text!r}.")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last >= num_models:
            raise ValueError(
                f"`fleet.models` must lie within 0-{num_models - 1}, got {part.strip()}. Raise "
                "`--fleet.shadows` or `--fleet.targets` for more models."
            )
        chosen.update(range(first, last + 1))
    return sorted(chosen)
