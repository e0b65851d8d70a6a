"""Learners that have a head on pixels, or on a backbone that is frozen after its training."""

from abc import ABC, abstractmethod
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from datamodules.images import ImageDataModule
from lightning_modules.continual import ContinualClassifier
from lightning_modules.continual_options import ContinualOptions
from lightning_modules.headed import HeadedNetwork, behead, on_pixels
from lightning_modules.networks import Shape, build_network
from lightning_modules.options import ModelOptions


class HeadedClassifier(ContinualClassifier, ABC):
    """A learner whose head learns the tasks, after a backbone was trained on the first of them.

    During its epochs the backbone has the last layer that it was built with, `warmup`, and the head
    waits. Then the backbone is frozen. Without such epochs, the head is given the pixels.

    Args:
        data: the data set.
        seed: the model's seed.
        options: the backbone, and how SGD trains it and the head.
        continual: the tasks, and what learns them.
        classes: classes of each task.
    """

    network: HeadedNetwork
    warmup: nn.Linear | None

    def __init__(
        self,
        data: ImageDataModule,
        seed: int,
        options: ModelOptions,
        continual: ContinualOptions,
        classes: list[list[int]],
    ) -> None:
        def build() -> HeadedNetwork:
            self.continual = continual  # which the head needs
            shape, arguments = tuple(data.pool.shape[1:]), options.network_args or {}
            if not continual.pretraining:
                self.warmup = None
                return on_pixels(shape, self.make_head)
            number, channels = data.num_classes, len(data.mean)
            whole = build_network(options.network, number, channels, arguments, shape)
            inner, self.warmup = behead(whole, shape)
            backbone, features = self.make_backbone(inner, self.warmup.in_features, shape)
            return HeadedNetwork(backbone, self.make_head(features))

        super().__init__(data, seed, options, continual, classes, build)

    def make_backbone(self, inner: nn.Module, features: int, shape: Shape) -> tuple[nn.Module, int]:
        """Make the backbone that the head is given, and say how long a row of its features is.

        Args:
            inner: a network without its last layer.
            features: length of a row of its features.
            shape: shape of one example.
        """
        return inner, features

    @abstractmethod
    def make_head(self, features: int) -> nn.Module:
        """Make the head, which returns logits of `num_classes` from rows of features.

        Args:
            features: length of a row.
        """

    def forward(
        self, images: Float[Tensor, "batch channels ..."]
    ) -> Float[Tensor, "batch classes"]:
        """Logits of the head, or while the backbone is trained, of its own last layer."""
        if self.warmup is None or not self.pretraining:
            return super().forward(images)
        return cast(Tensor, self.warmup(self.network.backbone(images)))

    def on_train_epoch_start(self) -> None:
        if not self.pretraining:
            self.network.freeze()
        super().on_train_epoch_start()
