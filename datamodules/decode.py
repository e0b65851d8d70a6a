"""Decoding image files, block by block, with a note of what they were."""

import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError
from torch import Tensor

from datamodules.class_folders import show_path

NAMED = 10  # most damaged files that an error names
BLOCK = 2**25  # bytes of images that are decoded at once
COLOURS = {"RGB", "RGBA", "RGBX", "P", "PA"}  # modes that hold colours as they are shown
GRAYS = {"L", "LA", "La", "1"}


class Form(NamedTuple):
    """What images are turned into.

    Attributes:
        size: width and height in pixels.
        channels: 1 for gray, 3 for colour.
        background: colour on which transparent images are laid.
    """

    size: int
    channels: int
    background: str = "white"


class Facts(NamedTuple):
    """What decoded images were before.

    Attributes:
        smallest: width and height of the one with the fewest pixels.
        largest: the same with the most.
        converted: what was done -> to how many images.
    """

    smallest: tuple[int, int]
    largest: tuple[int, int]
    converted: dict[str, int]

    def describe(self, form: Form) -> str:
        """What was done to the images, in words; empty if nothing was."""
        sizes = dict.fromkeys(f"{width}x{height}" for width, height in self[:2])
        counts = [f"{count:,} {what}" for what, count in sorted(self.converted.items())]
        if [*sizes] != [f"{form.size}x{form.size}"]:
            counts = [f"all scaled from {' to '.join(sizes)}", *counts]
        return ", ".join(counts)


class Decoding:
    """Image files that are decoded block by block, in parallel.

    Each is scaled and cropped to a square about its centre, after it was turned upright and laid on
    the background. Of several frames, the first is taken.

    Args:
        files: names for `load`.
        load: reads the bytes of one file, in any thread.
        form: what they are turned into.
    """

    def __init__(self, files: Sequence[str], load: Callable[[str], bytes], form: Form) -> None:
        self.files, self.load, self.form = files, load, form
        self.shape = len(files), form.channels, form.size, form.size

    def blocks(self) -> Iterator[UInt8[np.ndarray, "block channels size size"]]:
        """Decode everything, in order; `facts` then says what it was.

        Raises:
            ValueError: files are damaged, or hold more than 8 bits of gray; names them.
        """
        self._seen: list[tuple[int, int]] = []
        self._converted, failures = Counter[str](), dict[str, str]()
        _, channels, size, _ = self.shape
        with ThreadPoolExecutor() as threads:  # Pillow decodes and scales without Python's lock
            step = max(1, BLOCK // (channels * size * size))
            for start in range(0, len(self.files), step):
                names = self.files[start : start + step]
                pixels = np.empty((len(names), size, size, channels), np.uint8)
                for name, outcome in zip(names, threads.map(self._try, names, pixels), strict=True):
                    if isinstance(outcome, str):
                        failures[name] = outcome
                    else:
                        self._note(*outcome)
                yield np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        if failures:
            named = "; ".join(
                f"{show_path(file)} ({failures[file]})" for file in sorted(failures)[:NAMED]
            )
            deep = any("8 bits" in reason for reason in failures.values())
            raise ValueError(
                f"{len(failures)} of {len(self.files)} images cannot be read: {named}"
                f"{f'; and {len(failures) - NAMED} more' if len(failures) > NAMED else ''}. "
                f"{'Convert them to 8 bits, or remove' if deep else 'Replace or remove'} them."
            )

    @property
    def facts(self) -> Facts:
        """What the images were."""
        return Facts(self._seen[0], self._seen[-1], dict(self._converted))

    def _note(self, size: tuple[int, int], converted: Sequence[str]) -> None:
        sizes = sorted({*self._seen, size}, key=lambda size: (size[0] * size[1], size))
        self._seen = [sizes[0], sizes[-1]]
        self._converted.update(converted)

    def _try(
        self, name: str, square: UInt8[np.ndarray, "size size channels"]
    ) -> tuple[tuple[int, int], list[str]] | str:
        """Decode one file into `square`; returns what it was, or why it cannot be read."""
        try:
            with Image.open(io.BytesIO(self.load(name))) as image:
                converted, original = _conversions(image, self.form), image.size
                upright = _flatten(ImageOps.exif_transpose(image), self.form)
        except UnidentifiedImageError:
            return "not an image"  # Pillow's message names a buffer in memory
        except Exception as error:  # whatever a codec raises; all failures are named together
            return str(error)
        scaled = ImageOps.fit(upright, (self.form.size,) * 2, Image.Resampling.BILINEAR)
        square[:] = np.asarray(scaled).reshape(square.shape)
        return original, converted


def in_memory(decoding: Decoding) -> UInt8[Tensor, "examples channels height width"]:
    """Decode everything into one tensor."""
    pixels, start = torch.empty(decoding.shape, dtype=torch.uint8), 0
    for block in decoding.blocks():
        pixels[start : start + len(block)] = torch.from_numpy(block)
        start += len(block)
    return pixels


def check_background(background: str | None) -> None:
    """Raise ValueError unless it is a colour without transparency.

    It is None for #808080 on a command line, where # begins a comment of YAML's.
    """
    try:
        known = len(ImageColor.getrgb(str(background))) == 3
    except ValueError:
        known = False
    if not known:
        raise ValueError(
            "`background` must be the name of a colour or rgb(red,green,blue), got "
            f"`{background}`. Pass for example black or 'rgb(128,128,128)'."
        )


def _flatten(image: Image.Image, form: Form) -> Image.Image:
    """Lay an image on the background, and convert it to gray or to colour."""
    if image.has_transparency_data:
        transparent = image.convert("RGBA")
        image = Image.new("RGBA", transparent.size, form.background)
        image.alpha_composite(transparent)
    return image.convert("L" if form.channels == 1 else "RGB")


def _conversions(image: Image.Image, form: Form) -> list[str]:
    """What an opened image loses or gains, in words that follow a number.

    Raises:
        ValueError: it holds more bits per channel than Pillow converts.
    """
    mode = image.mode
    if mode.startswith(("I", "F")):  # Pillow would silently clip these at 255
        raise ValueError(f"mode {mode} instead of 8 bits per channel")
    codecs = [tile[3] for tile in getattr(image, "tile", []) if tile[3]]
    raw = [codec if isinstance(codec, str) else str(codec[0]) for codec in codecs]
    several = getattr(image, "is_animated", False)
    steps = {
        "with the first of several frames": several,
        "reduced from 16 to 8 bits per channel": any(";16" in r and r[:3] != "BGR" for r in raw),
        f"transparent ({mode}) laid on {form.background}": image.has_transparency_data
        and np.asarray(image.convert("RGBA"))[..., 3].min() < 255,
        f"converted from {mode}": mode not in COLOURS | GRAYS,
        "converted from gray to colour": form.channels == 3 and mode in GRAYS,
        "converted from colour to gray": form.channels == 1 and mode not in GRAYS,
    }
    return [what for what, done in steps.items() if done]
