import pytest
import torch
from torch import nn

from lightning_modules.last_layer import find_last_linear
from lightning_modules.networks import build_network

IMAGES = torch.randn(3, 1, 8, 8)


@pytest.mark.parametrize("network", ["convnet", "resnet8_gn", "mlp"])
def test_ours_end_in_a_linear_layer(network):
    arguments = {"shape": (1, 8, 8)} if network == "mlp" else {}
    built = build_network(network, 10, 1, {}, arguments.get("shape"))
    assert find_last_linear(built.eval(), IMAGES) == "fc"
    hooks = [len(module._forward_hooks) for module in built.modules()]
    assert sum(hooks) <= 1  # that of the logits


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, images):
        return 2 * self.fc(images.flatten(1))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 10)

    def forward(self, images):
        return self.fc(images[:, 0]).mean(1)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Scaled(), "Scaled has no such layer: its last is `fc`, whose outputs are changed"),
        (Tokens(), "Tokens has no such layer: its last is `fc`, whose"),
        (nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten()), "has no such layer: it calls none"),
    ],
)
def test_logits_that_come_from_elsewhere_are_refused(network, said):
    with pytest.raises(ValueError, match=said):
        find_last_linear(network.eval(), IMAGES)
