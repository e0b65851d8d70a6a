"""Train a fleet, quantize every model, and record what an attacker would see of it.

The same command again goes on where it stopped; a finished fleet is left as it is.
"""

import copy
import inspect
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool
from jsonargparse import ArgumentParser, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console
from rich.markup import escape
from torch import Tensor, nn

from attacks.health import failures, find_broken
from attacks.signals import signals
from datamodules import ImageDataModule
from datamodules.calibration import CalibrationOptions
from datamodules.membership import membership
from datamodules.seeds import derive_seed
from fleet.bfloat16 import emulates_bfloat16
from fleet.cost import Costs, count_work, show_cost
from fleet.display import FleetProgress, quieten
from fleet.engine import (
    Outcome,
    Plan,
    check_files,
    complete,
    is_first,
    is_hopeless,
    note_error,
    one_by_one,
)
from fleet.failed import Health, find_failed
from fleet.interrupt import interruptible
from fleet.options import (
    TRAINER_OPTIONS,
    Fleet,
    RecipeFile,
    check_options,
    choose_queries,
    choose_threads,
    environment,
)
from fleet.status import find_status, show_status, stopped_line, summarise
from fleet.trials import Quantization, count_flops, recorded_seconds, try_signals, try_training
from fleet.workers import connect, in_workers
from lightning_modules.callbacks.checkpoints import SaveCheckpoint, SaveWeights, WholeCheckpointIO
from lightning_modules.callbacks.compile_time import CompileTime
from lightning_modules.callbacks.guards import SameModel, StopDiverged
from lightning_modules.callbacks.progress import Journal
from lightning_modules.callbacks.quantize import Quantize
from lightning_modules.callbacks.record_signals import RecordSignals
from lightning_modules.classifier import Classifier
from lightning_modules.wandb_logger import FleetLogger
from quantization.calibration import Calibration
from quantization.cost import cost_class, estimate_seconds, loop_images
from quantization.quantize import check_network
from quantization.quantized_network import layer_bits
from quantization.rounding.grid import Bits
from quantization.variant import FULL, Variant, check_count, wanted
from storage.experiment import Experiment, describe
from storage.names import ModelName, WandbMode, fleet_names, parse_slice
from storage.run_folder import RunFolder
from storage.wandb_project import check_key
from storage.weights import load_weights, stored_bytes

HEALTH = Health(find_broken, failures)
FAILED = 3  # exit code: the fleet is trained, but for models that failed


class Job(NamedTuple):
    """What every model of one call shares."""

    config: Namespace
    fleet: Fleet
    data: ImageDataModule
    run: RunFolder
    experiment: Experiment
    variants: list[str]
    names: list[ModelName]
    members: Bool[Tensor, "models examples"]
    chosen: list[ModelName]
    processes: int  # that train a model together


