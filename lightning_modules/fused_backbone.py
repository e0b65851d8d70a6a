"""A backbone whose features are those of several of its layers (REAL's feature fusion buffer)."""

import re
from collections.abc import Iterable
from contextvars import ContextVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from continual.fusion import Scale, fuse, measure, pool
from lightning_modules.networks import Shape

_AVERAGES: ContextVar[list[Tensor] | None] = ContextVar("averages", default=None)  # of this pass


class FusedBackbone(nn.Module):
    """The averages of the outputs of a network's stages over the image, each standardised.

    Args:
        inner: a network whose stages are called `layer1`, `layer2` and so on, as those of ResNets.
        shape: shape of one example.

    Raises:
        ValueError: it has no such stages.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, inner: nn.Module, shape: Shape) -> None:
        super().__init__()
        self.stages = [
            name for name, _ in inner.named_children() if re.fullmatch(r"layer\d+", name)
        ]
        if not self.stages:
            raise ValueError(
                "`continual.analytic.fusion` reads the outputs of stages that are called `layer1`, "
                f"`layer2` and so on, and {type(inner).__name__} has none. Take another "
                "`--model.network`, for example `resnet20`, or `--continual.analytic.fusion false`."
            )
        self.inner = inner
        with torch.no_grad():
            mode = inner.training
            inner.eval()
            width = self.pooled(torch.zeros(2, *shape)).shape[1]
            inner.train(mode)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def forward(self, images: Float[Tensor, "batch channels ..."]) -> Float[Tensor, "batch width"]:
        """Standardised features of all stages."""
        return fuse(self.pooled(images), Scale(self.mean, self.deviation))

    def pooled(self, images: Float[Tensor, "batch channels ..."]) -> Float[Tensor, "batch width"]:
        """Averages over the image of the outputs of all stages, one after another."""
        averages: list[Tensor] = []
        layers = [self.inner.get_submodule(name) for name in self.stages]

        def keep(layer: nn.Module, inputs: object, output: Tensor) -> None:
            # a quantizer's passes over several chunks of images take turns, in coroutines
            if _AVERAGES.get() is averages:
                # pooled at once, because a later layer may change them in place
                averages.append(pool([output]))

        hooks = [layer.register_forward_hook(keep) for layer in layers]
        token = _AVERAGES.set(averages)
        try:
            self.inner(images)
        finally:
            _AVERAGES.reset(token)
            for hook in hooks:
                hook.remove()
        return torch.cat(averages, 1)

    @torch.no_grad()
    def standardise(self, batches: Iterable[Tensor]) -> None:
        """Take mean and deviation of each feature from some batches of images."""
        scale = measure(self.pooled(images) for images in batches)
        self.mean.copy_(scale.mean)
        self.deviation.copy_(scale.deviation)
