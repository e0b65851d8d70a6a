"""Learning in tasks: one fit is one learner, whose classes come group by group."""

from collections.abc import Callable
from itertools import accumulate, pairwise
from math import cos, pi
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from continual.fisher import Consolidation, consolidation_penalty
from continual.fisher_equations import Measured
from datamodules.batches import Batch
from datamodules.images import ImageDataModule
from datamodules.tasks import Lesson, TaskStream, split_classes
from lightning_modules.classifier import Classifier
from lightning_modules.consolidation import consolidate_stage, expose_fisher
from lightning_modules.continual_options import ContinualOptions
from lightning_modules.options import ModelOptions

WARM_UP, FIRST, LAST = 0.3, 1 / 25, 1 / 25e4  # of `one-cycle`, as in torch's OneCycleLR


class ContinualClassifier(Classifier):
    """A classifier that trains on one task after another; this one fine-tunes its whole network.

    A fit has phases: the parts of a backbone's training, if there are any, then one stage per task.
    Each phase begins without the momentum of the one before, and its learning rate follows the
    schedule from its first to its last step. The loss is over all classes, whatever the task.

    What a subclass keeps from one epoch to the next is in its network, or goes into checkpoints.
    Elastic weight consolidation is in `end_stage` and `penalty`, which subclasses call.

    Args:
        data: the data set.
        seed: the model's seed.
        options: the network, and how SGD trains it.
        continual: the tasks, and what learns them.
        classes: classes of each task.
        build: builds the network in place of the one that the options name.
    """

    def __init__(
        self,
        data: ImageDataModule,
        seed: int,
        options: ModelOptions,
        continual: ContinualOptions,
        classes: list[list[int]],
        build: Callable[[], nn.Module] | None = None,
    ) -> None:
        shape = tuple(data.pool.shape[1:])
        super().__init__(data.num_classes, len(data.mean), seed, options, shape, build)
        self.automatic_optimization = False
        self.continual, self.classes = continual, classes
        self.consolidation: Consolidation | None = None  # of the stages so far, with EWC
        self.measured: Measured | None = None  # Fisher of the stage that ended in this epoch

    def begin_stage(self, stage: int) -> None:
        """Prepare for a task, counted from 0, before the first epoch that learns it."""

    def end_stage(self, stage: int) -> None:
        """Finish a task after its last step, before anything of the stage is written."""
        if self.continual.ewc:
            data: ImageDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
            scale, epoch = self.continual.ewc_scale, self.current_epoch
            self.consolidation, self.measured = consolidate_stage(
                self.consolidation, self.network, data, epoch, scale, self.seed
            )

    def penalty(
        self, batch: Batch, logits: Float[Tensor, "batch classes"]
    ) -> Float[Tensor, ""] | None:
        """What a step of a stage minimises beside the cross-entropy; None for nothing."""
        if self.consolidation is None:
            return None
        weights = dict(self.network.named_parameters())
        return self.continual.ewc * consolidation_penalty(weights, self.consolidation)

    def record(self, network: nn.Module, audited: bool) -> dict[str, Tensor]:
        """Further tensors for the file of the stage that ends, by name.

        Args:
            network: a copy of the network, in evaluation mode and float32.
            audited: whether the model is audited, and not one of the attacker's.
        """
        if self.measured is None:
            return {}
        own, scale = self.stream.task == self.stage, self.continual.ewc_scale
        data: ImageDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        return expose_fisher(network, data, self.measured, own, scale, audited)

    def describe_stage(self) -> dict[str, Any]:
        """Facts on the stage that ends, as JSON knows them."""
        return {}

    @property
    def stream(self) -> TaskStream:
        """What each epoch of the fit serves."""
        data: ImageDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        return cast(TaskStream, data.tasks)

    @property
    def stage(self) -> int:
        """The task of this epoch, counted from 0."""
        return self.stream.stage(self.current_epoch)

    @property
    def pretraining(self) -> bool:
        """Whether this epoch trains a backbone, before the learner sees the first task."""
        return self.current_epoch < sum(self.continual.pretraining)

    @property
    def phases(self) -> list[int]:
        """Epochs done at the end of each phase."""
        return [*accumulate(self.continual.pretraining), *self.stream.ends]

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.measured = None
        epoch, stream = self.current_epoch, self.stream
        if epoch in (0, *self.phases):
            cast(LightningOptimizer, self.optimizers()).optimizer.state.clear()
        if epoch in (sum(self.continual.pretraining), *stream.ends):
            self.begin_stage(self.stage)

    def training_step(self, lesson: Lesson, batch_idx: int) -> None:  # type: ignore[override]
        """Learn from all that an epoch serves."""
        convert = self.trainer.precision_plugin.convert_input
        for number, batch in enumerate(lesson.batches):
            self.learn(cast(Batch, convert(batch)), number)

    def learn(self, batch: Batch, number: int) -> None:
        """Learn from one batch: here, a step of SGD."""
        self.step(super().training_step(batch, number))

    def step(self, loss: Float[Tensor, ""]) -> None:
        """Take a step of SGD down a loss, and one of the learning rate's schedule."""
        optimizer = cast(LightningOptimizer, self.optimizers())
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        cast(LambdaLR, self.lr_schedulers()).step()
        torch.clear_autocast_cache()  # if on, it holds weights from before the step

    def batch_loss(self, batch: Batch, logits: Float[Tensor, "batch classes"]) -> Float[Tensor, ""]:
        """What a batch alone asks for: here, the mean cross-entropy, in nats."""
        return super().loss(batch, logits)

    def loss(self, batch: Batch, logits: Float[Tensor, "batch classes"]) -> Float[Tensor, ""]:
        """What a step minimises: the loss of its batch, and in a stage the penalty."""
        loss = self.batch_loss(batch, logits)
        penalty = None if self.pretraining else self.penalty(batch, logits)
        return loss if penalty is None else loss + penalty

    def on_train_batch_end(self, outputs: object, batch: Lesson, batch_idx: int) -> None:
        # callbacks see the end of an epoch before the module does, and this before either
        if self.current_epoch + 1 in self.stream.ends:
            self.end_stage(self.stage)

    def on_train_epoch_end(self) -> None:
        if self.sums[2] > 0:  # a learner that takes no gradients has no loss
            super().on_train_epoch_end()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """SGD, with the learning rate of each phase from the beginning of the schedule."""
        optimizer = self.make_optimizer(self.parameters(), self.device.type == "cuda")
        data: ImageDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        steps = [
            (end - begin) * len(data.batch_sizes(len(data.served(begin)), 1))
            for begin, end in pairwise([0, *self.phases])
        ]
        schedule = self.schedule
        scheduler = LambdaLR(optimizer, lambda done: rate(schedule, *_within(steps, done)))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "name": "train/learning_rate"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.consolidation is not None:
            checkpoint["consolidation"] = self.consolidation._asdict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if stored := checkpoint.get("consolidation"):
            device = self.trainer.strategy.root_device
            parts = (
                {name: value.to(device) for name, value in stored[part].items()}
                for part in Consolidation._fields
            )
            self.consolidation = Consolidation(*parts)


def list_classes(continual: ContinualOptions, num_classes: int) -> list[list[int]]:
    """Classes of each task, in the order in which they are learned; one task without tasks.

    Raises:
        ValueError: a task would have fewer than two classes.
    """
    base, order = continual.base_classes, continual.order_seed
    return split_classes(num_classes, continual.tasks or 1, base, order)


def rate(schedule: Literal["cosine", "one-cycle"], step: int, steps: int) -> float:
    """Share of the highest learning rate at a step of a phase, both counted from 0.

    Args:
        schedule: the schedule.
        step: steps of the phase before this one.
        steps: all steps of the phase.
    """
    if schedule == "cosine":
        return (1 + cos(pi * step / steps)) / 2
    highest = WARM_UP * steps - 1
    if step <= highest:
        return FIRST + (1 - FIRST) * (1 - cos(pi * step / highest)) / 2
    return LAST + (1 - LAST) * (1 + cos(pi * (step - highest) / (steps - 1 - highest))) / 2


def _within(steps: list[int], done: int) -> tuple[int, int]:
    """Steps of the present phase before this one, and all of its steps."""
    for count in steps:
        if done < count:
            return done, count
        done -= count
    return steps[-1], steps[-1]  # the fit has ended
