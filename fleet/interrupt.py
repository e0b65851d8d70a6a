"""Ctrl-C that no library loses."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Timer, current_thread, main_thread
from types import FrameType
from typing import Any

asked = Event()  # of this process, whose Ctrl-C it is


@contextmanager
def interruptible() -> Iterator[Event]:
    """Turn Ctrl-C into an exception as Python does, and remember it in `asked`, which is given.

    Some libraries replace a KeyboardInterrupt by an error of their own, such as safetensors in the
    middle of reading a file; and one that is raised in a `__del__` is printed and forgotten. The
    first is told from a real error by the event, the second is raised again a moment later. What
    ignores Ctrl-C by its own choice, such as a shell's background job, goes on to do so.
    """
    asked.clear()
    handler, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook
    ours = handler is signal.default_int_handler and current_thread() is main_thread()

    def interrupt(number: int, frame: FrameType | None) -> None:
        asked.set()
        raise KeyboardInterrupt

    def raise_again(lost: Any) -> None:  # noqa: ANN401
        if not isinstance(lost.exc_value, KeyboardInterrupt):
            hook(lost)
        else:
            Timer(0.05, signal.raise_signal, [signal.SIGINT]).start()

    if ours:
        signal.signal(signal.SIGINT, interrupt)
        sys.unraisablehook = raise_again
    try:
        yield asked
    finally:
        if ours:
            signal.signal(signal.SIGINT, handler)
            sys.unraisablehook = hook
