"""What a search for bits per layer found, and by what, as it is kept in a variant's record."""

from typing import Any, NamedTuple

from quantization.rounding.grid import Bits


class Loss(NamedTuple):
    """What one group of layers is expected to lose at one width.

    Attributes:
        kl: divergence of the logits with that group alone quantized, in nats per image.
        changed: images whose predicted class then is another, in percentage points: at least the
            accuracy lost, and of the same size where errors do not cancel.
        fisher: half the Fisher information times the squared rounding errors, in nats per image.
    """

    kl: float = 0.0
    changed: float = 0.0
    fisher: float = 0.0


class Choice(NamedTuple):
    """One allocation of bits that was checked.

    Attributes:
        bytes: bytes of all weights.
        expected: sum of the losses of single layers.
        measured: loss on other images with all layers quantized at once, each by the codes that it
            has alone.
        objective: AIQ's objective with the measured loss; for a budget, the measured loss.
    """

    bytes: int
    expected: float
    measured: float
    objective: float


class SearchRecord(NamedTuple):
    """How bits were chosen for one network.

    Attributes:
        bits: bits of every layer by its name, also of fixed layers.
        bytes: bytes of all weights as they are stored.
        budget: bytes that they may take; None for AIQ's objective.
        mean_bits: bits per weight, with scales and zero points.
        loss: what `expected` and `measured` are: `kl` or `fisher` in nats per image, or `changed`
            in percentage points.
        expected: sum of the losses of single layers on the images that they were measured on.
        measured: loss of all at once, on other images: `kl` unless `loss` is `changed`.
        checked: all allocations that were checked; the chosen one is the best of them.
        losses: losses by the layer's (or group's) name and its bits.
        frontier: bytes and expected losses of the best trade-offs, thinned out.
        seconds: wall time of the search, without what another variant of the network has measured.
    """

    bits: dict[str, Bits]
    bytes: int
    budget: float | None
    mean_bits: float
    loss: str
    expected: float
    measured: float
    checked: list[Choice]
    losses: dict[str, dict[str, Loss]]
    frontier: tuple[list[int], list[float]]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        losses = {
            name: {bits: loss._asdict() for bits, loss in own.items()}
            for name, own in self.losses.items()
        }
        return self._asdict() | {
            "checked": [choice._asdict() for choice in self.checked],
            "losses": losses,
            "frontier": dict(zip(("bytes", "loss"), self.frontier, strict=True)),
        }
