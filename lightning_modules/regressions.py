"""The regressions of analytic learners, task by task: that of ACIL, and the two of DS-AL."""

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar, cast

import torch
from jaxtyping import Float64
from torch import Tensor

from continual.ridge import Gram, Ridge, start_ridge, update_ridge
from continual.streams import Streams, finish_task, start_streams, update_published, update_streams
from lightning_modules.analytic_options import AnalyticOptions
from lightning_modules.ridge_head import Rows

State = TypeVar("State")


class Regression(ABC, Generic[State]):
    """A way to learn rows of one task after another, in float64.

    Args:
        options: columns, gamma, and how residuals are taken.
    """

    compensated = False  # whether it reads rows through tanh, too

    def __init__(self, options: AnalyticOptions) -> None:
        self.options = options

    @abstractmethod
    def start(self) -> State:
        """The state before any row."""

    @abstractmethod
    def update(
        self, state: State, rows: Rows, targets: Float64[Tensor, "examples classes"], known: int
    ) -> State:
        """Learn rows of a task, before which `known` classes were known."""

    def finish(self, state: State, known: int) -> State:
        """Learn what can be learnt only after a task's last row."""
        return state

    @abstractmethod
    def weight(self, state: State) -> Float64[Tensor, "inputs classes"]:
        """The weight of the linear layer."""

    @abstractmethod
    def inverse(self, state: State) -> Float64[Tensor, "columns columns"]:
        """R, of the main stream if there are two."""

    @abstractmethod
    def pack(self, state: State) -> dict[str, Tensor]:
        """The state between two tasks, as tensors by name."""

    @abstractmethod
    def unpack(self, tensors: dict[str, Tensor]) -> State:
        """The state that `pack` packed."""


class Acil(Regression[Ridge]):
    """One ridge regression on ReLU features (Zhuang et al. 2022, arXiv:2205.14922)."""

    def start(self) -> Ridge:
        return start_ridge(self.options.buffer, self.options.gamma)

    def update(self, state: Ridge, rows: Rows, targets: Tensor, known: int) -> Ridge:
        return update_ridge(state, rows.features, targets)

    def weight(self, state: Ridge) -> Tensor:
        return state.weight

    def inverse(self, state: Ridge) -> Tensor:
        return state.inverse

    def pack(self, state: Ridge) -> dict[str, Tensor]:
        return state._asdict()

    def unpack(self, tensors: dict[str, Tensor]) -> Ridge:
        return Ridge(**tensors)


class Dsal(Regression[Streams]):
    """A second stream that learns what ACIL leaves over (Zhuang et al. 2024, arXiv:2403.17503)."""

    compensated = True

    def start(self) -> Streams:
        return start_streams(self.options.buffer, self.options.gamma)

    def update(self, state: Streams, rows: Rows, targets: Tensor, known: int) -> Streams:
        both = rows.features, cast(Tensor, rows.other)
        if self.options.published_residuals:
            return update_published(state, *both, targets, known)
        return update_streams(state, *both, targets)

    def finish(self, state: Streams, known: int) -> Streams:
        return state if self.options.published_residuals else finish_task(state, known)

    def weight(self, state: Streams) -> Tensor:
        return torch.cat([state.main.weight, self.options.compensation * state.compensation])

    def inverse(self, state: Streams) -> Tensor:
        return state.main.inverse

    def pack(self, state: Streams) -> dict[str, Tensor]:
        second = {"second_inverse": state.inverse, "second_moment": state.moment}
        return {**state.main._asdict(), **second}

    def unpack(self, tensors: dict[str, Tensor]) -> Streams:
        main = Ridge(tensors["inverse"], tensors["weight"])
        nothing = Gram(torch.zeros_like(main.inverse), torch.zeros_like(main.weight))
        return Streams(main, tensors["second_inverse"], tensors["second_moment"], nothing)


REGRESSIONS: dict[str, type[Regression[Any]]] = {  # by `--continual.learner`
    "acil": Acil,
    "dsal": Dsal,
    "real": Acil,
}
