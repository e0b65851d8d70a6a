"""Images that need no download, and a network that breaks a GPU."""

import torch
from torch import Tensor, nn

from datamodules.images import ImageDataModule, Images


class Noise(ImageDataModule):
    """Gaussian 3x32x32 images with random labels, in the shape of CIFAR-10.

    Args:
        pool_size: number of audited examples.
        batch_size: examples per training step.
        flip: mirror images left and right at random in training.
        crop: largest random shift in pixels; 0 disables it.
    """

    pool_size: int
    num_classes = 10
    mean, std = (0.5,) * 3, (0.25,) * 3

    def __init__(
        self, pool_size: int = 50_000, batch_size: int = 128, flip: bool = True, crop: int = 4
    ) -> None:
        super().__init__(pool_size=pool_size, batch_size=batch_size, flip=flip, crop=crop)

    def read(self) -> tuple[Images, Images]:
        generator = torch.Generator().manual_seed(0)
        return draw(self.pool_size, generator), draw(1000, generator)


def draw(count: int, generator: torch.Generator) -> Images:
    """Draw `count` images, and their labels."""
    pixels = torch.randn(count, 3, 32, 32, generator=generator).mul_(64).add_(128)
    labels = torch.randint(10, (count,), generator=generator)
    return Images(pixels.clamp_(0, 255).byte(), labels)


class Breaking(nn.Module):
    """A network that reads outside a tensor on a GPU in training, which ends that GPU's context."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of 8x8 images of one channel."""
        logits: Tensor = self.layer(images.flatten(1))
        if self.training and images.is_cuda:
            outside = torch.full((len(logits),), 1 + logits.numel(), device=images.device)
            logits = logits + logits.flatten()[outside, None]
        return logits
