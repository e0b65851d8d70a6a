"""Decoded images in a file, which all processes of a machine map instead of holding copies."""

import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Mapping
from functools import cached_property
from math import prod
from mmap import ACCESS_READ, MADV_WILLNEED, PAGESIZE, mmap
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
import torch
from filelock import FileLock
from jaxtyping import Int64, UInt8
from torch import Tensor

from datamodules.decode import Decoding, Facts, Form, in_memory

VERSION = 1  # of what `Decoding` makes of a file
SAMPLE = 64  # images whose content is checked whenever a file is opened


class MappedPixels:
    """Images in a .npy file, mapped to be read; processes that are sent them map the file again.

    Args:
        path: the file.
        digest: hash of its shape and of a sample of its images.
    """

    def __init__(self, path: Path, digest: str) -> None:
        self.path, self.digest = path, digest

    @cached_property
    def pixels(self) -> UInt8[Tensor, "stored channels height width"]:
        """The images; reading them is what brings them into memory."""
        with self.path.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, _, _ = np.lib.format.read_array_header_1_0(file)
            self._start = file.tell()
            self._map = mmap(file.fileno(), 0, access=ACCESS_READ)
        array = np.frombuffer(self._map, np.uint8, prod(shape), self._start)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*not writable.*")  # nothing writes to it
            return torch.from_numpy(array.reshape(shape))

    def take(self, rows: Int64[Tensor, " chosen"]) -> UInt8[Tensor, "chosen channels height width"]:
        """Copy some images into memory.

        Where memory cannot hold the file, its system is told which of them come next: of images of
        12 kB at random it otherwise read 736 MB instead of 82 MB, at a half of the speed.
        """
        pixels = self.pixels
        if pixels.nbytes > _memory() / 2:
            size = pixels[0].numel()
            for first in (self._start + size * rows).tolist():
                page = first - first % PAGESIZE
                self._map.madvise(MADV_WILLNEED, page, first + size - page)
        return pixels.index_select(0, rows)

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "digest": self.digest}


class Decoded(NamedTuple):
    """Images, and how they came about.

    Attributes:
        pixels: in a file, or in memory if none can be written.
        facts: what they were before.
        note: where they were decoded to; empty if they were there.
    """

    pixels: MappedPixels | Tensor
    facts: Facts
    note: str = ""

    def describe(self, form: Form) -> list[str]:
        """Sentences on what became of the files."""
        done = self.facts.describe(form)
        return [sentence for sentence in (done and f"Of these, {done}.", self.note) if sentence]


def default_folder() -> Path:
    """Where files lie unless `--data.cache` says otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "bitleak"


def make_key(contents: Iterable[object], form: Form) -> str:
    """Name the file of some images by all that its content follows from.

    Args:
        contents: what tells the image files and their order apart from any others.
        form: what they are turned into.
    """
    digest = hashlib.sha256(repr((VERSION, PIL.__version__, *form)).encode())
    for content in contents:
        digest.update(f"{content!r}\n".encode())
    return digest.hexdigest()[:32]


def stamp(path: Path | str) -> tuple[int, ...]:
    """Size of a file and the times of its last changes, one of which no program can set."""
    try:
        stat = os.stat(path)
    except OSError:
        return ()  # decoding names it
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def obtain_pixels(folder: Path, key: str, decoding: Decoding) -> Decoded:
    """Map the file of some images, and decode them into it first if it is missing or damaged.

    Raises:
        ValueError: images are damaged.
        OSError: the file cannot be written, and memory is too small for the images.
    """
    path = folder / f"{key}.npy"
    if whole := _open_whole(path, decoding):
        return whole
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            whole = _open_whole(path, decoding)  # another process may have decoded them
            if not whole:
                _write(path, decoding)
                whole = _open_whole(path, decoding)
                note = f"Decoded into {path}, which later calls map."
                whole = whole and whole._replace(note=note)
    except (OSError, NotImplementedError) as error:  # filelock's, where nothing can be locked
        return _hold(folder, decoding, error)
    if whole is None:
        return _hold(folder, decoding, OSError(f"{path} changed while it was written"))
    return whole


def _hold(folder: Path, decoding: Decoding, error: Exception) -> Decoded:
    """Decode into memory, if there is enough of it."""
    needed = prod(decoding.shape)
    if needed > _memory() / 2:
        raise OSError(
            f"Cannot keep {needed / 1e9:.1f} GB of decoded images in {folder} ({error}). Point "
            "`--data.cache` at a folder with enough room."
        ) from error
    pixels = in_memory(decoding)
    note = (
        f"They are in this process's memory: {folder} cannot hold them ({error}). Point "
        "`--data.cache` at a folder that can."
    )
    return Decoded(pixels, decoding.facts, note)


def _memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _open_whole(path: Path, decoding: Decoding) -> Decoded | None:
    """Map a file if it is as long as it should be, and its sample is what was written."""
    try:
        record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        mapped = MappedPixels(path, record["digest"])
        shape = tuple(mapped.pixels.shape)
        if shape != decoding.shape or digest_sample(mapped.pixels) != mapped.digest:
            return None
        return Decoded(mapped, _read_facts(record))
    except (OSError, ValueError, KeyError, TypeError):  # missing or damaged: made again
        return None


def _read_facts(record: Mapping[str, object]) -> Facts:
    smallest, largest, converted = (record[field] for field in Facts._fields)
    return Facts(tuple(smallest), tuple(largest), dict(converted))  # type: ignore[arg-type,call-overload]


def digest_sample(pixels: UInt8[Tensor, "stored channels height width"]) -> str:
    """Hash the shape, and images at equal distances from the first to the last."""
    digest = hashlib.sha256(repr(tuple(pixels.shape)).encode())
    for index in np.linspace(0, len(pixels) - 1, min(SAMPLE, len(pixels))).astype(int):
        digest.update(pixels[index].numpy().tobytes())
    return digest.hexdigest()


def _write(path: Path, decoding: Decoding) -> None:
    """Write the images, then their record, each whole; memory holds one block at a time."""
    partial, record = path.with_suffix(".partial"), path.with_suffix(".json")
    try:
        header = {"descr": "|u1", "fortran_order": False, "shape": decoding.shape}
        with partial.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for block in decoding.blocks():
                file.write(block.data)
            file.flush()
            os.fsync(file.fileno())  # or its name may reach the disk before its content
        partial.replace(path)
        digest = digest_sample(MappedPixels(path, "").pixels)
        partial.write_text(
            json.dumps({"digest": digest, **decoding.facts._asdict()}), encoding="utf-8"
        )
        partial.replace(record)
    finally:
        partial.unlink(missing_ok=True)
