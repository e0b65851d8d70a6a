"""What can be seen of learners that see their classes task by task: outputs, and their state."""

from abc import ABC
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

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


class RoundedWorlds(NamedTuple):
    """Outputs of such heads with and without each example, rounded as a quantized model was.

    Attributes:
        inside: of heads that learnt the example.
        outside: of heads that did not.
    """

    inside: Float[Tensor, "worlds examples classes"]
    outside: Float[Tensor, "worlds examples classes"]

    def on(self, examples: Int64[Tensor, " chosen"]) -> "RoundedWorlds":
        """Select examples by position."""
        return RoundedWorlds(*(side[:, examples] for side in self))


class Stage(NamedTuple):
    """What was recorded of all models of a fleet at the end of one stage; NaN in unread models.

    Attributes:
        outputs: of the network on each example.
        accuracy: share of the test examples of each task that are classified correctly.
        leverage: phi^T R phi of each example, by how R is stored; empty for learners without R.
        outside: share of |phi|^2 that lies outside the range of what R gained in this stage; None
            for learners without R.
        worlds: heads over the features of audited models, by their row; empty for such learners.
        rounded: such heads of a quantized network, rounded as it was; empty of other networks.
        solved: for audited models, whether each example was learnt, solved for from the weight of
            their head; None where that is not known.
        exemplars: the examples that each model keeps to replay them; None without replay.
        fisher_excess: log of the largest squared gradient of an example beside the sum of those
            that the stage's Fisher was measured on; None without consolidation.
        fisher_solved: for audited models, whether the stage's Fisher was measured on an example,
            solved for from it; None where that is not known.
        subnetwork_share: share of an example's activations that is on the neurons which SSD holds
            after the stage; None for other learners.
    """

    outputs: Float[Tensor, "models examples classes"]
    accuracy: Float[Tensor, "models tasks"]
    leverage: Mapping[Form, Float[Tensor, "models examples"]] = {}
    outside: Float[Tensor, "models examples"] | None = None
    worlds: Mapping[int, Worlds] = {}
    rounded: Mapping[int, RoundedWorlds] = {}
    solved: Float[Tensor, "models examples"] | None = None
    exemplars: Bool[Tensor, "models examples"] | None = None
    fisher_excess: Float[Tensor, "models examples"] | None = None
    fisher_solved: Float[Tensor, "models examples"] | None = None
    subnetwork_share: Float[Tensor, "models examples"] | None = None

    def on(self, examples: Int64[Tensor, " chosen"]) -> "Stage":
        """Select examples by position."""

        def choose(signal: Tensor | None) -> Tensor | None:
            return None if signal is None else signal[:, examples]

        return self._replace(
            outputs=self.outputs[:, examples],
            leverage={form: signal[:, examples] for form, signal in self.leverage.items()},
            outside=choose(self.outside),
            worlds={row: worlds.on(examples) for row, worlds in self.worlds.items()},
            rounded={row: worlds.on(examples) for row, worlds in self.rounded.items()},
            solved=choose(self.solved),
            exemplars=choose(self.exemplars),
            fisher_excess=choose(self.fisher_excess),
            fisher_solved=choose(self.fisher_solved),
            subnetwork_share=choose(self.subnetwork_share),
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
        worlds: heads over the features of audited models, rounded as the quantized network at the
            end was, by variant and by the model's row; of variants that this was asked of.
    """

    classes: Sequence[Sequence[int]]
    labels: Int64[Tensor, " examples"]
    stages: Stages
    outputs: Mapping[str, Tensor] = {}
    worlds: Mapping[str, Mapping[int, RoundedWorlds]] = {}

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
            worlds=_ChosenWorlds(self.worlds, examples),
        )


class _Chosen:
    """Stages on some of their examples."""

    def __init__(self, stages: Stages, examples: Int64[Tensor, " chosen"]) -> None:
        self.stages, self.examples = stages, examples

    def __len__(self) -> int:
        return len(self.stages)

    def __getitem__(self, index: int, /) -> Stage:
        return self.stages[index].on(self.examples)


Recorded = TypeVar("Recorded")


class _ChosenOfVariants(Mapping[str, Recorded], ABC):
    """What was recorded of variants, on some of the examples."""

    def __init__(self, known: Mapping[str, Recorded], examples: Int64[Tensor, " chosen"]) -> None:
        self.known, self.examples = known, examples

    def __len__(self) -> int:
        return len(self.known)

    def __iter__(self) -> Iterator[str]:
        return iter(self.known)


class _ChosenOutputs(_ChosenOfVariants[Tensor]):
    """Outputs on some of their examples."""

    def __getitem__(self, variant: str) -> Tensor:
        return self.known[variant][:, self.examples]


class _ChosenWorlds(_ChosenOfVariants[Mapping[int, RoundedWorlds]]):
    """Worlds on some of their examples."""

    def __getitem__(self, variant: str) -> Mapping[int, RoundedWorlds]:
        return {row: worlds.on(self.examples) for row, worlds in self.known[variant].items()}


def task_of(
    labels: Int64[Tensor, " examples"], classes: Sequence[Sequence[int]]
) -> Int64[Tensor, " examples"]:
    """The task of each example, from 0, by its class; -1 where no task has the class."""
    task = torch.full_like(labels, -1)
    for number, group in enumerate(classes):
        task[torch.isin(labels, torch.tensor(group))] = number
    return task
