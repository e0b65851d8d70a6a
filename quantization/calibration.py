"""The images that a quantizer looks at, and the error for networks that give no usable values."""

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

from jaxtyping import Float, Int64
from torch import Tensor

CalibrationSource = Literal["members", "nonmembers", "heldout"]
Images = Float[Tensor, "images channels ..."]

CHUNK = 128  # images per forward pass
LARGEST = 1e15  # sums of squares of larger values overflow float32


class DivergedError(ValueError):
    """The full-precision network gives values that are not finite."""


class Calibration(NamedTuple):
    """The images to which weights are fitted.

    Attributes:
        images: normalised, as the network takes them.
        augmented: the same images, augmented anew for each round 0, 1, ...
        indices: positions of the images in the pool, or in the held-out images.
        source: the part of the data they were drawn from.
        seed: seed of everything random in the quantization.
        rounds: rounds of augmented images that OBC and BatchNorm's statistics see; with 0, they see
            `images`.
    """

    images: Images
    augmented: Callable[[int], Images]
    indices: Int64[Tensor, " images"]
    source: CalibrationSource
    seed: int
    rounds: int = 0

    @property
    def key(self) -> tuple[object, ...]:
        """What tells these images from another draw of the same data."""
        return self.source, self.seed, self.rounds, self.indices.numpy().tobytes()

    def batches(self) -> Iterator[Images]:
        """The images once, or augmented anew in each round."""
        if not self.rounds:
            yield self.images
        yield from map(self.augmented, range(self.rounds))


def check_finite(name: str, values: Iterable[Tensor], verb: str = "is given") -> None:
    """Raise `DivergedError` if a layer or block of the full-precision network has unusable values.

    Args:
        name: name of the layer or block, for the message.
        values: its inputs or outputs.
        verb: "is given" for inputs, "gives" for outputs.
    """
    # false for NaN, too; a fifth of the time of comparing each value, in any layout in memory
    if not all((value.amax() < LARGEST) & (value.amin() > -LARGEST) for value in values):
        raise DivergedError(
            f"`{name}` {verb} values that are not finite, or beyond {LARGEST:g}, on the calibration"
            " images. The training diverged: lower the learning rate, or train the model from"
            " another start."
        )
