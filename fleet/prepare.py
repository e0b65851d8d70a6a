"""Checks of everything that a user can get wrong, before any training."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from jaxtyping import Bool
from jsonargparse import Namespace
from rich.console import Console
from rich.markup import escape
from torch import Tensor, nn

from datamodules.images import ImageDataModule
from datamodules.membership import membership
from fleet.checks import (
    Devices,
    check_options,
    check_processes,
    choose_queries,
    choose_threads,
    note_arithmetic,
    takes_ray,
)
from fleet.cluster import limit_threads
from fleet.continual import (
    check_continual,
    check_quantized_worlds,
    check_tasks,
    describe_tasks,
    make_stream,
    rehearse_regression,
)
from fleet.engine import check_files, is_running
from fleet.failed import find_failed
from fleet.federation import check_clients, check_federation, rehearse_rounds
from fleet.forks import can_fork
from fleet.options import FleetOptions
from fleet.privacy import check_layers, check_privacy, settle
from fleet.pruning import check_pruning, rehearse_cut
from fleet.rehearsal import rehearse_fit
from fleet.restarts import announce
from fleet.snapshots import check_passed, check_quantized_snapshots
from fleet.variants import check_calibration, check_stages, try_network
from lightning_modules.classifier import Classifier
from lightning_modules.continual import list_classes
from lightning_modules.continual_options import ContinualOptions
from lightning_modules.federated_options import FederatedOptions
from lightning_modules.learners import make_classifier
from lightning_modules.options import CalibrationOptions, ModelOptions, PruneOptions
from quantization.variant import Variant
from storage.describe import describe
from storage.experiment import Experiment
from storage.names import ModelName, fleet_names, parse_slice
from storage.run_folder import RunFolder
from storage.wandb_project import check_key


class Job(NamedTuple):
    """The part of a call that all its models share.

    Attributes:
        config: options of the command line.
        fleet: number of models, and where they are trained.
        model: the network, and how it is trained; with DP-SGD, its noise is solved for.
        prune: which channels are removed in training, and when.
        federated: clients that train each model, and how their updates travel.
        continual: tasks that come one after another, and what learns them.
        calibration: images that a quantizer looks at.
        data: the pool and the test split.
        run: the folder of the fleet.
        experiment: the stored experiment, with what this call adds.
        members: the examples that each model trains on, in the order of the fleet.
        chosen: the models of this call.
        devices: the devices that train one model.
        retry: failed models to train from another start -> number of their failed trainings.
    """

    config: Namespace
    fleet: FleetOptions
    model: ModelOptions
    prune: PruneOptions
    federated: FederatedOptions
    continual: ContinualOptions
    calibration: CalibrationOptions
    data: ImageDataModule
    run: RunFolder
    experiment: Experiment
    members: dict[ModelName, Bool[Tensor, " examples"]]
    chosen: list[ModelName]
    devices: Devices
    retry: dict[ModelName, int]

    @property
    def takes_ray(self) -> bool:
        """Whether models are trained in Ray's processes."""
        return takes_ray(self.fleet, self.devices.kind)

    @property
    def todo(self) -> list[ModelName]:
        """Chosen models that are unfinished, or that failed and are to be trained again."""
        asked = self.experiment
        return [
            name
            for name in self.chosen
            if name in self.retry
            or not self.run.is_finished(name, asked.variants, asked.embedded, asked.recorded)
        ]


def prepare(config: Namespace, fleet: FleetOptions, data: ImageDataModule, console: Console) -> Job:
    """Check the options, the network, the data and the run folder, and open the folder.

    Raises:
        ValueError: an option is wrong, or the run folder holds another experiment or damaged files.
        FileNotFoundError: the data set is missing.
        OSError: the run folder cannot be written to.
    """
    devices, model, prune, federated, continual = _check(config, fleet, console)
    with console.status("Reading data"):
        data.prepare_data()
        data.setup("fit")
    queries, notes = choose_queries(config, data)
    _print([data.describe(), *notes], console)
    matrix = membership(config.seed, fleet.shadows, fleet.targets, len(data.pool.labels))
    # Not read from the folder: a process that grows the fleet moves the rows of the targets.
    members = dict(zip(fleet_names(fleet.shadows, fleet.targets), matrix, strict=True))
    model, classifier = _make_classifier(config, model, federated, continual, data, console)
    counts = sorted(set(matrix.sum(1).tolist()))
    if federated.on:
        counts = check_clients(config, federated, data, members)
    if (stream := make_stream(continual, config.continual.ends, data, config.seed)) is not None:
        classes = list_classes(continual, data.num_classes)
        counts = check_tasks(stream, classes, data, members)
        _print(describe_tasks(continual, stream, classes, members), console)
        if config.quantize_snapshots:
            calibration = CalibrationOptions(**config.calibration.as_dict())
            check_stages(calibration, stream, [*members.values()], config.quantize)
    network, notes = _rehearse(config, fleet, devices, prune, classifier, data, counts)
    notes += rehearse_rounds(federated, classifier, data, config.trainer.max_epochs)
    rehearse_regression(classifier, data, int(matrix.sum(1).max()))
    _print(notes, console)
    variants = [str(Variant.parse(name)) for name in config.quantize]
    asked = describe(config, data, network, queries, variants, devices.processes)
    chosen = _choose(fleet, list(members))
    # Ray's processes may run in another working directory
    by_ray = takes_ray(fleet, devices.kind)
    run = RunFolder(config.run_dir.resolve() if by_ray else config.run_dir)
    experiment = _open(run, asked, matrix, fleet.dry_run)
    _note_versions(experiment, asked, console)
    with console.status("Checking files"):
        removed = check_files(run, chosen, config.repair)
    for path in removed:
        console.print(escape(f"{path} was damaged: deleted, to be made again."), soft_wrap=True)
    job = Job(
        config=config,
        fleet=fleet,
        model=model,
        prune=prune,
        federated=federated,
        continual=continual,
        calibration=CalibrationOptions(**config.calibration.as_dict()),
        data=data,
        run=run,
        experiment=experiment,
        members=members,
        chosen=chosen,
        devices=devices,
        retry={},
    )
    job = job._replace(retry=_find_retries(job, console))
    waiting = [n for n in job.todo if n not in job.retry and not is_running(run, n)]
    _print(announce(run, experiment, waiting, fleet.dry_run), console)
    return job


