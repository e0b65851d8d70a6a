"""A large fleet of synthetic signals on disk, and the cost of what reads it."""

import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from datamodules.membership import membership
from storage.files import save_whole
from storage.names import fleet_names
from storage.run_folder import RunFolder
from storage.saved_signals import SavedSignal


class Fleet(NamedTuple):
    """Sizes of a fleet, and the folder of its signals."""

    folder: Path
    shadows: int
    targets: int
    queries: int
    examples: int
    population: int

    def paths(self, variant: int) -> list[Path]:
        """Signals files of one variant, one per model."""
        run, names = RunFolder(self.folder), fleet_names(self.shadows, self.targets)
        return [run.signals(name, f"variant-{variant}") for name in names]

    def signal(self, key: str, variant: int = 0) -> SavedSignal:
        """One signal of all models, left on disk."""
        return SavedSignal(self.paths(variant), key)

    def members(self) -> Bool[Tensor, "models examples"]:
        """Which model trained on which example."""
        return membership(0, self.shadows, self.targets, self.examples)


class Cost(NamedTuple):
    """Seconds that a call took, and the peak memory of its process in bytes."""

    wall: float
    cpu: float
    peak: int

    def times(self, factor: float) -> "Cost":
        """Return the cost of `factor` such calls in the same memory."""
        return Cost(factor * self.wall, factor * self.cpu, self.peak)


def write_fleet(fleet: Fleet, variants: int) -> int:
    """Write the first variant as train.py does, link all others to it, and return its bytes.

    Attacks read each variant's files separately: nothing is kept from one to the next.

    Raises:
        ValueError: the disk has too little space.
    """
    rng = torch.Generator().manual_seed(0)
    views = fleet.queries * (9 * fleet.examples + 8 * fleet.population) + fleet.population
    needed, free = len(fleet.paths(0)) * views, shutil.disk_usage(fleet.folder).free
    if needed > 0.9 * free:
        raise ValueError(f"The fleet needs {needed:,} bytes, but {fleet.folder} has {free:,} free.")
    shape = {"": (fleet.queries, fleet.examples), "population": (fleet.queries, fleet.population)}
    typical = {key: 3 * torch.randn(size[1], generator=rng) for key, size in shape.items()}
    gain, noise = (0.5 + torch.rand(fleet.examples, generator=rng) for _ in range(2))
    for path, trained in zip(fleet.paths(0), fleet.members(), strict=True):
        phi, population = (
            typical[key] + torch.randn(size, generator=rng) for key, size in shape.items()
        )
        phi = typical[""] + noise * (phi - typical[""]) + gain * trained
        hinge = phi + torch.rand(phi.shape, generator=rng)
        record = {"phi": phi, "hinge": hinge, "correct": hinge > 0, "population": population}
        record["population_hinge"] = population + torch.rand(population.shape, generator=rng)
        record["test_correct"] = record["population_hinge"][:1] > 0
        save_whole(path, record)
    for variant in range(1, variants):
        for path, linked in zip(fleet.paths(0), fleet.paths(variant), strict=True):
            os.link(path, linked)
    return sum(path.stat().st_size for path in fleet.paths(0))


def drop_cached(fleet: Fleet) -> None:
    """Drop the files from the page cache, so that they are next read from disk."""
    for path in fleet.paths(0):
        with path.open("rb") as file:
            os.fsync(file)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed(function: Callable[[], Tensor]) -> tuple[Tensor, Cost]:
    """Call a function once and measure it; in a fresh process the peak is that of the call."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return result, Cost(wall, cpu, 1024 * int(peak[1]) if peak else 0)
