"""Several models at once in processes forked from this one, on the CPUs of one machine."""

import os
import signal
import sys
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Literal

import torch
from lightning.pytorch.utilities import rank_zero_only

from fleet.engine import Outcome, Work
from fleet.interrupt import stop_at_sigterm
from fleet.options import FleetOptions
from storage.names import ModelName

RETRIES = 3  # for a model whose process died; it goes on from its last checkpoint
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def can_fork(fleet: FleetOptions, kind: Literal["CPU", "GPU"]) -> bool:
    """Whether several models at once can be trained in processes that are forked from this one.

    A process that has used a GPU cannot be forked, nor one beside a GPU, where the backward pass of
    the rehearsal starts a thread per GPU, nor one on macOS, whose libraries start threads of their
    own; Windows has no fork. Ray serves there, and on clusters.

    Args:
        fleet: number of workers, each one's share of a GPU, and a cluster's address.
        kind: the devices that train the models.
    """
    local = fleet.apart and fleet.address is None and not fleet.gpus_per_model
    forks = hasattr(os, "fork") and sys.platform != "darwin"
    return local and forks and kind == "CPU" and not torch.cuda.is_available()


class Forks:
    """Processes that are forked from this one, each of which works on one model after another.

    In place of Ray on CPUs, because Ray takes ten seconds to start, and each of its processes
    imports everything again. A fork has the imports and the images of this process, whose memory it
    shares. This process must have computed with one thread only: after a fork, OpenMP cannot go on
    with threads that it had started.

    A context: the processes begin with it, before a progress display starts its threads, and end
    with it. Until `interruptible` ends, SIGTERM is then like Ctrl-C. If this process dies, they
    die too.

    Args:
        work: the work on one model.
        workers: number of processes.
        threads: CPU threads of each.
    """

    def __init__(self, work: Work, workers: int, threads: int) -> None:
        self.work, self.workers, self.threads = work, workers, threads
        self.processes: dict[Connection, BaseProcess] = {}

    def __enter__(self) -> "Forks":
        stop_at_sigterm()
        self._life, self._held = os.pipe()  # closed when this process ends, however it does
        for _ in range(self.workers):
            self._fork()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.kill()  # they write whole files only, so that nothing is lost
        for line in list(self.processes):
            self._bury(line)
        os.close(self._life)
        os.close(self._held)

    def __call__(
        self, names: Sequence[ModelName], begin: Callable[[ModelName], None]
    ) -> Iterator[Outcome]:
        """Work on the models; whichever process is free takes the next one.

        If a process dies, its model is tried again in a new one.

        Args:
            names: the models.
            begin: called with each model before work on it begins.

        Yields:
            The outcome of each model, in the order in which they end.
        """
        waiting, tries = deque(names), Counter[ModelName]()
        free, busy = deque(self.processes), dict[Connection, ModelName]()
        while waiting or busy:
            while waiting and free:
                line, name = free.popleft(), waiting.popleft()
                if not tries[name]:
                    begin(name)
                tries[name] += 1
                busy[line] = name
                with suppress(OSError):  # a process that has died in the meantime gives no answer
                    line.send(name)
            wait([*busy])
            for line in [line for line in busy if line.poll()]:
                name = busy.pop(line)
                try:
                    outcome = line.recv()
                except (EOFError, OSError):
                    reason = self._bury(line)
                    free.append(self._fork())
                    if tries[name] <= RETRIES:
                        waiting.appendleft(name)
                    else:
                        yield Outcome(name, "failed", 0.0, reason)
                else:
                    free.append(line)
                    yield outcome

    def _fork(self) -> Connection:
        """Start a process, and return the line to it."""
        line, its_end = get_context("fork").Pipe()
        process = get_context("fork").Process(target=self._serve, args=(its_end,))
        with _undisturbed(), warnings.catch_warnings():
            # Python 3.12 warns of any thread; those of a display hold no lock that `_serve` takes
            warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
            process.start()
        its_end.close()
        self.processes[line] = process
        return line

    def _serve(self, line: Connection) -> None:
        """Work on the models that come, in the new process."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first process to answer
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # not through a display's lock
        os.close(self._held)
        Thread(target=_end_with, args=(self._life,), daemon=True).start()
        torch.set_num_threads(self.threads)
        rank_zero_only.rank = 0  # type: ignore[attr-defined]  # as in Ray's processes
        while True:
            line.send(self.work(line.recv()))

    def _bury(self, line: Connection) -> str:
        """Forget a process that has ended; returns the reason."""
        process = self.processes.pop(line)
        process.join()
        line.close()
        code = process.exitcode or 0
        process.close()
        cause = f"ended with code {code}"
        if code < 0:
            cause = f"was killed by {signal.Signals(-code).name}"
        hint = ""
        if code == -signal.SIGKILL:
            hint = " The system kills so where memory is short: lower `--fleet.workers`."
        return f"given up after {RETRIES} retries: its process {cause}.{hint}"


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait, so that a new process never meets them unprepared."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with(life: int) -> None:
    """End this process once the other end of a pipe is closed."""
    os.read(life, 1)
    os._exit(1)
