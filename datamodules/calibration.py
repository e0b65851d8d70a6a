"""The images that a quantizer calibrates one model on, drawn by seed."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from datamodules.seeds import derive_seed


class Source(NamedTuple):
    """One part of the data that images can be drawn from.

    Attributes:
        in_pool: whether its images are in the pool, rather than held out.
        way_out: what to do where it has none.
    """

    in_pool: bool
    way_out: str


SOURCES = {
    "members": Source(True, "Calibrate on nonmembers"),
    "nonmembers": Source(True, "Calibrate on members"),
    "heldout": Source(
        False,
        "Calibrate on members or nonmembers, or set a lower `--data.pool_size` (of no use with "
        "Digits, whose test split is all that its pool leaves)",
    ),
}


def find_source(name: str) -> Source:
    """Look up a source.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in SOURCES:
        *names, last = SOURCES
        raise ValueError(
            f"Calibration images come from {', '.join(names)} or {last}, got `{name}`."
        )
    return SOURCES[name]


def draw(
    source: str,
    members: Bool[Tensor, " examples"],
    pool: int,
    held_out: int,
    count: int,
    seed: int,
) -> Int64[Tensor, " images"]:
    """Draw at most `count` images of a source, or all of them if it has fewer.

    Args:
        source: a name in `SOURCES`: what the model trained on, the rest of the pool, or the
            training split outside the pool.
        members: which examples of the pool the model trained on.
        pool: number of examples in the pool.
        held_out: number of images of the training split outside the pool.
        count: largest number of images.
        seed: decides the order, together with the source; global state does not.

    Returns:
        Positions in the pool, or in the held-out images, in random order: a smaller `count` gives
        the first images of a larger one.

    Raises:
        ValueError: an unknown source, no image to draw, a count below one, or a membership row of
            another pool.
    """
    in_pool, way_out = find_source(source)
    if count < 1:
        raise ValueError(f"Calibration needs 1 image or more, got a `count` of {count}.")
    if len(members) != pool:
        raise ValueError(
            f"`members` must be about the {pool} examples of the pool, got {len(members)}. Was it "
            f"drawn for another `pool_size`?"
        )
    if in_pool:
        positions = (members if source == "members" else ~members).nonzero().flatten().cpu()
    else:
        positions = torch.arange(held_out)
    if not len(positions):
        where = "in" if in_pool else "outside"
        raise ValueError(
            f"Calibration on {source} needs 1 image or more, got 0 {where} the pool of {pool}. "
            f"{way_out}."
        )
    generator = torch.Generator().manual_seed(derive_seed(seed, "calibration", source))
    return positions[torch.randperm(len(positions), generator=generator)[:count]]
