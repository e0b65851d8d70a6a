"""Training speed: BitLeak beside a bare PyTorch loop and the usual script.

    python -m benchmarks.train data/cifar10-jpeg

Trains networks on the same images, in the same batches, with crops and flips:
  usual   PIL images, torchvision's transforms, a DataLoader with one worker per core, float32, NCHW
  bare    our batches in a loop with nothing around it, in the same precision and memory format
  ours    train.py's trainer: Lightning, the progress bar, a checkpoint every epoch
  logged  the same with `--wandb offline`
They take turns, round after round, each in its own process with as many cores as threads, workers
included. A first epoch warms up and is not timed. Times are by the clock and in CPU seconds (those
of W&B and the workers included), which other work disturbs less. Two cores of a shared AMD EPYC
(Zen 4, AVX512-BF16), torch 2.14, `--rounds 3`:

    samples/s           usual   bare   ours logged ours/bare logged/bare ours/usual
    convnet, 1  clock   1,285  4,935  4,423  4,427  0.90  0.90  3.50
    convnet, 1  CPU     1,286  4,923  4,491  4,414  0.91  0.90  3.48
    convnet, 2  clock   2,259  8,042  7,389  7,215  0.93  0.91  3.43
    convnet, 2  CPU     1,143  4,129  3,765  3,710  0.92  0.91  3.40
    resnet8, 1  clock     545  1,408  1,410  1,369  0.98  0.95  2.59
    resnet8, 1  CPU       546  1,407  1,414  1,369  0.99  0.95  2.59
    resnet8, 2  clock     896  2,542  2,426  2,458  0.97  0.99  2.75
    resnet8, 2  CPU       458  1,293  1,231  1,249  0.97  0.99  2.74
    resnet20, 1 clock     243    561    544    525  0.96  0.94  2.17
    resnet20, 1 CPU       243    563    545    525  0.95  0.94  2.17
    resnet20, 2 clock     373    905    936    915  0.98  0.97  2.37
    resnet20, 2 CPU       196    467    483    473  0.98  0.97  2.34

Not reached: 4 times the usual script. The bare loop itself is 2.3 to 3.8 times as fast: half of its
time at `convnet` is convolutions, the rest BatchNorm, ReLU and pooling, bound by memory.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from datamodules.views import augment, normalise
from fleet.display import FleetProgress, quieten
from fleet.fit import fit
from fleet.options import parse
from fleet.prepare import Job
from fleet.prepare import prepare as prepare_fleet
from lightning_modules.callbacks.progress import SaveProgress
from lightning_modules.networks import build_network
from storage.names import ModelName

NETWORKS = ["convnet", "resnet8", "resnet20"]
LOOPS = ["usual", "bare", "ours", "logged"]
PRECISIONS = ["32-true", "bf16-mixed"]
SGD_OPTIONS: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}  # train.py's own
CROP = 4


class Pictures(Dataset[tuple[Any, int]]):
    """A data set like torchvision's CIFAR10: arrays in memory, served singly through PIL."""

    def __init__(self, images: Tensor, labels: Tensor, transform: transforms.Compose) -> None:
        self.images, self.labels = images.permute(0, 2, 3, 1).numpy(), labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def cpu_seconds(process: int | str) -> float:
    """CPU time of a process and of those it started: its workers, and W&B's."""
    folder = Path(f"/proc/{process}")
    ticks = folder.joinpath("stat").read_text(encoding="utf-8").rpartition(")")[2].split()[11:15]
    started = [path.read_text(encoding="utf-8").split() for path in folder.glob("task/*/children")]
    living = sum(cpu_seconds(child) for children in started for child in children)
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK") + living


def now() -> Tensor:
    """Seconds on the clock, and of CPU."""
    return torch.tensor([time.perf_counter(), cpu_seconds(os.getpid())], dtype=torch.float64)


def usual(job: Job, members: Tensor, network: nn.Module) -> Tensor:
    """Seconds of the usual script, well written."""
    data, epochs = job.data, job.config.trainer.max_epochs
    chosen = data.pool.take(members)
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=CROP),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(data.mean, data.std),
        ]
    )
    loader = DataLoader(
        Pictures(chosen.images, chosen.labels, transform),
        data.batch_size,
        shuffle=True,
        num_workers=torch.get_num_threads(),
        persistent_workers=True,
    )
    optimizer = SGD(network.parameters(), **SGD_OPTIONS)
    scheduler = CosineAnnealingLR(optimizer, epochs * len(loader))
    for epoch in range(epochs):
        if epoch == 1:
            started = now()
        for images, labels in loader:
            optimizer.zero_grad()
            cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            scheduler.step()
    return now() - started


