"""Images that a quantizer may look at: which of them there are for one model, drawn by seed."""

from typing import Literal

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from datamodules.seeds import derive_seed

Source = Literal["members", "nonmembers", "heldout"]


class CalibrationOptions:
    """Which images a quantizer looks at; a variant says of which part of the data.

    Args:
        images: how many, at most: all of that part where there are fewer.
        rounds: how often they are augmented anew, as training does; `obc` and `-bn` see all rounds,
            other methods the first. With 0 they are shown as they are.

    Raises:
        ValueError: a count that is too small.
    """

    def __init__(self, images: int = 1024, rounds: int = 0) -> None:
        if images < 1:
            raise ValueError(f"`calibration.images` must be 1 or more, got {images}.")
        if rounds < 0:
            raise ValueError(f"`calibration.rounds` must be 0 (as they are) or more, got {rounds}.")
        self.images, self.rounds = images, rounds


WAYS_OUT: dict[Source, str] = {
    "members": "Calibrate on nonmembers",
    "nonmembers": "Calibrate on members",
    "heldout": (
        "Calibrate on members or nonmembers, or set a lower `--data.pool_size` (of no use with "
        "Digits, which tests on all that its pool leaves)"
    ),
}


def draw(
    source: Source,
    members: Bool[Tensor, " examples"],
    pool: int,
    held_out: int,
    count: int,
    seed: int,
) -> Int64[Tensor, " images"]:
    """Draw at most `count` images of a source: all of them where there are fewer.

    Args:
        source: what the model trained on, the rest of the pool, or what is outside the pool.
        members: which examples of the pool the model trained on.
        pool: how many examples that is.
        held_out: how many images of the training split are outside the pool.
        count: images asked for.
        seed: together with the source it decides the order; global state does not.

    Returns:
        Positions in the pool, or in the held-out images, in random order: those of a smaller
        `count` are the first of a larger one's.

    Raises:
        ValueError: no image to draw, less than one asked for, or a row of another pool.
    """
    if count < 1:
        raise ValueError(f"Calibration needs 1 image or more, got a `count` of {count}.")
    if len(members) != pool:
        raise ValueError(
            f"`members` must be about the {pool} examples of the pool, got {len(members)}. Was it "
            f"drawn for another `pool_size`?"
        )
    if source == "heldout":
        positions = torch.arange(held_out)
    else:
        positions = (members if source == "members" else ~members).nonzero().flatten().cpu()
    if not len(positions):
        where = f"outside the pool of {pool}" if source == "heldout" else f"in the pool of {pool}"
        raise ValueError(
            f"Calibration on {source} needs 1 image or more, got 0 {where}. {WAYS_OUT[source]}."
        )
    generator = torch.Generator().manual_seed(derive_seed(seed, "calibration", source))
    return positions[torch.randperm(len(positions), generator=generator)[:count]]
