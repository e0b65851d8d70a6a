"""What variants cost, and how bits were chosen for them, from the records of several models."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

Bits = int | float


class CostMeans(NamedTuple):
    """Cost of one variant, averaged over models, whose bits may differ.

    Attributes:
        flops: floating-point operations per batch.
        weight_bytes: bytes of weights, with scales and zero points, and of biases.
        activation_bytes: bytes that layers read and write per batch.
        intensity: arithmetic intensity, in FLOP per byte.
        mean_bits: bits per weight, with scales and zero points, and the biases' bytes.
        batch: images per batch.
    """

    flops: float
    weight_bytes: float
    activation_bytes: float
    intensity: float
    mean_bits: float
    batch: int


class SearchMeans(NamedTuple):
    """How bits were chosen for one variant.

    Attributes:
        loss: `kl` or `fisher`, in nats per image, or `changed`, in percentage points.
        expected: sum of single layers' losses, averaged over models.
        measured: loss of all layers at once on other images, likewise.
        bits: bits of each layer by its name, one dictionary per model.
        sizes: bytes of the trade-offs of the first model.
        losses: their expected losses.
        chosen: bytes and expected loss of the one that it took.
    """

    loss: str
    expected: float
    measured: float
    bits: list[dict[str, Bits]]
    sizes: list[float]
    losses: list[float]
    chosen: tuple[float, float]


def average_cost(records: Sequence[Mapping[str, Any]], which: str = "own") -> CostMeans | None:
    """Average the cost in records of one variant; None if they are older than it.

    Args:
        records: one per model.
        which: `own`, or `full` for that of the network at full precision.
    """
    costs = [record["cost"][which] for record in records if "cost" in record]
    if not costs:
        return None

    def mean(field: str) -> float:
        return fmean(cost[field] for cost in costs)

    return CostMeans(
        flops=mean("flops"),
        weight_bytes=mean("weight_bytes"),
        activation_bytes=mean("activation_bytes"),
        intensity=mean("intensity"),
        mean_bits=fmean(8 * cost["weight_bytes"] / cost["weights"] for cost in costs),
        batch=costs[0]["batch"],
    )


def average_search(records: Sequence[Mapping[str, Any]]) -> SearchMeans | None:
    """Sum up how bits were chosen; None if they were not."""
    searches = [record["search"] for record in records if "search" in record]
    if not searches:
        return None
    first = searches[0]
    return SearchMeans(
        first["loss"],
        fmean(search["expected"] for search in searches),
        fmean(search["measured"] for search in searches),
        [search["bits"] for search in searches],
        first["frontier"]["bytes"],
        first["frontier"]["loss"],
        (first["bytes"], first["expected"]),
    )
