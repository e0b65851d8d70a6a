"""Cost of scoring a large fleet, and the speedup over the usual loops.

    OMP_NUM_THREADS=1 taskset -c 1 python -m benchmarks.attacks --variants 1 --looped 200

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
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attacks import DEFAULT_ATTACKS
from attacks.cases import make_cases
from attacks.choice import unknown
from attacks.evaluate import score
from attacks.game import Game, ModelSignals
from benchmarks.attack_loops import compare_lira, compare_rmia, time_lira
from benchmarks.synthetic_fleet import Cost, Fleet, drop_cached, timed, write_fleet

NAME = "synthetic"  # of the one variant
FIELDS = ("phi", "hinge", "population", "population_hinge")


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
