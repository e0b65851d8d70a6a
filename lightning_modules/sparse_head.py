"""Heads of one hidden layer, most of whose neurons are silent: SDMLP, Top-K, and plain ReLU."""

from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from continual.top_k import count_active, masked, switch_gains, switched
from lightning_modules.sdmlp_options import SdmlpOptions

TINY = 1e-12  # a row of zeros stays so when it is normalised


class GabaSwitch(nn.Module):
    """Inhibition of all neurons but k, which comes to each once it has been active often enough.

    Args:
        neurons: number of neurons.
        k: number of neurons that stay active for an example.
    """

    counts: Tensor  # training examples that each neuron was active on
    switch: Tensor  # how many of them make its inhibition complete; set before training

    def __init__(self, neurons: int, k: int) -> None:
        super().__init__()
        self.k = k
        self.register_buffer("switch", torch.ones((), dtype=torch.int64))
        self.register_buffer("counts", torch.zeros(neurons, dtype=torch.int64))

    def forward(self, active: Float[Tensor, "batch neurons"]) -> Float[Tensor, "batch neurons"]:
        """Activations that are left; what is counted in training changes later batches only."""
        hidden = switched(active, self.k, switch_gains(self.counts, self.switch))
        if self.training:
            self.counts += count_active(hidden)
        return hidden


class TopK(nn.Module):
    """The k largest activations of each example.

    Args:
        k: number of neurons that stay active for an example.
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k  # training lowers it from all neurons; any other network has the last

    def forward(self, active: Float[Tensor, "batch neurons"]) -> Float[Tensor, "batch neurons"]:
        """Activations that are left."""
        return masked(active, self.k)


class Activations(NamedTuple):
    """What a head computes of rows of features.

    Attributes:
        before: hidden activations before inhibition.
        after: the same after it.
        logits: logits.
    """

    before: Float[Tensor, "batch neurons"]
    after: Float[Tensor, "batch neurons"]
    logits: Float[Tensor, "batch classes"]


class SparseHead(nn.Module):
    """One hidden layer between two linear ones.

    With `memory` it is the head of SDMLP: features and the rows of the first layer have norm 1,
    nothing has a bias, and with `positive` no feature and no weight is negative.

    Args:
        features: length of a row of features.
        num_classes: number of classes.
        learner: `relu`, `topk`, `sdmlp` or `ssd`.
        options: the hidden layer.
    """

    def __init__(
        self, features: int, num_classes: int, learner: str, options: SdmlpOptions
    ) -> None:
        super().__init__()
        self.memory = learner in ("sdmlp", "ssd")
        self.positive = self.memory and options.positive
        self.hidden = nn.Linear(features, options.hidden, bias=not self.memory)
        self.inhibition: nn.Module = nn.Identity()
        if self.memory:
            self.inhibition = GabaSwitch(options.hidden, options.k)
        elif learner == "topk":
            self.inhibition = TopK(options.k)
        self.output = nn.Linear(options.hidden, num_classes, bias=not self.memory)
        self.constrain()

    def forward(self, features: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch classes"]:
        """Logits."""
        return self.activations(features).logits

    def activations(self, features: Float[Tensor, "batch columns"]) -> Activations:
        """Logits, and the hidden layer that they are made of."""
        if self.positive:
            features = features.relu()
        if self.memory:
            features = features / (features.norm(dim=1, keepdim=True) + TINY)
        before = cast(Tensor, self.hidden(features)).relu()
        after = cast(Tensor, self.inhibition(before))
        return Activations(before, after, self.output(after))

    @torch.no_grad()
    def constrain(self) -> None:
        """Give the weights of SDMLP their sign, and then the rows of its first layer norm 1."""
        if self.positive:
            for weight in self.parameters():
                weight.clamp_(min=0)
        if self.memory:
            rows = self.hidden.weight
            rows /= rows.norm(dim=1, keepdim=True) + TINY
