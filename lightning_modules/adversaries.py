"""What malicious servers and clients do to a network in a round of a federation."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from attacks.rounds import ATTACKER
from datamodules.batches import Batch
from datamodules.images import ImageDataModule

State = dict[str, Tensor]  # parameters and buffers of a network by name, each once


def isolate(start: State, own: State, strength: float) -> State:
    """What a malicious server sends a client: (1 - s) w + s w_k, for the client's last upload w_k.

    With s = 1, the client trains a model that it alone has updated, so that no average washes its
    examples out, and what the server sees of it is the same however many others are isolated.

    Args:
        start: the weights that an honest server would send.
        own: the client's last upload, on any device.
        strength: s.

    Source: the isolating attack of Nasr, Shokri, Houmansadr 2019, arXiv:1812.00910.
    """
    sent = {}
    for key, value in start.items():
        mine = own[key].to(value.device)
        if value.is_floating_point():
            mine = ((1 - strength) * value.double() + strength * mine.double()).to(value.dtype)
        sent[key] = mine
    return sent


def candidates(data: ImageDataModule) -> Iterator[Batch]:
    """The examples of the pool that the attacking client does not hold, without augmentation."""
    if data.federation is None:
        raise RuntimeError("Candidates are those of a federation. Call `assign` with one first.")
    others = data.federation.holder != ATTACKER
    for batch in data.pool_batches("identity"):
        kept = others[batch.indices.cpu()].to(batch.labels.device)
        if kept.any():
            yield Batch(batch.images[kept], batch.labels[kept], batch.indices[kept])


def ascend(network: nn.Module, batches: Iterable[Batch], strength: float) -> None:
    """Step a network by `strength` along the gradient of the mean loss of candidates, in place.

    Their holders pull the loss of members down again in later rounds, and nobody that of others.
    In evaluation mode, so that no example's loss depends on others, and no statistics move.

    Source: the gradient ascent of Nasr, Shokri, Houmansadr 2019, arXiv:1812.00910.
    """
    training, count = network.training, 0
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    sums = [torch.zeros_like(weight, dtype=torch.float64) for weight in weights]
    network.eval()
    with torch.enable_grad():
        for batch in batches:
            loss = cross_entropy(network(batch.images), batch.labels, reduction="sum")
            slopes = torch.autograd.grad(loss, weights, allow_unused=True)
            for total, slope in zip(sums, slopes, strict=True):
                total += 0 if slope is None else slope
            count += len(batch.labels)
    network.train(training)
    with torch.no_grad():
        for weight, total in zip(weights, sums, strict=True):
            weight.add_((strength / max(1, count) * total).to(weight.dtype))
