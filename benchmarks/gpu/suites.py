"""Steps that run our own tests."""

import sys

from benchmarks.gpu.commands import call
from benchmarks.gpu.step import require


def run_tests(arguments: str) -> tuple[int, str]:
    """Exit code and last line of some of our tests."""
    done = call([sys.executable, "-m", "pytest", "-q", *arguments.split()])
    return done.code, (done.output.strip().splitlines() or ["no output"])[-1]


def emulated() -> str:
    """The tests on the emulated GPU."""
    code, line = run_tests("tests/gpu")
    return require(code == 0, line)


def real() -> str:
    """The tests that need a GPU."""
    code, line = run_tests("-m gpu tests")
    return require(code == 0 and "skipped" not in line, line)