def make_parser() -> ArgumentParser:
    """Every option, straight from the signatures."""
    parser = ArgumentParser(prog="train.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", action=RecipeFile, help="recipe (YAML) to read options from")
    parser.add_argument("--run_dir", type=Path, required=True, help="folder of the experiment")
    parser.add_argument("--seed", type=int, default=0, help="everything random derives from it")
    parser.add_argument(
        "--status", action="store_true", help="say how far the fleet in --run_dir is, and end"
    )
    parser.add_argument(
        "--repair", action="store_true", help="make files again that were damaged since"
    )
    parser.add_argument(
        "--threads", type=int, help="CPU threads of a model; one is fastest for small networks"
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
        help="views the attacker asks for: identity, mirror, shift+2-1; random-0, each model's own "
        "(default: training's)",
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


def prepare(config: Namespace, fleet: Fleet, data: ImageDataModule, console: Console) -> Job:
    """Check all that a user can get wrong, before anything is trained.

    Raises:
        ValueError: an option is wrong, the run folder holds another experiment, or damaged files.
        FileNotFoundError: the data set is not there.
        OSError: the run folder cannot be written to.
    """
    processes = check_options(config, fleet)
    config.threads = choose_threads(config, fleet)
    check_key(config.wandb)
    on_cpu = config.trainer.accelerator == "cpu" or not torch.cuda.is_available()
    if on_cpu and str(config.trainer.precision).startswith("bf16") and emulates_bfloat16():
        console.print("Note: this CPU emulates bf16; `--trainer.precision 32-true` is faster.")
    with console.status("Reading images"):
        data.prepare_data()
        data.setup("fit")
    queries = choose_queries(config, data, console)
    network, asked_for = try_network(config, data, console), map(Variant.parse, config.quantize)
    asked = describe(config, data, network, queries, list(map(str, asked_for)))
    members = membership(config.seed, fleet.shadows, fleet.targets, len(data.pool.labels))
    # Names and rows are kept, not read again: a process that grows the fleet moves the targets'.
    names = chosen = fleet_names(fleet.shadows, fleet.targets)
    if fleet.models is not None:
        chosen = [names[position] for position in parse_slice(fleet.models, len(names))]
    # Ray's processes may be elsewhere
    run = RunFolder(config.run_dir.resolve() if fleet.by_ray else config.run_dir)
    if fleet.dry_run:
        run.check_writable()
        stored = run.preview(asked, members)
    else:
        stored = run.open(asked, members)
    if stored["versions"] != asked["versions"]:
        console.print(f"Note: begun with {stored['versions']}, going on with {asked['versions']}.")
    variants = [FULL, *stored["config"]["quantize"]]
    with console.status("Checking files"):
        removed = check_files(run, chosen, config.repair)
    for path in removed:
        console.print(escape(f"{path} was damaged: deleted, to be made again."), soft_wrap=True)
    return Job(config, fleet, data, run, stored, variants, names, members, chosen, processes)


def fit(job: Job, name: ModelName) -> None:
    """Train one model, or go on with it, and write those of its files that are missing."""
    config, data, run = job.config, job.data, job.run
    members = job.members[job.names.index(name)]
    attempt = run.attempt(name)
    seed = derive_seed(config.seed, name.role, name.number, attempt)
    data.assign(members, seed)
    classifier = Classifier(data.num_classes, len(data.mean), seed, **config.model.as_dict())
    weights, checkpoint = run.weights(name, FULL), run.checkpoint(name)
    options, journal = config.trainer.as_dict(), Journal(run.progress(name))
    if job.fleet.by_ray:
        options["devices"] = 1  # of those that Ray lets this process see
    if weights.exists():  # trained before: a fit of no epoch runs the callbacks alone
        classifier.network.load_state_dict(load_weights(weights))
        options["max_epochs"] = 0
    resume = checkpoint if checkpoint.exists() and not weights.exists() else None
    quantize = Quantize(
        run.model(name),
        [Variant.parse(text) for text in job.variants if text != FULL],
        partial(calibrate, job, members, seed),
        config.layer_bits,
        journal.note,
    )
    ours = [journal, quantize]
    if config.model.compile:
        ours.append(CompileTime(journal.compiled))
    trainer = make_trainer(job, name, attempt, ours, options)
    trainer.fit(classifier, datamodule=data, ckpt_path=resume, weights_only=True)
    journal.note("finished")


def make_trainer(
    job: Job, name: ModelName, attempt: int, ours: list[Callback], options: dict[str, Any]
) -> Trainer:
    """A trainer whose callbacks leave every file of a model; `ours` quantize it, and tell of it."""
    run, queries = job.run, job.experiment["config"]["queries"]
    callbacks = [
        SameModel(f"{name}, attempt {attempt}"),
        StopDiverged(),
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
        plugins=[WholeCheckpointIO(), *environment(job.fleet)],
        log_every_n_steps=1,  # all that is logged is of an epoch
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=run.model(name),
    )


def make_plan(job: Job, console: Console) -> tuple[Plan, list[ModelName]]:
    """What is to be made, and of which models: the chosen ones that are not finished, or failed."""
    run, retry = job.run, dict[ModelName, int]()
    if job.fleet.retrain_failed:
        failed = find_failed(run, job.names, job.members, job.variants, HEALTH).reasons
        retry = {name: run.attempt(name) for name in failed if name in job.chosen}
        for name, attempt in retry.items():
            reason = escape(failed[name])
            console.print(f"{name} failed ({reason}): kept in {name}.failed-{attempt}.")
    todo = [n for n in job.chosen if n in retry or not run.is_finished(n, job.variants)]
    return Plan(run, job.variants, job.processes, retry), todo


def train_fleet(job: Job, plan: Plan, todo: Sequence[ModelName], console: Console) -> int:
    """Train models, and say what became of them.

    Returns:
        The exit code: 0 if all is well, `FAILED` if models failed, 1 if nothing can go on.
    """
    run, fleet, started, outcomes = job.run, job.fleet, time.monotonic(), list[Outcome]()
    work = partial(complete, plan, partial(fit, job))
    with FleetProgress(run, len(todo), job.config.trainer.max_epochs, console) as progress:
        if fleet.by_ray and todo:
            ending = in_workers(todo, work, progress.begin, fleet, job.config.threads)
        else:
            ending = one_by_one(todo, work, progress.begin)
        for outcome in ending:
            progress.end(outcome)
            outcomes.append(outcome)
            if outcome.state == "stopped":
                console.print(stopped_line(outcome.reason), soft_wrap=True)
                return 1
            if outcome.state == "failed" and not run.error(outcome.name).exists():
                note_error(run, outcome.name, outcome.reason)  # its process could not
    if not is_first():  # the others do not wait for the files
        return 0
    failed = find_failed(run, job.names, job.members, job.variants, HEALTH)
    seconds, reasons = time.monotonic() - started, failed.reasons
    for line in summarise(run, job.names, job.variants, job.chosen, outcomes, reasons, seconds):
        console.print(line, soft_wrap=True)
    stopped = {outcome.name for outcome in outcomes if outcome.state == "failed"}
    return FAILED if stopped | (failed.broken & set(job.chosen)) else 0


def tell_cost(job: Job, todo: Sequence[ModelName], console: Console) -> None:
    """Try some steps of a model, and print what is to be done and what that costs."""
    config, data = job.config, job.data
    classifier = Classifier(data.num_classes, len(data.mean), 0, **config.model.as_dict())
    network = copy.deepcopy(classifier.get_submodule("network"))
    few = next(data.test_batches())
    flops = count_flops(copy.deepcopy(network), few.images[:2], few.labels[:2])
    data.assign(job.members[0], config.seed)
    options = config.trainer.as_dict() | ({"devices": 1} if job.fleet.by_ray else {})
    with console.status("Trying some steps of training"):
        training = try_training(classifier, data, options, environment(job.fleet))
    if not is_first():
        return
    counts = count_work(
        job.run, job.chosen, todo, job.members[0], data, options,
        job.experiment["config"]["queries"], job.variants, job.fleet.workers,
    )  # fmt: skip
    seen = try_signals(network.to(data.device), data, signals)
    with console.status("Trying quantizations"):
        quantizations = try_quantizations(job, network)
    for shown in show_cost(counts, Costs(training, seen, flops, network, quantizations)):
        console.print(shown, soft_wrap=True)


def try_quantizations(job: Job, network: nn.Module) -> dict[str, Quantization]:
    """Each variant's cost: of finished models if there are, else tried, once for all alike."""
    found, tried = dict[str, Quantization](), dict[str, float]()
    patterns = job.config.layer_bits
    for text in job.variants[1:]:
        variant, known = Variant.parse(text), recorded_seconds(job.run, job.names, text)
        seconds, source = fmean(known or [0.0]), f"{len(known)} finished models"
        if not known:
            source, kind = "trial: estimate", cost_class(variant)
            if kind not in tried:
                images = calibrate(job, job.members[0], 0, variant) if variant.calibrates else None
                tried[kind] = estimate_seconds(network, variant, images, patterns)
            seconds = tried[kind]
        size = stored_bytes(network, variant, patterns)
        found[text] = Quantization(seconds, source, size, loop_images(variant))
    return found


def tell_status(run: RunFolder, console: Console) -> None:
    """Print how far a fleet is.

    Raises:
        FileNotFoundError: there is no experiment in the folder.
        ValueError: a file is damaged.
    """
    variants = [FULL, *run.read()["config"]["quantize"]]
    failed = find_failed(run, run.names(), run.membership(), variants, HEALTH)
    console.print(show_status(run, find_status(run, failed.reasons)))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    quieten()
    console = Console(highlight=False, quiet=not is_first())
    parser = make_parser()
    config = parser.parse_args(arguments)
    if config.data is None:  # a default in the parser would hand its pool size to any other data
        config = parser.parse_args([*(arguments or sys.argv[1:]), "--data", "datamodules.Digits"])
    with interruptible() as interrupted:
        try:
            code = run_command(parser, config, console)
        except BaseException as error:
            if is_hopeless(error):
                console.print(stopped_line(str(error)), soft_wrap=True)
                code = 1
            # Lightning turns Ctrl-C into an exit, and other libraries into errors of their own
            elif interrupted.is_set() or isinstance(error, KeyboardInterrupt | SIGTERMException):
                console.print("Stopped. The same command goes on from the last finished epoch.")
                code = 130
            else:
                raise
    if code:
        sys.exit(code)


def run_command(parser: ArgumentParser, config: Namespace, console: Console) -> int:
    """Check everything, then train; returns the exit code."""
    try:
        if config.status:
            tell_status(RunFolder(config.run_dir), console)
            return 0
        made = parser.instantiate(config)
        job = prepare(config, made.fleet, made.data, console)
        plan, todo = make_plan(job, console)
        if job.fleet.dry_run:
            torch.set_num_threads(config.threads)
            tell_cost(job, todo, console)
            return 0
        if todo and job.fleet.by_ray:
            connect(job.fleet, config.threads)
    except (ValueError, OSError, MisconfigurationException) as error:
        sys.exit(f"train.py: {error}")  # nothing ran yet, so the message is all there is to say
    torch.set_num_threads(config.threads)
    return train_fleet(job, plan, todo, console)


if __name__ == "__main__":
    import train  # by its own name, under which Ray's processes find what is in it

    train.main()
