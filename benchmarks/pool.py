"""Does a pool in a mapped file train as fast as one in memory, and with how little memory?

    python -m benchmarks.pool --images 120000 --limit_mb 300

Writes random 64x64 images by the cache's own writer, then trains `convnet` on them: mapped and in
memory in turns, and mapped in a process whose memory may grow by less than the pool takes
(RLIMIT_DATA counts what a process may write to; a mapped file is read-only). One thread of a shared
2-core EPYC, torch 2.14, CPU time:

    120,000 images, 1.47 GB
    serving, images per second of CPU time: mapped 19,432, in memory 20,272; ratio 0.96
    training, images per second of CPU time: mapped 615, in memory 607; ratio 1.01
    mapped: trained 12 steps and served 119,000 images, its memory grew by 31 MB
    in memory: failed (... Cannot allocate memory), its memory grew by 0 MB
"""

import argparse
import multiprocessing
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from lightning.pytorch import Trainer

from datamodules.decode import Decoding, Facts, Form
from datamodules.images import ImageDataModule, Images
from datamodules.pixel_cache import MappedPixels, obtain_pixels
from fleet.display import quieten
from lightning_modules.classifier import Classifier
from lightning_modules.options import ModelOptions

SIZE, CLASSES, STEPS, ROUNDS = 64, 10, 12, 5


class RandomPixels(Decoding):
    """Stands in for image files, and writes noise as fast as the disk takes it."""

    def __init__(self, count: int) -> None:
        super().__init__([""] * count, lambda _: b"", Form(SIZE, 3))

    def blocks(self) -> Iterator[np.ndarray]:
        rng = np.random.default_rng(0)
        for start in range(0, len(self.files), 1024):
            count = min(1024, len(self.files) - start)
            yield rng.integers(256, size=(count, *self.shape[1:]), dtype=np.uint8)

    @property
    def facts(self) -> Facts:
        return Facts((SIZE, SIZE), (SIZE, SIZE), {})


class Pool(ImageDataModule):
    """The random images, in a mapped file or copied into memory."""

    num_classes = CLASSES
    mean, std = (0.5, 0.5, 0.5), (0.3, 0.3, 0.3)

    def __init__(self, pixels: MappedPixels, mapped: bool) -> None:
        super().__init__(batch_size=128, flip=True, crop=4)
        self.source, self.mapped = pixels, mapped

    def read(self) -> tuple[Images, Images]:
        count = len(self.source.pixels)
        split = Images(self.source, torch.arange(count) % CLASSES)
        chosen, test = split.split(count - 1000, seed=0)
        return (chosen if self.mapped else Images(*chosen)), test


def train(data: Pool, steps: int, serve_only: bool = False) -> tuple[float, float]:
    """CPU and clock seconds of some steps of training, or of making their batches alone."""
    data.setup("fit")
    data.assign(torch.arange(len(data.pool.labels)) % 2 == 0, seed=0)
    trainer = Trainer(
        max_epochs=1,
        limit_train_batches=steps,
        limit_val_batches=0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = Classifier(CLASSES, 3, 0, ModelOptions(network="convnet"))
    started = time.process_time(), time.perf_counter()
    if serve_only:
        data.trainer = trainer
        for _ in zip(range(steps), data.train_dataloader(), strict=False):
            pass
    else:
        trainer.fit(model, datamodule=data)
    return time.process_time() - started[0], time.perf_counter() - started[1]


def status(field: str) -> int:
    """Bytes of one field of /proc/self/status."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


def train_limited(pixels: MappedPixels, mapped: bool, limit: int, steps: int) -> None:
    """Train in a process whose writable memory may grow by `limit` bytes, and say how it went."""
    torch.set_num_threads(1)
    quieten()
    warm = Pool(pixels, mapped=True)
    train(warm, 2)  # what torch and Lightning need
    before = status("VmData")
    resource.setrlimit(resource.RLIMIT_DATA, (before + limit,) * 2)
    try:
        data = Pool(pixels, mapped)
        train(data, steps)
        images = sum(len(batch.labels) for batch in data.pool_batches("identity"))
        outcome = f"trained {steps} steps and served {images:,} images, its memory grew by"
    except (RuntimeError, MemoryError) as error:
        outcome = f"failed ({' '.join(str(error).split())[-60:]}), its memory grew by"
    grown = status("VmData") - before
    print(f"{'mapped' if mapped else 'in memory'}: {outcome} {grown / 1e6:,.0f} MB")


def main() -> None:
    """Write the images, compare the two ways, and train under a limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=120_000)
    parser.add_argument("--limit_mb", type=float, default=300)
    parser.add_argument("--folder", type=Path, default=Path("."), help="where the file goes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    quieten()
    with TemporaryDirectory(dir=options.folder) as folder:
        pixels = obtain_pixels(Path(folder), "noise", RandomPixels(options.images)).pixels
        assert isinstance(pixels, MappedPixels)
        print(f"{options.images:,} images, {pixels.pixels.nbytes / 1e9:.2f} GB")
        for what, steps in (("serving", True), ("training", False)):
            pools = {"mapped": Pool(pixels, True), "in memory": Pool(pixels, False)}
            seconds: dict[str, list[float]] = {name: [] for name in pools}
            for turn in range(ROUNDS + 1):
                for name, pool in pools.items():
                    cpu, _ = train(pool, STEPS, steps)
                    if turn:  # the first brings the file into memory
                        seconds[name].append(cpu)
            rates = {name: 128 * STEPS / median(times) for name, times in seconds.items()}
            ratio = rates["mapped"] / rates["in memory"]
            listed = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
            print(f"{what}, images per second of CPU time: {listed}; ratio {ratio:.2f}")
        context = multiprocessing.get_context("spawn")
        for mapped in (True, False):
            arguments = pixels, mapped, int(1e6 * options.limit_mb), STEPS
            process = context.Process(target=train_limited, args=arguments)
            process.start()
            process.join()


if __name__ == "__main__":
    main()
