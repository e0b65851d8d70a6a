"""The images of one experiment: which there are, and which of them the next fit trains on."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from math import ceil
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor

from datamodules.calibration import Source, draw
from datamodules.seeds import derive_seed
from datamodules.views import Windows, augment, cut, draw_windows, is_random, normalise, view


class Images(NamedTuple):
    """A split of a data set, as it is kept in memory."""

    images: UInt8[Tensor, "examples channels height width"]
    labels: Int64[Tensor, " examples"]

    def take(self, indices: Int64[Tensor, " chosen"]) -> "Images":
        """Select examples by position, on whichever device they are."""
        indices = indices.to(self.labels.device)
        # an index in brackets takes 20 times as long on a CPU
        return Images(self.images.index_select(0, indices), self.labels.index_select(0, indices))

    def split(self, size: int, seed: int) -> tuple["Images", "Images"]:
        """Draw `size` examples at random; they and the rest both stay in order."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.labels), generator=generator)
        return self.take(order[:size].sort().values), self.take(order[size:].sort().values)


class Batch(NamedTuple):
    """What a network is given; `indices` are positions in the pool, or in the test split."""

    images: Float[Tensor, "batch channels height width"]
    labels: Int64[Tensor, " batch"]
    indices: Int64[Tensor, " batch"]


class Loader:
    """What Lightning needs of a dataloader: a length, and a fresh iterator every epoch."""

    def __init__(self, length: int, epoch: Callable[[], Iterator[Batch]]) -> None:
        self._length, self._epoch = length, epoch

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        """Start an epoch."""
        return self._epoch()


