"""The options of a search for bits per layer, as on the command line; imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal

Bits = int | float
CANDIDATES: tuple[Bits, ...] = (8, 4, 3, 2, 1.58, 32)  # 32 is full precision


@dataclass(frozen=True)
class MixedOptions:
    """The search for bits per layer of variants such as `adaround-mix3` and `nearest-aiq0.9`.

    Args:
        candidates: bits that a layer may have; 32 is full precision.
        sensitivity: the expected loss of a layer in `-mix`: `kl`, the divergence of the logits with
            that layer alone quantized, or `fisher`, from the gradients of its weights.
        tie: whether layers whose outputs are added have the same bits: `free`, or `sums` for tied.
        ai_scale: arithmetic intensity, in FLOP per byte, that counts 1 in AIQ's objective.
        loss_scale: loss, in percentage points, that counts 1 in it.
        batch: images per batch, for arithmetic intensity.

    Raises:
        ValueError: there are no candidates, or a number is out of range.
    """

    candidates: Sequence[Bits] = CANDIDATES
    sensitivity: Literal["kl", "fisher"] = "kl"
    tie: Literal["free", "sums"] = "free"
    ai_scale: float = 60.0
    loss_scale: float = 10.0
    batch: int = 1

    def __post_init__(self) -> None:
        """Refuse what leaves nothing to choose, or nothing to measure."""
        known = ", ".join(map(str, CANDIDATES))
        if unknown := [bits for bits in self.candidates if bits not in CANDIDATES]:
            raise ValueError(f"`mixed.candidates` must be among {known}, got {unknown[0]:g}.")
        if not self.candidates or len({*self.candidates}) < len(self.candidates):
            given = ", ".join(f"{bits:g}" for bits in self.candidates) or "none"
            raise ValueError(f"`mixed.candidates` must be different bits of {known}, got {given}.")
        for name in ("ai_scale", "loss_scale"):
            if not 0 < (value := getattr(self, name)) < inf:
                raise ValueError(f"`mixed.{name}` must be above 0 and finite, got {value:g}.")
        if self.batch < 1:
            raise ValueError(f"`mixed.batch` must be 1 image or more, got {self.batch}.")
