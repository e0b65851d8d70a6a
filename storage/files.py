"""Files that are written whole or not at all."""

from collections.abc import Callable, Mapping
from pathlib import Path

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