class ImageDataModule(LightningDataModule, ABC):
    """A pool whose membership is audited, and a test split that only measures accuracy.

    A subclass says where the images come from (`read`); `assign` says which of the pool the next
    fit trains on. Both splits stay in memory as bytes and are handled a batch at a time, and so
    does what the pool leaves of the training split (`held_out`), for quantizers to look at.

    Args:
        root: folder that holds the data sets.
        pool_size: audited examples, drawn from the training split; all of it by default.
        pool_seed: seed of that draw.
        batch_size: examples in one step of training, over all devices together.
        flip: mirror left and right at random while training.
        crop: pixels by which training shifts images at random, up to; 0 is never.
        download: fetch the data set where it is missing.
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
        """Read the training split, of which the pool is drawn, and the test split."""

    def fetch(self) -> None:
        """Make sure that the files to read are there, and whole."""

    def prepare_data(self) -> None:
        if not hasattr(self, "pool"):  # every fit of a fleet asks, and checksums take a while
            self.fetch()

    def setup(self, stage: str) -> None:
        """Read both splits and draw the pool, once.

        Raises:
            ValueError: options that do not fit the data, or data that does not fit together.
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
        size, name = len(train.labels), type(self).__name__
        if self.pool_size is not None and self.pool_size > size:
            raise ValueError(
                f"`pool_size` must be 2 to {size}, the training split, got {self.pool_size}."
            )
        if size < 2 or not len(test.labels):
            raise ValueError(
                f"{name} needs 2 images to train on and 1 to test, got {size} and "
                f"{len(test.labels)}. Leave some out of the pool, or add images."
            )
        _, channels, height, width = train.images.shape
        if self.crop >= min(height, width):
            raise ValueError(
                f"`crop` must be less than the images' {height} x {width} pixels, got {self.crop}."
            )
        if not channels == len(self.mean) == len(self.std) == test.images.shape[1]:
            raise ValueError(
                f"{name} has images of {channels} and {test.images.shape[1]} channels, "
                f"{len(self.mean)} means and {len(self.std)} stds. Give one a channel."
            )
        for images, labels in (train, test):
            if len(images) != len(labels):
                raise ValueError(
                    f"Every image needs a label, got {len(images)} images and {len(labels)} labels."
                    f" {name}'s files do not belong together: fetch them anew."
                )
            if labels.min() < 0 or labels.max() >= self.num_classes:
                raise ValueError(
                    f"Labels must be 0 to {self.num_classes - 1}, got {int(labels.min())} to "
                    f"{int(labels.max())}. {name}'s `num_classes` or its files are wrong."
                )

    def assign(self, members: Bool[Tensor, " examples"], seed: int) -> None:
        """Choose what the next fit trains on, and the seed of its order and augmentation.

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
        """Serve every member once an epoch, in an order and views of that epoch.

        Batches are of nearly equal size, so that none is left with too few for BatchNorm.

        Raises:
            RuntimeError: there is no split, or no trainer, to train with.
            ValueError: a process would be given less than two examples at a time.
        """
        if self._split is None or self.trainer is None:
            raise RuntimeError("Call `assign` first, then hand this to `Trainer.fit`.")
        device, world_size = self.trainer.strategy.root_device, self.trainer.world_size
        members = self._split[0]
        steps = ceil(len(members) / self.batch_size)
        smallest = len(members) // steps
        if smallest < 2 * world_size:
            raise ValueError(
                f"BatchNorm needs 2 examples a batch in each of {world_size} processes, got "
                f"batches of {smallest}. Raise `batch_size` or enlarge the pool."
            )
        if self.pool.images.device != device and fits(self.pool.images, device):
            self.pool = Images(*(tensor.to(device) for tensor in self.pool))
        return Loader(steps, partial(self._epoch, self.trainer, *self._split, steps))

    def _epoch(self, trainer: Trainer, members: Tensor, seed: int, steps: int) -> Iterator[Batch]:
        # Asked with the first batch, not in `iter()`: when a fit resumes from the end of an epoch,
        # Lightning calls `iter()` first and counts that epoch afterwards.
        epoch_seed = derive_seed(seed, "epoch", trainer.current_epoch)
        generator = torch.Generator().manual_seed(epoch_seed)
        order = members[torch.randperm(len(members), generator=generator)]
        for indices in order.tensor_split(steps):
            # each process augments the whole batch, so that its number changes no image
            change = partial(augment, flip=self.flip, crop=self.crop, generator=generator)
            yield self._share(self._batch(self.pool, indices, change))

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        return batch  # made there; Lightning would look through it in every step

    def val_dataloader(self) -> Loader:
        """Serve the test split once, as it is."""
        steps = ceil(len(self.test.labels) / self._evaluation_batch)
        return Loader(steps, partial(self._evaluation, steps))

    def _evaluation(self, steps: int) -> Iterator[Batch]:
        for indices in torch.arange(len(self.test.labels)).tensor_split(steps):
            yield self._share(self._batch(self.test, indices, partial(view, query="identity")))

    def pool_batches(self, query: str) -> Iterator[Batch]:
        """Serve the whole pool in order in one view, to one process.

        A view is the same for every model, but for a random query: that depends on the seed of
        `assign`.

        Raises:
            RuntimeError: a random query before `assign`.
        """
        yield from self._in_order(self.pool, query)

    def test_batches(self, query: str = "identity") -> Iterator[Batch]:
        """Serve the whole test split in order in one view, to one process."""
        yield from self._in_order(self.test, query)

    def draw_calibration(
        self, source: Source, members: Bool[Tensor, " examples"], count: int, seed: int
    ) -> Int64[Tensor, " images"]:
        """Draw at most `count` images for the quantization of a model that trained on `members`.

        Returns:
            Positions in `held_out` if that is the source, else in the pool; see `calibration.draw`.

        Raises:
            ValueError: no image to draw, less than one asked for, or a row of another pool.
        """
        return draw(source, members, len(self.pool.labels), len(self.held_out.labels), count, seed)

    def calibration_images(
        self, source: Source, indices: Int64[Tensor, " images"], augment_seed: int | None = None
    ) -> Float[Tensor, "images channels height width"]:
        """Show the images that were drawn, to one process.

        Args:
            source: what they were drawn from.
            indices: their positions, from `draw_calibration`.
            augment_seed: of an augmentation like training's, of all of them as one batch; without
                it they are shown as they are.
        """
        change = partial(view, query="identity")
        if augment_seed is not None:
            generator = torch.Generator().manual_seed(augment_seed)
            change = partial(augment, flip=self.flip, crop=self.crop, generator=generator)
        split = self.held_out if source == "heldout" else self.pool
        return self._batch(split, indices, change).images

    def _in_order(self, split: Images, query: str) -> Iterator[Batch]:
        steps, change = ceil(len(split.labels) / self._evaluation_batch), partial(view, query=query)
        windows = self._draw_query(len(split.labels), query) if is_random(query) else None
        for indices in torch.arange(len(split.labels)).tensor_split(steps):
            if windows is not None:
                change = partial(cut, crop=self.crop, windows=windows.take(indices))
            yield self._batch(split, indices, change)

    def _draw_query(self, count: int, query: str) -> Windows:
        """All at once, so that the size of batches, which depends on the device, changes none."""
        if self._split is None:
            raise RuntimeError(f"Call `assign` first: `{query}` is drawn from the model's seed.")
        generator = torch.Generator().manual_seed(derive_seed(self._split[1], "query", query))
        return draw_windows(count, self.flip, self.crop, generator)

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
        """Images at a time where no gradient is kept.

        On a CPU, 512 took 1.5 to 1.9 times as long: features of 32 MiB and more are new memory from
        the system in every layer.
        """
        return 128 if self.device.type == "cpu" else 512

    def _share(self, batch: Batch) -> Batch:
        if self.trainer is None or self.trainer.world_size == 1:
            return batch
        parts = (tensor.tensor_split(self.trainer.world_size) for tensor in batch)
        return Batch(*(part[self.trainer.global_rank] for part in parts))

    def fingerprint(self) -> str:
        """Identify what networks are shown: 16 hex digits over both splits and their scaling."""
        digest = hashlib.sha256(repr((self.mean, self.std)).encode())
        for tensor in (*self.pool, *self.test):
            digest.update(repr(tensor.shape).encode())
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()[:16]


def fits(images: Tensor, device: torch.device) -> bool:
    """Whether images take less than half of what a GPU has left; the CPU has them already."""
    return device.type == "cuda" and images.nbytes < torch.cuda.mem_get_info(device)[0] / 2
