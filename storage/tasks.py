"""Read the files of learning in tasks into `Tasks`, one stage at a time."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from attacks.game import FULL
from attacks.tasks import FORMS, Form, Stage, Tasks, Worlds, task_of
from datamodules.tasks import split_classes
from storage.checksums import check_unchanged
from storage.experiment import Experiment
from storage.names import ModelName
from storage.records import read_record
from storage.run_folder import RunFolder
from storage.variant_outputs import SIDES, SavedOutputs, SavedWorlds, recorded_outputs

WAY_OUT = "Run train.py again with `--repair`."
LEVERAGES: dict[Form, str] = {
    "float64": "leverage", "float16": "leverage_float16", "int8": "leverage_int8",
}  # fmt: skip
WORLDS = "world_outputs", "world_leverage", "world_members", "world_seconds"
SOLVED, FISHER_SOLVED = "solved", "fisher_solved"
AUDITED = {*WORLDS, SOLVED, FISHER_SOLVED}  # known of audited models alone
NO_LABELS = (
    "Tasks were not attacked one by one, because the images that say which example is of which "
    "task are gone. Put them back in their place, and audit again."
)


class SavedStages:
    """The stages of a fleet, each read from one file per model whenever it is asked for.

    Args:
        run: the experiment's folder.
        used: models that are audited or attack; the rows of the others hold NaN.
        audited: models that are audited.
        shape: number of examples, of classes and of tasks.
    """

    def __init__(
        self,
        run: RunFolder,
        used: Collection[ModelName],
        audited: Collection[ModelName],
        shape: tuple[int, int, int],
    ) -> None:
        self.run, self.used, self.audited, self.shape = run, used, audited, shape
        self.names = run.read().names

    def __len__(self) -> int:
        return self.shape[2]

    def __getitem__(self, index: int, /) -> Stage:
        """Read one stage, counted from 0.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is damaged, lacks what others have, or has other shapes or numbers
                that are not finite.
        """
        files = {name: self.run.task(name, index + 1) for name in self.names if name in self.used}
        contents = {name: _load(path) for name, path in files.items()}
        first = next(iter(contents.values()), {})
        expected = {key for key in first if key not in AUDITED} | {"outputs", "accuracy"}
        own = {key for name in self.audited for key in contents[name] if key in AUDITED}
        worlds = own & {*WORLDS}
        for name, content in contents.items():
            needed = expected | (own if name in self.audited else set())
            _check(files[name], content, needed, self.shape)
        stacked = {key: self._stack(contents, key) for key in expected}
        audited = {name: contents[name] for name in self.audited}
        exemplars = stacked.get("exemplars")
        return Stage(
            outputs=stacked["outputs"],
            accuracy=stacked["accuracy"],
            leverage={
                form: stacked[LEVERAGES[form]] for form in FORMS if LEVERAGES[form] in stacked
            },
            outside=stacked.get("outside"),
            worlds={
                self.names.index(name): _make_worlds(contents[name])
                for name in (self.audited if worlds else ())
            },
            solved=self._stack(audited, SOLVED) if SOLVED in own else None,
            fisher_excess=stacked.get("fisher_excess"),
            fisher_solved=self._stack(audited, FISHER_SOLVED) if FISHER_SOLVED in own else None,
            subnetwork_share=stacked.get("subnetwork_share"),
            exemplars=None if exemplars is None else exemplars.nan_to_num(0).bool(),
        )

    def _stack(self, contents: Mapping[ModelName, Mapping[str, Tensor]], key: str) -> Tensor:
        """One tensor of all models, NaN in the rows of those that are not used."""
        shape = next(content[key].shape for content in contents.values())
        stacked = torch.full((len(self.names), *shape), torch.nan)
        for name, content in contents.items():
            stacked[self.names.index(name)] = content[key]
        return stacked


def read_tasks(
    run: RunFolder,
    used: Sequence[ModelName],
    audited: Sequence[ModelName],
    labels: Int64[Tensor, " examples"],
) -> Tasks | None:
    """What was recorded of some models; None if they do not learn in tasks.

    Files are compared with their checksums at once, and read stage by stage.

    Args:
        run: the experiment's folder.
        used: models that are audited or attack.
        audited: models that are audited.
        labels: class of each example of the pool.

    Raises:
        ValueError: a file is not what was written, or a class is in no task.
    """
    experiment = run.read()
    if not experiment.continual:
        return None
    classes = classes_of(experiment)
    if (task_of(labels, classes) < 0).any():
        unseen = sorted(set(labels[task_of(labels, classes) < 0].tolist()))
        raise ValueError(
            f"Every class of the pool must be in a task, got {', '.join(map(str, unseen))}, which "
            f"is in none of the {len(classes)} tasks of {run.experiment_file}. Restore that file."
        )
    for name in used:
        files = [run.task(name, number) for number in range(1, len(classes) + 1)]
        check_unchanged(run.model(name), files)
    shape = len(labels), experiment.input["num_classes"], len(classes)
    stages = SavedStages(run, used, audited, shape)
    variants = recorded_outputs(run, used, experiment.whole)
    rounded = recorded_outputs(run, audited, experiment.quantized, SIDES[0])
    outputs, worlds = SavedOutputs(run, used, variants), SavedWorlds(run, audited, rounded)
    return Tasks(classes, labels, stages, outputs, worlds)


def classes_of(experiment: Experiment) -> list[list[int]]:
    """The classes of each task, in the order of training."""
    options = experiment.config["continual"]
    return split_classes(
        experiment.input["num_classes"],
        options["tasks"],
        options.get("base_classes"),
        options.get("order_seed"),
    )


def describe_tasks(run: RunFolder, audited: Iterable[ModelName]) -> dict[str, str]:
    """How models learned in tasks, by label; rows are those of the audited models.

    Raises:
        ValueError: a record is damaged.
    """
    experiment = run.read()
    options, classes = experiment.config["continual"], classes_of(experiment)
    sizes = ", ".join(str(len(group)) for group in classes)
    facts = {"tasks": f"{len(classes)} of {sizes} classes, learner {options['learner']}"}
    records = [read_record(run, name, FULL) or {} for name in audited]
    stages = [record["stages"] for record in records if record.get("stages")]
    if stages:
        rows = [[stage["rows"] for stage in known] for known in zip(*stages, strict=True)]
        counts = ", ".join(_span(counted) for counted in rows)
        facts["members of each task"] = counts
        fewer = [n for n, known in enumerate(zip(*stages, strict=True), 1) if _has_fewer(known)]
        if fewer:
            facts["fewer rows than features"] = (
                f"task{'' if len(fewer) == 1 else 's'} {', '.join(map(str, fewer))}: the head is "
                "correct, and R alone tells every member"
            )
    return facts


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low}-{high}"


def _has_fewer(known: Sequence[Mapping[str, Any]]) -> bool:
    return any(stage.get("fewer_rows", False) for stage in known)


def _make_worlds(content: Mapping[str, Tensor]) -> Worlds:
    outputs, leverage, members, seconds = (content[key] for key in WORLDS)
    return Worlds(outputs, leverage, members.bool(), float(seconds.sum()))


def _check(
    path: Path, content: Mapping[str, Tensor], needed: set[str], shape: tuple[int, int, int]
) -> None:
    """Raise ValueError if a file lacks a tensor, or one has another shape or is not finite."""
    if missing := sorted(needed - content.keys()):
        raise ValueError(f"{path} lacks {', '.join(missing)}. {WAY_OUT}")
    examples, classes, tasks = shape
    shapes = {"outputs": [examples, classes], "accuracy": [tasks]}
    shapes |= {"world_outputs": [examples, classes], "world_seconds": [1]}
    for key in sorted(needed):
        found = list(content[key].shape)
        expected = shapes.get(key, [examples])
        if (found[1:] if key in WORLDS[:3] else found) != expected:
            many = "worlds, " if key in WORLDS[:3] else ""
            raise ValueError(
                f"`{key}` in {path} must have shape [{many}{', '.join(map(str, expected))}], got "
                f"{found}. {WAY_OUT}"
            )
        if key != "accuracy" and (broken := int((~content[key].isfinite()).sum())):
            raise ValueError(
                f"`{key}` in {path} must be finite, got {broken} numbers that are not. Train that "
                "model again by `train.py --fleet.retrain_failed true`, or lower `--model.lr`."
            )


def _load(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing, without which tasks cannot be attacked one by one. Run train.py "
            "again to record it."
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole file ({error}). {WAY_OUT}") from error
