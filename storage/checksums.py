"""Checksums of a model's files: written when a file is finished, compared before it is used."""

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

from storage.files import write_text

SUMS = "SHA256SUMS"  # in a model's folder, in the format of `sha256sum --check`
LINE = re.compile(r"[0-9a-f]{64}  [^/\s][^\n]*")  # of that file
# files that get a checksum, and so do the records beside weights
SEALED = (
    "*.safetensors", "signals/*.safetensors", "embeddings/*.safetensors", "rounds/*.safetensors",
    "tasks/*.safetensors",
)  # fmt: skip
# What zipfile, torch and safetensors raise for damaged content.
UNREADABLE = (
    zipfile.BadZipFile, SafetensorError, UnpicklingError, EOFError, ValueError, LookupError,
    TypeError, AttributeError, RuntimeError, struct.error, zlib.error,
)  # fmt: skip


def seal(folder: Path) -> None:
    """Write the checksums of the finished files of a model that have none yet."""
    sums = _read_sums(folder)
    files = [path for path in _finished(folder) if path not in sums]
    new = {path: digest for path in files if (digest := _digest(path))}
    if new:
        _write_sums(folder, sums | new)


def break_seals(folder: Path) -> None:
    """Delete the checksums of missing files and of their records, which will be made again."""
    sums = _read_sums(folder)
    kept = {
        path: digest
        for path, digest in sums.items()
        if path.exists() and path.with_suffix(".safetensors").exists()
    }
    if kept != sums:
        _write_sums(folder, kept)


def is_sealed(folder: Path, paths: Iterable[Path]) -> bool:
    """Whether all of these files of a model have checksums."""
    return set(paths) <= _read_sums(folder).keys()


def damaged(folder: Path) -> list[Path]:
    """Find the damaged files of a model.

    A file with a checksum is compared with it; any other file is opened, which also tells for a
    checkpoint: it is a zip archive with checksums of its own. A missing file is not damaged.
    """
    if not _is_list_of_sums(folder / SUMS):
        return [folder / SUMS]
    sums = _read_sums(folder)
    unsealed = [path for path in _finished(folder) if path not in sums]
    unreadable = [path for path in [*unsealed, *folder.glob("*.ckpt")] if not _opens(path)]
    return sorted(unreadable + changed(folder, sums))


def changed(folder: Path, paths: Iterable[Path]) -> list[Path]:
    """Select those of these files of a model that differ from their checksums."""
    sums = _read_sums(folder)
    return [path for path in paths if path in sums and _digest(path) not in (sums[path], None)]


def check_unchanged(folder: Path, paths: Iterable[Path]) -> None:
    """Raise ValueError if one of these files of a model differs from its checksum."""
    if damaged := changed(folder, paths):
        raise ValueError(
            f"{damaged[0]} is not what was written. Run train.py again with `--repair`."
        )


def remove(folder: Path, paths: Iterable[Path]) -> None:
    """Delete damaged files of a model, and the files that would not fit the new ones."""
    for path in paths:
        path.unlink(missing_ok=True)
        if path.suffix == ".json":  # weights and record are made together
            path.with_suffix(".safetensors").unlink(missing_ok=True)
    break_seals(folder)


def _finished(folder: Path) -> list[Path]:
    """The finished files of a model: weights of any variant with their record, and the rest.

    A record is written before its weights, and is made again with them where these are missing.
    """
    weights, *others = ([*sorted(folder.glob(pattern))] for pattern in SEALED)
    records = [record for path in weights if (record := path.with_suffix(".json")).exists()]
    return [*weights, *records, *(path for group in others for path in group)]


def _write_sums(folder: Path, sums: Mapping[Path, str]) -> None:
    lines = [f"{digest}  {path.relative_to(folder)}\n" for path, digest in sums.items()]
    write_text(folder / SUMS, "".join(lines))


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def _read_sums(folder: Path) -> dict[Path, str]:
    if not (folder / SUMS).exists():
        return {}
    lines = (folder / SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
    pairs = [line.split("  ", 1) for line in lines if LINE.fullmatch(line)]
    return {folder / name: digest for digest, name in pairs}


def _is_list_of_sums(path: Path) -> bool:
    if not path.exists():
        return True
    text = path.read_text(encoding="utf-8", errors="replace")
    return text.endswith("\n") and all(LINE.fullmatch(line) for line in text.splitlines())


def _opens(path: Path) -> bool:
    """Whether a file without a checksum can be read, or has been deleted meanwhile."""
    try:
        if path.suffix == ".ckpt":
            with zipfile.ZipFile(path) as archive:
                whole = archive.testzip() is None
            torch.load(
                path, map_location="meta", weights_only=True
            )  # runs no code, reads no tensors
            return whole
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):
                return True
    except FileNotFoundError:
        return True
    except UNREADABLE:  # errors of the system or of memory say nothing about the file
        return False
    return True
