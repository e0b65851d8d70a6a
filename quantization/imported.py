"""A user's own function, imported by its path."""

import os
import sys
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from typing import Any


def imported(path: str, option: str) -> Callable[..., Any]:
    """Import a function by its path, from the current folder or wherever Python looks.

    Args:
        path: such as `my_package.my_rounding`.
        option: where the path was given, for errors.

    Raises:
        ValueError: the module cannot be imported, or has no such function.
    """
    make_importable()
    module, _, attribute = path.rpartition(".")
    try:
        content = import_module(module)
    except (Exception, SystemExit) as error:  # the module is the user's, and may do anything
        reason = " ".join(str(error).split())
        raise ValueError(
            f"`{option}`: `{path}` cannot be imported ({type(error).__name__}: {reason}). Modules "
            f"are looked for in {os.getcwd()}, on PYTHONPATH and among installed packages."
        ) from error
    function = getattr(content, attribute, None)
    if not callable(function):
        others = [n for n, value in vars(content).items() if n[0] != "_" and callable(value)]
        near = get_close_matches(attribute, others, n=1)
        hint = f" Did you mean `{module}.{near[0]}`?" if near else ""
        raise ValueError(
            f"`{option}`: `{path}` must be a function, and {content.__file__} has "
            f"{'none of that name' if function is None else repr(function)}.{hint}"
        )
    return function  # type: ignore[no-any-return]


def make_importable() -> None:
    """Let modules of the current folder be imported, after all others.

    A command that is installed, such as `bitleak-train`, would otherwise not find them.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
