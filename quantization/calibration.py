"""What a quantizer looks at, and what it leaves on record about each layer."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Float, Int64
from torch import Tensor

from quantization.rounding.adaround import LOOP_BATCH
from quantization.rounding.grid import Bits
from quantization.variant import Source, Variant


class DivergedError(ValueError):
    """The network gives values that are not finite, before anything is quantized."""


class Calibration(NamedTuple):
    """Images that weights are fitted to.

    Attributes:
        images: normalised, as the network takes them.
        augmented: the same images, augmented anew for each round 0, 1, ...
        indices: their positions in the pool, or in the held-out images.
        source: which part of the data they were drawn from.
        seed: of everything random in the quantization.
        rounds: of augmented images that OBC and BatchNorm's statistics see; with 0, they see
            `images`.
    """

    images: Float[Tensor, "images channels height width"]
    augmented: Callable[[int], Float[Tensor, "images channels height width"]]
    indices: Int64[Tensor, " images"]
    source: Source
    seed: int
    rounds: int = 0


def wanted(variant: Variant, images: int, rounds: int) -> tuple[int, int]:
    """Images and augmented rounds of a variant: those asked for, or the paper's own numbers."""
    if not variant.paper:
        return images, rounds
    return (2048, 10) if variant.method == "obc" else (1024, rounds)


def check_count(variant: Variant, images: int) -> None:
    """Raise ValueError if a variant needs more images than there are."""
    fewest, why = 1, "to look at"
    if variant.estimates_bn:
        fewest, why = 2, "to estimate BatchNorm's statistics from"
    if variant.paper and variant.method != "obc":
        fewest, why = LOOP_BATCH, "for a batch of its loop"
    if images < fewest:
        raise ValueError(
            f"`{variant}` needs {fewest} calibration images or more {why}, got {images}. Enlarge"
            " the pool" + ("." if variant.paper else ", or raise `--calibration.images`.")
        )


class LayerRecord(NamedTuple):
    """What became of one layer.

    Attributes:
        name: of the layer in its network.
        unit: of the block, or the layer itself, whose output was reconstructed.
        bits: of a weight.
        weights: how many there are.
        flipped: share of them that are not at the code nearest to the trained weight.
        error_before: of the layer's (or its unit's) output with nearest codes, relative: the
            squared error's sum over the squared full-precision output's; None without images.
        error_after: the same with the codes that were chosen.
        seconds: of wall time.
    """

    name: str
    unit: str
    bits: Bits
    weights: int
    flipped: float
    error_before: float | None
    error_after: float | None
    seconds: float


class Record(NamedTuple):
    """What became of a network.

    Attributes:
        variant: how it was quantized.
        objective: what was minimised, in a sentence.
        units: what was reconstructed as a whole, in order: blocks and single layers.
        layers: what became of each.
        seconds: of wall time, for all of it.
    """

    variant: Variant
    objective: str
    units: list[str]
    layers: list[LayerRecord]
    seconds: float

    def as_json(self, calibration: Calibration | None) -> dict[str, Any]:
        """Everything as plain values, with the images that were used."""
        used = calibration and {
            "source": calibration.source,
            "images": len(calibration.indices),
            "indices": calibration.indices.tolist(),
        }
        return {
            "variant": str(self.variant),
            "objective": self.objective,
            "calibration": used,
            "units": self.units,
            "layers": [layer._asdict() for layer in self.layers],
            "seconds": self.seconds,
        }
