"""Decoding image files into one tensor."""

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

NAMED = 10  # most damaged files that an error names


def decode(
    files: Sequence[str], load: Callable[[str], bytes], size: int, channels: int
) -> UInt8[Tensor, "examples channels {size} {size}"]:
    """Decode files in parallel, scaling and cropping each to a square about its centre.

    Args:
        files: names for `load`.
        load: reads the bytes of one file, in any thread.
        size: width and height of the result in pixels.
        channels: 1 for gray, 3 for colour; images of the other kind are converted.

    Raises:
        ValueError: files are damaged, or hold more than 8 bits per channel; names them.
    """
    pixels = np.empty((len(files), size, size, channels), np.uint8)
    failures: dict[str, str] = {}

    def decode_file(index: int) -> None:
        try:
            pixels[index] = _square(load(files[index]), size, channels)
        except UnidentifiedImageError:
            failures[files[index]] = "not an image"  # Pillow's message names a buffer in memory
        except Exception as error:  # whatever a codec raises; all failures are named together
            failures[files[index]] = str(error)

    with ThreadPoolExecutor() as threads:  # Pillow decodes and scales without Python's lock
        list(threads.map(decode_file, range(len(files))))
    if failures:
        named = "; ".join(f"{file} ({failures[file]})" for file in sorted(failures)[:NAMED])
        raise ValueError(
            f"{len(failures)} of {len(files)} images cannot be read: {named}"
            f"{'; ...' if len(failures) > NAMED else ''}. Replace or remove them."
        )
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def _square(encoded: bytes, size: int, channels: int) -> UInt8[np.ndarray, "size size channels"]:
    with Image.open(io.BytesIO(encoded)) as image:
        if image.mode.startswith(("I", "F")):  # Pillow would silently clip these at 255
            raise ValueError(f"mode {image.mode} instead of 8 bits per channel")
        upright = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
    square = ImageOps.fit(upright, (size, size), Image.Resampling.BILINEAR)
    return np.asarray(square).reshape(size, size, channels)
