"""Status of a fleet: finished, running, failed and waiting models, and the time left."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Literal, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fleet.engine import Outcome, is_running
from fleet.failed import Failed, find_failed
from lightning_modules.callbacks.progress import Progress, read_progress
from storage.command_line import quote
from storage.federation import describe_left_out
from storage.names import ModelName
from storage.pruning import read_pruning
from storage.run_folder import RunFolder
from storage.sparse_heads import describe_sparse_heads

State = Literal["finished", "running", "failed", "waiting"]


class ModelStatus(NamedTuple):
    """The state of one model."""

    name: ModelName
    state: State
    progress: Progress | None
    reason: str = ""


def find_status(run: RunFolder, diverged: Mapping[ModelName, str]) -> list[ModelStatus]:
    """Find the state of every model of a fleet; changes nothing.

    Args:
        run: the folder of the fleet.
        diverged: finished models that failed -> reason.

    Raises:
        FileNotFoundError: there is no experiment in the folder.
    """
    experiment = run.read()
    models = []
    for name in experiment.names:
        progress, error = read_progress(run.progress(name)), run.error(name)
        state: State = "waiting"
        reason = ""
        if is_running(run, name):
            state = "running"
        elif name in diverged:
            state, reason = "failed", diverged[name]
        elif not run.missing(name, experiment.variants, experiment.embedded, experiment.recorded):
            state = "finished"
        elif error.exists():
            lines = error.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [
                "unknown"
            ]  # a full disk
            state, reason = "failed", f"{lines[-1]} ({error})"
        models.append(ModelStatus(name, state, progress, reason))
    return models


def print_status(run: RunFolder, console: Console) -> None:
    """Print how far a fleet is.

    Raises:
        FileNotFoundError: there is no experiment in the folder.
        ValueError: a file is damaged.
    """
    failed = find_failed(run, run.membership(), run.read().variants)
    console.print(show_status(run, find_status(run, failed.reasons)))
    for sentence in failed.unjudged:
        console.print(sentence, soft_wrap=True)


def time_left(models: Sequence[ModelStatus], max_epochs: int) -> timedelta | None:
    """Time that the rest of a fleet takes if as many models run at once as now.

    A model is expected to take as long as the finished models on average. While none is finished,
    its time follows from the epochs so far, without quantization. None if there are no epochs.
    """
    finished = [m.progress.seconds for m in models if m.state == "finished" and m.progress]
    begun = [m.progress for m in models if m.progress and m.progress.epoch]
    if finished:
        expected = sum(finished) / len(finished)
    elif begun:
        expected = max_epochs * sum(p.seconds for p in begun) / sum(p.epoch for p in begun)
    else:
        return None
    left = 0.0
    for model in models:
        if model.state in ("running", "waiting"):
            left += max(expected - (model.progress.seconds if model.progress else 0.0), 0.0)
    at_once = max(sum(model.state == "running" for model in models), 1)
    return timedelta(seconds=round(left / at_once))


def show_status(run: RunFolder, models: Sequence[ModelStatus]) -> Table:
    """A table of the states, naming the models that run and those that failed."""
    max_epochs = run.read().config["trainer"]["max_epochs"]
    table = Table(title=escape(str(run.path)), title_justify="left")
    table.add_column("state")
    table.add_column("models", justify="right")
    table.add_column("which")
    for state in ("finished", "running", "failed", "waiting"):
        members = [model for model in models if model.state == state]
        lines = {
            "finished": _times(members),
            "running": [
                f"{m.name} {m.progress.describe(max_epochs) if m.progress else 'begins'}"
                for m in members
            ],
            "failed": [f"{m.name}: {m.reason}" for m in members],
            "waiting": [f"{m.name} from epoch {m.progress.epoch}" for m in members if m.progress],
        }
        table.add_row(state, str(len(members)), escape("\n".join(lines[state])))
    left = time_left(models, max_epochs)
    if left:
        running = sum(model.state == "running" for model in models)
        table.caption = f"about {left} left, {max(running, 1)} at a time"
    return table


def _times(finished: Sequence[ModelStatus]) -> list[str]:
    seconds = [model.progress.seconds for model in finished if model.progress]
    if not seconds:
        return []
    return [f"{min(seconds):.0f} to {max(seconds):.0f} s each, {sum(seconds):.0f} s in all"]


class Call(NamedTuple):
    """One call of train.py, after it has worked on its models.

    Attributes:
        run: the folder of the fleet.
        names: all models of the fleet.
        variants: variants of every model, `full` among them.
        chosen: models of this call, some of which may have been finished before it.
        outcomes: how the work on the others ended.
        seconds: how long the call took.
        embedded: models whose embeddings are recorded.
        recorded: further files of each model.
    """

    run: RunFolder
    names: Sequence[ModelName]
    variants: Sequence[str]
    chosen: Sequence[ModelName]
    outcomes: Sequence[Outcome]
    seconds: float
    embedded: Collection[ModelName] = ()
    recorded: Collection[str] = ()


def summarise(call: Call, failed: Failed) -> Iterator[str]:
    """Lines at the end of a call: how its models ended, and the next step.

    Args:
        call: the call.
        failed: finished models that diverged, or that quantization broke.
    """
    run, names, variants, chosen, outcomes, seconds, embedded, recorded = call
    before = len(chosen) - len(outcomes)
    ended = Counter(outcome.state for outcome in outcomes)
    if outcomes:
        noun = "model" if ended["finished"] == 1 else "models"
        line = f"Finished {ended['finished']} {noun} in {seconds:.0f} s; {before} finished before"
        line += f"; {ended['failed']} failed" if ended["failed"] else ""
        yield line + (f"; {ended['busy']} passed over." if ended["busy"] else ".")
    else:
        yield f"All {before} models in {escape(str(run.path))} are finished: nothing to train."
    for name, state, _, reason in outcomes:
        if state == "failed":
            yield (
                f"[bold red]{name} failed[/]: {escape(reason).rstrip('.')}. The same command "
                f"tries it again; the traceback is in {escape(str(run.error(name)))}."
            )
    for name, reason in failed.reasons.items():
        partner = " with its partner" if name.role == "shadow" else ""
        yield (
            f"[bold red]{name} failed[/]: {escape(reason).rstrip('.')}. The audit excludes "
            f"it{partner}; `--fleet.retrain_failed true` trains it from another start."
        )
    yield from failed.unjudged
    yield from describe_left_out(run, chosen)
    yield from describe_sparse_heads(run, chosen)
    if pruned := read_pruning(run, chosen):
        yield pruned.describe()
    if sizes := [f"{variant} {size:,}" for variant, size in _sizes(run, chosen, variants).items()]:
        yield f"Bytes of a model on disk: {', '.join(sizes)}."
    if left := sum(bool(run.missing(name, variants, embedded, recorded)) for name in names):
        yield f"{left} of the fleet's {len(names)} models are still to be finished."
    else:
        yield f"Next: python audit.py --run_dir {escape(quote(run.path))}"


def _sizes(run: RunFolder, names: Sequence[ModelName], variants: Sequence[str]) -> dict[str, int]:
    """Bytes of the smallest file of each variant; models that diverged are not packed."""
    sizes = {}
    for variant in variants:
        paths = [run.weights(name, variant) for name in names]
        if present := [path.stat().st_size for path in paths if path.exists()]:
            sizes[variant] = min(present)
    return sizes
