"""The work of a call in numbers: models, epochs, steps, images and files."""

from collections.abc import Collection, Sequence
from math import ceil
from statistics import fmean
from typing import NamedTuple

from jsonargparse import Namespace

from datamodules.attributes import read_attribute
from fleet.prepare import Job
from fleet.restarts import find_lost
from lightning_modules.federated_options import FederatedOptions
from storage.names import ModelName
from storage.run_folder import RunFolder

# forward passes that gradients of single examples count as: 2.8 measured for convnet_gn, and more
# for a perceptron, whose 0.1 ms per example are soon over
GRADIENT = 4
HEADER = 512  # bytes before the signals in their file; measured 504 in a smaller one


class Counts(NamedTuple):
    """The work of a call, in numbers.

    Attributes:
        run: the folder of the fleet.
        todo: models that are not finished.
        finished: number of chosen models that are finished.
        epochs: epochs of training.
        members: examples that a model sees in an epoch.
        steps: steps per epoch.
        validations: passes over the test split during training.
        pool: images in the pool.
        test: images in the test split.
        queries: views that the attacker asks for.
        variants: all variants, `full` among them.
        snapshots: number of snapshots among them.
        workers: models that are trained at once.
        checkpoint_every: least number of seconds between two checkpoints.
        again: unfinished models that are trained from the start, whatever files they have.
        embedded: models whose embeddings are recorded.
        clients: clients in a round; 0 if models are trained in one place.
        rounds: number of rounds whose uploads are recorded.
        versions: how often an example is recorded in each: once, and with each value of an
            attribute.
        looks: passes over the pool that a recorded round takes, in forward passes.
        series: models that signals are recorded of in such a round.
        tasks: number of tasks, after each of which the outputs on all images are recorded.
        whole: number of quantized variants whose outputs are recorded, as well.
        sides: number of times that worlds, rounded like a variant, record as many outputs; mean
            over models.
        classes: number of classes.
        solved: bytes per image and task of what a regression gives away, mean over models.
        audited: models that are audited.
    """

    run: RunFolder
    todo: Sequence[ModelName]
    finished: int
    epochs: int
    members: int
    steps: int
    validations: int
    pool: int
    test: int
    queries: Sequence[str]
    variants: Sequence[str]
    snapshots: int
    workers: int
    checkpoint_every: float
    again: Collection[ModelName] = ()
    embedded: Collection[ModelName] = ()
    clients: int = 0
    rounds: int = 0
    versions: int = 1
    looks: int = 0
    series: int = 0
    tasks: int = 0
    whole: int = 0
    sides: float = 0.0
    classes: int = 0
    solved: float = 0.0
    audited: Collection[ModelName] = ()

    @property
    def passes(self) -> int:
        """Images that go through a variant for its signals, counting every view."""
        return self.pool * len(self.queries) + self.test * len({*self.queries, "identity"})

    @property
    def recorded_passes(self) -> int:
        """Images whose signals are recorded in training.

        They go through the uploads of recorded rounds and the models around them, or through the
        model at the end of each task, and afterwards through its quantized variants.
        """
        uploads = self.rounds * self.looks * self.versions * self.pool
        return uploads + self.tasks * (self.pool + self.test) + self.whole * self.pool

    @property
    def recorded_bytes(self) -> int:
        """Bytes of what is recorded of a model in training.

        Of a round these are three signals of each upload and each new model, of a task the outputs
        and what a regression gives away.
        """
        rounds = self.rounds * (HEADER + 3 * 4 * self.series * self.versions * self.pool)
        outputs = 4 * self.classes * self.pool
        task = HEADER + outputs + round(self.solved * self.pool)
        return rounds + self.tasks * task + round((self.whole + self.sides) * outputs)

    def kept(self, image_bytes: int) -> int:
        """Bytes of a variant's signals, at `image_bytes` per image and query of the pool."""
        population = 8 * len(self.queries) + 1  # phi and hinge, and correct or not
        return HEADER + self.pool * len(self.queries) * image_bytes + self.test * population

    def unembedded(self) -> int:
        """Number of embeddings files to be made."""
        names = [name for name in self.todo if name in self.embedded]
        again = sum(name in self.again for name in names)
        lacking = (
            not self.run.embeddings(name, variant).exists()
            for name in names
            for variant in self.variants
            if name not in self.again
        )
        return again * len(self.variants) + sum(lacking)


