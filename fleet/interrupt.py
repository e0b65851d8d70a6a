"""Ctrl-C, and SIGTERM beside Ray, that no library can lose."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Timer, current_thread, main_thread
from types import FrameType
from typing import Any

asked = Event()  # set once this process was interrupted


@contextmanager
def interruptible() -> Iterator[Event]:
    """Turn Ctrl-C into an exception as Python does, and remember it in `asked`, which is yielded.

    Some libraries replace a KeyboardInterrupt by an error of their own, such as safetensors while
    it reads a file; the event tells such an error from a real one. A KeyboardInterrupt raised in a
    `__del__` is printed and forgotten; it is raised again a moment later. A process that ignores
    Ctrl-C, such as a shell's background job, still ignores it.
    """
    asked.clear()
    handler, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook
    in_main = current_thread() is main_thread()
    ours = in_main and handler is signal.default_int_handler
    terminate = signal.getsignal(signal.SIGTERM)  # changed by `stop_at_sigterm`

    def raise_again(lost: Any) -> None:  # noqa: ANN401
        if not isinstance(lost.exc_value, KeyboardInterrupt):
            hook(lost)
        else:
            Timer(0.05, signal.raise_signal, [signal.SIGINT]).start()

    if ours:
        signal.signal(signal.SIGINT, _interrupt)
        sys.unraisablehook = raise_again
    try:
        yield asked
    finally:
        if ours:
            signal.signal(signal.SIGINT, handler)
            sys.unraisablehook = hook
        if in_main and terminate is not None:  # None: a handler that Python cannot set again
            signal.signal(signal.SIGTERM, terminate)


def stop_at_sigterm() -> None:
    """Make SIGTERM the same as Ctrl-C until `interruptible` ends.

    To be called after `ray.init`, which sets a handler that prints a C++ stack and aborts.
    """
    if current_thread() is main_thread():
        signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    asked.set()
    raise KeyboardInterrupt
