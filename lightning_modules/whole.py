"""Files that are whole: written in one go, and found out when they changed afterwards."""

import hashlib
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, contiguous_format

SUMS = "SHA256SUMS"  # of a model's folder, as `sha256sum --check` reads it
SEALED = ("*.safetensors", "*-w*.json", "signals/*.safetensors")


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename: a file that exists is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def save_whole(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write safetensors, whole, and with the permissions of any other file."""
    # copies, for tied weights share memory, which the format refuses
    content = save({k: t.cpu().clone(memory_format=contiguous_format) for k, t in tensors.items()})
    write_whole(path, lambda partial: partial.write_bytes(content))


def seal(folder: Path) -> None:
    """Note the checksum of every finished file of a model that has none yet."""
    sums = _read_sums(folder)
    new = {path: _digest(path) for path in _finished(folder) if path not in sums}
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
    sums = _read_sums(folder)
    others = [path for path in _finished(folder) if path not in sums]
    opened = [path for path in [*others, *folder.glob("*.ckpt")] if not _opens(path)]
    return sorted(opened + changed(folder, sums))


def changed(folder: Path, paths: Iterable[Path]) -> list[Path]:
    """Which of these files of a model differ from their checksums, as far as they have one."""
    sums = _read_sums(folder)
    known = [path for path in paths if path in sums and path.exists()]
    return [path for path in known if _digest(path) != sums[path]]


def check_files(folders: Iterable[Path], repair: bool) -> list[Path]:
    """Find the files of these models that changed since they were written.

    Returns:
        With `repair`, the files that were deleted, to be made again.

    Raises:
        ValueError: there are some, and they are not to be repaired.
    """
    found = [path for folder in folders for path in damaged(folder)]
    if found and not repair:
        listed = "\n".join(f"  {path}" for path in found)
        raise ValueError(
            f"Damaged since they were written:\n{listed}\nPass `--repair` to make them again: what "
            "they came from is used where it is whole, and trained again where not."
        )
    for path in found:
        path.unlink()
        path.with_suffix(".safetensors").unlink(missing_ok=True)  # a record is made with these
    return found


def _finished(folder: Path) -> list[Path]:
    return [path for pattern in SEALED for path in sorted(folder.glob(pattern))]


def _write_sums(folder: Path, sums: Mapping[Path, str]) -> None:
    lines = [f"{digest}  {path.relative_to(folder)}\n" for path, digest in sums.items()]
    write_whole(folder / SUMS, lambda partial: partial.write_text("".join(lines)))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_sums(folder: Path) -> dict[Path, str]:
    try:
        lines = (folder / SUMS).read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    pairs = [line.partition("  ") for line in lines]
    return {folder / name: digest for digest, _, name in pairs}


def _opens(path: Path) -> bool:
    """Whether a file that has no checksum of ours is one of its kind."""
    try:
        if path.suffix == ".ckpt":
            with zipfile.ZipFile(path) as archive:
                whole = archive.testzip() is None
            torch.load(path, map_location="meta", weights_only=True)  # no code, no tensor's content
            return whole
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):
                return True
    except Exception:  # each library has a dozen ways to say that a file is not what it reads
        return False
    return True
