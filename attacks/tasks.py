"""What can be seen of learners that see their classes task by task: outputs, and their state."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

Form = Literal["float64", "float16", "int8"]
FORMS: tuple[Form, ...] = ("float64", "float16", "int8")  # in which the matrix R may be stored


class Worlds(NamedTuple):
    """Heads that were solved on random halves of the pool, over one audited model's own features.

    Attributes:
        outputs: of each head.
        leverage: phi^T R phi of each example, with the R of each head.
        members: the examples that each head was solved on.
        seconds: that one head takes.
    """

    outputs: Float[Tensor, "worlds examples classes"]
    leverage: Float[Tensor, "worlds examples"]
    members: Bool[Tensor, "worlds examples"]
    seconds: float

    def on(self, examples: Int64[Tensor, " chosen"]) -> "Worlds":
        """Select examples by position."""
        outputs, leverage, members, seconds = self
        return Worlds(outputs[:, examples], leverage[:, examples], members[:, examples], seconds)


class Stage(NamedTuple):
    """What was recorded of all models of a fleet at the end of one stage; NaN in unread models.

    Attributes:
        outputs: of the network on each example.
        accuracy: share of the test examples of each task that are classified correctly.
        leverage: phi^T R phi of each example, by how R is stored; empty for learners without R.
        outside: share of |phi|^2 that lies outside the range of what R gained in this stage; None
            for learners without R.
        worlds: heads over the features of audited models, by their row; empty for such learners.
        solved: for audited models, whether each example was learnt, solved for from the weight of
            their head; None where that is not known.
        exemplars: the examples that each model keeps to replay them; None without replay.
        fisher_excess: log of the largest squared gradient of an example beside the sum of those
            that the stage's Fisher was measured on; None without consolidation.
        fisher_solved: for audited models, whether the stage's Fisher was measured on an example,
            solved for from it; None where that is not known.
    """

    outputs: Float[Tensor, "models examples classes"]
    accuracy: Float[Tensor, "models tasks"]
    leverage: Mapping[Form, Float[Tensor, "models examples"]] = {}
    outside: Float[Tensor, "models examples"] | None = None
    worlds: Mapping[int, Worlds] = {}
    solved: Float[Tensor, "models examples"] | None = None
    exemplars: Bool[Tensor, "models examples"] | None = None
    fisher_excess: Float[Tensor, "models examples"] | None = None
    fisher_solved: Float[Tensor, "models examples"] | None = None

    def on(self, examples: Int64[Tensor, " chosen"]) -> "Stage":
        """Select examples by position."""

        def choose(signal: Tensor | None) -> Tensor | None:
            return None if signal is None else signal[:, examples]

        return self._replace(
            outputs=self.outputs[:, examples],
            leverage={form: signal[:, examples] for form, signal in self.leverage.items()},
            outside=choose(self.outside),
            worlds={row: worlds.on(examples) for row, worlds in self.worlds.items()},
            solved=choose(self.solved),
            exemplars=choose(self.exemplars),
            fisher_excess=choose(self.fisher_excess),
            fisher_solved=choose(self.fisher_solved),
        )


@runtime_checkable
class Stages(Protocol):
    """The stages of a fleet in order, each of which may be read from disk when it is asked for."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Stage: ...


class Tasks(NamedTuple):
    """What was recorded of a fleet whose models learn one task after another.

    Attributes:
        classes: of each task, in the order of training.
        labels: class of each example.
        stages: one per task.
        outputs: `[models, examples, classes]` of the quantized networks at the end, by variant; of
            those whose outputs were recorded.
    """

    classes: Sequence[Sequence[int]]
    labels: Int64[Tensor, " examples"]
    stages: Stages
    outputs: Mapping[str, Tensor] = {}

    @property
    def task(self) -> Int64[Tensor, " examples"]:
        """The task of each example, from 0."""
        return task_of(self.labels, self.classes)

    def on(self, examples: Int64[Tensor, " chosen"]) -> "Tasks":
        """Select examples by position."""
        return self._replace(
            labels=self.labels[examples],
            stages=_Chosen(self.stages, examples),
            outputs=_ChosenOutputs(self.outputs, examples),
        )


class _Chosen:
    """Stages on some of their examples."""

    def __init__(self, stages: Stages, examples: Int64[Tensor, " chosen"]) -> None:
        self.stages, self.examples = stages, examples

    def __len__(self) -> int:
        return len(self.stages)

    def __getitem__(self, index: int, /) -> Stage:
        return self.stages[index].on(self.examples)


class _ChosenOutputs(Mapping[str, Tensor]):
    """Outputs on some of their examples."""

    def __init__(self, outputs: Mapping[str, Tensor], examples: Int64[Tensor, " chosen"]) -> None:
        self.outputs, self.examples = outputs, examples

    def __len__(self) -> int:
        return len(self.outputs)

    def __iter__(self) -> Iterator[str]:
        return iter(self.outputs)

    def __getitem__(self, variant: str) -> Tensor:
        return self.outputs[variant][:, self.examples]


def task_of(
    labels: Int64[Tensor, " examples"], classes: Sequence[Sequence[int]]
) -> Int64[Tensor, " examples"]:
    """The task of each example, from 0, by its class; -1 where no task has the class."""
    task = torch.full_like(labels, -1)
    for number, group in enumerate(classes):
        task[torch.isin(labels, torch.tensor(group))] = number
    return task
