"""The LightningModule of every model in a fleet."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parameter import UninitializedParameter
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR
from torchmetrics.classification import MulticlassAccuracy

from datamodules.images import Batch, ImageDataModule
from datamodules.seeds import derive_seed
from lightning_modules.networks import Shape, build_network
from lightning_modules.options import ModelOptions
from pruning.cut import reshape
from pruning.groups import Kept


class Classifier(LightningModule):
    """A network trained with cross-entropy and SGD; equal seeds give equal models.

    Args:
        num_classes: number of classes.
        channels: number of channels of an image.
        seed: fixes the initialisation and anything random in the network, such as dropout.
        options: the network, and how SGD trains it.
        shape: shape of an image, for networks that ask for it.
        build: builds the network in place of the one that the options name.

    Raises:
        ValueError: the network cannot be built.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int,
        seed: int,
        options: ModelOptions,
        shape: Shape | None = None,
        build: Callable[[], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.num_classes, self.seed = num_classes, seed
        self.lr, self.momentum = options.lr, options.momentum
        self.weight_decay, self.schedule = options.weight_decay, options.schedule
        self.label_smoothing = options.label_smoothing
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "initialisation"))
            name, arguments = options.network, options.network_args or {}
            make = partial(build_network, name, num_classes, channels, arguments, shape)
            self.network = (build or make)()
        if any(isinstance(p, UninitializedParameter) for p in self.network.parameters()):
            raise ValueError(
                f"{type(self.network).__name__} has lazy layers, whose weights no seed of ours "
                "draws. Give them fixed sizes."
            )
        # NHWC convolutions are 1.1 to 1.6 times faster on CPUs, and tensor cores need them. A
        # module's `to` asks the same of weights with five axes, which cannot be NHWC.
        for weight in (*self.network.parameters(), *self.network.buffers()):
            if weight.ndim == 4:
                weight.data = weight.data.to(memory_format=torch.channels_last)
        if options.compile:  # in place: keys stay the same, and deep copies are not compiled
            self.network.compile()
        self.kept: Kept = {}  # by a cut; empty for a dense network
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)

    @classmethod
    def for_data(cls, data: ImageDataModule, seed: int, options: ModelOptions) -> "Classifier":
        """A model for the classes and the images of a data set."""
        shape = tuple(data.pool.shape[1:])
        return cls(data.num_classes, len(data.mean), seed, options, shape)

    def forward(
        self, images: Float[Tensor, "batch channels ..."]
    ) -> Float[Tensor, "batch classes"]:
        """Logits of normalised images."""
        logits: Tensor = self.network(images)
        return logits

    def on_train_epoch_start(self) -> None:
        # A resumed epoch must drop out the same units as an uninterrupted one.
        seed = derive_seed(self.seed, "epoch", self.current_epoch, self.global_rank)
        # seeding GPUs that are not used took 1.5 ms, for a stack trace that torch keeps
        on_cpu = self.device.type == "cpu"
        (torch.default_generator.manual_seed if on_cpu else torch.manual_seed)(seed)
        self.sums = torch.zeros(3, device=self.device)  # nats, correct, examples of this epoch

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        logits = self(batch.images)
        loss = self.loss(batch, logits)
        if self.trainer.loggers:
            # one `log` per epoch: with one per step, small networks took up to 20% longer
            with torch.no_grad():
                accuracy = (logits.argmax(1) == batch.labels).float().mean()
                means = torch.stack([loss, accuracy, torch.ones_like(loss)])
                self.sums += len(batch.labels) * means
        return loss if batch.weight == 1 else batch.weight * loss

    def loss(self, batch: Batch, logits: Float[Tensor, "batch classes"]) -> Float[Tensor, ""]:
        """What a step minimises: the mean cross-entropy, in nats."""
        return cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)

    def on_train_epoch_end(self) -> None:
        if self.trainer.loggers:
            nats, correct, examples = self.trainer.strategy.reduce(self.sums, reduce_op="sum")
            self.log("train/loss", nats / examples, sync_dist=True)
            self.log("train/accuracy", correct / examples, sync_dist=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits = self(batch.images)
        self.val_accuracy(logits, batch.labels)
        loss, size = cross_entropy(logits, batch.labels), len(batch.labels)
        self.log("val/loss", loss, sync_dist=True, batch_size=size)
        self.log("val/accuracy", self.val_accuracy, batch_size=size)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        # One kernel for all weights. Lightning refuses to clip gradients before it, and CPUs gain
        # nothing.
        fused = self.device.type == "cuda" and not self.trainer.gradient_clip_val
        optimizer = self.make_optimizer(self.network.parameters(), fused)
        steps = max(1, int(self.trainer.estimated_stepping_batches))  # 0 in a fit without epochs
        scheduler: LRScheduler
        if self.schedule == "cosine":
            scheduler = CosineAnnealingLR(optimizer, steps)
        else:
            scheduler = OneCycleLR(optimizer, self.lr, steps, cycle_momentum=False)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {
                "scheduler": scheduler,
                "interval": "step",
                "name": "train/learning_rate",
            },
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.kept:
            checkpoint["kept"] = self.kept

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the widths of a checkpoint, before its weights and its optimizer are loaded."""
        self.kept = checkpoint.get("kept", {})
        state = checkpoint["state_dict"].items()
        ours = {key.partition(".")[2]: value for key, value in state if key.startswith("network.")}
        reshape(self.network, ours)

    def hooked(self, network: nn.Module) -> AbstractContextManager[object]:
        """What this model's network, or a copy of it, needs while it is trained: nothing here."""
        return nullcontext()

    def make_optimizer(self, parameters: Iterable[nn.Parameter], fused: bool = False) -> Optimizer:
        """SGD with this model's options, for its parameters or those of a copy.

        Raises:
            ValueError: SGD refuses an option.
        """
        decay = self.weight_decay
        return SGD(parameters, self.lr, self.momentum, weight_decay=decay, fused=fused or None)
