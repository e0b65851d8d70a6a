"""A small convolutional network that tells members by the series of one signal over the rounds.

In the spirit of Zari, Xu, Neglia 2021 (arXiv:2111.00430), whose code is lost: series of the true
class's probability under a client's uploads, three convolutions along the rounds, each with
BatchNorm, and their mean over the rounds. Theirs has 8, 5 and 3 taps and 128, 256 and 128 channels,
and knows members of the target; this one is smaller, and learns from shadow federations.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from attacks.federated.series_network import find_scale

CHANNELS, TAPS, EPOCHS, BATCH = (8, 16, 8), (7, 5, 3), 20, 128
_RATE, _AT_ONCE = 1e-3, 2**14


def score_convolution(
    known: Float[Tensor, "networks cells rounds"],
    members: Bool[Tensor, "networks cells"],
    series: list[Float[Tensor, "_ rounds"]],
    seed: int = 0,
) -> list[Float[Tensor, " _"]]:
    """Train a network on each set of known series, and score others by it, as `score_series`."""
    scale, networks = find_scale(known), len(known)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _fit(scale(known).transpose(0, 1), members.T.float())
    scores = []
    for place, own in enumerate(series):
        inputs = scale(own, place)[:, None].expand(-1, networks, -1)
        with torch.inference_mode():
            parts = [
                network(part)[:, place, 0] for part in torch.split(inputs, _AT_ONCE // networks)
            ]
        scores.append(torch.cat(parts).double())
    return scores


def _fit(
    inputs: Float[Tensor, "cells networks rounds"], members: Float[Tensor, "cells networks"]
) -> nn.Sequential:
    """Train networks beside each other, as groups of channels; equal weights, batch by batch."""
    network = _build(inputs.shape[1])
    optimizer = torch.optim.Adam(network.parameters(), _RATE)
    for _ in range(EPOCHS):
        for batch in torch.split(torch.randperm(len(inputs)), BATCH):
            if len(batch) < 2:  # which BatchNorm refuses
                continue
            optimizer.zero_grad()
            logits = network(inputs[batch])[..., 0]
            loss = binary_cross_entropy_with_logits(logits, members[batch], reduction="none")
            loss.mean(0).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return network.eval()


def _build(networks: int) -> nn.Sequential:
    layers = list[nn.Module]()
    for before, after, taps in zip((1, *CHANNELS), CHANNELS, TAPS, strict=False):
        layers += [_convolution(networks, before, after, taps)]
        layers += [nn.BatchNorm1d(networks * after), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool1d(1), _convolution(networks, CHANNELS[-1], 1, 1, bias=True)
    )


def _convolution(
    networks: int, before: int, after: int, taps: int, bias: bool = False
) -> nn.Conv1d:
    """A convolution of each network on its own channels, all with the same initial weights."""
    one = nn.Conv1d(before, after, taps, bias=bias)
    state = torch.get_rng_state()
    layer = nn.Conv1d(
        networks * before,
        networks * after,
        taps,
        padding=taps // 2,
        groups=networks,
        bias=bias,
    )
    torch.set_rng_state(state)  # as if a single network drew its weights
    with torch.no_grad():
        for parameter, alone in zip(layer.parameters(), one.parameters(), strict=True):
            parameter.copy_(alone.repeat(networks, *[1] * (alone.ndim - 1)))
    return layer
