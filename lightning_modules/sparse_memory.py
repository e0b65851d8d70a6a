"""Learners whose head has a sparse hidden layer: SDMLP (arXiv:2303.11934), SSD, and their peers."""

import copy
from collections.abc import Iterator
from math import ceil
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from continual.subnetwork import (
    distillation,
    distilled_loss,
    most_frequent,
    selection_entropy,
    share_on,
)
from continual.top_k import count_active, decayed_k
from datamodules.batches import Batch
from datamodules.images import ImageDataModule
from lightning_modules.continual_options import ContinualOptions
from lightning_modules.float32 import tf32
from lightning_modules.headed import HeadedNetwork
from lightning_modules.headed_classifier import HeadedClassifier
from lightning_modules.options import ModelOptions
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
        if isinstance(inhibition := self.head.inhibition, GabaSwitch | TopK):
            self.facts["k"] = inhibition.k
        if isinstance(inhibition, GabaSwitch):
            self.facts["switch"] = int(inhibition.switch)
        self.after_counting(counts, examples)

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        if self.current_epoch + 1 in self.stream.ends:
            for name, value in self.facts.items():
                if isinstance(value, int | float):
                    self.log(f"head/{name}", float(value))

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
        convert = self.trainer.precision_plugin.convert_input
        for positions in torch.split(self._data.served(self.current_epoch), CHUNK):
            images = self._data.calibration_images("members", positions).to(self.device)
            yield self.head.activations(network.backbone(convert(images)))
        network.train(training)


class DistilledMemoryClassifier(SparseMemoryClassifier):
    """`ssd`: SDMLP whose later stages are held to the network of the stage before.

    At the end of a stage, the neurons that were active on most of its examples are the subnetwork
    of the task, and a copy of the head is the teacher. In the next stage the cross-entropy is
    joined by the divergence of the subnetwork's activations, and of the logits of all classes,
    from the teacher's.

    A reconstruction of Selective Subnetwork Distillation, arXiv:2512.15267, from its summary.
    """

    subnetwork: Tensor

    def __init__(
        self,
        data: ImageDataModule,
        seed: int,
        options: ModelOptions,
        continual: ContinualOptions,
        classes: list[list[int]],
    ) -> None:
        super().__init__(data, seed, options, continual, classes)
        self.teacher = copy.deepcopy(self.head).requires_grad_(False)
        units = continual.sdmlp.units or continual.sdmlp.k
        self.register_buffer("subnetwork", torch.zeros(units, dtype=torch.int64))
        self._given: tuple[Tensor, Activations] | None = None

    @property
    def distils(self) -> bool:
        """Whether this epoch has a teacher."""
        return not self.pretraining and self.stage > 0

    def forward(
        self, images: Float[Tensor, "batch channels ..."]
    ) -> Float[Tensor, "batch classes"]:
        """Logits; a step of training keeps the activations of the head for its loss."""
        if not self.training or not self.distils:
            return super().forward(images)
        features = self.network.backbone(images)
        self._given = features, self.head.activations(features)
        return self._given[1].logits

    def batch_loss(self, batch: Batch, logits: Float[Tensor, "batch classes"]) -> Float[Tensor, ""]:
        """The cross-entropy, after the first task with the distillation."""
        loss = super().batch_loss(batch, logits)
        if self._given is None:
            return loss
        (features, student), self._given = self._given, None
        options = self.continual.sdmlp
        with torch.no_grad():
            teacher = self.teacher.eval().activations(features)  # which counts for no switch
        temperature, forward = options.temperature, options.forward_kl
        ours, theirs = (
            getattr(activations, options.activations)[:, self.subnetwork]
            for activations in (student, teacher)
        )
        hidden = distillation(ours, theirs, temperature, forward)
        outputs = distillation(student.logits, teacher.logits, temperature, forward)
        return distilled_loss(loss, hidden, outputs, options.alpha, options.lam)

    def end_stage(self, stage: int) -> None:
        rows = [activations.after[:, self.subnetwork] for activations in self._served()]
        super().end_stage(stage)
        if stage:  # there was a subnetwork to hold
            self.facts["alive"] = (torch.cat(rows) > 0).any(1).double().mean().item()

    def record(self, network: nn.Module, audited: bool) -> dict[str, Tensor]:
        """Further tensors, with the share of each example's activations on the subnetwork."""
        whole = cast(HeadedNetwork, network)
        head, data = cast(SparseHead, whole.head), self._data
        with torch.inference_mode(), tf32(False):
            shares = [
                share_on(head.activations(whole.backbone(batch.images)).after, self.subnetwork)
                for batch in data.pool_batches("identity")
            ]
        share = torch.cat(shares).float().cpu()
        return super().record(network, audited) | {"subnetwork_share": share}

    def after_counting(self, counts: Tensor, examples: int) -> None:
        """Choose the subnetwork and the teacher of the next stage."""
        self.subnetwork.copy_(most_frequent(counts, len(self.subnetwork)))
        self.teacher.load_state_dict(self.head.state_dict())
        self.facts["subnetwork"] = self.subnetwork.tolist()
        self.facts["entropy"] = selection_entropy(counts, examples).mean().item()
