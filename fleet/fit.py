"""One fit: train or resume one model, and write all its files."""

from typing import Any, Literal

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, LearningRateMonitor

from attacks.game import FULL
from datamodules.seeds import derive_seed
from fleet.options import FleetOptions
from fleet.prepare import Job
from lightning_modules.callbacks.checkpoints import SaveCheckpoint, SaveWeights, WholeCheckpointIO
from lightning_modules.callbacks.guards import SameModel, StopDiverged
from lightning_modules.callbacks.progress import SaveProgress
from lightning_modules.callbacks.quantize import Quantize
from lightning_modules.callbacks.record_embeddings import RecordEmbeddings
from lightning_modules.callbacks.record_signals import RecordSignals
from lightning_modules.classifier import Classifier
from lightning_modules.wandb_logger import FleetLogger
from quantization.variant import Variant
from storage.names import ModelName
from storage.weights import load_weights


def fit(job: Job, name: ModelName) -> None:
    """Train or resume one model, and write its missing files."""
    run, data, members = job.run, job.data, job.members[name]
    attempt = run.attempt(name)
    seed = derive_seed(job.config.seed, name.role, name.number, attempt)
    data.assign(members, seed)
    classifier = Classifier(data.num_classes, len(data.mean), seed, job.model)
    options, progress = job.config.trainer.as_dict(), SaveProgress(run.progress(name))
    if job.fleet.by_ray:
        options["devices"] = 1  # among the devices that Ray shows this process
    resume = None
    if (weights := run.weights(name, FULL)).exists():
        # already trained: a fit without epochs only runs the callbacks
        classifier.network.load_state_dict(load_weights(weights))
        options["max_epochs"] = 0
    elif run.checkpoint(name).exists():
        resume = run.checkpoint(name)
    quantize = Quantize(
        run.model(name),
        [Variant.parse(variant) for variant in job.experiment.variants if variant != FULL],
        job.calibration,
        members,
        seed,
        job.config.layer_bits,
        progress.note,
    )
    trainer = make_trainer(job, name, attempt, [progress, quantize], options)
    trainer.fit(classifier, datamodule=data, ckpt_path=resume, weights_only=True)
    progress.note("finished")


def make_trainer(
    job: Job, name: ModelName, attempt: int, ours: list[Callback], options: dict[str, Any]
) -> Trainer:
    """Make a trainer whose callbacks write all files of a model.

    Args:
        job: the part that all models share.
        name: the model.
        attempt: number of its earlier trainings that failed.
        ours: callbacks that note progress and quantize; they run after the guards and the weights,
            and before the signals.
        options: options of the trainer.
    """
    run, experiment = job.run, job.experiment
    callbacks = [
        SameModel(f"{name}, attempt {attempt}"),
        StopDiverged(),
        SaveCheckpoint(run.checkpoint(name)),
        SaveWeights(run.weights(name, FULL)),
        *ours,
        RecordSignals(run.model(name), experiment.variants, experiment.queries),
    ]
    if name in experiment.embedded:
        query = experiment.queries[0]
        callbacks.append(RecordEmbeddings(run.model(name), experiment.variants, query))
    logger: FleetLogger | Literal[False] = False
    if job.config.wandb != "disabled":
        logger = FleetLogger(run.path, name, attempt, experiment, job.config.wandb)
        callbacks.append(LearningRateMonitor("epoch"))
    return Trainer(
        **options,
        logger=logger,
        callbacks=callbacks,
        plugins=[WholeCheckpointIO(), *environment(job.fleet)],
        log_every_n_steps=1,  # metrics are logged once per epoch
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=run.model(name),
    )


def environment(fleet: FleetOptions) -> list[ClusterEnvironment]:
    """Plugins that tell Lightning about a model's other processes; empty if its guess is right."""
    if fleet.by_ray:  # one process per model, whatever job Ray runs in
        return [LightningEnvironment()]
    if SLURMEnvironment.detect():
        # Lightning's requeueing resumes in the middle of an epoch. Ours resumes after the last
        # finished epoch, and so ends bit for bit like an uninterrupted run.
        return [SLURMEnvironment(auto_requeue=False)]
    return []
