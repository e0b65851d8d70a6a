"""One model after another, each under its lock; one that fails does not stop the others."""

import errno
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple

from filelock import FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_only

from lightning_modules import interrupt
from lightning_modules.fleet import ModelName
from lightning_modules.run_folder import RunFolder
from lightning_modules.whole import break_seals, seal

# With these the next model would be trained in vain.
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


def complete(run: RunFolder, fit: Fit, processes: int, name: ModelName) -> Outcome:
    """Make what is missing of one model.

    Args:
        run: the folder of the fleet.
        fit: leaves the model's files there.
        processes: how many train this model together, of which this is one.
        name: the model.

    Returns:
        What became of it. The traceback of a failure is in the model's folder.

    Raises:
        RuntimeError: several processes were to train a model that others are at.
        Exception: what stopped one of several processes.
    """
    began = time.monotonic()
    try:
        with _lock(run, name):
            if is_first():
                run.error(name).unlink(missing_ok=True)
                break_seals(run.model(name))
            fit(name)
            if is_first():
                seal(run.model(name))
    except Timeout:
        if processes > 1:  # of which only the first knows
            raise RuntimeError(
                f"{name}: another process is at it. Wait for that, or leave the model out by "
                "`--fleet.models`: several devices cannot pass it over."
            ) from None
        return Outcome(name, "busy", time.monotonic() - began)
    except Exception as error:
        # those that train a model together must not part: one would wait for the others for ever
        if processes > 1 or interrupt.asked.is_set():
            raise
        seconds, reason = time.monotonic() - began, f"{type(error).__name__}: {error}"
        if getattr(error, "errno", None) in HOPELESS:
            return Outcome(name, "stopped", seconds, str(error))
        run.error(name).write_text(traceback.format_exc())
        return Outcome(name, "failed", seconds, reason)
    return Outcome(name, "finished", time.monotonic() - began)


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


def _lock(run: RunFolder, name: ModelName) -> AbstractContextManager[Any]:
    """One process a model; of those that train it together, the first holds the lock for all."""
    if not is_first():
        return nullcontext()
    run.model(name).mkdir(parents=True, exist_ok=True)
    return FileLock(run.lock(name), timeout=PATIENCE)
