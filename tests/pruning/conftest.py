"""Networks with every kind of layer that pruning narrows, in no special state."""

import pytest
import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

from lightning_modules.networks import build_network


class Branches(nn.Module):
    """A grouped, a depthwise and a transposed convolution, a concatenation and a flattened map."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 16, 3, groups=4, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.point = nn.Conv2d(16, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.wider = nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2)
        self.joined = nn.Conv2d(14, 6, 1)
        self.prelu = nn.PReLU(6)
        self.fc = nn.Linear(6 * 4, 10)

    def forward(self, images):
        features = self.stem(images).relu()
        deep = self.depthwise(self.point(self.norm(self.grouped(features))))
        both = torch.cat([features[:, :, :6, :6], self.wider(deep)[:, :, :6, :6]], 1)
        return self.fc(adaptive_avg_pool2d(self.prelu(self.joined(both)), 2).flatten(1))


class TwoLayers(nn.Module):
    """A convolution with BatchNorm, and the linear layer that reads it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 2)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4 * 9, 3)

    def forward(self, images):
        return self.fc(self.norm(self.conv(images)).relu().flatten(1))


def shaken(network):
    """Let no normalisation be the identity."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias)
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    return network.eval()


@pytest.fixture
def images():
    return torch.randn(3, 3, 10, 10)


@pytest.fixture
def branches():
    return shaken(Branches())


@pytest.fixture
def two_layers():
    return shaken(TwoLayers())


@pytest.fixture
def make():
    """Build one of our networks for three channels."""
    return lambda name: shaken(build_network(name, 10, 3, {}, (3, 10, 10)))
