"""Train a fleet, quantize every model, and record what an attacker would see of it.

The same command again goes on where it stopped; a finished fleet is left as it is.
"""

import inspect
import logging
import sys
import time
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jsonargparse import ArgumentParser, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.markup import escape

from attacks.health import find_failures
from attacks.signals import signals
from datamodules import ImageDataModule
from datamodules.membership import membership
from datamodules.seeds import derive_seed
from datamodules.views import check_queries, default_queries, view
from lightning_modules.checkpoints import SaveCheckpoint, SaveWeights, WholeCheckpointIO
from lightning_modules.classifier import Classifier
from lightning_modules.dashboard import FleetLogger, WandbMode, check_key
from lightning_modules.fleet import Fleet, ModelName, parse_slice
from lightning_modules.progress import FleetProgress
from lightning_modules.run_folder import Experiment, RunFolder
from lightning_modules.signals import RecordSignals, load_signals
from quantization.callback import Quantize
from quantization.model import layer_bits
from quantization.storage import load_weights
from quantization.variant import FULL, Variant

TRAINER_OPTIONS = {  # the others are ours (callbacks, checkpoints) or would skip data
    "accelerator", "strategy", "devices", "num_nodes", "precision", "max_epochs",
    "check_val_every_n_epoch", "accumulate_grad_batches",
    "gradient_clip_val", "gradient_clip_algorithm", "deterministic", "benchmark", "sync_batchnorm",
}  # fmt: skip
# What may differ between two calls on one run folder: where things are, and what they run on.
PLACES = {"root", "download"}
HARDWARE = {"accelerator", "strategy", "devices", "num_nodes", "benchmark"}


class Job(NamedTuple):
    """What every model of one call shares."""

    config: Namespace
    data: ImageDataModule
    run: RunFolder
    experiment: Experiment
    variants: list[str]
    chosen: list[int]


def make_parser() -> ArgumentParser:
    """Every option, straight from the signatures."""
    parser = ArgumentParser(prog="train.py", description=__doc__)
    parser.add_argument("--config", action="config", help="recipe (YAML) to read options from")
    parser.add_argument("--run_dir", type=Path, required=True, help="folder of the experiment")
    parser.add_argument("--seed", type=int, default=0, help="everything random derives from it")
    parser.add_argument(
        "--threads", type=int, help="CPU threads; one is fastest for small networks"
    )
    parser.add_argument(
        "--quantize",
        nargs="*",
        default=["nearest-w4", "nearest-w2", "nearest-w1.58"],
        help="precisions beside full, as in nearest-w2, nearest-w2-last8 or nearest-w1.58-asym",
    )
    parser.add_argument(
        "--queries",
        nargs="*",
        help="views the attacker asks for: identity, mirror, shift+2-1 (default: training's own)",
    )
    parser.add_argument(
        "--wandb", type=WandbMode, default="disabled", help="Weights & Biases, one run a model"
    )
    parser.add_class_arguments(Fleet, "fleet")
    parser.add_subclass_arguments(ImageDataModule, "data", required=False)
    ours = {"num_classes", "channels", "seed"}
    parser.add_class_arguments(Classifier, "model", skip=ours, instantiate=False)
    skip = set(inspect.signature(Trainer).parameters) - TRAINER_OPTIONS
    parser.add_class_arguments(Trainer, "trainer", skip=skip, instantiate=False)
    return parser


def describe(config: Namespace, data: ImageDataModule, queries: list[str]) -> Experiment:
    """Every option that makes a difference to a number; a run folder belongs to one of these."""
    options = config.data.init_args.as_dict()
    kept = {
        "seed": config.seed,
        "data": {
            "class_path": f"{type(data).__module__}.{type(data).__qualname__}",
            "init_args": {k: v for k, v in options.items() if k not in PLACES},
        },
        "model": config.model.as_dict(),
        "trainer": {k: v for k, v in config.trainer.as_dict().items() if k not in HARDWARE},
        "fleet": {"shadows": config.fleet.shadows, "targets": config.fleet.targets},
        "queries": queries,
        "quantize": list(dict.fromkeys(str(Variant.parse(name)) for name in config.quantize)),
    }
    versions = {package: version(package) for package in ("torch", "lightning", "bitleak")}
    return {"config": kept, "fingerprint": data.fingerprint(), "versions": versions}


