"""Cost of scoring a large fleet, and the speedup over the usual loops.

    OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/attacks.py --variants 1 --looped 200

Synthetic signals of 256 shadows and 4 targets, 18 queries, 50,000 examples and a population of
10,000: 2.48 GB of files per variant. Further variants are hard links to the first one's files,
which are dropped from the page cache before each. Every block is a fresh process; `peak` is VmHWM,
of which 0.91 GB are libraries. The nine attacks of audit.py that need no images, with shadows of
the same variant. One of two cores of a shared AMD EPYC under other load (trust the CPU time), one
thread:

                                          |    wall s     cpu s peak GB
    1 target, per variant                 |     50.1      30.1     1.36
    4 targets, per variant                |     46.5      31.0     1.29
    LiRA, 1 target, from files            |      7.9       3.6     1.03
    LiRA in memory, 1 target: ours        |      4.0       2.0     1.93
      a loop, all queries at once         |     24.4      12.4          | 6.2 times, within 3e-15
      a loop, each query                  |    249.9     124.7          | 61.9 times, within 9e-16
    RMIA given ratios, 1 target: ours     |      0.17      0.08    1.19
      every pair                          |    156.8      78.6    1.56  | 935 times, within 2e-16

Ours is measured on all examples, the loops on 200 and extrapolated; both find their examples in
memory. Including the reading of files, which the loops are spared, LiRA is 35 times as fast as the
loop over each query and 3.5 times as fast as the one over all queries at once. Only one variant was
run: ten would take 5 minutes of CPU time (extrapolated).
"""

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from scipy.stats import norm
from torch import Tensor

# ahead of this folder, where `attacks` is this file
sys.path.pop(0)  # this folder, where statistics.py would hide the standard library's
sys.path.insert(0, str(Path(__file__).parents[1]))

from attacks import DEFAULT_ATTACKS
from attacks.choice import unknown
from attacks.evaluate import score
from attacks.game import Game, ModelSignals, make_cases
from attacks.lira import lira
from attacks.rmia import log_ratio, rmia
from datamodules.membership import membership
from storage.files import save_whole
from storage.names import fleet_names
from storage.run_folder import RunFolder
from storage.saved_signals import SavedSignal

NAME = "synthetic"  # of the one variant
FIELDS = ("phi", "hinge", "population", "population_hinge")


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


def score_variant(fleet: Fleet, variant: int, count: int, attacks: Sequence[str]) -> Cost:
    """Attack `count` targets with shadows of the same variant, reading all from disk."""
    drop_cached(fleet)
    signals: dict[str, Any] = {key: fleet.signal(key, variant) for key in FIELDS}
    cases = make_cases(fleet.shadows, fleet.targets)[:count]
    game = Game({NAME: ModelSignals(**signals)}, fleet.members(), cases)
    names = [name for name in attacks or DEFAULT_ATTACKS if not unknown(name, game)]

    def run() -> Tensor:
        return torch.stack([*score(names, game, NAME).values()])

    scores, cost = timed(run)
    if not scores.isfinite().all():
        raise RuntimeError(f"Variant {variant} has scores that are not finite.")
    return cost


def loop(target: np.ndarray, shadows: np.ndarray, included: np.ndarray) -> np.ndarray:
    """Online LiRA as it is usually written, one example at a time."""
    scores = []
    for j in range(target.shape[-1]):
        inside, outside = shadows[included[:, j], :, j], shadows[~included[:, j], :, j]
        log_in, log_out = (
            norm.logpdf(target[:, j], np.median(side, 0), np.std(side, 0) + 1e-30)
            for side in (inside, outside)
        )
        scores.append((log_in - log_out).mean())
    return np.array(scores)


def time_lira(fleet: Fleet) -> Cost:
    """Cost of our LiRA on all examples, with the shadows' files read in slices."""
    drop_cached(fleet)
    shadows, target, included = read_lira(fleet)
    return timed(lambda: lira(target, shadows, included, "example"))[1]


def read_lira(fleet: Fleet) -> tuple[SavedSignal, Tensor, Tensor]:
    """Inputs of LiRA: the shadows' signals on disk, a target's signals, and the membership."""
    phi, included = fleet.signal("phi"), fleet.members()[: fleet.shadows]
    return phi[list(range(fleet.shadows))], phi[[fleet.shadows]][..., :][0], included


def compare_lira(fleet: Fleet, looped: int) -> tuple[Cost, dict[str, tuple[Cost, float]]]:
    """Cost of our LiRA on all examples and of each loop on a few, with the largest difference.

    All find their examples in memory, the loops in float64.
    """
    signals, target, included = read_lira(fleet)
    shadows = signals[..., :]
    ours, cost = timed(lambda: lira(target, shadows, included, "example"))
    values = target[:, :looped].double().numpy(), shadows[..., :looped].double().numpy()
    mask, queries = included[:, :looped].numpy(), range(fleet.queries)

    def each_query() -> np.ndarray:
        scores = [loop(values[0][[a]], values[1][:, [a]], mask) for a in queries]
        return np.asarray(np.mean(scores, 0))

    loops = {"all queries at once": lambda: loop(*values, mask), "each query": each_query}
    usual = {}
    for name, function in loops.items():
        scores, slow = timed(lambda: torch.from_numpy(function()))  # noqa: B023
        usual[f"a loop over examples, {name}"] = slow, (ours[:looped] - scores).abs().max().item()
    return cost, usual


