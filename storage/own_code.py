"""A user's own attacks and quantizers: their functions, and fingerprints of their source."""

import hashlib
import inspect
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from quantization.imported import imported, is_own
from storage.names import split_variant


def fingerprint(variants: Iterable[str]) -> dict[str, str]:
    """Fingerprints of the user's own quantizers among some variants, by import path.

    Raises:
        ValueError: as `digest`.
    """
    methods = dict.fromkeys(split_variant(variant).method for variant in variants)
    return {method: digest(method, "--quantize") for method in methods if is_own(method)}


def load(names: Iterable[str], option: str) -> dict[str, Callable[..., Any]]:
    """Import those of some names that are import paths: path -> function.

    Raises:
        ValueError: a function cannot be imported.
    """
    return {name: imported(name, option) for name in names if is_own(name)}


def digest(path: str, option: str) -> str:
    """Fingerprint of the source file of a function's module, and of the file that defines it.

    They differ where a package imports the function from within. Other files that they import do
    not count.

    Raises:
        ValueError: the function cannot be imported, or its module has no source file.
    """
    function = imported(path, option)
    module = sys.modules[path.rpartition(".")[0]]
    file = _source(module)
    if file is None:
        raise ValueError(
            f"`{option}`: `{path}` must be in a module with a source file, by which changes are "
            f"noticed, got {module!r}. Call it from a function in a .py file of yours."
        )
    while isinstance(function, partial):
        function = function.func
    defined = _source(sys.modules.get(getattr(inspect.unwrap(function), "__module__", None) or ""))
    files = dict.fromkeys([file, defined or file])
    return hashlib.sha256(b"".join(source.read_bytes() for source in files)).hexdigest()[:16]


def _source(module: object) -> Path | None:
    """The source file of a module, if there is one."""
    try:
        file = inspect.getsourcefile(module)  # type: ignore[arg-type]
    except TypeError:
        return None
    return Path(file) if file is not None and Path(file).exists() else None
