"""Source inference: which client holds an example that is known to be a member."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from attacks.metrics.measures import Measured


def infer_source(
    signal: Float[Tensor, "rounds clients examples"],
) -> Int64[Tensor, " examples"]:
    """Name the client whose upload knows each example best.

    A client's signal is taken from the round's mean over clients first, because not all take part
    in the same rounds and signals grow with training.

    Args:
        signal: larger where an example is likelier a member; NaN where a client did not take part.

    Source: Hu et al. 2021, "Source Inference Attacks in Federated Learning", arXiv:2109.05659,
        which takes the smallest loss, of one round.
    """
    relative = (signal - signal.nanmean(1, keepdim=True)).nanmean(0)
    return relative.nan_to_num(-torch.inf).argmax(0)


def measure_source(
    sources: Int64[Tensor, "federations examples"],
    holder: Int64[Tensor, "federations examples"],
    known: Bool[Tensor, "federations examples"],
) -> Measured:
    """Share of each federation's members whose client was named, and what each example adds to it.

    Args:
        sources: the client that was named.
        holder: the client that holds the example.
        known: which examples are members of clients that took part in a recorded round.
    """
    correct, counted = (sources == holder).double(), known.double()
    count = counted.sum(1, keepdim=True)
    share = (correct * counted).sum(1, keepdim=True) / count
    size = (count * (count - 1).clamp_min(1)).sqrt()
    return Measured(share[:, 0], (correct - share) * counted / size)
