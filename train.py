"""Train a fleet, quantize every model, and record what an attacker would see of it.

The same command again goes on where it stopped; a finished fleet is left as it is.
"""

import hashlib
import inspect
import logging
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from filelock import FileLock, Timeout
from jaxtyping import Bool
from jsonargparse import ArgumentParser, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.markup import escape
from torch import Tensor, nn

from attacks.health import find_failures
from attacks.signals import signals
from datamodules import ImageDataModule
from datamodules.calibration import CalibrationOptions
from datamodules.membership import membership
from datamodules.seeds import derive_seed
from datamodules.views import check_queries, default_queries, view
from lightning_modules.bfloat16 import emulates_bfloat16
from lightning_modules.checkpoints import SaveCheckpoint, SaveWeights, WholeCheckpointIO
from lightning_modules.classifier import Classifier
from lightning_modules.compile_time import CompileTime
from lightning_modules.dashboard import FleetLogger, WandbMode, check_key
from lightning_modules.fleet import Fleet, ModelName, fleet_names, parse_slice
from lightning_modules.interrupt import interruptible
from lightning_modules.progress import FleetProgress
from lightning_modules.run_folder import Experiment, RunFolder
from lightning_modules.signals import RecordSignals, load_signals
from quantization.calibration import Calibration, check_count, wanted
from quantization.callback import Quantize
from quantization.model import layer_bits
from quantization.quantize import check_network
from quantization.storage import load_weights
from quantization.variant import FULL, Bits, Variant

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
    names: list[ModelName]
    members: Bool[Tensor, "models examples"]
    chosen: list[int]


