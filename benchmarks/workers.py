"""Two workers of one thread each against one process of two threads, over whole fleets.

    python -m benchmarks.workers data/cifar10-jpeg

Each round trains the same fleets from the command line. The time is train.py's own, from when the
images are read. Eight `convnet`s on the two cores of a shared AMD EPYC (Zen 4), two rounds, with
Ray's processes, whose imports are in the time; since then they are forked, which takes none:

    convnet  2 workers, 1 thread: 46.0 s (48.0, 44.0), 1.00 of the first
    convnet  1 worker, 2 threads: 42.0 s (39.0, 45.0), 0.91 of the first
    convnet  1 worker, 1 thread: 65.0 s (64.0, 66.0), 1.41 of the first

About 6 to 14 of the 46 s are the start of the workers. Once they run, two models end every 8 s (by
the lines of train.py), that is 4.0 s per model against 5.2 s.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
WAYS = {
    "2 workers, 1 thread": ["--fleet.workers", "2", "--threads", "1"],
    "1 worker, 2 threads": ["--fleet.workers", "1", "--threads", "2"],
    "1 worker, 1 thread": ["--fleet.workers", "1", "--threads", "1"],
}


def seconds(root: Path, network: str, precision: str, epochs: int, way: list[str]) -> float:
    """Time of one fleet of 8 models."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "train.py", "--run_dir", str(Path(folder) / "run")),
            *("--data", "ImageFolder", "--data.root", str(root.resolve()), "--data.image_size"),
            *("32", "--data.pool_size", "5000", "--data.batch_size", "64", "--data.flip", "true"),
            *("--data.crop", "4", "--model.network", network, "--trainer.accelerator", "cpu"),
            *("--trainer.precision", precision, "--trainer.max_epochs", str(epochs)),
            *("--trainer.check_val_every_n_epoch", str(epochs), "--fleet.shadows", "8"),
            *("--fleet.targets", "0", "--queries", "identity", "--quantize", "nearest-w2", *way),
        ]
        done = subprocess.run(
            command, cwd=ROOT, check=True, stdout=subprocess.PIPE, encoding="utf-8"
        )
    if (finished := re.search(r"Finished 8 models in (\d+) s", done.stdout)) is None:
        raise RuntimeError(f"train.py did not finish 8 models: {done.stdout[-500:]}")
    return float(finished[1])


def main() -> None:
    """Print the seconds of each way, and the ratios of the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="folder of images, with train/ and test/")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    for network, epochs in (("convnet", 6), ("resnet8", 2)):
        times: dict[str, list[float]] = {name: [] for name in WAYS}
        for _ in range(arguments.rounds):
            for name, way in WAYS.items():
                took = seconds(arguments.root, network, "bf16-mixed", epochs, way)
                times[name].append(took)
        medians = {name: statistics.median(rounds) for name, rounds in times.items()}
        best = medians["2 workers, 1 thread"]
        for name, median in medians.items():
            rounds = ", ".join(f"{took:.1f}" for took in times[name])
            print(f"{network}  {name}: {median:.1f} s ({rounds}), {median / best:.2f} of the first")


if __name__ == "__main__":
    main()
