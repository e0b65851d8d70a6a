"""Train a fleet, quantize every model, and record what an attacker would see of it.

The same command again goes on where it stopped; a finished fleet is left as it is.
"""

from fleet.options import make_parser, parse
from storage.command_line import CommandLine, answer_help, show_every_character

answer_help(make_parser, "train.py", "bitleak-train")  # before imports that take seconds

import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console
from rich.markup import escape

from fleet.cluster import limit_threads
from fleet.cost import print_cost
from fleet.display import FleetProgress, quieten
from fleet.engine import (
    Outcome,
    Task,
    Work,
    WorkOnAll,
    complete,
    is_first,
    note_error,
    one_by_one,
)
from fleet.errors import explain, is_hopeless
from fleet.failed import find_failed
from fleet.fit import fit
from fleet.forks import Forks
from fleet.interrupt import interruptible
from fleet.prepare import Job, prepare
from fleet.status import Call, print_status, summarise
from fleet.workers import connect, idle_gpus, in_workers
from storage.run_folder import RunFolder

FAILED = 3  # exit code: the fleet is trained, but for models that failed


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    show_every_character()
    parser, config = parse(sys.argv[1:] if arguments is None else arguments)
    quieten()
    console = Console(highlight=False, quiet=not is_first())
    with interruptible() as interrupted:
        try:
            code = run_command(parser, config, console)
        except BaseException as error:
            if is_hopeless(error):
                console.print(f"Stopped: {escape(explain(error))}", soft_wrap=True)
                code = 1
            # Lightning turns Ctrl-C into an exit, and other libraries into errors of their own
            elif interrupted.is_set() or isinstance(error, KeyboardInterrupt | SIGTERMException):
                console.print("Stopped. The same command goes on from the last checkpoint.")
                code = 130
            else:
                raise
    if code:
        sys.exit(code)


def run_command(parser: CommandLine, config: Namespace, console: Console) -> int:
    """Check everything, then make what is missing; returns the exit code."""
    try:
        if config.status:
            print_status(RunFolder(config.run_dir), console)
            return 0
        made = parser.instantiate(config)
        job = prepare(config, made.fleet, made.data, console)
        if job.fleet.dry_run:
            limit_threads(config.threads, job.devices.processes)
            print_cost(job, console)
            return 0
        if job.takes_ray and job.todo:
            connect(job.fleet, config.threads)
            if config.trainer.accelerator != "cpu" and (note := idle_gpus(job.fleet)):
                console.print(note, soft_wrap=True)
    except (ValueError, OSError, MisconfigurationException) as error:
        sys.exit(f"train.py: {error}")  # no work was begun, so the message says it all
    return train_fleet(job, console)


def train_fleet(job: Job, console: Console) -> int:
    """Train the models that are not finished, and say what became of them.

    Returns:
        The exit code: 0 if all is well, `FAILED` if models failed, 1 if nothing can go on.
    """
    run, todo, experiment = job.run, job.todo, job.experiment
    variants, embedded = experiment.variants, experiment.embedded
    started, outcomes = time.monotonic(), list[Outcome]()
    task = Task(run, experiment, job.devices.processes, job.retry)
    work = partial(complete, task, partial(fit, job))
    display = FleetProgress(run, len(todo), job.config.trainer.max_epochs, console)
    with _workers(job, work) as do_all, display as progress:
        for outcome in do_all(todo, progress.begin):
            progress.end(outcome)
            outcomes.append(outcome)
            if outcome.state == "stopped":
                console.print(f"Stopped: {escape(outcome.reason)}", soft_wrap=True)
                return 1
            if outcome.state == "failed" and not run.error(outcome.name).exists():
                note_error(run, outcome.name, outcome.reason)  # its process could not
    if not is_first():  # the others do not wait for the files
        return 0
    failed, seconds = find_failed(run, job.members, variants), time.monotonic() - started
    call = Call(
        run,
        list(job.members),
        variants,
        job.chosen,
        outcomes,
        seconds,
        embedded,
        experiment.recorded,
    )
    for line in summarise(call, failed):
        console.print(line, soft_wrap=True)
    failures = {outcome.name for outcome in outcomes if outcome.state == "failed"}
    return FAILED if failures | (failed.broken & set(job.chosen)) else 0


def _workers(job: Job, work: Work) -> AbstractContextManager[WorkOnAll]:
    """What works on models: this process, its forks, or Ray's processes."""
    if not job.fleet.apart or not job.todo:
        return nullcontext(partial(one_by_one, work))
    if job.takes_ray:
        return nullcontext(partial(in_workers, work, job.fleet, job.config.threads))
    return Forks(work, min(job.fleet.workers, len(job.todo)), job.config.threads)


if __name__ == "__main__":
    main()
