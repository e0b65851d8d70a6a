"""Work on models under their locks; a model that fails does not stop the others."""

import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from filelock import FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_only

from fleet import interrupt
from fleet.errors import explain, fills_disk, is_hopeless
from fleet.restarts import find_lost, made_by
from storage.checksums import break_seals, damaged, remove, seal
from storage.experiment import Experiment
from storage.files import write_text
from storage.names import ModelName
from storage.run_folder import RunFolder

PATIENCE = 1.0  # seconds; `--status` holds a lock for less
LAG = 60.0  # seconds until a network file system shows the files of another machine


class Outcome(NamedTuple):
    """How the work on a model ended."""

    name: ModelName
    # busy: another process works on it; stopped: this process can make no model any more
    state: Literal["finished", "failed", "busy", "stopped"]
    seconds: float
    reason: str = ""


Work = Callable[[ModelName], Outcome]
# given models, and what to call before each; the outcomes come in the order in which they end
WorkOnAll = Callable[[Sequence[ModelName], Callable[[ModelName], None]], Iterator[Outcome]]


class Task(NamedTuple):
    """The work on every model.

    Attributes:
        run: the folder of the fleet.
        experiment: what every model must have.
        processes: number of processes that train a model together, this one included.
        retry: models to train from another start -> number of their failed trainings when that was
            decided.
    """

    run: RunFolder
    experiment: Experiment
    processes: int
    retry: dict[ModelName, int]

    def missing(self, name: ModelName) -> list[str]:
        """Variants of which a model still lacks a file, and recorded files that it lacks."""
        asked = self.experiment
        return self.run.missing(name, asked.variants, asked.embedded, asked.recorded)


def complete(task: Task, fit: Callable[[ModelName], None], name: ModelName) -> Outcome:
    """Make the missing files of one model.

    Args:
        task: the files that must exist afterwards.
        fit: trains the model and writes its files.
        name: the model.

    Returns:
        How the work ended. The traceback of a failure is in the model's folder.

    Raises:
        RuntimeError: several processes were to train a model on which another process works.
        Exception: the error that stopped one of several processes.
    """
    began, run = time.monotonic(), task.run
    try:
        _set_aside(task, name)
        with _lock(run, name):
            if is_first():
                run.error(name).unlink(missing_ok=True)
                _clear(task, name)
                break_seals(run.model(name))
            # another process may have finished it in the meantime
            if task.processes > 1 or task.missing(name):
                fit(name)
            if is_first():
                missing = _lacking(task, name)
                seal(run.model(name))
                if missing:
                    raise RuntimeError(f"it was left without {', '.join(missing)}.")
    except Timeout:
        if task.processes > 1:  # only the first of them knows of the lock
            raise RuntimeError(
                f"{name}: another process works on it. Wait for that process, or leave the model "
                "out by `--fleet.models`: several devices cannot pass it over."
            ) from None
        return Outcome(name, "busy", time.monotonic() - began, f"its lock is {run.lock(name)}")
    except Exception as error:
        # processes of one model must end together: the others would wait forever
        if task.processes > 1 or interrupt.asked.is_set():
            raise
        if not fills_disk(error):
            note_error(run, name, traceback.format_exc())
        state: Literal["stopped", "failed"] = "stopped" if is_hopeless(error) else "failed"
        return Outcome(name, state, time.monotonic() - began, explain(error))
    return Outcome(name, "finished", time.monotonic() - began)


def check_files(run: RunFolder, names: Iterable[ModelName], repair: bool) -> list[Path]:
    """Find files that changed since they were written.

    Returns:
        With `repair`, the files that were deleted, to be made again. Models on which another
        process works are left to it.

    Raises:
        ValueError: files are damaged, and `repair` is off.
    """
    by_model = {name: paths for name in names if (paths := damaged(run.model(name)))}
    if by_model and not repair:
        listed = "\n".join(f"  {path}" for paths in by_model.values() for path in paths)
        raise ValueError(
            f"Damaged since they were written:\n{listed}\nPass `--repair` to make them again, from "
            "the model's whole files if possible, otherwise by training."
        )
    removed: list[Path] = []
    for name in by_model if is_first() else ():
        with suppress(Timeout), _lock(run, name):
            paths = damaged(run.model(name))
            remove(run.model(name), paths)
            removed += paths
    return removed


def note_error(run: RunFolder, name: ModelName, text: str) -> None:
    """Write the error that stopped a model into its folder, if possible."""
    with suppress(OSError):
        write_text(run.error(name), text)


def one_by_one(
    work: Work, names: Sequence[ModelName], begin: Callable[[ModelName], None]
) -> Iterator[Outcome]:
    """Work on the models one after another in this process; `begin` is called before each."""
    for name in names:
        begin(name)
        yield work(name)


def is_running(run: RunFolder, name: ModelName) -> bool:
    """Whether any process works on a model."""
    if not run.lock(name).exists():
        return False
    try:
        with FileLock(run.lock(name), timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a folder that cannot be written to
        return False


def is_first() -> bool:
    """Whether this process writes the files, among those that train a model together."""
    return getattr(rank_zero_only, "rank", 0) == 0


def _set_aside(task: Task, name: ModelName) -> None:
    """Rename the folder of a failed model, unless another process did, or works on it."""
    if name not in task.retry or not is_first():
        return
    with _lock(task.run, name):
        attempt = task.run.attempt(name)
        if attempt == task.retry[name]:
            task.run.model(name).rename(task.run.set_aside(name, attempt))


def _lacking(task: Task, name: ModelName) -> list[str]:
    """Variants of which a model lacks a file, once its processes have ended."""
    deadline = time.monotonic() + (LAG if task.processes > 1 else 0.0)
    while (missing := task.missing(name)) and time.monotonic() < deadline:
        time.sleep(1.0)
    return missing


def _clear(task: Task, name: ModelName) -> None:
    """Delete what goes with weights that are gone: training from the start gives other ones."""
    if find_lost(task.run, task.experiment, name):
        for path in made_by(task.run, name):
            path.unlink()


def _lock(run: RunFolder, name: ModelName) -> AbstractContextManager[Any]:
    """Lock a model for one process; of several that train it, the first locks it for all."""
    if not is_first():
        return nullcontext()
    run.model(name).mkdir(parents=True, exist_ok=True)
    return FileLock(run.lock(name), timeout=PATIENCE)
