"""What steps of an acceptance run may do, in a module that a new process imports at once."""

import os
import time
from pathlib import Path

from benchmarks.gpu.step import Skipped, require


def passes():
    """Hold the bound."""
    return require(True, "3 of 3")


def misses():
    """Miss the bound."""
    return require(False, "2 of | 3")


def raises():
    """Fail."""
    raise ValueError("no such kernel")


def skips():
    """Lack something."""
    raise Skipped("needs Ray")


def dies():
    """End without an outcome, like a process that runs out of memory."""
    os._exit(7)


def hangs(note):
    """Start a process, and never end."""
    if not os.fork():
        time.sleep(3)
        Path(note).write_text("it outlived its step")
        os._exit(0)
    time.sleep(600)