def bare(job: Job, members: Tensor, network: nn.Module) -> Tensor:
    """Seconds of PyTorch alone, on our batches: the 100% of the table."""
    data, epochs = job.data, job.config.trainer.max_epochs
    network.to(memory_format=torch.channels_last)
    images, steps = data.pool.take(members), ceil(len(members) / data.batch_size)
    optimizer = SGD(network.parameters(), **SGD_OPTIONS)
    scheduler = CosineAnnealingLR(optimizer, epochs * steps)
    rng = torch.Generator().manual_seed(0)
    bf16 = job.config.trainer.precision == "bf16-mixed"
    for epoch in range(epochs):
        if epoch == 1:
            started = now()
        for indices in torch.randperm(len(members), generator=rng).tensor_split(steps):
            pixels, labels = images.take(indices)
            batch = normalise(augment(pixels, True, CROP, rng), data.mean, data.std)
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = cross_entropy(network(batch), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            scheduler.step()
    return now() - started


class Clock(SaveProgress):
    """The progress that train.py saves, with a clock that starts after the first epoch."""

    taken: ClassVar[Tensor]

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
        if trainer.current_epoch == 1:
            self.started = now()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
        Clock.taken = now() - self.started


def ours(job: Job, name: ModelName) -> Tensor:
    """Seconds of the same epochs in a fit by train.py, with its progress bar."""
    with (
        Path(os.devnull).open("w", encoding="utf-8") as screen,
        patch("fleet.fit.SaveProgress", Clock),
    ):
        console = Console(force_terminal=True, file=screen)
        with FleetProgress(job.run, 1, job.config.trainer.max_epochs, console) as progress:
            progress.begin(name)
            fit(job, name)
    return Clock.taken


def prepare(options: str) -> Job:
    """The job that the command line prepares from these options."""
    parser, config = parse(options.split())
    made = parser.instantiate(config)
    return prepare_fleet(config, made.fleet, made.data, Console(quiet=True))


def measure(options: argparse.Namespace) -> None:
    """Time all loops in turn, for one network and thread count; print one line of JSON."""
    (network_name,), (threads,) = options.networks, options.threads
    torch.set_num_threads(threads)
    quieten()
    text = (
        f"--data ImageFolder --data.root {options.root} --data.pool_size {2 * options.images} "
        f"--data.batch_size {options.batch} --data.flip true --data.crop {CROP} "
        f"--model.network {network_name} --trainer.accelerator cpu "
        f"--trainer.precision {options.precision} --trainer.max_epochs {1 + options.epochs} "
        f"--trainer.check_val_every_n_epoch {2 + options.epochs} --queries identity --quantize "
        f"--fleet.shadows 0 --fleet.targets {options.rounds} --run_dir"
    )
    taken: dict[str, list[list[float]]] = {loop: [] for loop in LOOPS}
    with tempfile.TemporaryDirectory() as folder:
        jobs = {"ours": prepare(f"{text} {folder}/ours")}
        jobs["logged"] = prepare(f"{text} {folder}/logged --wandb offline")
        for model, included in jobs["ours"].members.items():
            members = included.nonzero().flatten()
            for loop in (usual, bare):
                torch.manual_seed(model.number)
                network = build_network(network_name, jobs["ours"].data.num_classes, 3, {})
                taken[loop.__name__].append(loop(jobs["ours"], members, network).tolist())
            for name, job in jobs.items():
                taken[name].append(ours(job, model).tolist())
    print(json.dumps(taken))


@contextmanager
def some_images(root: Path, train_images: int, test_images: int) -> Iterator[Path]:
    """A folder with links to this many images of each class, which is read in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        for split, count in (("train", train_images), ("test", test_images)):
            for path in sorted(root.resolve().glob(f"{split}/*")):
                (target := Path(folder) / split / path.name).mkdir(parents=True)
                for file in sorted(path.iterdir())[:count]:
                    (target / file.name).symlink_to(file)
        yield Path(folder)


def speed(options: argparse.Namespace) -> None:
    """Measure each network and number of threads in a process of its own; print a table."""
    print(
        f"{'samples/s':18}", *(f"{loop:>6}" for loop in LOOPS), "ours/bare logged/bare ours/usual"
    )
    cores = sorted(os.sched_getaffinity(0))
    keys = ("precision", "images", "batch", "epochs", "rounds")
    more = [text for key in keys for text in (f"--{key}", str(getattr(options, key)))]
    with some_images(options.root, ceil(2 * options.images / 10), 10) as root:
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.train", "--measure", str(root)]
        for network, threads in product(options.networks, options.threads):
            os.sched_setaffinity(0, cores[-threads:])  # the process inherits it
            done = subprocess.run(
                [*command, *more, "--networks", network, "--threads", str(threads)],
                env=os.environ | {"OMP_NUM_THREADS": str(threads)},
                stdout=subprocess.PIPE,
                check=True,
            )
            times = json.loads(done.stdout.splitlines()[-1])
            show(f"{network}, {threads}", times, options.images * options.epochs)


def show(label: str, times: dict[str, list[list[float]]], samples: int) -> None:
    """Print samples a second, and ratios of speed: medians over rounds."""
    for kind, unit in enumerate(("clock", "CPU")):
        taken = {loop: [pair[kind] for pair in times[loop]] for loop in LOOPS}
        cells = [f"{samples / median(taken[loop]):6,.0f}" for loop in LOOPS]
        for fast, slow in (("ours", "bare"), ("logged", "bare"), ("ours", "usual")):
            pairs = zip(taken[slow], taken[fast], strict=True)
            cells.append(f"{median(long / short for long, short in pairs):5.2f}")
        print(f"{label:11} {unit:6} {' '.join(cells)}", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="folder of CIFAR-10 images, train and test")
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[1])
    parser.add_argument("--images", type=int, default=2560, help="that a model trains on")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=1, help="that are timed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--measure", action="store_true", help="one of each, in this process")
    options = parser.parse_args()
    measure(options) if options.measure else speed(options)


if __name__ == "__main__":
    main()