def prepare(config: Namespace, data: ImageDataModule, console: Console) -> Job:
    """Check all that a user can get wrong, before anything is trained.

    Raises:
        ValueError: an option is wrong, or the run folder holds another experiment.
        FileNotFoundError: the data set is not there.
    """
    if config.trainer.max_epochs is None:
        raise ValueError("How long to train is not said: pass `--trainer.max_epochs 30`, say.")
    if config.trainer.max_epochs < 1:
        raise ValueError(f"`max_epochs` must be 1 or more, got {config.trainer.max_epochs}.")
    if config.threads is not None and config.threads < 1:
        raise ValueError(f"`threads` must be 1 or more, got {config.threads}.")
    check_key(config.wandb)
    data.prepare_data()
    data.setup("fit")
    queries = config.queries
    if queries is None:
        queries = default_queries(data.flip, data.crop)
    elif unused := check_queries(queries, data.flip, data.crop):
        console.print(f"Note: training never uses {', '.join(unused)}; such a query is weak.")
    for query in queries:
        view(data.pool.images[:1], query)  # once for its errors, as all that follows
    Trainer(**config.trainer.as_dict(), logger=False, enable_progress_bar=False)
    # Once for its errors: what cannot be trained or quantized must stop before there is a folder.
    classifier = Classifier(data.num_classes, len(data.mean), 0, **config.model.as_dict())
    classifier.check(next(data.test_batches()).images[:2])
    for name in config.quantize:
        layer_bits(classifier.get_submodule("network"), Variant.parse(name))
    experiment = describe(config, data, queries)
    fleet = config.fleet
    members = membership(config.seed, fleet.shadows, fleet.targets, len(data.pool.labels))
    chosen = list(range(len(members)))
    if fleet.models is not None:
        chosen = parse_slice(fleet.models, len(members))
    run = RunFolder(config.run_dir)
    experiment = run.open(experiment, members)
    return Job(config, data, run, experiment, [FULL, *experiment["config"]["quantize"]], chosen)


def fit(job: Job, position: int, progress: FleetProgress) -> None:
    """Train one model, or go on with it, and write those of its files that are missing."""
    config, data, run = job.config, job.data, job.run
    name, members = run.names()[position], run.membership()[position]
    attempt = run.attempt(name)
    seed = derive_seed(config.seed, name.role, name.number, attempt)
    data.assign(members, seed)
    classifier = Classifier(data.num_classes, len(data.mean), seed, **config.model.as_dict())
    weights, checkpoint = run.weights(name, FULL), run.checkpoint(name)
    options = config.trainer.as_dict()
    if weights.exists():  # trained before: a fit of no epoch runs the callbacks alone
        classifier.network.load_state_dict(load_weights(weights))
        options["max_epochs"] = 0
    resume = checkpoint if checkpoint.exists() and not weights.exists() else None
    trainer = make_trainer(job, name, attempt, progress, options)
    trainer.fit(classifier, datamodule=data, ckpt_path=resume, weights_only=True)


def make_trainer(
    job: Job, name: ModelName, attempt: int, progress: FleetProgress, options: dict[str, Any]
) -> Trainer:
    """A trainer whose callbacks leave every file of a model."""
    run, stored = job.run, job.experiment["config"]
    folder, variants = run.model(name), [Variant.parse(text) for text in stored["quantize"]]
    callbacks: list[Callback] = [
        progress,
        SaveCheckpoint(run.checkpoint(name)),
        SaveWeights(run.weights(name, FULL)),
        Quantize(folder, variants),
        RecordSignals(folder, job.variants, stored["queries"], signals, load_weights),
    ]
    logger: FleetLogger | Literal[False] = False
    if job.config.wandb != "disabled":
        logger = FleetLogger(run.path, name, attempt, job.experiment, job.config.wandb)
        callbacks.append(LearningRateMonitor("epoch"))
    return Trainer(
        **options,
        logger=logger,
        callbacks=callbacks,
        plugins=[WholeCheckpointIO()],
        log_every_n_steps=1,  # all that is logged is of an epoch
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=run.path,
    )


