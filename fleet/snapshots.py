"""Which epochs can be kept as snapshots."""

from collections.abc import Sequence

from attacks.game import FULL
from fleet.engine import is_running
from lightning_modules.callbacks.progress import read_progress
from quantization.variant import Variant
from storage.experiment import Experiment
from storage.run_folder import RunFolder


def check_snapshots(epochs: Sequence[int], last: int) -> None:
    """Refuse snapshots that no epoch ends with, or that another variant is already.

    Args:
        epochs: the epochs that are asked for.
        last: the epoch that training ends with.

    Raises:
        ValueError: an epoch is out of range, or named twice.
    """
    for epoch in epochs:
        if epochs.count(epoch) > 1:
            raise ValueError(f"`--snapshots` must name each epoch once, got {epoch} twice.")
        if not 1 <= epoch < last:
            hint = " The end of training is kept anyway, as `full`." if epoch == last else ""
            raise ValueError(
                f"`--snapshots` must be epochs before {last}, after which training ends "
                f"(`--trainer.max_epochs`), got {epoch}.{hint} Pass others, or `--snapshots` alone "
                "for none."
            )


def check_quantized_snapshots(quantize: Sequence[str], continual: bool) -> None:
    """Refuse quantized snapshots that would not be made, or not from what was at hand.

    Args:
        quantize: the variants of each snapshot.
        continual: whether models learn in tasks.

    Raises:
        ValueError: models learn no tasks, nothing is quantized, or images of later tasks would be
            looked at.
    """
    if not continual:
        raise ValueError(
            "`--quantize_snapshots` needs `--continual.tasks`, got none: the network after each "
            "task is what is quantized. Leave it out; `--quantize` rounds the end of training."
        )
    if not quantize:
        raise ValueError(
            "`--quantize_snapshots` needs a name in `--quantize`, got none. Pass for example "
            "`--quantize nearest-w4`."
        )
    for name in quantize:
        variant = Variant.parse(name)
        if variant.calibrates and variant.calibration == "heldout":
            raise ValueError(
                f"`--quantize_snapshots` must calibrate on a task's own examples, got `{name}`: "
                "held-out images are of all tasks, also of those to come. Pass "
                f"`{name.replace('heldout', 'nonmembers')}`, or leave out one of them."
            )


def check_passed(run: RunFolder, asked: Experiment) -> None:
    """Refuse new snapshots of models whose training has begun, because their past is gone.

    Raises:
        ValueError: the folder has such models; says what training them again would cost.
    """
    if not run.experiment_file.exists():
        return
    stored = run.read()
    has = stored.snapshots.values()
    new = [epoch for epoch in asked.snapshots.values() if epoch not in has]
    trained = [n for n in stored.names if run.weights(n, FULL).exists()]
    begun = [
        name
        for name in stored.names
        # another process may train one that has no file yet, without these snapshots
        if name in trained or run.checkpoint(name).exists() or is_running(run, name)
    ]
    if not new or not begun:
        return
    spent = sum(p.seconds for name in begun if (p := read_progress(run.progress(name))))
    raise ValueError(
        f"`--snapshots` must be asked for before training, because the weights at the end of an "
        f"epoch are gone once the next has begun: got {', '.join(map(str, new))}, but {run.path} "
        f"has {', '.join(map(str, has)) or 'none'}, and {len(begun)} of its models have begun. "
        f"Train into a new folder with `--run_dir`, which costs these models again ({spent:.0f} s "
        "of one process), or ask for what this folder has: "
        f"`{' '.join(['--snapshots', *map(str, has)])}`. Nothing was changed."
    )
