"""One step of the acceptance run: what it measures, what it must show, and how it is run."""

import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import NamedTuple

START = 60  # seconds that a step may take beside its own: imports, CUDA's start, busy machines
PATIENCE = 3  # times its seconds after which a step is ended


class Missed(Exception):
    """A step did not show what it must; the message says what was measured."""


class Skipped(Exception):
    """A step cannot run on this machine; the message says what it needs."""


class Step(NamedTuple):
    """One step.

    Attributes:
        seconds: about what it takes on one large GPU, or on two cores if it needs no GPU.
        gpus: number of GPUs that it needs.
        bound: what it must show.
        measure: returns what was measured, or raises `Missed` or `Skipped`.
    """

    seconds: int
    gpus: int
    bound: str
    measure: Callable[[], str]


class Result(NamedTuple):
    """The outcome of a step: `passed`, `missed`, `failed` or `skipped`, and why."""

    name: str
    outcome: str
    seconds: float
    measured: str


def require(holds: bool, measured: str) -> str:
    """Return what was measured if the bound holds.

    Raises:
        Missed: it does not.
    """
    if not holds:
        raise Missed(measured)
    return measured


def run(name: str, step: Step, gpus: int) -> Result:
    """Run a step in a process of its own, because a CUDA error ends all CUDA work of a process.

    Args:
        name: the step's name.
        step: the step.
        gpus: number of GPUs of this machine.
    """
    if gpus < step.gpus:
        return Result(name, "skipped", 0.0, f"needs {step.gpus} GPU{'s' * (step.gpus > 1)}")
    limit, started = START + PATIENCE * step.seconds, time.monotonic()
    context = get_context("spawn")  # a process that is forked cannot use CUDA
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=report, args=(step.measure, sender))
    process.start()
    sender.close()
    try:
        if receiver.poll(limit):
            outcome, measured = receiver.recv()
        else:
            outcome, measured = "missed", f"no end after {limit} s"
    except EOFError:
        process.join()
        outcome, measured = "failed", f"its process ended with exit code {process.exitcode}"
    finally:
        end(process)
    return Result(name, outcome, time.monotonic() - started, measured)


def report(measure: Callable[[], str], sender: Connection) -> None:
    """Measure, and send the outcome."""
    os.setsid()  # so that what it starts ends with it
    os.dup2(2, 1)  # the table alone goes to the output
    try:
        sender.send(("passed", measure()))
    except Missed as error:
        sender.send(("missed", str(error)))
    except Skipped as error:
        sender.send(("skipped", str(error)))
    except Exception as error:
        sender.send(("failed", f"{type(error).__name__}: {error}"))


def end(process: BaseProcess) -> None:
    """Kill a step's process and all that it started."""
    process.kill()
    with suppress(ProcessLookupError):  # it started nothing that still runs
        os.killpg(process.ident or os.getpid(), signal.SIGKILL)
    process.join()


def exit_code(results: list[Result]) -> int:
    """1 if a step missed its bound or failed, otherwise 0."""
    return int(any(result.outcome in ("missed", "failed") for result in results))


def table(results: list[Result], steps: Mapping[str, Step]) -> str:
    """The results as a Markdown table."""
    lines = ["| step | outcome | s | must show | measured |", "| --- | --- | --- | --- | --- |"]
    for name, outcome, seconds, measured in results:
        text = " ".join(measured.split()).replace("|", "\\|")
        lines.append(f"| {name} | {outcome} | {seconds:.0f} | {steps[name].bound} | {text} |")
    return "\n".join(lines)
