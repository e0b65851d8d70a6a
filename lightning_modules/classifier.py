"""The LightningModule that every model of a fleet is."""

from typing import Any, Literal

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR
from torchmetrics.classification import MulticlassAccuracy

from datamodules.images import Batch
from datamodules.seeds import derive_seed
from lightning_modules.networks import build_network


class Classifier(LightningModule):
    """A network trained with cross-entropy and SGD; the same seed gives the same model.

    Args:
        num_classes: number of classes.
        channels: channels of an image.
        seed: fixes the initialisation, and anything random inside the network (dropout).
        network: a name (resnet18, resnet20, resnet8, wide_resnet28_2, convnet) or your own module's
            import path, `package.module.Class`.
        network_args: further keyword arguments of the network.
        lr: highest learning rate of SGD.
        momentum: momentum of SGD.
        weight_decay: L2 penalty of SGD on every parameter.
        schedule: learning rate over the whole fit, by step: `cosine` to zero, or `one-cycle`.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int,
        seed: int,
        network: str = "resnet18",
        network_args: dict[str, Any] | None = None,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        schedule: Literal["cosine", "one-cycle"] = "cosine",
    ) -> None:
        super().__init__()
        self.seed, self.lr, self.momentum = seed, lr, momentum
        self.weight_decay, self.schedule = weight_decay, schedule
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "initialisation"))
            self.network = build_network(network, num_classes, channels, network_args or {})
        # NHWC convolutions are 1.1 to 1.6 times faster on CPU, and what tensor cores want.
        self.network.to(memory_format=torch.channels_last)
        self.train_accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Logits of normalised images."""
        logits: Tensor = self.network(images)
        return logits

    def on_train_epoch_start(self) -> None:
        # Never from global state: a resumed epoch drops out the same units as an uninterrupted one.
        torch.manual_seed(derive_seed(self.seed, "epoch", self.current_epoch, self.global_rank))

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        logits = self(batch.images)
        loss = cross_entropy(logits, batch.labels)  # nats
        if self.trainer.loggers:  # a third of a small network's step, so only if somebody looks
            self.train_accuracy(logits, batch.labels)
            self.log("train/loss", loss)
            self.log("train/accuracy", self.train_accuracy, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits = self(batch.images)
        self.val_accuracy(logits, batch.labels)
        self.log("val/loss", cross_entropy(logits, batch.labels), sync_dist=True)
        self.log("val/accuracy", self.val_accuracy)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = SGD(
            self.network.parameters(), self.lr, self.momentum, weight_decay=self.weight_decay
        )
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler: LRScheduler
        if self.schedule == "cosine":
            scheduler = CosineAnnealingLR(optimizer, steps)
        else:
            scheduler = OneCycleLR(optimizer, self.lr, steps, cycle_momentum=False)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }
