"""Files that are written whole or not at all."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor, contiguous_format


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: every file is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def as_unicode(text: str) -> str:
    """Text that UTF-8 can hold, made of text with a file's name in it.

    Python reads a name in the locale's encoding, and keeps a byte that this lacks as a surrogate.
    These bytes are read as UTF-8 instead; where they are not UTF-8 either, they are replaced.
    """
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole, in UTF-8 whatever the locale."""
    content = as_unicode(text).encode("utf-8")
    write_whole(path, lambda partial: partial.write_bytes(content))


def write_csv(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write lines that have the same fields; what is None or NaN is an empty cell."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(lines[0]))
    writer.writeheader()
    for line in lines:
        writer.writerow({key: None if value != value else value for key, value in line.items()})
    write_text(path, text.getvalue())


def serialise(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """The content of a safetensors file."""
    # copies, because tied weights share memory, which the format refuses
    copies = {k: t.cpu().clone(memory_format=contiguous_format) for k, t in tensors.items()}
    return save(copies, metadata)


def save_whole(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file, whole, with the permissions of any other file."""
    content = serialise(tensors, metadata)
    write_whole(path, lambda partial: partial.write_bytes(content))
