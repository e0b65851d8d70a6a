"""REAL (He et al. 2024, arXiv:2403.13522): ACIL on a backbone that two streams have trained.

The paper's text was not at hand beyond its abstract, so this is a reconstruction. A supervised
stream is trained with labels, a contrastive one without, both on the first task; then the first
teaches the second, by labels and by the direction of its features. The second is kept, and its
stages' features are fused before the random ones.
"""

from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy

from datamodules.batches import Batch
from datamodules.images import ImageDataModule
from datamodules.seeds import derive_seed
from lightning_modules.analytic import AnalyticClassifier
from lightning_modules.continual_options import ContinualOptions
from lightning_modules.fused_backbone import FusedBackbone
from lightning_modules.headed import behead
from lightning_modules.networks import Shape, build_network
from lightning_modules.options import ModelOptions
from lightning_modules.simsiam import SimSiam, draw_view

Part = Literal["supervised", "contrastive", "distillation", "tasks"]


class RealClassifier(AnalyticClassifier):
    """ACIL after REAL's training of its backbone.

    With epochs of one stream alone, that stream's backbone is kept. With both, the supervised one
    is the teacher, a network of its own, which is dropped.

    Args:
        data: the data set.
        seed: the model's seed.
        options: the backbone, and how SGD trains it.
        continual: the tasks, and the epochs of each stream.
        classes: classes of each task.
    """

    def __init__(
        self,
        data: ImageDataModule,
        seed: int,
        options: ModelOptions,
        continual: ContinualOptions,
        classes: list[list[int]],
    ) -> None:
        super().__init__(data, seed, options, continual, classes)
        warmup = cast(nn.Linear, self.warmup)
        self.teacher = self.simsiam = self.labeller = None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "streams"))
            if continual.analytic.contrastive_epochs:
                self.simsiam = SimSiam(warmup.in_features)
            if continual.analytic.distill_epochs:
                shape, arguments = tuple(data.pool.shape[1:]), options.network_args or {}
                channels = len(data.mean)
                whole = build_network(options.network, data.num_classes, channels, arguments, shape)
                self.teacher = behead(whole, shape).backbone
                self.labeller = nn.Linear(warmup.in_features, data.num_classes)

    def make_backbone(self, inner: nn.Module, features: int, shape: Shape) -> tuple[nn.Module, int]:
        if not self.continual.analytic.fusion:
            return inner, features
        fused = FusedBackbone(inner, shape)
        return fused, len(fused.mean)

    @property
    def part(self) -> Part:
        """What this epoch trains."""
        options, epoch = self.continual, self.current_epoch
        for name, epochs in (
            ("supervised", options.backbone_epochs),
            ("contrastive", options.analytic.contrastive_epochs),
            ("distillation", options.analytic.distill_epochs),
        ):
            if epoch < epochs:
                return cast(Part, name)
            epoch -= epochs
        return "tasks"

    @property
    def student(self) -> nn.Module:
        """The backbone that is kept, without the fusion of its features."""
        backbone = self.network.backbone
        return backbone.inner if isinstance(backbone, FusedBackbone) else backbone

    def forward(
        self, images: Float[Tensor, "batch channels ..."]
    ) -> Float[Tensor, "batch classes"]:
        """Logits of the head, or while backbones are trained, of the stream that has labels."""
        part = self.part
        if part == "tasks":
            return cast(Tensor, self.network(images))
        if part == "distillation":
            return cast(Tensor, cast(nn.Linear, self.labeller)(self.student(images)))
        supervised = self.student if self.teacher is None else self.teacher
        return cast(Tensor, cast(nn.Linear, self.warmup)(supervised(images)))

    def learn(self, batch: Batch, number: int) -> None:
        """Learn from one batch, by the loss of this part of the fit."""
        if self.part == "contrastive":
            self.step(self.contrast(batch.images, number))
        elif self.part == "distillation":
            self.step(self.distil(batch))
        else:
            super().learn(batch, number)

    def contrast(self, images: Tensor, number: int) -> Float[Tensor, ""]:
        """SimSiam's loss of two views of each image."""
        seed = derive_seed(self.seed, "views", self.current_epoch, number)
        generator = torch.Generator().manual_seed(seed)
        first, second = (self.student(draw_view(images, generator)) for _ in range(2))
        return cast(Tensor, cast(SimSiam, self.simsiam)(first, second))

    def distil(self, batch: Batch) -> Float[Tensor, ""]:
        """Cross-entropy, and how far features point away from the teacher's."""
        teacher = cast(nn.Module, self.teacher).eval()
        with torch.no_grad():
            wanted = teacher(batch.images)
        features = self.student(batch.images)
        logits = cast(nn.Linear, self.labeller)(features)
        apart = 1 - cosine_similarity(features, wanted).mean()
        return cross_entropy(logits, batch.labels) + self.continual.analytic.beta * apart

    def begin_stage(self, stage: int) -> None:
        super().begin_stage(stage)
        backbone = self.network.backbone
        if stage == 0 and isinstance(backbone, FusedBackbone):
            backbone.standardise(self._base_images())

    def _base_images(self) -> list[Tensor]:
        """Images of the first task that this model trains on, as they are."""
        data: ImageDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        served = data.served(self.current_epoch)
        parts = []
        for batch in data.pool_batches("identity"):
            chosen = torch.isin(batch.indices.cpu(), served).to(batch.images.device)
            if chosen.any():
                parts.append(batch.images[chosen])
        return parts
