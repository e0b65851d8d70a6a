"""The images of one experiment, and the part of them that the next fit trains on."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate, pairwise
from math import ceil
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int64
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor

from datamodules.batches import Batch, Loader, fits
from datamodules.calibration import draw, find_source
from datamodules.seeds import derive_seed
from datamodules.splits import Images, check_splits, hash_splits
from datamodules.views import (
    augment,
    cut,
    draw_epoch,
    draw_random_query,
    is_random,
    normalise,
    view,
)

__all__ = ["Batch", "ImageDataModule", "Images"]


class ImageDataModule(LightningDataModule, ABC):
    """A pool whose membership is audited, and a test split that only measures accuracy.

    A subclass defines where the images come from (`read`); `assign` defines which examples of the
    pool the next fit trains on. The rest of the training split (`held_out`) is for quantizers to
    calibrate on. All stay in memory as bytes, and are converted one batch at a time.

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
    mean: tuple[float, ...]  # per channel, of pixels in 0..1
    std: tuple[float, ...]
    pool: Images
    held_out: Images
    test: Images

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
        self._split: tuple[Tensor, int] | None = None

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

    def _check(self, train: Images, test: Images) -> None:
        size = len(train.labels)
        if self.pool_size is not None and self.pool_size > size:
            raise ValueError(
                f"`pool_size` must be 2 to {size}, the training split, got {self.pool_size}."
            )
        height, width = train.images.shape[2:]
        if self.crop >= min(height, width):
            raise ValueError(
                f"`crop` must be less than the images' {height} x {width} pixels, got {self.crop}."
            )
        check_splits(train, test, type(self).__name__, self.num_classes, self.mean, self.std)

    def assign(self, members: Bool[Tensor, " examples"], seed: int) -> None:
        """Choose the members that the next fit trains on, and the seed of order and augmentation.

        Raises:
            ValueError: a membership row of another pool, or one without members.
        """
        size = len(self.pool.labels)
        if len(members) != size or not members.any():
            raise ValueError(
                f"`members` must mark some of the {size} examples of the pool, got "
                f"{int(members.sum())} of {len(members)}. Was it drawn for another `pool_size`?"
            )
        self._split = members.nonzero().flatten().cpu(), seed

    def train_dataloader(self) -> Loader:
        """Serve every member once per epoch, in that epoch's own order and views.

        Batches are of nearly equal size, so that none is too small for BatchNorm.

        Raises:
            RuntimeError: `assign` was not called, or no trainer is attached.
            ValueError: a process would get fewer than two examples at a time.
        """
        if self._split is None or self.trainer is None:
            raise RuntimeError("Call `assign` first, then hand this to `Trainer.fit`.")
        device, world_size = self.trainer.strategy.root_device, self.trainer.world_size
        members = self._split[0]
        steps = ceil(len(members) / self.batch_size)
        smallest = len(members) // steps
        if smallest < 2 * world_size:
            raise ValueError(
                f"BatchNorm needs 2 examples per batch in each of {world_size} processes, got "
                f"batches of {smallest}. Raise `batch_size` or enlarge the pool."
            )
        if self.pool.images.device != device and fits(self.pool.images, device):
            self.pool = Images(*(tensor.to(device) for tensor in self.pool))
        return Loader(steps, partial(self._epoch, self.trainer, *self._split, steps))

    def _epoch(self, trainer: Trainer, members: Tensor, seed: int, steps: int) -> Iterator[Batch]:
        # Read with the first batch, not in `iter()`: when a fit resumes from the end of an epoch,
        # Lightning calls `iter()` first and counts that epoch afterwards.
        epoch_seed = derive_seed(seed, "epoch", trainer.current_epoch)
        generator = torch.Generator().manual_seed(epoch_seed)
        order = members[torch.randperm(len(members), generator=generator)]
        sizes = [len(part) for part in order.tensor_split(steps)]
        windows = draw_epoch(sizes, self.flip, self.crop, generator)
        # copied to the device once per epoch, because a GPU waits for every copy
        order = order.to(self.pool.labels.device)
        windows = windows and windows.to(self.device)
        change = partial(view, query="identity")
        for start, end in pairwise([0, *accumulate(sizes)]):
            if windows is not None:
                change = partial(cut, crop=self.crop, windows=windows.take(slice(start, end)))
            # every process augments the whole batch, so that their number changes no image
            yield self._share(self._batch(self.pool, order[start:end], change))

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        return batch  # made on the device; Lightning would search it for tensors in every step

    def val_dataloader(self) -> Loader:
        """Serve the test split once, without augmentation."""
        steps = ceil(len(self.test.labels) / self._evaluation_batch)
        return Loader(steps, lambda: map(self._share, self.test_batches()))

    def pool_batches(self, query: str) -> Iterator[Batch]:
        """Serve the whole pool in order, in one view, to a single process.

        A view is the same for every model, except that of a random query, which depends on the seed
        given to `assign`.

        Raises:
            RuntimeError: a random query before `assign`.
        """
        yield from self._in_order(self.pool, query)

    def test_batches(self, query: str = "identity") -> Iterator[Batch]:
        """Serve the whole test split in order, in one view, to a single process."""
        yield from self._in_order(self.test, query)

    def draw_calibration(
        self, source: str, members: Bool[Tensor, " examples"], count: int, seed: int
    ) -> Int64[Tensor, " images"]:
        """Draw at most `count` images for calibrating the model that trained on `members`.

        Returns:
            Positions in `held_out` if that is the source, else in the pool; see `calibration.draw`.

        Raises:
            ValueError: an unknown source, no image to draw, a count below 1, or another pool's row.
        """
        return draw(source, members, len(self.pool.labels), len(self.held_out.labels), count, seed)

    def calibration_images(
        self, source: str, indices: Int64[Tensor, " images"], augment_seed: int | None = None
    ) -> Float[Tensor, "images channels height width"]:
        """Return the drawn images as a network sees them, to a single process.

        Args:
            source: the name that they were drawn with.
            indices: their positions, from `draw_calibration`.
            augment_seed: seed of an augmentation like that of training, with all images as one
                batch; without it they are not augmented.
        """
        change = partial(view, query="identity")
        if augment_seed is not None:
            generator = torch.Generator().manual_seed(augment_seed)
            change = partial(augment, flip=self.flip, crop=self.crop, generator=generator)
        split = self.pool if find_source(source).in_pool else self.held_out
        return self._batch(split, indices, change).images

    def _in_order(self, split: Images, query: str) -> Iterator[Batch]:
        count, change = len(split.labels), partial(view, query=query)
        windows = None
        if is_random(query):
            if self._split is None:
                raise RuntimeError(f"Call `assign` first: `{query}` is drawn from its seed.")
            # all at once, so that the batch size, which depends on the device, changes no window
            windows = draw_random_query(count, query, self.flip, self.crop, self._split[1])
        for indices in torch.arange(count).tensor_split(ceil(count / self._evaluation_batch)):
            if windows is not None:
                change = partial(cut, crop=self.crop, windows=windows.take(indices))
            yield self._batch(split, indices, change)

    def _batch(self, split: Images, indices: Tensor, change: Callable[[Tensor], Tensor]) -> Batch:
        device = self.device
        # bytes cross to the device, a quarter of what floats would take
        images, labels = (tensor.to(device) for tensor in split.take(indices))
        return Batch(normalise(change(images), self.mean, self.std), labels, indices.to(device))

    @property
    def device(self) -> torch.device:
        """Where batches are made."""
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    @property
    def _evaluation_batch(self) -> int:
        # On a CPU, 512 took 1.5 to 1.9 times as long: in every layer the features, of 32 MiB and
        # more, are then new memory from the system.
        return 128 if self.device.type == "cpu" else 512

    def _share(self, batch: Batch) -> Batch:
        trainer = self.trainer
        return batch.share(trainer.global_rank, trainer.world_size) if trainer else batch

    def fingerprint(self) -> str:
        """Hash what networks see, the pool, the test split and their scaling, to 16 hex digits."""
        return hash_splits((self.pool, self.test), self.mean, self.std)
