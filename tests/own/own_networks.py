"""Networks of a user, outside the project."""

import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Perceptron(nn.Module):
    """Without BatchNorm, with dropout; notes what it is trained on where $SEEN is a folder."""

    def __init__(self, num_classes: int, channels: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.first, self.dropout = nn.Linear(64 * channels, 16), nn.Dropout(dropout)
        self.second = nn.Linear(16, num_classes)

    def forward(self, images):
        if self.training and "SEEN" in os.environ:
            folder, process = Path(os.environ["SEEN"]), os.getpid()
            step = len(list(folder.glob(f"{process}-*")))
            torch.save(images, folder / f"{process}-{step:03d}.pt")
        return self.second(self.dropout(self.first(images.flatten(1)).relu()))


class Forgetful(Perceptron):
    """Has a layer that it never calls."""

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__(num_classes, channels)
        self.spare = nn.Linear(16, 16)


class Bilinear(nn.Module):
    """Multiplies by a parameter; it has no layer that could be quantized or embedded."""

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(64 * channels, num_classes))

    def forward(self, images):
        return images.flatten(1) @ self.weight


class Residual(nn.Module):
    """A block of two convolutions, whose output is added to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, features):
        inner = self.norm1(self.conv1(features)).relu()
        return (features + self.norm2(self.conv2(inner))).relu()


class Small(nn.Sequential):
    """The smallest network with all that ours have."""

    def __init__(self, num_classes: int, channels: int, width: int = 4) -> None:
        stem = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        head = nn.Linear(width, num_classes)
        super().__init__(stem, nn.BatchNorm2d(width), nn.ReLU(), Residual(width), pool, head)


class Outputs(NamedTuple):
    """As torchvision's networks with auxiliary heads return."""

    logits: Tensor
    aux_logits: Tensor


class Auxiliary(Perceptron):
    """Returns the logits of a second head while it trains."""

    def forward(self, images):
        logits = super().forward(images)
        return Outputs(logits, logits) if self.training else logits


class InADictionary(Perceptron):
    """The same network, which returns its logits as Hugging Face's do."""

    def forward(self, images):
        return {"logits": super().forward(images), "hidden_states": (images,)}


class InPlace(Small):
    """Changes what its backward pass needs."""

    def forward(self, images):
        scores = super().forward(images).sigmoid()
        scores *= 2
        return scores


class Volumes(nn.Module):
    """Convolves images, then takes their channels for the depth of a volume."""

    def __init__(self, num_classes, channels):
        super().__init__()
        self.image = nn.Conv2d(channels, 8, 3, padding=1)
        self.volume = nn.Conv3d(1, 4, 3)
        self.fc = nn.Linear(4, num_classes)

    def forward(self, images):
        volume = self.volume(self.image(images).relu()[:, None])
        return self.fc(volume.relu().mean((2, 3, 4)))
