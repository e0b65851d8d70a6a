"""The images of one experiment, and the part of them that the next fit trains on."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate, pairwise
from math import ceil
from pathlib import Path
from socket import gethostname
from typing import Any

import torch
from jaxtyping import Bool
from lightning.pytorch import Trainer
from torch import Tensor

from datamodules.batches import Batch, Loader, fits
from datamodules.clients import Federation, Visit
from datamodules.in_order import InOrder
from datamodules.seeds import derive_seed
from datamodules.splits import Images, Levels, check_splits, describe_splits, hash_splits
from datamodules.tasks import Lesson, TaskStream, plan_plain
from datamodules.views import Epoch, cut, draw_epoch, draw_poisson_epoch, view

__all__ = ["Batch", "ImageDataModule", "Images"]


class ImageDataModule(InOrder, ABC):
    """A pool whose membership is audited, and a test split that only measures accuracy.

    A subclass defines where the images come from (`read`); `assign` defines which examples of the
    pool the next fit trains on. The rest of the training split (`held_out`) is for quantizers to
    calibrate on. All stay bytes, in memory or in a mapped file, and are converted one batch at a
    time.

    Args:
        root: folder that holds the data sets.
        pool_size: number of audited examples, drawn from the training split; null for all of it.
        pool_seed: seed of that draw.
        batch_size: examples per training step, over all devices together.
        flip: mirror images left and right at random in training.
        crop: largest random shift in pixels; 0 disables it.
        download: download the data set if it is missing.
    """

    num_classes: int
    federation: Federation | None  # of the next fit
    tasks: TaskStream | None  # likewise

    def __init__(
        self,
        root: Path = Path("data"),
        pool_size: int | None = None,
        pool_seed: int = 0,
        batch_size: int = 128,
        flip: bool = False,
        crop: int = 0,
        download: bool = False,
    ) -> None:
        super().__init__()
        if pool_size is not None and pool_size < 2:
            raise ValueError(f"`pool_size` must be 2 or more, or null for all, got {pool_size}.")
        if batch_size < 2:
            raise ValueError(f"`batch_size` must be 2 or more for BatchNorm, got {batch_size}.")
        if crop < 0:
            raise ValueError(f"`crop` must be 0 (none) or more pixels, got {crop}.")
        self.root, self.download = root.expanduser(), download
        self.pool_size, self.pool_seed, self.batch_size = pool_size, pool_seed, batch_size
        self.flip, self.crop = flip, crop
        self.notes: list[str] = []  # sentences on how the data was read
        self.poisson, self.federation, self.tasks = False, None, None

    def __getstate__(self) -> dict[str, Any]:
        """Leave for another process, which may run in another folder."""
        return {**self.__dict__, "root": self.root.absolute()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Arrive in another process, which maps the same file or reads the data again."""
        self.__dict__.update(state)
        if hasattr(self, "pool") and (file := self.pool.mapped) and not file.path.exists():
            del self.pool
            self.setup("fit")
            if self.pool.mapped is None or self.pool.mapped.digest != file.digest:
                raise ValueError(
                    f"{self.root.resolve()} holds other images on {gethostname()} than where the "
                    "fleet was started. Copy them, or share `--data.cache` between the machines."
                )

    @abstractmethod
    def read(self) -> tuple[Images, Images]:
        """Read the training split, from which the pool is drawn, and the test split."""

    def fetch(self) -> None:
        """Make sure that the files exist and are whole."""

    def prepare_data(self) -> None:
        if not hasattr(self, "pool"):  # every fit of a fleet calls this, and checksums are slow
            self.fetch()

    def setup(self, stage: str) -> None:
        """Read both splits and draw the pool, once.

        Raises:
            ValueError: options that do not fit the data, or splits that do not fit together.
        """
        if hasattr(self, "pool"):
            return
        train, test = self.read()
        self._check(train, test)
        if self.pool_size is None:
            held_out = train.take(torch.arange(0))
        else:
            train, held_out = train.split(self.pool_size, derive_seed(self.pool_seed, "pool"))
        self.pool, self.held_out, self.test = train, held_out, test

    def describe(self) -> str:
        """Say in one line what was read."""
        splits = self.pool, self.held_out, self.test
        return " ".join([describe_splits(*splits, self.num_classes), *self.notes])

    def _check(self, train: Images, test: Images) -> None:
        size = len(train.labels)
        if self.pool_size is not None and self.pool_size > size:
            raise ValueError(
                f"`pool_size` must be 2 to {size}, the training split, got {self.pool_size}."
            )
        sides = train.shape[2:]
        if sides and self.crop >= min(sides):
            raise ValueError(
                f"`crop` must be less than the images' {' x '.join(map(str, sides))} pixels, got "
                f"{self.crop}."
            )
        check_splits(train, test, type(self).__name__, self.num_classes, self.mean, self.std)

    def assign(
        self,
        members: Bool[Tensor, " examples"],
        seed: int,
        poisson: bool = False,
        federation: Federation | None = None,
        tasks: TaskStream | None = None,
    ) -> None:
        """Choose the members that the next fit trains on, and the seed of order and augmentation.

        Args:
            members: which examples of the pool the fit trains on.
            seed: seed of order and augmentation.
            poisson: draw every batch anew, each member by a coin of its own, as the proof of DP-SGD
                assumes; `batch_size` is then the expected size.
            federation: clients that hold the members, and are served one after another.
            tasks: tasks of the members, which are served stage by stage.

        Raises:
            ValueError: a membership row of another pool, one without members, or clients that hold
                other examples.
        """
        size = len(self.pool.labels)
        if len(members) != size or not members.any():
            raise ValueError(
                f"`members` must mark some of the {size} examples of the pool, got "
                f"{int(members.sum())} of {len(members)}. Was it drawn for another `pool_size`?"
            )
        if federation is not None and not torch.equal(federation.holder >= 0, members.cpu()):
            raise ValueError(
                "`federation` must spread the members over clients, got holders of "
                f"{int((federation.holder >= 0).sum())} examples and {int(members.sum())} members. "
                "Draw them by `draw_holders` for the same members."
            )
        self._split, self.poisson = (members.nonzero().flatten().cpu(), seed), poisson
        self.federation, self.tasks = federation, tasks

    def train_dataloader(self) -> Loader:
        """Serve every member once per epoch, in that epoch's own order and views.

        Batches are of nearly equal size, so that none is too small for BatchNorm. With `poisson`,
        there are as many, drawn independently. A federation is served by client, and a learner of
        tasks by epoch, because its epochs differ in length.

        Raises:
            RuntimeError: `assign` was not called, or no trainer is attached.
            ValueError: a process would get fewer than two examples at a time.
        """
        if self._split is None or self.trainer is None:
            raise RuntimeError("Call `assign` first, then hand this to `Trainer.fit`.")
        device = self.trainer.strategy.root_device
        if self.pool.device != device and fits(self.pool, device):
            self.pool = self.pool.to(device)
        if self.federation is not None:
            visits = partial(self._round, self.trainer, self.federation, self._split[1])
            return Loader(self.federation.per_round, visits)
        if self.tasks is not None:
            return Loader(1, partial(self._lesson, self.trainer, self.tasks, self._split[1]))
        steps = len(self.batch_sizes(len(self._split[0]), self.trainer.world_size))
        rate = self.batch_size / len(self._split[0])
        draw = partial(draw_poisson_epoch, rate=rate) if self.poisson else draw_epoch
        return Loader(steps, partial(self._epoch, self.trainer, draw, *self._split, steps))

    def batch_sizes(self, members: int, processes: int) -> list[int]:
        """Sizes of the batches of an epoch over `members` examples.

        Raises:
            ValueError: one of the processes that train a model would get fewer than two examples.
        """
        steps = ceil(members / self.batch_size)
        smallest = members // steps
        if smallest < 2 * processes:
            ways = ["enlarge the pool"]
            ways += ["raise `--data.batch_size`"] if steps > 1 else []
            ways += ["take fewer `--trainer.devices`"] if processes > 1 else []
            raise ValueError(
                f"A training step needs 2 examples in each process, because BatchNorm does: "
                f"{2 * processes} or more, got batches of {smallest} from the {members} examples "
                f"that a model trains on. To change that, {', or '.join(ways)}."
            )
        return [len(part) for part in torch.arange(members).tensor_split(steps)]

    def _epoch(
        self,
        trainer: Trainer,
        draw: Callable[..., Epoch],
        members: Tensor,
        seed: int,
        steps: int,
    ) -> Iterator[Batch]:
        # Read with the first batch, not in `iter()`: when a fit resumes from the end of an epoch,
        # Lightning calls `iter()` first and counts that epoch afterwards.
        epoch_seed = derive_seed(seed, "epoch", trainer.current_epoch)
        yield from self._serve(draw(members, steps, self.flip, self.crop, epoch_seed))

    def _round(self, trainer: Trainer, federation: Federation, seed: int) -> Iterator[Visit]:
        """The clients of a round in ascending order, each with its own examples and no others."""
        number = trainer.current_epoch  # read late, as above
        chosen = federation.participants(seed, number)
        for client in chosen:
            own = federation.examples(client)
            visit_seed = derive_seed(seed, "visit", number, client)
            batches = self._visit(own, federation.local_epochs, visit_seed)
            yield Visit(client, len(own), client == chosen[-1], batches)

    def _visit(self, own: Tensor, passes: int, seed: int) -> Iterator[Batch]:
        steps = len(self.batch_sizes(len(own), 1))
        for number in range(passes):
            pass_seed = derive_seed(seed, "pass", number)
            yield from self._serve(draw_epoch(own, steps, self.flip, self.crop, pass_seed))

    def served(self, epoch: int) -> Tensor:
        """Positions of the members that a learner of tasks is served in an epoch, from 0.

        Raises:
            RuntimeError: `assign` was not called with tasks.
        """
        if self._split is None or self.tasks is None:
            raise RuntimeError("Call `assign` with `tasks` first.")
        members = torch.zeros(len(self.pool.labels), dtype=torch.bool)
        members[self._split[0]] = True
        return self.tasks.served(members, epoch)

    def _lesson(self, trainer: Trainer, tasks: TaskStream, seed: int) -> Iterator[Lesson]:
        epoch = trainer.current_epoch  # read late, as above
        own = self.served(epoch)
        steps = len(self.batch_sizes(len(own), 1))
        if tasks.is_plain(epoch):
            plan = plan_plain(own, steps)
        else:
            plan = draw_epoch(own, steps, self.flip, self.crop, derive_seed(seed, "epoch", epoch))
        yield Lesson(len(own), self._serve(plan))

    def _serve(self, epoch: Epoch) -> Iterator[Batch]:
        order, sizes, windows = epoch
        # copied to the device once per epoch, because a GPU waits for every copy
        order = order.to(self.pool.labels.device)
        windows = windows and windows.to(self.device)
        change = identity = partial(view, query="identity")
        for start, end in pairwise([0, *accumulate(sizes)]):
            if windows is not None:
                taken = windows.take(slice(start, end))
                change = partial(cut, crop=self.crop, windows=taken) if end > start else identity
            # every process augments the whole batch, so that their number changes no image
            yield self._share(self._batch(self.pool, order[start:end], change))

    def transfer_batch_to_device(
        self, batch: Batch | Visit | Lesson, device: torch.device, dataloader_idx: int
    ) -> Batch | Visit | Lesson:
        return batch  # made on the device; Lightning would search it for tensors in every step

    def val_dataloader(self) -> Loader:
        """Serve the test split once, without augmentation."""
        steps = ceil(len(self.test.labels) / self._evaluation_batch)
        return Loader(steps, lambda: map(self._share, self.test_batches()))

    def _share(self, batch: Batch) -> Batch:
        trainer = self.trainer
        return batch.share(trainer.global_rank, trainer.world_size) if trainer else batch

    def fingerprint(self) -> str:
        """Hash what networks see, the pool, the test split and their scaling, to 16 hex digits."""
        return hash_splits((self.pool, self.test), self.mean, self.std)

    def levels(self, split: Images) -> Levels:
        """The examples of a split as bytes, whatever they are."""
        return Levels(split, self.mean, self.std)
