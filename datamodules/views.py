"""Transformations of images: random augmentation, an attacker's views, normalisation."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64, Shaped, UInt8
from torch import Tensor
from torch.nn.functional import pad

from datamodules.seeds import derive_seed


class Windows(NamedTuple):
    """Windows to cut out of framed images: where each begins, and whether it is mirrored.

    They are on the CPU, where they are drawn, or already with the images.
    """

    top: Int64[Tensor, " images"]
    left: Int64[Tensor, " images"]
    mirrored: Bool[Tensor, " images"] | None  # None if no image is

    def take(self, indices: Int64[Tensor, " chosen"] | slice) -> "Windows":
        """Select the windows of the images at `indices`."""
        mirrored = None if self.mirrored is None else self.mirrored[indices]
        return Windows(self.top[indices], self.left[indices], mirrored)

    def to(self, device: torch.device) -> "Windows":
        """Copy them to a device."""
        mirrored = None if self.mirrored is None else self.mirrored.to(device)
        return Windows(self.top.to(device), self.left.to(device), mirrored)


def draw_windows(count: int, flip: bool, crop: int, generator: torch.Generator) -> Windows:
    """Draw windows as training does, for `count` images; `generator` is on the CPU."""
    top, left = torch.randint(2 * crop + 1, (2, count), generator=generator)
    return Windows(top, left, torch.rand(count, generator=generator) < 0.5 if flip else None)


class Epoch(NamedTuple):
    """The plan of an epoch.

    Attributes:
        order: its examples, batch after batch.
        sizes: number of examples in each batch.
        windows: what is cut out of each example, or None where training does not augment.
    """

    order: Int64[Tensor, " members"]
    sizes: list[int]
    windows: Windows | None


def draw_epoch(
    members: Int64[Tensor, " members"], steps: int, flip: bool, crop: int, seed: int
) -> Epoch:
    """Draw the order of the members in an epoch, then their windows, one batch after another."""
    generator = torch.Generator().manual_seed(seed)
    order = members[torch.randperm(len(members), generator=generator)]
    sizes = [len(part) for part in order.tensor_split(steps)]
    return _plan(order, sizes, flip, crop, generator)


def draw_poisson_epoch(
    members: Int64[Tensor, " members"], steps: int, flip: bool, crop: int, seed: int, rate: float
) -> Epoch:
    """Draw the batches of an epoch independently: each step takes each member with chance `rate`.

    A batch may be empty, and a member may come in several batches or in none.
    """
    generator = torch.Generator().manual_seed(seed)
    size = len(members)  # in float64, because a float32 has but 2^24 values
    coins = (torch.rand(size, generator=generator, dtype=torch.float64) for _ in range(steps))
    batches = [members[drawn < rate] for drawn in coins]
    return _plan(torch.cat(batches), [len(batch) for batch in batches], flip, crop, generator)


def _plan(
    order: Int64[Tensor, " examples"],
    sizes: list[int],
    flip: bool,
    crop: int,
    generator: torch.Generator,
) -> Epoch:
    """Add the windows of an epoch's examples, drawn batch by batch."""
    if not flip and not crop:
        return Epoch(order, sizes, None)
    batches = [draw_windows(size, flip, crop, generator) for size in sizes]
    top, left = torch.cat([b.top for b in batches]), torch.cat([b.left for b in batches])
    mirrored = [batch.mirrored for batch in batches if batch.mirrored is not None]
    return Epoch(order, sizes, Windows(top, left, torch.cat(mirrored) if mirrored else None))


def augment(
    images: UInt8[Tensor, "batch channels height width"],
    flip: bool,
    crop: int,
    generator: torch.Generator,
) -> UInt8[Tensor, "batch channels height width"]:
    """Mirror images with probability 1/2 and cut a random window out of each, as one batch.

    Args:
        images: the batch, on any device.
        flip: whether to mirror left and right.
        crop: width in pixels of the black frame that the window may reach into; 0 disables it.
        generator: on the CPU, so that every device makes the same choices.
    """
    if not flip and not crop:
        return images
    return cut(images, crop, draw_windows(len(images), flip, crop, generator))


def cut(
    images: UInt8[Tensor, "batch channels height width"], crop: int, windows: Windows
) -> UInt8[Tensor, "batch channels height width"]:
    """Frame images with `crop` black pixels, and cut a window out of each."""
    batch, channels, height, width = images.shape
    device = images.device
    top, left = (start.to(device)[:, None, None] for start in windows[:2])
    framed = pad(images, [crop] * 4)
    # Each row of a window is found by where it begins: `index_select` copies whole rows and images,
    # in a fifth of the time of one index per pixel.
    image = torch.arange(batch, device=device)
    plane = image[:, None, None] * channels + torch.arange(channels, device=device)[:, None]
    row = plane * framed.shape[2] + top + torch.arange(height, device=device)
    begins = (row * framed.shape[3] + left).flatten()
    shown = framed.flatten().unfold(0, width, 1).index_select(0, begins).view(images.shape)
    if windows.mirrored is not None:
        both = torch.cat([shown, shown.flip(3)])
        shown = both.index_select(0, image + batch * windows.mirrored.to(device))
    return shown


