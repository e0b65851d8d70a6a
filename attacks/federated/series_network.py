"""A small network that tells members by the series of one signal over the rounds.

Two attacks are made of it. Series of the logarithm of the norm of the last layer's gradient: in the
spirit of arXiv:2512.15143, of which only the abstract is public; its features, network and numbers
are unknown, so this is no reproduction. Series of the confidence: CS-MIA (Gu, Bai, Xu 2022,
doi:10.1016/j.jisa.2022.103201), whose public code gives the network and its training. Both pool all
examples and know nothing of how hard each of them is.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

HIDDEN, EPOCHS, BATCH = 64, 50, 128
CELLS = 5_000  # of members, and as many of non-members, that a network learns from
_RATE, _DECAY = 1e-3, 5e-4


def score_series(
    known: Float[Tensor, "networks cells rounds"],
    members: Bool[Tensor, "networks cells"],
    series: list[Float[Tensor, "_ rounds"]],
    seed: int = 0,
) -> list[Float[Tensor, " _"]]:
    """Train a network on each set of known series, and score others by it.

    A perceptron with one hidden layer; Adam, cross-entropy, every round's signal in standard
    deviations from its mean over the known series. Networks are trained beside each other, and are
    the same as if each were trained alone.

    Args:
        known: series of the shadows' clients; NaN where a client did not take part.
        members: whose example was held by that client.
        series: for each network, those to score.
        seed: of initial weights and the order of the batches, the same for every network.

    Returns:
        Logits of each network; higher means likelier a member.
    """
    scale = find_scale(known)
    weights = _fit(scale(known), members, torch.Generator().manual_seed(seed))
    scores = []
    for network, own in enumerate(series):
        alone = [weight[network : network + 1] for weight in weights]
        scores.append(_forward(scale(own, network)[None], alone)[0].double())
    return scores


def find_scale(known: Float[Tensor, "networks cells rounds"]) -> Callable[..., Tensor]:
    """A function that puts series in standard deviations from the mean over the known ones.

    It takes the known series of all networks, or others and the number of their network. A round
    without the client tells nothing: it stands at the mean.
    """
    centre = known.nanmean(1, keepdim=True)
    spread = (known - centre).square().nanmean(1, keepdim=True).sqrt()
    spread = spread.where(spread > 0, torch.inf)

    def scale(series: Tensor, network: int | None = None) -> Tensor:
        chosen = slice(None) if network is None else network
        return ((series - centre[chosen]) / spread[chosen]).nan_to_num(0).float()

    return scale


def _fit(
    inputs: Float[Tensor, "networks cells rounds"],
    members: Bool[Tensor, "networks cells"],
    generator: torch.Generator,
) -> list[Tensor]:
    networks, cells, rounds = inputs.shape
    weights = []
    for fan_in, fan_out in ((rounds, HIDDEN), (HIDDEN, 1)):
        bound = (6 / (fan_in + fan_out)) ** 0.5  # Glorot and Bengio 2010
        matrix = (2 * torch.rand(fan_in, fan_out, generator=generator) - 1) * bound
        weights += [matrix.repeat(networks, 1, 1), torch.zeros(networks, 1, fan_out)]
    for weight in weights:
        weight.requires_grad_()
    labels = members.float()
    optimizer = torch.optim.Adam(weights, _RATE, weight_decay=_DECAY)
    for _ in range(EPOCHS):
        for batch in torch.split(torch.randperm(cells, generator=generator), BATCH):
            optimizer.zero_grad()
            logits = _forward(inputs[:, batch], weights)
            loss = binary_cross_entropy_with_logits(logits, labels[:, batch], reduction="none")
            loss.mean(1).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return [weight.detach() for weight in weights]


def _forward(
    inputs: Float[Tensor, "networks cells rounds"], weights: list[Tensor]
) -> Float[Tensor, "networks cells"]:
    first, first_bias, second, second_bias = weights
    hidden = (inputs @ first + first_bias).relu()
    return (hidden @ second + second_bias)[..., 0]
