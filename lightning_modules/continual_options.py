"""The options of networks that learn in tasks, as on the command line; imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import inf
from typing import Any, Literal

from lightning_modules.analytic_options import ANALYTIC, ANALYTIC_DEFAULT, AnalyticOptions
from lightning_modules.sdmlp_options import SDMLP_DEFAULT, SdmlpOptions

LearnerName = Literal["finetune", "relu", "topk", "sdmlp", "ssd", "acil", "dsal", "real"]
WAY_OUT = "Leave it out, or pass for example `--continual.tasks 5`."


@dataclass(frozen=True)
class ContinualOptions:
    """Learning in tasks (docs/continual_training.md): classes come group by group, once each.

    Args:
        tasks: number of tasks, each with classes of its own; null trains on all classes at once.
        base_classes: classes of the first task; null for an equal share.
        order_seed: seed of the order in which classes come; null for ascending order.
        learner: what learns the tasks: `finetune` trains the whole network with SGD; `relu`,
            `topk`, `sdmlp` and `ssd` train a head of one hidden layer, `acil`, `dsal` and `real`
            solve a ridge regression, all of them on pixels or on a frozen backbone.
        joint: train on all tasks so far in every stage, as no learner of tasks may: the ceiling.
        replay: examples per class of earlier tasks that are kept, and served again; 0 for none.
        ewc: importance of elastic weight consolidation, which holds the weights that earlier tasks
            need; 0 for none.
        ewc_scale: factor of the logits where that need is measured: a network that is sure of its
            classes seems to need nothing.
        backbone_epochs: epochs that `--model.network` trains on the first task before it is frozen
            and its last layer replaced; with 0 a learner with a head is given the pixels, and the
            network is not used.
        sdmlp: heads of one hidden layer.
        analytic: ridge regression.

    Raises:
        ValueError: a number is out of range, or nothing reads an option.
    """

    tasks: int | None = None
    base_classes: int | None = None
    order_seed: int | None = None
    learner: LearnerName = "finetune"
    joint: bool = False
    replay: int = 0
    ewc: float = 0.0
    ewc_scale: float = 0.08
    backbone_epochs: int = 0
    sdmlp: SdmlpOptions = SDMLP_DEFAULT
    analytic: AnalyticOptions = ANALYTIC_DEFAULT

    def __post_init__(self) -> None:
        """Refuse numbers out of range, and options that nothing reads."""
        if self.tasks is None:
            self._check_off()
            return
        for name, least in (
            ("tasks", 2),
            ("base_classes", 2),
            ("replay", 0),
            ("backbone_epochs", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"`continual.{name}` must be {least} or more, got {value}.")
        if not 0 <= self.ewc < inf:
            raise ValueError(f"`continual.ewc` must be 0 (none) or more, got {self.ewc:g}.")
        if not 0 < self.ewc_scale < inf:
            raise ValueError(f"`continual.ewc_scale` must be above 0, got {self.ewc_scale:g}.")
        if not self.ewc and self.ewc_scale != CONTINUAL_DEFAULTS["ewc_scale"]:
            raise ValueError(
                f"`continual.ewc_scale` needs `--continual.ewc`, got {self.ewc_scale:g} with "
                "importance 0. Leave it out."
            )
        if self.joint and (self.replay or self.ewc):
            raise ValueError(
                "`continual.joint` serves all tasks so far, which leaves nothing to replay or to "
                f"hold, got `continual.replay` {self.replay} and `continual.ewc` {self.ewc:g}. "
                "Leave them out."
            )
        if self.learner == "finetune" and self.backbone_epochs:
            raise ValueError(
                "`continual.backbone_epochs` must be 0 with `finetune`, which trains all of "
                f"`--model.network` in every stage, got {self.backbone_epochs}. Leave it out, or "
                "take a learner with a head, for example `--continual.learner sdmlp`."
            )
        self._check_learner()

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> "ContinualOptions":
        """Make options of plain values, nested as on the command line."""
        nested = {
            "sdmlp": SdmlpOptions(**options["sdmlp"]),
            "analytic": AnalyticOptions(**options["analytic"]),
        }
        return cls(**{**options, **nested})

    @property
    def on(self) -> bool:
        """Whether models learn in tasks."""
        return self.tasks is not None

    @property
    def solves(self) -> bool:
        """Whether the learner solves for its head, and takes no gradient of it."""
        return self.learner in ANALYTIC

    @property
    def pretraining(self) -> list[int]:
        """Epochs of each part of the backbone's training, which come before the first stage."""
        analytic = self.analytic
        parts = [self.backbone_epochs, analytic.contrastive_epochs, analytic.distill_epochs]
        return [epochs for epochs in parts if epochs]

    def stage_ends(self, max_epochs: int) -> list[int]:
        """Epochs done at the end of each stage; none if models do not learn in tasks.

        The first stage begins with the backbone's epochs; all stages have as many of their own.

        Args:
            max_epochs: epochs of a fit.

        Raises:
            ValueError: the epochs do not divide over the stages.
        """
        if self.tasks is None:
            return []
        before = sum(self.pretraining)
        each, rest = divmod(max_epochs - before, self.tasks)
        if self.solves and (each, rest) != (1, 0):
            raise ValueError(
                f"`trainer.max_epochs` must be {before + self.tasks} with `--continual.learner "
                f"{self.learner}`, which sees each of {self.tasks} tasks once{_after(before)}, got "
                f"{max_epochs}."
            )
        if each < 1 or rest:
            nearest = max(each, 1)
            ways = [before + self.tasks * epochs for epochs in (nearest, nearest + 1)]
            raise ValueError(
                f"`trainer.max_epochs` must give each of {self.tasks} tasks as many epochs"
                f"{_after(before)}, got {max_epochs}. Pass {ways[0]} or {ways[1]}."
            )
        return [before + each * number for number in range(1, self.tasks + 1)]

    def _check_learner(self) -> None:
        """Refuse options that this learner does not read."""
        given = {"joint": self.joint, "replay": self.replay, "ewc": self.ewc}
        for name, value in given.items():
            if self.solves and value:
                raise ValueError(
                    f"`continual.{name}` needs a learner that takes gradients, got `{self.learner}`"
                    ", which remembers all tasks exactly. Leave it out."
                )
        self.sdmlp.check_read(self.learner)
        self.analytic.check_read(self.learner)
        if self.learner == "real":
            self.analytic.check_streams(self.backbone_epochs)

    def _check_off(self) -> None:
        for name, default in CONTINUAL_DEFAULTS.items():
            if (given := getattr(self, name)) != default:
                raise ValueError(
                    f"`continual.{name}` needs `--continual.tasks`, got {given} without tasks. "
                    f"{WAY_OUT}"
                )


CONTINUAL_DEFAULTS = {field.name: field.default for field in fields(ContinualOptions)}


def _after(epochs: int) -> str:
    return f" after {epochs} of the backbone" if epochs else ""
