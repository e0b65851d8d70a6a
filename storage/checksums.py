"""checksums."""

import hashlib
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open

from storage.files import write_whole

SUMS = "SHA256SUMS"  # of a model's folder, as `sha256sum --check` reads it


# What zipfile, torch and safetensors raise for content that is not what they read.
UNREADABLE = (
    zipfile.BadZipFile, SafetensorError, UnpicklingError, EOFError, ValueError, LookupError,
    TypeError, AttributeError, RuntimeError, struct.error, zlib.error,
)  # fmt: skip


LINE = re.compile(r"[0-9a-f]{64}  [^/\s][^\n]*")


SEALED = ("*.safetensors", "*-w*.json", "signals/*.safetensors")


def seal(folder: Path) -> None:
    """Note the checksum of every finished file of a model that has none yet."""
    sums = _read_sums(folder)
    files = [path for path in _finished(folder) if path not in sums]
    new = {path: digest for path in files if (digest := _digest(path))}
    if new:
        _write_sums(folder, sums | new)


def break_seals(folder: Path) -> None:
    """Forget the checksums of files that are not there, and of their records: they will differ."""
    sums = _read_sums(folder)
    kept = {
        path: digest
        for path, digest in sums.items()
        if path.exists() and path.with_suffix(".safetensors").exists()
    }
    if kept != sums:
        _write_sums(folder, kept)


def is_sealed(folder: Path, paths: Iterable[Path]) -> bool:
    """Whether all of these files of a model have a checksum."""
    return set(paths) <= _read_sums(folder).keys()


def damaged(folder: Path) -> list[Path]:
    """Which files of a model are not what was written.

    Files with a checksum are compared with it, others at least read as what they are: a checkpoint
    is a zip archive with checksums of its own. What is missing is not damaged.
    """
    if not _is_list_of_sums(folder / SUMS):
        return [folder / SUMS]
    sums = _read_sums(folder)
    others = [path for path in _finished(folder) if path not in sums]
    opened = [path for path in [*others, *folder.glob("*.ckpt")] if not _opens(path)]
    return sorted(opened + changed(folder, sums))


def changed(folder: Path, paths: Iterable[Path]) -> list[Path]:
    """Which of these files of a model differ from their checksums, as far as they have one."""
    sums = _read_sums(folder)
    return [path for path in paths if path in sums and _digest(path) not in (sums[path], None)]


def remove(folder: Path, paths: Iterable[Path]) -> None:
    """Delete damaged files of a model, and what would not fit their successors."""
    for path in paths:
        path.unlink(missing_ok=True)
        if path.suffix == ".json":  # a record is made with its weights
            path.with_suffix(".safetensors").unlink(missing_ok=True)
    break_seals(folder)


def _finished(folder: Path) -> list[Path]:
    return [path for pattern in SEALED for path in sorted(folder.glob(pattern))]


def _write_sums(folder: Path, sums: Mapping[Path, str]) -> None:
    lines = [f"{digest}  {path.relative_to(folder)}\n" for path, digest in sums.items()]
    write_whole(folder / SUMS, lambda partial: partial.write_text("".join(lines)))


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def _read_sums(folder: Path) -> dict[Path, str]:
    if not (folder / SUMS).exists():
        return {}
    lines = (folder / SUMS).read_text(errors="replace").splitlines()
    pairs = [line.split("  ", 1) for line in lines if LINE.fullmatch(line)]
    return {folder / name: digest for digest, name in pairs}


def _is_list_of_sums(path: Path) -> bool:
    if not path.exists():
        return True
    text = path.read_text(errors="replace")
    return text.endswith("\n") and all(LINE.fullmatch(line) for line in text.splitlines())


def _opens(path: Path) -> bool:
    """Whether a file that has no checksum of ours is one of its kind, or has gone meanwhile."""
    try:
        if path.suffix == ".ckpt":
            with zipfile.ZipFile(path) as archive:
                whole = archive.testzip() is None
            torch.load(path, map_location="meta", weights_only=True)  # no code, no tensor's content
            return whole
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):
                return True
    except FileNotFoundError:
        return True
    except UNREADABLE:  # not those of the system or of memory, which say nothing about the file
        return False
    return True