def make_parser() -> ArgumentParser:
    """Every option, straight from the signatures."""
    parser = ArgumentParser(prog="train.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="recipe (YAML) to read options from")
    parser.add_argument("--run_dir", type=Path, required=True, help="folder of the experiment")
    parser.add_argument("--seed", type=int, default=0, help="everything random derives from it")
    parser.add_argument(
        "--threads", type=int, help="CPU threads; one is fastest for small networks"
    )
    parser.add_argument(
        "--quantize",
        nargs="*",
        default=["adaround-w4", "adaround-w2", "adaround-w1.58"],
        help="precisions beside full, as in nearest-w4, adaround-w2-last8, brecq-w1.58-nonmembers",
    )
    parser.add_argument(
        "--layer_bits",
        type=dict[str, Bits],
        default={},
        help='bits of some layers in every precision, by name or pattern: {"fc": 8, "layer1.*": 4}',
    )
    parser.add_argument(
        "--queries",
        nargs="*",
        help="views the attacker asks for: identity, mirror, shift+2-1 (default: training's own)",
    )
    parser.add_argument(
        "--wandb", type=WandbMode, default="disabled", help="Weights & Biases, one run a model"
    )
    parser.add_class_arguments(CalibrationOptions, "calibration")
    parser.add_class_arguments(Fleet, "fleet")
    parser.add_subclass_arguments(ImageDataModule, "data", required=False)
    ours = {"num_classes", "channels", "seed"}
    parser.add_class_arguments(Classifier, "model", skip=ours, instantiate=False)
    skip = set(inspect.signature(Trainer).parameters) - TRAINER_OPTIONS
    parser.add_class_arguments(Trainer, "trainer", skip=skip, instantiate=False)
    return parser


def describe(
    config: Namespace, data: ImageDataModule, network: nn.Module, queries: list[str]
) -> Experiment:
    """Every option that makes a difference to a number; a run folder belongs to one of these."""
    options = config.data.init_args.as_dict()
    kept = {
        "seed": config.seed,
        "data": {
            "class_path": f"{type(data).__module__}.{type(data).__qualname__}",
            "init_args": {
                key: str(value) if isinstance(value, Path) else value
                for key, value in options.items()
                if key not in PLACES
            },
        },
        "model": config.model.as_dict(),
        "trainer": {k: v for k, v in config.trainer.as_dict().items() if k not in HARDWARE},
        "fleet": {"shadows": config.fleet.shadows, "targets": config.fleet.targets},
        "queries": queries,
        "calibration": config.calibration.as_dict(),
        "layer_bits": config.layer_bits,
        "quantize": list(dict.fromkeys(str(Variant.parse(name)) for name in config.quantize)),
    }
    versions: dict[str, str | int] = {
        package: version(package) for package in ("torch", "lightning", "bitleak")
    }
    versions["threads"] = config.threads or torch.get_num_threads()
    shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    fingerprints = {
        "data": data.fingerprint(),
        "network": hashlib.sha256(repr(shapes).encode()).hexdigest()[:16],
    }
    if config.layer_bits:  # where two patterns match the later one holds, so their order counts
        order = ", ".join(f"{pattern}: {bits:g}" for pattern, bits in config.layer_bits.items())
        fingerprints["layer_bits"] = order
    _, channels, height, width = data.pool.images.shape
    sizes = {"num_classes": data.num_classes}
    sizes |= {"channels": channels, "height": height, "width": width}
    places = {key: str(Path(value).resolve()) for key, value in options.items() if key == "root"}
    return {
        "config": kept,
        "input": sizes,
        "fingerprints": fingerprints,
        "versions": versions,
        "places": places,
    }


def check_options(config: Namespace) -> None:
    """Raise for what Lightning would accept and a fleet cannot do.

    Raises:
        ValueError: a count below 1, no length of training, or weights spread over devices.
    """
    if config.trainer.max_epochs is None:
        raise ValueError("How long to train is not said: pass `--trainer.max_epochs 30`, say.")
    counts = {"threads": config.threads, **config.trainer.as_dict()}
    for name in ("threads", "max_epochs", "check_val_every_n_epoch", "accumulate_grad_batches"):
        if counts[name] is not None and counts[name] < 1:
            raise ValueError(f"`{name}` must be 1 or more, got {counts[name]}.")
    if str(config.trainer.strategy).startswith(("fsdp", "deepspeed")):
        raise ValueError(
            f"`trainer.strategy` must keep a whole model on each device, as ddp does, got "
            f"{config.trainer.strategy}: one process saves a model's weights."
        )
    Trainer(**config.trainer.as_dict(), logger=False, enable_progress_bar=False)


def choose_queries(config: Namespace, data: ImageDataModule, console: Console) -> list[str]:
    """The views that the attacker asks for: those asked for, or those that training uses.

    Raises:
        ValueError: no such view, or one that leaves nothing of these images.
    """
    queries: list[str] = config.queries
    if queries is None:
        queries = default_queries(data.flip, data.crop)
    elif unused := check_queries(queries, data.flip, data.crop):
        console.print(f"Note: training never uses {', '.join(unused)}; such a query is weak.")
    for query in queries:
        view(data.pool.images[:1], query)
    return queries


def try_network(config: Namespace, data: ImageDataModule, console: Console) -> nn.Module:
    """Build the network once for its errors, which must come before there is a folder.

    Raises:
        ValueError: it cannot be built, trained on these images, or quantized as asked.
    """
    classifier = Classifier(data.num_classes, len(data.mean), 0, **config.model.as_dict())
    classifier.check(next(data.test_batches()).images[:2])
    network = classifier.get_submodule("network")
    images = next(data.test_batches()).images[:2]
    for variant in map(Variant.parse, config.quantize):
        check_network(network, variant, images, config.layer_bits)
        check_calibration(config, data, variant)
    for packed in [layer_bits(network, Variant.parse(name)) for name in config.quantize][:1]:
        left = [k for k, t in network.state_dict().items() if t.ndim > 1 and k not in packed]
        if left:
            console.print(f"Note: quantization leaves {', '.join(left)} at full precision.")
    return network


def check_calibration(config: Namespace, data: ImageDataModule, variant: Variant) -> None:
    """Raise before any training if a model will lack the images that a variant looks at.

    Raises:
        ValueError: there are none, or fewer than a batch.
    """
    if not variant.calibrates:
        return
    half = torch.arange(len(data.pool.labels)) < len(data.pool.labels) // 2  # as any model has
    count, _ = wanted(variant, config.calibration.images, config.calibration.rounds)
    try:
        indices = data.draw_calibration(variant.calibration, half, count, 0)
    except ValueError as error:
        raise ValueError(f"`{variant}`: {error}") from error
    check_count(variant, len(indices))


def calibrate(
    job: Job, members: Bool[Tensor, " examples"], seed: int, variant: Variant
) -> Calibration:
    """The images of one model that a variant looks at."""
    options, data, source = job.config.calibration, job.data, variant.calibration
    count, rounds = wanted(variant, options.images, options.rounds)
    indices = data.draw_calibration(source, members, count, seed)

    def augmented(number: int) -> Tensor:
        augment_seed = derive_seed(seed, "calibration", source, number)
        return data.calibration_images(source, indices, augment_seed)

    images = augmented(0) if rounds else data.calibration_images(source, indices)
    return Calibration(images, augmented, indices, source, seed, rounds)


def prepare(config: Namespace, data: ImageDataModule, console: Console) -> Job:
    """Check all that a user can get wrong, before anything is trained.

    Raises:
        ValueError: an option is wrong, or the run folder holds another experiment.
        FileNotFoundError: the data set is not there.
        OSError: the run folder cannot be written to.
    """
    check_options(config)
    check_key(config.wandb)
    on_cpu = config.trainer.accelerator == "cpu" or not torch.cuda.is_available()
    if on_cpu and str(config.trainer.precision).startswith("bf16") and emulates_bfloat16():
        console.print("Note: this CPU emulates bf16; `--trainer.precision 32-true` is faster.")
    with console.status("Reading images"):
        data.prepare_data()
        data.setup("fit")
    queries = choose_queries(config, data, console)
    asked = describe(config, data, try_network(config, data, console), queries)
    shadows, targets = config.fleet.shadows, config.fleet.targets
    members = membership(config.seed, shadows, targets, len(data.pool.labels))
    chosen = list(range(len(members)))
    if config.fleet.models is not None:
        chosen = parse_slice(config.fleet.models, len(members))
    run = RunFolder(config.run_dir)
    stored = run.open(asked, members)
    if stored["versions"] != asked["versions"]:
        console.print(f"Note: begun with {stored['versions']}, going on with {asked['versions']}.")
    variants = [FULL, *stored["config"]["quantize"]]
    # Names and rows are kept, not read again: a process that grows the fleet moves the targets'.
    names = fleet_names(shadows, targets)
    return Job(config, data, run, stored, variants, names, members, chosen)


def fit(job: Job, position: int, progress: FleetProgress) -> None:
    """Train one model, or go on with it, and write those of its files that are missing."""
    config, data, run = job.config, job.data, job.run
    name, members = job.names[position], job.members[position]
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
    quantize = Quantize(
        run.model(name),
        [Variant.parse(text) for text in job.variants if text != FULL],
        partial(calibrate, job, members, seed),
        config.layer_bits,
        progress.note,
    )
    ours = [progress, quantize]
    if config.model.compile:
        ours.append(CompileTime(progress.console.print))
    trainer = make_trainer(job, name, attempt, ours, options)
    trainer.fit(classifier, datamodule=data, ckpt_path=resume, weights_only=True)


def make_trainer(
    job: Job, name: ModelName, attempt: int, ours: list[Callback], options: dict[str, Any]
) -> Trainer:
    """A trainer whose callbacks leave every file of a model; `ours` quantize it, and draw."""
    run, queries = job.run, job.experiment["config"]["queries"]
    callbacks = [
        SaveCheckpoint(run.checkpoint(name)),
        SaveWeights(run.weights(name, FULL)),
        *ours,
        RecordSignals(run.model(name), job.variants, queries, signals, load_weights),
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
    run, names = job.run, job.names
    trained = [i for i, name in enumerate(names) if run.signals(name, FULL).exists()]
    if not trained:
        return {}

    def paths(variant: str) -> list[Path]:
        return [run.signals(names[position], variant) for position in trained]

    whole = [v for v in job.variants if all(path.exists() for path in paths(v))]
    phi = {variant: load_signals(paths(variant), "phi") for variant in whole}
    reasons = find_failures(phi, load_signals(paths(FULL), "correct"), job.members[trained])
    return {names[trained[index]]: reason for index, reason in reasons.items()}


def lock(run: RunFolder, name: ModelName) -> AbstractContextManager[Any]:
    """One process a model; of those that train it together, the first holds the lock for all."""
    if not is_first():
        return nullcontext()
    run.model(name).mkdir(parents=True, exist_ok=True)
    return FileLock(run.model(name) / ".lock", timeout=0)


def is_first() -> bool:
    """Whether this is the process that writes, of those that train a model together."""
    return getattr(rank_zero_only, "rank", 0) == 0


def train(job: Job, console: Console) -> None:
    """Train what is not finished of the chosen slice."""
    run, names, started = job.run, job.names, time.monotonic()
    if job.config.fleet.retrain_failed:
        for name, reason in failed_models(job).items():
            if names.index(name) in job.chosen:
                console.print(f"{name} failed ({reason}): kept in {run.set_aside(name).name}.")
    todo = [position for position in job.chosen if run.missing(names[position], job.variants)]
    progress = FleetProgress(len(todo), job.config.trainer.max_epochs, console)
    done = 0
    with progress.bar:
        for position in todo:
            progress.begin(names[position])
            try:
                with lock(run, names[position]):
                    fit(job, position, progress)
            except Timeout:
                console.print(f"{names[position]}: another process is at it, passed over.")
                continue
            progress.end()
            done += 1
    before, where = len(job.chosen) - len(todo), escape(str(run.path))
    if todo:
        seconds = time.monotonic() - started
        console.print(f"Finished {done} models in {seconds:.0f} s; {before} were before.")
    else:
        console.print(f"All {before} models in {where} are finished: nothing to train.")
    if is_first():  # the others do not wait for the files
        report(job, console)


def report(job: Job, console: Console) -> None:
    """Say which models failed, how large their files are, and what comes next."""
    for name, reason in failed_models(job).items():
        partner = " with its partner" if name.role == "shadow" else ""
        console.print(
            f"[bold red]{name} failed[/]: {reason}. The audit leaves it out{partner}; "
            "`--fleet.retrain_failed true` trains it from another start."
        )
    sizes = []
    for variant in job.variants:  # the smallest: a model that diverged is not packed
        paths = [job.run.weights(job.names[position], variant) for position in job.chosen]
        if found := [path.stat().st_size for path in paths if path.exists()]:
            sizes.append(f"{variant} {min(found):,}")
    console.print(f"Bytes of a model on disk: {', '.join(sizes)}.", soft_wrap=True)
    left = sum(bool(job.run.missing(name, job.variants)) for name in job.names)
    if left:
        console.print(f"{left} of the fleet's {len(job.names)} models are still to be finished.")
    else:
        console.print(escape(f"Next: python audit.py --run_dir {job.run.path}"), soft_wrap=True)


def quieten() -> None:
    """Leave the screen to one progress display."""
    for package in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(package).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning 2.6 on torch 2.14


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    quieten()
    console = Console(highlight=False, quiet=not is_first())
    parser = make_parser()
    config = parser.parse_args(arguments)
    if config.data is None:  # a default in the parser would hand its pool size to any other data
        config = parser.parse_args([*(arguments or sys.argv[1:]), "--data", "datamodules.Digits"])
    try:
        job = prepare(config, parser.instantiate(config).data, console)
    except (ValueError, OSError, MisconfigurationException) as error:
        sys.exit(f"train.py: {error}")  # nothing ran yet, so the message is all there is to say
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with interruptible() as interrupted:
        try:
            train(job, console)
        except BaseException as error:
            # Lightning turns Ctrl-C into an exit, and other libraries into errors of their own
            if not interrupted.is_set() and not isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            console.print("Stopped. The same command goes on from the last finished epoch.")
            sys.exit(130)


if __name__ == "__main__":
    main()
