"""What is finished of a fleet, what runs, what failed, and how long the rest will take."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Literal, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fleet.engine import Outcome, is_running
from fleet.failed import find_failed
from lightning_modules.callbacks.progress import Progress, read_progress
from storage.names import ModelName
from storage.run_folder import RunFolder

State = Literal["finished", "running", "failed", "waiting"]


class ModelStatus(NamedTuple):
    """One model of a fleet."""

    name: ModelName
    state: State
    progress: Progress | None
    reason: str = ""


def find_status(run: RunFolder, diverged: Mapping[ModelName, str]) -> list[ModelStatus]:
    """Look at every model of a fleet; nothing is changed, whoever works on it.

    Args:
        run: the folder of the fleet.
        diverged: models that are finished and not sound, and why.

    Raises:
        FileNotFoundError: there is no experiment in the folder.
    """
    variants = run.read().variants
    found = []
    for name in run.read().names:
        progress = read_progress(run.progress(name))
        error = run.error(name)
        if is_running(run, name):
            found.append(ModelStatus(name, "running", progress))
        elif name in diverged:
            found.append(ModelStatus(name, "failed", progress, diverged[name]))
        elif not run.missing(name, variants):
            found.append(ModelStatus(name, "finished", progress))
        elif error.exists():
            reason = error.read_text().strip().splitlines()[-1]
            found.append(ModelStatus(name, "failed", progress, f"{reason} ({error})"))
        else:
            found.append(ModelStatus(name, "waiting", progress))
    return found


def print_status(run: RunFolder, console: Console) -> None:
    """Print how far a fleet is.

    Raises:
        FileNotFoundError: there is no experiment in the folder.
        ValueError: a file is damaged.
    """
    failed = find_failed(run, run.membership(), run.read().variants)
    console.print(show_status(run, find_status(run, failed.reasons)))


def time_left(models: Sequence[ModelStatus], max_epochs: int) -> timedelta | None:
    """How long the rest of a fleet takes if as many models are worked on at once as now.

    A model takes what the finished ones took on average; while there is none, what the epochs of
    the others tell, without quantization. None where nothing tells.
    """
    known = [m.progress.seconds for m in models if m.state == "finished" and m.progress]
    begun = [m.progress for m in models if m.progress and m.progress.epoch]
    if known:
        each = sum(known) / len(known)
    elif begun:
        each = max_epochs * sum(p.seconds for p in begun) / sum(p.epoch for p in begun)
    else:
        return None
    left = 0.0
    for model in models:
        if model.state in ("running", "waiting"):
            left += max(each - (model.progress.seconds if model.progress else 0.0), 0.0)
    at_once = max(sum(model.state == "running" for model in models), 1)
    return timedelta(seconds=round(left / at_once))


def show_status(run: RunFolder, models: Sequence[ModelStatus]) -> Table:
    """A table of the states, with the models that run and those that failed."""
    max_epochs = run.read().config["trainer"]["max_epochs"]
    table = Table(title=escape(str(run.path)), title_justify="left")
    table.add_column("state")
    table.add_column("models", justify="right")
    table.add_column("which")
    for state in ("finished", "running", "failed", "waiting"):
        those = [model for model in models if model.state == state]
        lines = {
            "finished": _times(those),
            "running": [
                f"{m.name} {m.progress.describe(max_epochs) if m.progress else 'begins'}"
                for m in those
            ],
            "failed": [f"{m.name}: {m.reason}" for m in those],
            "waiting": [f"{m.name} from epoch {m.progress.epoch}" for m in those if m.progress],
        }
        table.add_row(state, str(len(those)), escape("\n".join(lines[state])))
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


def stopped_line(reason: str) -> str:
    """Say why no model can be written, and the way out."""
    return escape(
        f"Stopped: {reason}. Make room, or the folder writable; then the same command goes on."
    )


def summarise(
    run: RunFolder,
    names: Sequence[ModelName],
    variants: Sequence[str],
    chosen: Sequence[ModelName],
    outcomes: Sequence[Outcome],
    diverged: Mapping[ModelName, str],
    seconds: float,
) -> Iterator[str]:
    """Lines at the end of a call: what became of its models, and what comes next.

    Args:
        run: the folder of the fleet.
        names: all models of the fleet.
        variants: the precisions of each, `full` among them.
        chosen: the models of this call, of which some were finished before.
        outcomes: what became of the others.
        diverged: models that are finished and not sound, and why.
        seconds: that the call took.
    """
    before, where = len(chosen) - len(outcomes), escape(str(run.path))
    ended = Counter(outcome.state for outcome in outcomes)
    if outcomes:
        line = f"Finished {ended['finished']} models in {seconds:.0f} s; {before} were before"
        line += f"; {ended['failed']} failed" if ended["failed"] else ""
        yield line + (f"; {ended['busy']} passed over." if ended["busy"] else ".")
    else:
        yield f"All {before} models in {where} are finished: nothing to train."
    for name, state, _, reason in outcomes:
        if state == "failed":
            yield (
                f"[bold red]{name} failed[/]: {escape(reason)}. The same command tries it again; "
                f"the traceback is in {escape(str(run.error(name)))}."
            )
    for name, reason in diverged.items():
        partner = " with its partner" if name.role == "shadow" else ""
        yield (
            f"[bold red]{name} failed[/]: {escape(reason)}. The audit leaves it out{partner}; "
            "`--fleet.retrain_failed true` trains it from another start."
        )
    if sizes := [f"{variant} {size:,}" for variant, size in _sizes(run, chosen, variants).items()]:
        yield f"Bytes of a model on disk: {', '.join(sizes)}."
    if left := sum(bool(run.missing(name, variants)) for name in names):
        yield f"{left} of the fleet's {len(names)} models are still to be finished."
    else:
        yield f"Next: python audit.py --run_dir {where}"


def _sizes(run: RunFolder, names: Sequence[ModelName], variants: Sequence[str]) -> dict[str, int]:
    """Of each precision the smallest file: a model that diverged is not packed."""
    sizes = {}
    for variant in variants:
        paths = [run.weights(name, variant) for name in names]
        if found := [path.stat().st_size for path in paths if path.exists()]:
            sizes[variant] = min(found)
    return sizes
