"""Models that must be trained from their start again, because weights of theirs are gone."""

from collections.abc import Sequence
from pathlib import Path

from attacks.game import FULL
from lightning_modules.callbacks.checkpoints import finished_epochs
from lightning_modules.callbacks.progress import read_progress
from storage.experiment import Experiment
from storage.names import ModelName, is_snapshot
from storage.run_folder import RunFolder

# but for progress.json
MADE = "*.safetensors", "*.json", "signals/*", "embeddings/*", "rounds/*", "tasks/*"


def find_lost(run: RunFolder, experiment: Experiment, name: ModelName) -> list[str]:
    """Variants of a model, and recorded files, that only training from the start can make.

    These are snapshots, rounds and tasks that training has passed, and `full` where no checkpoint
    leads to it. Empty if the model can go on from what it has.
    """
    files = {variant: run.weights(name, variant) for variant in experiment.snapshots}
    recorded = {file: epoch for file, epoch in experiment.recorded.items() if epoch}
    files |= {file: run.model(name) / file for file in recorded}
    epochs = experiment.snapshots | recorded
    missing = [what for what, file in files.items() if not file.exists()]
    if run.weights(name, FULL).exists():
        return missing
    if not run.checkpoint(name).exists():
        return [FULL, *missing]
    passed = finished_epochs(run.checkpoint(name)) if missing else 0
    return [what for what in missing if epochs[what] <= passed]


def made_by(run: RunFolder, name: ModelName) -> list[Path]:
    """The files of a model that another training of it would not fit."""
    checkpoint, progress = run.checkpoint(name), run.progress(name)
    files = [path for pattern in MADE for path in sorted(run.model(name).glob(pattern))]
    files = [path for path in files if path != progress]
    return [checkpoint, *files] if checkpoint.exists() else files


def announce(
    run: RunFolder, experiment: Experiment, names: Sequence[ModelName], dry_run: bool
) -> list[str]:
    """Say which models are trained again from their start, and what is deleted for that.

    Nothing is said of a model that a kill stopped before its first checkpoint: its snapshots, and
    rounds or tasks so far, are all that it has, and it begins as it would have.

    Args:
        run: the folder of the fleet.
        experiment: what every model must have.
        names: the unfinished models that no process works on.
        dry_run: whether this call only says what would happen.
    """
    by_loss: dict[tuple[str, ...], list[ModelName]] = {}
    for name in names:
        variants = tuple(find_lost(run, experiment, name))
        if variants and any(not _is_early(run, name, path) for path in made_by(run, name)):
            by_loss.setdefault(variants, []).append(name)
    is_, are = ("would be", "would be") if dry_run else ("is", "are")
    sentences = []
    for lost, models in by_loss.items():
        files = sum(len(made_by(run, name)) for name in models)
        spent = sum(p.seconds for name in models if (p := read_progress(run.progress(name))))
        sentences.append(
            f"{', '.join(map(str, models))} {is_ if len(models) == 1 else are} trained again from "
            f"the start ({spent:.0f} s of one process so far), because no other file can bring "
            f"back {', '.join(lost)}: {files} files (weights, records, signals, checkpoints) {are} "
            "deleted first. Put the lost files back to keep these, or leave the models out by "
            "`--fleet.models`."
        )
    return sentences


def _is_early(run: RunFolder, name: ModelName, path: Path) -> bool:
    """Whether a model may have a file before its first checkpoint."""
    early = is_snapshot(path.stem) or path == run.clients(name)
    return early or (path.parent != run.model(name) and path.parent.name in ("rounds", "tasks"))