def _choose(fleet: FleetOptions, names: list[ModelName]) -> list[ModelName]:
    """The models that this call trains."""
    if fleet.models is None:
        return names
    return [names[position] for position in parse_slice(fleet.models, len(names))]


def _check(
    config: Namespace, fleet: FleetOptions, console: Console
) -> tuple[Devices, ModelOptions, PruneOptions, FederatedOptions, ContinualOptions]:
    """Check what can be checked without data, and settle threads and devices."""
    devices, model = check_options(config, fleet), ModelOptions.read(config.model.as_dict())
    prune = PruneOptions(**config.prune.as_dict())
    federated = FederatedOptions(**config.federated.as_dict())
    config.federated.record = federated.rounds(config.trainer.max_epochs)
    if federated.on:
        check_federation(config, model, prune, devices)
    continual = ContinualOptions.read(config.continual.as_dict())
    config.continual.ends = continual.stage_ends(config.trainer.max_epochs)
    if continual.on:
        check_continual(config, model, prune, federated, devices)
        check_quantized_worlds(continual, [str(Variant.parse(name)) for name in config.quantize])
    if config.quantize_snapshots:
        check_quantized_snapshots(config.quantize, continual.on)
    if model.dp.on:
        check_privacy(config, devices)
    if prune.method:
        check_pruning(prune, model, config.trainer.max_epochs)
    notes = check_processes(fleet, devices.kind)
    config.threads = choose_threads(config, fleet, devices.local)
    # a process that is to be forked must not have several, see `Forks`
    limit_threads(1 if can_fork(fleet, devices.kind) else config.threads, devices.processes)
    check_key(config.wandb)
    _print([devices.describe(fleet), *notes, *note_arithmetic(config, devices)], console)
    return devices, model, prune, federated, continual


def _make_classifier(
    config: Namespace,
    model: ModelOptions,
    federated: FederatedOptions,
    continual: ContinualOptions,
    data: ImageDataModule,
    console: Console,
) -> tuple[ModelOptions, Classifier]:
    """Settle the noise of DP-SGD, and make a classifier to try."""
    if not model.dp.on:
        return model, make_classifier(data, 0, model, federated, continual)
    examples, epochs = len(data.pool.labels), config.trainer.max_epochs
    dp, line = settle(model.dp, examples, data.batch_size, epochs)
    _print([line], console)
    model = replace(model, dp=dp)
    classifier = make_classifier(data, 0, model)
    check_layers(classifier.network)
    return model, classifier


def _rehearse(
    config: Namespace,
    fleet: FleetOptions,
    devices: Devices,
    prune: PruneOptions,
    classifier: Classifier,
    data: ImageDataModule,
    counts: Sequence[int],
) -> tuple[nn.Module, list[str]]:
    """Try the fit, the cut and the variants; return a network, and notes for the user."""
    notes = [*rehearse_fit(config, fleet, devices, classifier, data, counts)]
    if prune.method:
        notes += rehearse_cut(prune, classifier, data)
    network, more = try_network(config, classifier, data)
    calibration = CalibrationOptions(**config.calibration.as_dict())
    for name in config.quantize:
        check_calibration(calibration, data, Variant.parse(name))
    return network, [*notes, *more]


def _note_versions(experiment: Experiment, asked: Experiment, console: Console) -> None:
    """Say with which other versions a run folder was begun."""
    begun, now = experiment.versions, asked.versions
    changes = [f"{k} {begun.get(k)} -> {now[k]}" for k in now if begun.get(k) != now[k]]
    if changes:
        note = f"Note: this run folder was begun with other versions: {', '.join(changes)}."
        console.print(note, soft_wrap=True)


def _open(
    run: RunFolder, asked: Experiment, matrix: Bool[Tensor, "models examples"], dry_run: bool
) -> Experiment:
    try:
        grown = run.preview(asked, matrix)
        if grown.quantized_by_snapshot:  # as an earlier call asked
            check_quantized_snapshots(grown.quantized, grown.continual)
        check_passed(run, asked)
        if not dry_run:
            return run.open(asked, matrix)
        run.check_writable()
    except OSError as error:
        raise ValueError(
            f"`--run_dir` must be a folder that can be written to, got {run.path}: "
            f"{error.strerror or error}. Name another, or make room there."
        ) from error
    return run.preview(asked, matrix)


def _find_retries(job: Job, console: Console) -> dict[ModelName, int]:
    """Find the failed models of this call, if they are to be trained again."""
    if not job.fleet.retrain_failed:
        return {}
    failed = find_failed(job.run, job.members, job.experiment.variants).reasons
    retry = {name: job.run.attempt(name) for name in failed if name in job.chosen}
    for name, attempt in retry.items():
        reason = escape(failed[name])
        verb = "would be kept" if job.fleet.dry_run else "kept"
        line = f"{name} failed ({reason.rstrip('.')}): {verb} in {name}.failed-{attempt}."
        console.print(line, soft_wrap=True)
    return retry


def _print(notes: Iterable[str], console: Console) -> None:
    for note in notes:
        console.print(escape(note), soft_wrap=True)
