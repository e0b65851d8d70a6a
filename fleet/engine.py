"""Models under their locks: made, repaired, looked at; one that fails does not stop the others."""

import errno
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from filelock import FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_only

from attacks.game import FULL
from fleet import interrupt
from storage.checksums import break_seals, damaged, remove, seal
from storage.names import ModelName
from storage.run_folder import RunFolder

HOPELESS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
PATIENCE = 1.0  # seconds: `--status` holds a lock for less


class Outcome(NamedTuple):
    """What became of a model in this call."""

    name: ModelName
    # busy: another process is at it; stopped: no other model would fare better
    state: Literal["finished", "failed", "busy", "stopped"]
    seconds: float
    reason: str = ""


Fit = Callable[[ModelName], None]
Work = Callable[[ModelName], Outcome]


class Task(NamedTuple):
    """What is to be made of each model.

    Attributes:
        run: the folder of the fleet.
        variants: what a model must have, `full` among them.
        processes: how many processes train a model together; this is one of them.
        retry: models to train from another start, and how many of their trainings had failed when
            that was decided.
    """

    run: RunFolder
    variants: list[str]
    processes: int
    retry: dict[ModelName, int]


def complete(task: Task, fit: Fit, name: ModelName) -> Outcome:
    """Make what is missing of one model.

    Args:
        task: what must exist afterwards.
        fit: leaves the model's files there.
        name: the model.

    Returns:
        What became of it. The traceback of a failure is in the model's folder.

    Raises:
        RuntimeError: several processes were to train a model that others are at.
        Exception: what stopped one of several processes.
    """
    began, run = time.monotonic(), task.run
    try:
        _set_aside(task, name)
        with _lock(run, name):
            if is_first():
                run.error(name).unlink(missing_ok=True)
                _clear(run, name)
                break_seals(run.model(name))
            # another process may have finished it since this one looked
            if task.processes > 1 or run.missing(name, task.variants):
                fit(name)
            if is_first():
                seal(run.model(name))
                if missing := run.missing(name, task.variants):
                    raise RuntimeError(f"it was left without {', '.join(missing)}.")
    except Timeout:
        if task.processes > 1:  # of which only the first knows
            raise RuntimeError(
                f"{name}: another process is at it. Wait for that, or leave the model out by "
                "`--fleet.models`: several devices cannot pass it over."
            ) from None
        return Outcome(name, "busy", time.monotonic() - began)
    except Exception as error:
        # those that train a model together must not part: one would wait for the others for ever
        if task.processes > 1 or interrupt.asked.is_set():
            raise
        seconds, reason = time.monotonic() - began, f"{type(error).__name__}: {error}"
        if is_hopeless(error):
            return Outcome(name, "stopped", seconds, str(error))
        note_error(run, name, traceback.format_exc())
        return Outcome(name, "failed", seconds, reason)
    return Outcome(name, "finished", time.monotonic() - began)


def check_files(run: RunFolder, names: Iterable[ModelName], repair: bool) -> list[Path]:
    """Find files that changed since they were written.

    Returns:
        With `repair`, the files that were deleted, to be made again. Models that another process
        is at are left to it.

    Raises:
        ValueError: there are some, and they are not to be repaired.
    """
    found = {name: paths for name in names if (paths := damaged(run.model(name)))}
    if found and not repair:
        listed = "\n".join(f"  {path}" for paths in found.values() for path in paths)
        raise ValueError(
            f"Damaged since they were written:\n{listed}\nPass `--repair` to make them again: what "
            "they came from is used where it is whole, and trained again where not."
        )
    removed: list[Path] = []
    for name in found if is_first() else ():
        with suppress(Timeout), _lock(run, name):
            paths = damaged(run.model(name))
            remove(run.model(name), paths)
            removed += paths
    return removed


def is_hopeless(error: BaseException) -> bool:
    """Whether the next model would be trained in vain: no more can be written."""
    return getattr(error, "errno", None) in HOPELESS


def note_error(run: RunFolder, name: ModelName, text: str) -> None:
    """Keep what stopped a model in its folder, if that can be written to."""
    with suppress(OSError):
        run.error(name).write_text(text)


def one_by_one(
    names: Sequence[ModelName], work: Work, begin: Callable[[ModelName], None]
) -> Iterator[Outcome]:
    """Work on all models in this process; `begin` is told of each."""
    for name in names:
        begin(name)
        yield work(name)


def is_running(run: RunFolder, name: ModelName) -> bool:
    """Whether some process is at a model."""
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
    """Whether this is the process that writes, of those that train a model together."""
    return getattr(rank_zero_only, "rank", 0) == 0


def _set_aside(task: Task, name: ModelName) -> None:
    """Rename a failed model's folder, unless another process did, or is at it."""
    if name not in task.retry or not is_first():
        return
    with _lock(task.run, name):
        attempt = task.run.attempt(name)
        if attempt == task.retry[name]:
            task.run.model(name).rename(task.run.set_aside(name, attempt))


def _clear(run: RunFolder, name: ModelName) -> None:
    """Delete what was made of weights that are gone, because these are trained from the start."""
    if run.weights(name, FULL).exists() or run.checkpoint(name).exists():
        return
    folder = run.model(name)
    for path in [*folder.glob("*-w*"), *folder.glob("signals/*")]:
        path.unlink()


def _lock(run: RunFolder, name: ModelName) -> AbstractContextManager[Any]:
    """One process a model; of those that train it together, the first holds the lock for all."""
    if not is_first():
        return nullcontext()
    run.model(name).mkdir(parents=True, exist_ok=True)
    return FileLock(run.lock(name), timeout=PATIENCE)