def failed_models(job: Job) -> dict[ModelName, str]:
    """Trained models that diverged or that a quantization broke, and why."""
    run, names, members = job.run, job.run.names(), job.run.membership()
    trained = [i for i, name in enumerate(names) if run.signals(name, FULL).exists()]
    if not trained:
        return {}

    def paths(variant: str) -> list[Path]:
        return [run.signals(names[position], variant) for position in trained]

    whole = [v for v in job.variants if all(path.exists() for path in paths(v))]
    phi = {variant: load_signals(paths(variant), "phi") for variant in whole}
    reasons = find_failures(phi, load_signals(paths(FULL), "correct"), members[trained])
    return {names[trained[index]]: reason for index, reason in reasons.items()}


def train(job: Job, console: Console) -> None:
    """Train what is not finished of the chosen slice, and say what was done."""
    run, names, chosen = job.run, job.run.names(), job.chosen
    if job.config.fleet.retrain_failed:
        for name, reason in failed_models(job).items():
            if names.index(name) in chosen:
                console.print(f"{name} failed ({reason}): kept in {run.set_aside(name).name}.")
    todo = [position for position in chosen if run.missing(names[position], job.variants)]
    started = time.monotonic()
    progress = FleetProgress(len(todo), job.config.trainer.max_epochs, console)
    with progress.bar:
        for position in todo:
            progress.begin(names[position])
            fit(job, position, progress)
            progress.end()
    if console.quiet:
        return  # another process writes the files, and may not be done
    finished = len(chosen) - len(todo)
    if todo:
        seconds = time.monotonic() - started
        console.print(f"Finished {len(todo)} models in {seconds:.0f} s; {finished} were before.")
    else:
        where = escape(str(run.path))
        console.print(f"All {finished} models in {where} are finished: nothing to train.")
    for name, reason in failed_models(job).items():
        console.print(
            f"[bold red]{name} failed[/]: {reason}. The audit leaves it out with its partner; "
            "`--fleet.retrain_failed true` trains it from another start."
        )
    sizes = []
    for variant in job.variants:  # the smallest: a model that diverged is not packed
        paths = [run.weights(names[position], variant) for position in chosen]
        sizes.append(f"{variant} {min(path.stat().st_size for path in paths):,}")
    console.print(f"Bytes of a model on disk: {', '.join(sizes)}.")
    console.print(escape(f"Next: python audit.py --run_dir {run.path}"), soft_wrap=True)


def quieten() -> None:
    """Leave the screen to one progress display."""
    for package in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(package).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning 2.6 on torch 2.14


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    quieten()
    console = Console(highlight=False, quiet=getattr(rank_zero_only, "rank", 0) != 0)
    parser = make_parser()
    config = parser.parse_args(arguments)
    if config.data is None:  # a default in the parser would hand its pool size to any other data
        config = parser.parse_args([*(arguments or sys.argv[1:]), "--data", "datamodules.Digits"])
    try:
        job = prepare(config, parser.instantiate(config).data, console)
    except (ValueError, FileNotFoundError, MisconfigurationException) as error:
        sys.exit(f"train.py: {error}")  # nothing ran yet, so the message is all there is to say
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    try:
        train(job, console)
    except (KeyboardInterrupt, SystemExit):  # Lightning turns Ctrl-C into an exit
        console.print("Stopped. The same command goes on from the last finished epoch.")
        sys.exit(130)


if __name__ == "__main__":
    main()