def matrix(ratios: Tensor, population: Tensor) -> Tensor:
    """Mean over queries of the share of the population that each example exceeds, pair by pair."""
    shares = []
    for part in torch.split(ratios.exp(), 500, -1):
        pairs = part[:, :, None] / population.exp()[:, None]
        shares.append((pairs > 1).double().mean(-1).mean(0))
    return torch.cat(shares)


def compare_rmia(fleet: Fleet, looped: int) -> tuple[Cost, dict[str, tuple[Cost, float]]]:
    """Cost of our RMIA on all examples and of all pairs on a few, with the largest difference.

    Both are given the ratios. Ours breaks ties by less than half a step of the share; rounding
    undoes that.
    """
    shadows = list(range(fleet.shadows))
    nobody = torch.zeros(fleet.shadows, fleet.population, dtype=torch.bool)
    masks = {"phi": fleet.members()[: fleet.shadows], "population": nobody}
    x, z = (
        log_ratio(
            fleet.signal(key)[[fleet.shadows]][..., :][0],
            fleet.signal(key)[shadows],
            mask,
            online=False,
        )
        for key, mask in masks.items()
    )
    scores, cost = timed(lambda: rmia(x, z))
    usual, slow = timed(lambda: matrix(x[:, :looped], z))
    steps = fleet.queries * fleet.population
    shares = (scores[:looped] * steps).round() / steps
    return cost, {"every pair": (slow, (shares - usual).abs().max().item())}


def make_parser() -> argparse.ArgumentParser:
    """Parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in Fleet(Path(), 256, 4, 18, 50_000, 10_000)._asdict().items():
        if name != "folder":
            parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument(
        "--folder", type=Path, help="keep the fleet here, and reuse one that exists"
    )
    parser.add_argument("--variants", type=int, default=10, help="number of variants")
    parser.add_argument(
        "--looped", type=int, default=1000, help="number of examples for the usual loops"
    )
    parser.add_argument(
        "--attacks", nargs="*", default=(), help="attacks to run; by default those of audit.py"
    )
    parser.add_argument("--each", action="store_true", help="also measure every attack by itself")
    return parser


def alone(function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401
    """Call a function in a fresh process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def show(label: str, cost: Cost, note: str = "") -> None:
    """Print one line of the table."""
    peak = f"{cost.peak / 1e9:7.2f}"
    print(f"{label:41} | {cost.wall:9.2f} {cost.cpu:9.2f} {peak} | {note}", flush=True)


def report(fleet: Fleet, variants: int, looped: int, attacks: Sequence[str], each: bool) -> None:
    """Print the table."""
    print(f"{'':41} |    wall s     cpu s peak GB |")
    show(
        "1 target, global_threshold (libraries)",
        alone(score_variant, fleet, 0, 1, ["global_threshold"]),
    )
    for attack in DEFAULT_ATTACKS if each else ():
        if attack != "quantile_regression":
            show(f"1 target, {attack}", alone(score_variant, fleet, 0, 1, [attack]))
    for count in sorted({1, fleet.targets}):
        costs = [alone(score_variant, fleet, index, count, attacks) for index in range(variants)]
        wall, cpu, peak = zip(*costs, strict=True)
        total = Cost(sum(wall), sum(cpu), max(peak))
        targets = f"{count} target{'s' if count > 1 else ''}"
        show(f"{targets}, mean of {variants} variants", total.times(1 / variants))
        show(f"{targets}, all {variants} variants", total)
    show("LiRA, 1 target, from files", alone(time_lira, fleet))
    for name, compare in (("LiRA in memory", compare_lira), ("RMIA given ratios", compare_rmia)):
        ours, usual = alone(compare, fleet, looped)
        show(f"{name}, 1 target: ours", ours)
        for way, (cost, difference) in usual.items():
            whole = cost.times(fleet.examples / looped)
            ratio = f"{whole.cpu / ours.cpu:.1f} times our CPU time"
            note = f"from {looped} examples; {ratio}; scores within {difference:.0e}"
            show(f"  {way}", whole, note)


def main() -> None:
    """Run from the command line."""
    config = vars(make_parser().parse_args())
    folder, variants = config.pop("folder"), config.pop("variants")
    options = [config.pop(name) for name in ("looped", "attacks", "each")]
    with tempfile.TemporaryDirectory() as temporary:
        fleet = Fleet(folder=folder or Path(temporary), **config)
        if not fleet.paths(variants - 1)[-1].exists():
            fleet.folder.mkdir(parents=True, exist_ok=True)
            print(f"{write_fleet(fleet, variants):,} bytes of signals per variant")
        report(fleet, variants, *options)


if __name__ == "__main__":
    main()
