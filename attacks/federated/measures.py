"""What scores of clients are worth: one value per federation, because its clients are correlated.

The members of a client are compared with the examples that nobody holds. An example of another
client is no fair non-member: the global model has seen it. These are compared separately.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import one_hot

from attacks.metrics.intervals import CONFIDENCE, Estimate, tail_interval, two_way
from attacks.metrics.measures import RATES, Measured, Metric, area, tail_rate
from attacks.rounds import NOBODY

METRICS: tuple[Metric, ...] = ("auc", "tpr_1pct", "tpr_01pct")
_FALSE_POSITIVES = 2  # fewer of a client's own leave its threshold to all clients together

Scores = Float[Tensor, "federations clients examples"]
Holders = Int64[Tensor, "federations examples"]


def measure_clients(scores: Scores, holder: Holders) -> dict[Metric, Measured]:
    """AUC and TPRs of every federation: the mean over its clients.

    A TPR has each client's own threshold where its non-members leave 2 false positives or more,
    and otherwise one threshold for all clients of the federation.

    Args:
        scores: NaN for clients that never took part, which are left out.
        holder: whose member each example is, or `NOBODY`.

    Raises:
        ValueError: no client of a federation has members, or nobody lacks an example.
    """
    nobody = holder == NOBODY
    by_metric = {}
    for metric in METRICS:
        federations = []
        for own, held, outside in zip(scores, holder, nobody, strict=True):
            compare = _rate_of(metric, int(outside.sum()))
            federations.append(compare(own, held, outside))
        by_metric[metric] = _join(federations)
    return by_metric


def measure_auc(scores: Scores, holder: Holders) -> Measured:
    """The AUC of `measure_clients` alone."""
    federations = []
    for own, held in zip(scores, holder, strict=True):
        federations.append(_mean_over_clients(area, own, held, held == NOBODY))
    return _join(federations)


def measure_against_peers(scores: Scores, holder: Holders) -> Measured:
    """AUC of a client's members against the members of the other clients; 0.5: no telling apart."""
    federations = []
    for own, held in zip(scores, holder, strict=True):
        federations.append(_mean_over_clients(area, own, held, held != NOBODY))
    return _join(federations)


def score_classes(scores: Scores, holder: Holders, labels: Int64[Tensor, " examples"]) -> Scores:
    """Give each example the mean score of its class, over the examples that nobody holds.

    Where clients hold different classes, a client's favourite classes alone tell its members. These
    means know of no single member; on random clients their AUC is 0.5.
    """
    classes = one_hot(labels.long()).double()
    nobody = (holder == NOBODY).double()
    sums = (scores * nobody[:, None]) @ classes
    means = sums / (nobody @ classes)[:, None].clamp_min(1)
    return means[..., labels.long()]


def estimate_tail(metric: Metric, measured: Measured, scores: Scores, holder: Holders) -> Estimate:
    """A TPR with its interval over federations, never narrower than that of independent examples.

    For the latter every non-member counts once, by one of its clients, because the clients' scores
    of an example are correlated.
    """
    estimate = two_way(measured)
    inside, outside = [], []
    for own, held in zip(scores, holder, strict=True):
        clients = _seen(own)
        members = torch.isin(held, clients).nonzero().flatten()
        others = (held == NOBODY).nonzero().flatten()
        inside.append(own[held[members], members])
        outside.append(own[clients[torch.arange(len(others)) % len(clients)], others])
    low, high = tail_interval(torch.cat(inside), torch.cat(outside), RATES[metric], CONFIDENCE)
    bounds = (estimate.low, estimate.high) if len(scores) > 1 else (estimate.value,) * 2
    return estimate._replace(low=min(low, bounds[0]), high=max(high, bounds[1]))


def _rate_of(metric: Metric, non_members: int) -> Callable[..., Measured]:
    """How one federation's value of a metric is computed."""
    if metric == "auc":
        return lambda own, held, outside: _mean_over_clients(area, own, held, outside)
    fpr = RATES[metric]
    if fpr * non_members >= _FALSE_POSITIVES:
        return lambda own, held, outside: _mean_over_clients(
            lambda scores, members: tail_rate(scores, members, fpr), own, held, outside
        )
    return lambda own, held, outside: _together(own, held, outside, fpr)


def _mean_over_clients(
    compare: Callable[[Tensor, Tensor], Measured],
    scores: Float[Tensor, "clients examples"],
    holder: Int64[Tensor, " examples"],
    others: Bool[Tensor, " examples"],
) -> Measured:
    """The mean over clients of what tells a client's members from others."""
    values, influence = [], torch.zeros(len(holder), dtype=torch.float64)
    for client in _seen(scores).tolist():
        inside = holder == client
        kept = inside | others
        if inside.any() and (others & ~inside).any():
            measured = compare(scores[client, kept][None], inside[kept][None])
            values.append(measured.values[0])
            influence[kept] += measured.influence[0]
    if not values:
        raise ValueError(
            "A client's members are compared with examples that it does not hold, got a federation "
            "without either. Split the pool among more clients that take part."
        )
    return Measured(torch.stack(values).mean()[None], influence[None] / len(values))


def _together(
    scores: Float[Tensor, "clients examples"],
    holder: Int64[Tensor, " examples"],
    outside: Bool[Tensor, " examples"],
    fpr: float,
) -> Measured:
    """TPR of all clients at one threshold; what an example adds by each client is summed."""
    clients = _seen(scores)
    inside = holder == clients[:, None]
    kept = inside | outside
    measured = tail_rate(scores[clients][kept][None], inside[kept][None], fpr)
    influence = torch.zeros(kept.shape, dtype=torch.float64)
    influence[kept] = measured.influence[0]
    return Measured(measured.values, influence.sum(0)[None])


def _seen(scores: Float[Tensor, "clients examples"]) -> Int64[Tensor, " seen"]:
    """The clients that took part in a recorded round."""
    return (~scores[:, 0].isnan()).nonzero().flatten()


def _join(federations: Sequence[Measured]) -> Measured:
    return Measured(*(torch.cat(parts) for parts in zip(*federations, strict=True)))