def view(
    images: Shaped[Tensor, "batch channels ..."], query: str
) -> Shaped[Tensor, "batch channels ..."]:
    """Show images as a query does: `identity`, `mirror`, or `shift+2-1` (2 down, 1 left).

    A shift shows what a crop whose window lies that far the other way would cut out.

    Raises:
        ValueError: an unknown query, one of arrays, or a shift that leaves nothing of the image.
    """
    if query == "identity":
        return images
    if images.dtype != torch.uint8:
        raise ValueError(f"`{query}` is a view of images; arrays have only `identity`. Ask for it.")
    if query == "mirror":
        return images.flip(3)
    down, right = _shift(query)
    height, width = images.shape[2:]
    if abs(down) >= height or abs(right) >= width:
        raise ValueError(
            f"`{query}` moves images of {height} x {width} pixels out of sight. Shift by less."
        )
    return pad(images, [right, -right, down, -down])  # negative padding crops


def is_random(query: str) -> bool:
    """Whether a query is `random-0`, `random-1`, ...: a random training view.

    Random queries alone differ between models. Each model draws its own, image by image, from its
    seed and the query's number; all variants of a model share them. The paper's code does the same,
    and it blurs the comparison with the shadows.
    """
    return re.fullmatch(r"random-(0|[1-9]\d*)", query) is not None


def draw_random_query(count: int, query: str, flip: bool, crop: int, seed: int) -> Windows:
    """Draw the windows of `count` images for a random query of the model with this seed."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "query", query))
    return draw_windows(count, flip, crop, generator)


def default_queries(flip: bool, crop: int) -> list[str]:
    """Name the views that training used and that are the same for every model."""
    step = max(1, crop // 2)
    shifts = [(-step, 0), (step, 0), (0, -step), (0, step)] if crop else []
    mirror = ["mirror"] if flip else []
    return ["identity", *mirror, *(f"shift{down:+d}{right:+d}" for down, right in shifts)]


def check_queries(queries: Sequence[str], flip: bool, crop: int) -> list[str]:
    """Check the names of queries, and return those that training with these options never shows.

    Raises:
        ValueError: no query, an unknown or repeated query, or a random query where training does
            not augment.
    """
    if not queries:
        raise ValueError("An attack needs at least one query, got none. Try `identity`.")
    if len(set(queries)) < len(queries):
        raise ValueError(f"Every query counts once, got {list(queries)}. Drop the repeats.")
    if not flip and not crop and any(map(is_random, queries)):
        raise ValueError(
            f"A random query draws a flip and a crop as training does, got {list(queries)} where "
            "training does neither. Pass `--data.flip true` or `--data.crop 4`, or use `identity`."
        )
    return [query for query in queries if not _trained(query, flip, crop)]


def normalise(
    images: Shaped[Tensor, "batch channels ..."], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Tensor, "batch channels ..."]:
    """Scale to zero mean and unit std per channel over the data set, and bytes to 0..1 before."""
    sides = (1,) * (images.ndim - 2)
    centre, scale = (_by_channel(v, images.device).view(-1, *sides) for v in (mean, std))
    if images.dtype == torch.uint8:
        scaled = images.float().div_(255).sub_(centre).div_(scale)
    else:
        scaled = (images - centre).div_(scale)
    if images.ndim != 4:
        return scaled
    # convolutions are fastest with channels last, on GPUs and CPUs alike
    return scaled.contiguous(memory_format=torch.channels_last)


@lru_cache
def _by_channel(values: tuple[float, ...], device: torch.device) -> Float[Tensor, " channels"]:
    """Values as a tensor, copied to the device once: a GPU waits for every copy."""
    with torch.inference_mode(False):  # the first use may be in it, and training uses it as well
        return torch.tensor(values, device=device)


def _trained(query: str, flip: bool, crop: int) -> bool:
    if query == "identity" or is_random(query):
        return True
    if query == "mirror":
        return flip
    return max(map(abs, _shift(query))) <= crop


def _shift(query: str) -> tuple[int, int]:
    match = re.fullmatch(r"shift([+-]\d+)([+-]\d+)", query)
    down, right = map(int, match.groups()) if match else (0, 0)
    # one spelling per view, so that repeats are noticed; a shift by nothing is `identity`
    if (down, right) == (0, 0) or query != f"shift{down:+d}{right:+d}":
        raise ValueError(
            f"A query is `identity`, `mirror`, a shift such as `shift+2-1` (2 pixels down, 1 left) "
            f"or `random-0`, `random-1` and so on, got `{query}`."
        )
    return down, right
