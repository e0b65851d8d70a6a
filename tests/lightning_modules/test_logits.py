import copy
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.logits import OutputError, take_logits
from quantization.deploy import run_onnx, to_onnx


class ModelOutput(OrderedDict):
    """Like Hugging Face's: a dictionary whose items are attributes, too, without those of None."""

    def __init__(self, **items: Any) -> None:
        super().__init__((key, item) for key, item in items.items() if item is not None)
        self.__dict__.update(self)


@dataclass
class Output:
    logits: Tensor | None = None
    loss: Tensor | None = None
    aux_logits: Tensor | None = None


class Pair(NamedTuple):
    logits: Tensor
    features: Tensor


class Auxiliary(NamedTuple):
    """As torchvision's `GoogLeNetOutputs`."""

    logits: Tensor
    aux_logits2: Tensor | None
    aux_logits1: Tensor | None


class Property:
    def __init__(self, logits: Tensor) -> None:
        self._logits = logits

    @property
    def logits(self) -> Tensor:
        return self._logits


class Network(nn.Module):
    """Returns its logits as `wrap` says."""

    def __init__(self, wrap) -> None:
        super().__init__()
        self.fc, self.wrap = nn.Linear(64, 10), wrap

    def forward(self, images):
        return self.wrap(self.fc(images.flatten(1)))


def named(z):
    return {"logits": z, "hidden": z}


TAKEN = {
    "tensor": lambda z: z,
    "dict": named,
    "Hugging Face": lambda z: ModelOutput(loss=None, logits=z, hidden_states=(z, z)),
    "dataclass": lambda z: Output(z),
    "property": Property,
    "named tuple": lambda z: Pair(z, z),
    "no auxiliary heads": lambda z: Auxiliary(z, None, None),
}


@pytest.mark.parametrize("wrap", TAKEN.values(), ids=TAKEN)
@pytest.mark.parametrize("training", [True, False])
def test_logits_are_those_of_the_layer(rng, wrap, training):
    network = take_logits(Network(wrap)).train(training)
    images = torch.randn(3, 1, 8, 8, generator=rng)
    expected = network.fc(images.flatten(1))
    assert torch.equal(network(images), expected)
    assert torch.equal(copy.deepcopy(network)(images), expected)


def test_a_pickled_network_returns_logits(rng):
    network, images = take_logits(Network(named)), torch.randn(3, 1, 8, 8, generator=rng)
    assert torch.equal(pickle.loads(pickle.dumps(network))(images), network(images))


def test_a_deployed_network_returns_logits(rng):
    pytest.importorskip("onnxscript")
    network = take_logits(Network(TAKEN["Hugging Face"])).eval()
    images = torch.randn(3, 1, 8, 8, generator=rng)
    deployed = run_onnx(to_onnx(network, (1, 8, 8), None), images)
    torch.testing.assert_close(deployed, network(images).detach())


def test_auxiliary_heads_matter_only_in_training():
    network = take_logits(Network(lambda z: Auxiliary(z, z, z)))
    images = torch.zeros(3, 1, 8, 8)
    assert network.eval()(images).shape == (3, 10)
    said = r"`Auxiliary` with logits, aux_logits2, aux_logits1 in training mode: .* aux_logits2, "
    with pytest.raises(OutputError, match=said + '.* `--model.network_args \'{"aux_logits": fals'):
        network.train()(images)


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (lambda z: None, r"got None in training mode. Does its `forward` lack a `return`"),
        (
            lambda z: (z, z[:, :3]),
            r"got `tuple` of a tensor of shape \(3, 10\), a tensor of shape \(3, 3\)",
        ),
        (lambda z: [z], r"got `list` of a tensor of shape \(3, 10\) in"),
        (lambda z: (), "got `tuple` of nothing"),
        (lambda z: {"out": z, "aux": z}, "got `dict` with out, aux in"),
        (lambda z: {"logits": z.tolist()}, "got `dict` with logits in"),
        (lambda z: Output(loss=z.mean()), "got `Output` with loss in"),
        (lambda z: Output(), "got `Output` in"),
        (lambda z: z.mean().item(), "got `float` in"),
        (lambda z: {"logits": z, "aux": z}, "aux would not be trained"),
        (lambda z: Output(z, aux_logits=z), "`Output` with logits, aux_logits in training mode"),
    ],
)
def test_other_outputs_are_named(wrap, said):
    with pytest.raises(OutputError, match=f"^Network (must return a tensor|returns).*{said}"):
        take_logits(Network(wrap))(torch.zeros(3, 1, 8, 8))
