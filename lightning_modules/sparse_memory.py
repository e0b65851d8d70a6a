"""Sparse Distributed Memory MLPs (SDMLP, arXiv:2303.11934) and their peers, which learn in tasks."""

from collections.abc import Iterator
from math import ceil
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from continual.top_k import count_active, decayed_k
from datamodules.batches import Batch
from datamodules.images import ImageDataModule
from lightning_modules.headed_classifier import HeadedClassifier
from lightning_modules.sparse_head import Activations, GabaSwitch, SparseHead, TopK

CLIP = 1.0  # norm of a step's gradient, of SDMLP's code
DECAY = 0.4  # share of the first stage in which Top-K reaches its k, of SDMLP's code on MNIST
SWITCH = 0.2  # share of the first stage's examples after which a neuron that fires on all is done
CHUNK = 512  # examples at a time


class SparseMemoryClassifier(HeadedClassifier):
    """A head of one hidden layer: `relu`, `topk` or `sdmlp`.

    A step of a stage is plain SGD: momentum goes on to move neurons that are not active any more,
    and so does weight decay; both are the backbone's only. Its gradient is clipped to norm 1 before
    it. After it all weights of SDMLP are made non-negative, and then each neuron's norm is 1.
    """

    facts: dict[str, Any]  # on the stage that ended last

    def make_head(self, features: int) -> nn.Module:
        options = self.continual.sdmlp
        return SparseHead(features, self.num_classes, self.continual.learner, options)

    @property
    def head(self) -> SparseHead:
        """The head, which learns the tasks."""
        return cast(SparseHead, self.network.head)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if self.pretraining:
            return
        for group in cast(Optimizer, self.optimizers()).param_groups:
            group["momentum"] = group["weight_decay"] = 0.0
        if isinstance(inhibition := self.head.inhibition, TopK):
            done, options = self.current_epoch - self._begin, self.continual.sdmlp
            epochs = int(DECAY * self._epochs)
            inhibition.k = decayed_k(done, epochs, options.k, options.hidden)

    def begin_stage(self, stage: int) -> None:
        super().begin_stage(stage)
        self.facts = {}
        inhibition = self.head.inhibition
        if stage == 0 and isinstance(inhibition, GabaSwitch):
            examples = self._epochs * len(self._data.served(self.current_epoch))
            inhibition.switch.fill_(ceil(self.continual.sdmlp.switch or SWITCH * examples))

    def learn(self, batch: Batch, number: int) -> None:
        """Learn from one batch by a step of SGD, and keep to the constraints."""
        super().learn(batch, number)
        if not self.pretraining:
            self.head.constrain()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if not self.pretraining:  # gradients are unscaled here, whatever the precision
            nn.utils.clip_grad_norm_(self.head.parameters(), CLIP)

    def end_stage(self, stage: int) -> None:
        super().end_stage(stage)
        counts, examples = torch.zeros(self.head.hidden.out_features, dtype=torch.int64), 0
        for activations in self._served():
            counts += count_active(activations.after).cpu()
            examples += len(activations.after)
        active, silent = int(counts.sum()) / examples, int((counts == 0).sum())
        self.facts = {"active": active, "silent": silent}
        self.after_counting(counts, examples)
        if self.trainer.loggers:
            numbers = {key: value for key, value in self.facts.items() if key != "subnetwork"}
            self.log_dict({f"head/{key}": float(value) for key, value in numbers.items()})

    def after_counting(self, counts: Tensor, examples: int) -> None:
        """Look at how many of the stage's examples each neuron is active on: nothing here."""

    def describe_stage(self) -> dict[str, Any]:
        """How many neurons are active per example, and how many on none."""
        return super().describe_stage() | self.facts

    @property
    def _data(self) -> ImageDataModule:
        return cast(ImageDataModule, self.trainer.datamodule)  # type: ignore[attr-defined]

    @property
    def _begin(self) -> int:
        """Epochs done before the first stage."""
        return sum(self.continual.pretraining)

    @property
    def _epochs(self) -> int:
        """Epochs of the first stage."""
        return self.stream.ends[0] - self._begin

    @torch.no_grad()
    def _served(self) -> Iterator[Activations]:
        """What the head computes of the examples of this epoch, in evaluation mode, in order."""
        network, training = self.network, self.network.training
        network.eval()
        for positions in self._data.served(self.current_epoch).split(CHUNK):
            images = self._data.calibration_images("members", positions)
            yield self.head.activations(network.backbone(images.to(self.device, self.dtype)))
        network.train(training)
