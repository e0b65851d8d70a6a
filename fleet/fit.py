"""One fit: train or resume one model, and write all its files."""

from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.loggers import Logger

from attacks.game import FULL
from datamodules.attributes import read_attribute
from datamodules.seeds import derive_seed
from fleet.cluster import ending_together, environment
from fleet.continual import further_of, make_stream
from fleet.federation import keep_holders, make_federation
from fleet.prepare import Job
from fleet.privacy import mechanism
from lightning_modules.callbacks.checkpoints import SaveCheckpoint, SaveWeights, WholeCheckpointIO
from lightning_modules.callbacks.guards import StopDiverged
from lightning_modules.callbacks.peers import Peers
from lightning_modules.callbacks.progress import SaveProgress
from lightning_modules.callbacks.prune import Prune
from lightning_modules.callbacks.quantize import Quantize
from lightning_modules.callbacks.record_embeddings import RecordEmbeddings
from lightning_modules.callbacks.record_rounds import RecordRounds
from lightning_modules.callbacks.record_signals import RecordSignals
from lightning_modules.callbacks.record_tasks import RecordTasks
from lightning_modules.callbacks.save_privacy import SavePrivacy
from lightning_modules.callbacks.snapshots import SaveSnapshots
from lightning_modules.float32 import tf32
from lightning_modules.learners import make_classifier
from pruning.cut import load
from quantization.mixed_options import MixedOptions
from storage.names import ModelName
from storage.weights import load_weights


def fit(job: Job, name: ModelName) -> None:
    """Train or resume one model, and write its missing files."""
    run, data, members = job.run, job.data, job.members[name]
    attempt = run.attempt(name)
    seed = derive_seed(job.config.seed, name.role, name.number, attempt)
    federation = make_federation(job.federated, members, data.pool.labels, seed)
    stream = make_stream(job.continual, job.experiment.stage_ends, data, seed)
    data.assign(members, seed, job.model.dp.on, federation, stream)
    classifier = make_classifier(data, seed, job.model, job.federated, job.continual)
    options, progress = job.config.trainer.as_dict(), SaveProgress(run.progress(name))
    if job.fleet.apart:
        options["devices"] = 1  # a model of its own per process, and Ray hides other GPUs
    resume, start = None, "its first epoch"
    if (weights := run.weights(name, FULL)).exists():
        # already trained: a fit without epochs only runs the callbacks
        load(classifier.network, load_weights(weights))
        options["max_epochs"], start = 0, "its trained weights"
    elif run.checkpoint(name).exists():
        resume, start = run.checkpoint(name), "its checkpoint"
    quantize = Quantize(
        run.model(name),
        job.experiment.variants,
        job.calibration,
        members,
        seed,
        job.config.layer_bits,
        progress.note,
        MixedOptions(**job.config.mixed.as_dict()),
        stream,
    )
    if federation is not None:
        keep_holders(run.clients(name), federation)
    peers = Peers(f"{name}, attempt {attempt}, from {start}")
    training: list[Callback] = []
    if job.prune.method and not weights.exists():
        epochs = job.config.trainer.max_epochs
        training = [Prune(run.record(name, FULL), job.prune, epochs, seed)]
    if federation is not None and not weights.exists():
        recorded, sizes, column = job.experiment.rounds, federation.sizes(), job.federated.attribute
        attribute = None if column is None else read_attribute(data, column)
        record, cosine = run.record(name, FULL), job.federated.cosine
        rounds = RecordRounds(run.model(name), record, recorded, sizes, cosine, attribute)
        training = [rounds]
    if stream is not None and not weights.exists():
        audited = name in job.experiment.audited
        training = [RecordTasks(run.model(name), run.record(name, FULL), members, audited)]
    after = [progress, quantize]
    trainer = make_trainer(job, name, attempt, training, after, peers, options)
    with tf32(job.model.tf32), ending_together(trainer):
        trainer.fit(classifier, datamodule=data, ckpt_path=resume, weights_only=True)
    progress.note("finished")


def make_trainer(
    job: Job,
    name: ModelName,
    attempt: int,
    training: list[Callback],
    after: list[Callback],
    peers: Peers,
    options: dict[str, Any],
) -> Trainer:
    """Make a trainer whose callbacks write all files of a model.

    Args:
        job: the part that all models share.
        name: the model.
        attempt: number of its earlier trainings that failed.
        training: callbacks that change the network, or record it, at the end of epochs, after its
            snapshot.
        after: callbacks that note progress and quantize; they run after the guards and the weights,
            and before the signals.
        peers: the processes that train the model.
        options: options of the trainer.
    """
    run, experiment = job.run, job.experiment
    callbacks: list[Callback] = [StopDiverged()]
    if (dp := job.model.dp).on:
        drawn = mechanism(dp, int(job.members[name].sum()), job.data.batch_size)
        callbacks.append(SavePrivacy(run.model(name), drawn, dp.clip, experiment.snapshots))
    callbacks += [
        SaveSnapshots(run.model(name), experiment.snapshots),
        *training,
        SaveCheckpoint(run.checkpoint(name), job.config.checkpoint_every),
        SaveWeights(run.weights(name, FULL)),
        *after,
        RecordSignals(
            run.model(name),
            experiment.variants,
            experiment.queries,
            peers,
            experiment.whole,
            further_of(job.continual, job.calibration, name in experiment.audited),
        ),
    ]
    if name in experiment.embedded:
        query = experiment.queries[0]
        variants, widths_differ = experiment.variants, experiment.pruned
        callbacks.append(RecordEmbeddings(run.model(name), variants, query, widths_differ))
    callbacks.append(peers)
    logger = _make_logger(job, name, attempt)
    if logger:
        callbacks.append(LearningRateMonitor("epoch"))
    return Trainer(
        **options,
        logger=logger,
        callbacks=callbacks,
        plugins=[WholeCheckpointIO(), *environment(job.fleet)],
        limit_val_batches=1.0 if logger else 0,  # whose metrics only W&B is given
        log_every_n_steps=1,  # metrics are logged once per epoch
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=run.model(name),
    )


def _make_logger(job: Job, name: ModelName, attempt: int) -> Logger | Literal[False]:
    """The logger of a model for W&B, if that is asked for."""
    if job.config.wandb == "disabled":
        return False
    from lightning_modules.wandb_logger import FleetLogger  # W&B takes half a second

    return FleetLogger(job.run.path, name, attempt, job.experiment, job.config.wandb)
