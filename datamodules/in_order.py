"""Batches in order, one view at a time, and images for calibration: what a finished fit reads."""

from collections.abc import Callable, Iterator
from functools import partial
from math import ceil

import torch
from jaxtyping import Bool, Float, Int64
from lightning.pytorch import LightningDataModule
from torch import Tensor

from datamodules.batches import Batch
from datamodules.calibration import draw, find_source
from datamodules.splits import Images
from datamodules.views import augment, cut, draw_random_query, is_random, normalise, view


class InOrder(LightningDataModule):
    """The splits of a data set, served in order to a single process.

    Attributes:
        mean: per channel, of pixels in 0..1.
        std: the same.
        pool: examples whose membership is audited.
        held_out: the rest of the training split, for quantizers to calibrate on.
        test: examples that only measure accuracy.
        flip: whether training mirrors images.
        crop: largest shift of training in pixels.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    pool: Images
    held_out: Images
    test: Images
    flip: bool
    crop: int

    def __init__(self) -> None:
        super().__init__()
        self._split: tuple[Tensor, int] | None = None  # members of the next fit, and its seed

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
    ) -> Float[Tensor, "images channels ..."]:
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
