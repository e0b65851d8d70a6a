"""A user's own function or class, imported by its path, and its errors in one line."""

import os
import sys
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from typing import Any


def is_own(name: str) -> bool:
    """Whether a name is the import path of a user's own, not a name of ours."""
    return "." in name


def imported(path: str, option: str) -> Callable[..., Any]:
    """Import a function or a class by its path, from the current folder or wherever Python looks.

    Args:
        path: such as `my_package.my_rounding`.
        option: where the path was given, for errors.

    Raises:
        ValueError: the module cannot be imported, or has no such function or class.
    """
    make_importable()
    module, _, attribute = path.rpartition(".")
    try:
        content = import_module(module)
    except (Exception, SystemExit) as error:  # the module is the user's, and may do anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(
            f"`{option}`: `{path}` cannot be imported ({reason}). Modules are looked for in "
            f"{os.getcwd()}, on PYTHONPATH and among installed packages."
        ) from error
    function = getattr(content, attribute, None)
    if not callable(function):
        others = [n for n, value in vars(content).items() if n[0] != "_" and callable(value)]
        near = get_close_matches(attribute, others, n=1)
        hint = f" Did you mean `{module}.{near[0]}`?" if near else ""
        file = getattr(content, "__file__", None) or f"`{module}`"  # a part of Python has no file
        raise ValueError(
            f"`{option}`: `{path}` must be a function or a class, and {file} has "
            f"{'none of that name' if function is None else repr(function)}.{hint}"
        )
    return function  # type: ignore[no-any-return]


def make_importable() -> None:
    """Let modules of the current folder be imported, after all others.

    A command that is installed, such as `bitleak-train`, would otherwise not find them.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def explain(error: BaseException) -> str:
    """An error of the user's code in one line, with the place where that called what failed."""
    trace = error.__traceback__ and (error.__traceback__.tb_next or error.__traceback__)
    place = f", {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
    reason = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {reason}{place}"