def _validations(config: Namespace) -> int:
    """Passes of a model over the test split while it is trained, which only W&B is told of."""
    every = config.trainer.check_val_every_n_epoch
    return 0 if config.wandb == "disabled" or every is None else config.trainer.max_epochs // every


def count_work(job: Job) -> Counts:
    """Count the work of a call."""
    trainer, data, todo = job.config.trainer, job.data, job.todo
    members, pool = int(next(iter(job.members.values())).sum()), len(data.pool.labels)
    steps, clients = ceil(members / data.batch_size), 0
    if (federation := data.federation) is not None:
        clients = federation.per_round
        visits = clients * federation.local_epochs
        held = members / federation.clients
        steps, members = visits * ceil(held / data.batch_size), round(visits * held)
    column = job.federated.attribute
    looks, series = _looks(job.federated, clients)
    if data.tasks is not None:
        served = [len(data.served(epoch)) for epoch in range(trainer.max_epochs)]
        steps = round(fmean(ceil(examples / data.batch_size) for examples in served))
        members = round(fmean(served))
    lost = [name for name in todo if find_lost(job.run, job.experiment, name)]
    return Counts(
        run=job.run,
        todo=todo,
        finished=len(job.chosen) - len(todo),
        epochs=trainer.max_epochs,
        members=members,
        steps=steps,
        validations=_validations(job.config),
        pool=pool,
        test=len(data.test.labels),
        queries=job.experiment.queries,
        variants=job.experiment.variants,
        snapshots=len(job.experiment.snapshots),
        workers=job.fleet.workers,
        checkpoint_every=job.config.checkpoint_every,
        again={*job.retry, *lost},
        embedded=job.experiment.embedded,
        clients=clients,
        rounds=len(job.experiment.rounds),
        versions=1 if column is None else 1 + len(read_attribute(data, column).values),
        looks=looks,
        series=series,
        tasks=len(job.experiment.stage_ends),
        whole=len(job.experiment.whole),
        sides=_sides(job),
        classes=data.num_classes,
        solved=_given_away(job),
        audited=job.experiment.audited,
    )


def _sides(job: Job) -> float:
    """Outputs of rounded worlds of a model, with and without each example; mean over models."""
    options = job.continual.analytic
    audited = len(job.experiment.audited) / len(job.experiment.names)
    return 2 * audited * options.worlds * len(options.quantized_worlds)


def _given_away(job: Job) -> float:
    """Bytes per image and task of what a learner's state gives away, mean over models.

    Of a regression four float32 of each model; of audited ones, who was learnt is solved for, and
    every world has its outputs, a leverage and its members. Of a Fisher one, and of audited models
    another; of a subnetwork one.
    """
    audited = len(job.experiment.audited) / len(job.experiment.names)
    if not job.continual.solves:
        fisher = 4 + 4 * audited if job.continual.ewc else 0.0
        return fisher + (4 if job.continual.learner == "ssd" else 0)
    world = 4 * job.data.num_classes + 4 + 1
    return 4 * 4 + audited * (4 + job.continual.analytic.worlds * world)


def _looks(options: FederatedOptions, clients: int) -> tuple[int, int]:
    """Passes over the pool of a recorded round, and how many models its signals are of.

    Uploads, what they began with, the new model, and this without a client, unless clients are
    isolated: then each began with a model of its own.
    """
    isolated = options.adversary == "isolate"
    begun, new = (clients + 1, 1) if isolated else (1, 2)
    gradients = GRADIENT * begun if options.cosine == "all" else 0
    return clients + begun + new + gradients, clients + new
