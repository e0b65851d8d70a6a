r"""Accuracy of networks whose channels are cut in training: ocs, its peers, and dense ones.

    OMP_NUM_THREADS=1 python -m benchmarks.pruning   # digits, 3 models per method

Each method trains the same models of one fleet: the same members and the same initial weights. So
differences from the dense models are paired. More options are those of train.py, such as
`--config recipes/pruning/cifar10.yaml --trainer.max_epochs 12`. The default took 27 CPU seconds:

    method     test %  - dense   std    cut  before  after  MACs%
    dense       96.55   +0.00  0.00      -       -      -  100.0
    ocs         96.24   -0.31  0.39    6.3   94.15  90.75   49.2
    magnitude   95.60   -0.95  0.34   21.0   96.41  92.62   48.4
    random      95.10   -1.45  0.51   21.0   96.41  50.21   49.2
    init        96.35   -0.19  0.64    0.0   10.97   9.16   49.3

`std` is that of the differences, over 3 models: ocs and init cannot be told from the dense models.

A ResNet-20 on JPEG photographs of CIFAR-10, on 2 cores of an EPYC (Zen 4) that had much other work:

    python -m benchmarks.pruning --config recipes/pruning/cifar10.yaml --model.network resnet20 \
      --data ImageFolder --data.root path/to/images --data.image_size 32 --data.channels 3 \
      --data.pool_seed 0 --data.pool_size 10000 --data.flip true --data.crop 4

    method     test %  - dense   std    cut  before  after  MACs%  s/model
    dense       60.92   +0.00  0.00      -       -      -  100.0   317.5
    ocs         57.23   -3.68  0.50    6.0   40.95  40.95   50.0   296.7
    magnitude   58.92   -2.00  1.25   10.0   54.55  12.50   49.7   321.9
    random      58.30   -2.62  1.30   10.0   54.55  11.07   49.3   291.1
    init        57.10   -3.82  1.80    0.0    9.88   9.55   49.9   299.9

Each model trains on 5,000 photographs for 15 epochs. The cut of ocs costs nothing, but its networks
end no better than those of its peers. Its mean is 57.7% with `--prune.strength 0.003`, and 57.1%
with `--prune.cut 0.7`, which 3 models do not tell from 57.2%. Published are -0.1 to -0.3 points,
over 300 epochs on ten times the images.
"""

import argparse
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import train
from attacks.game import FULL
from lightning_modules.options import PRUNE_DEFAULTS
from storage.names import ModelName
from storage.records import read_record, read_seconds
from storage.run_folder import RunFolder
from storage.saved_signals import load_signals

METHODS = ("dense", "ocs", "magnitude", "random", "init")
ROOT = Path(train.__file__).parent


class Trained(NamedTuple):
    """The models of one method.

    Attributes:
        accuracy: of each model on the test split.
        records: of their pruning; None of dense ones.
        seconds: per model, with its signals.
    """

    accuracy: list[float]
    records: list[dict[str, Any] | None]
    seconds: float


def train_models(method: str, remove: float, models: int, options: Sequence[str]) -> Trained:
    """Train some models of a fleet by a method, in a temporary folder."""
    if method == "dense":
        plain = {key: "null" if value is None else value for key, value in PRUNE_DEFAULTS.items()}
        pruned = [f"--prune.{key}={value}" for key, value in plain.items()]
    else:
        pruned = ["--prune", method, "--prune.remove", str(remove)]
    few = ["--fleet.models", f"0-{models - 1}", "--fleet.shadows", str(2 * ((models + 1) // 2))]
    with TemporaryDirectory() as folder:
        place = ["--run_dir", folder, "--quantize", "--snapshots", "--threads", "1"]
        with redirect_stdout(StringIO()) as said:
            try:
                train.main([*options, *place, *few, *pruned])
            except SystemExit as error:
                raise SystemExit(f"{method}: {error}\n{said.getvalue()}") from error
        run, names = RunFolder(Path(folder)), [ModelName("shadow", i) for i in range(models)]
        correct = load_signals([run.signals(name, FULL) for name in names], "test_correct")
        return Trained(
            correct.double().mean(1).tolist(),
            [read_record(run, name, FULL) for name in names],
            fmean(read_seconds(run, name) or 0.0 for name in names),
        )


def describe(method: str, trained: Trained, dense: Trained) -> str:
    """A line of the table, in percent and points."""
    accuracy = [100 * value for value in trained.accuracy]
    gains = [value - 100 * base for value, base in zip(accuracy, dense.accuracy, strict=True)]
    spread = f"{stdev(gains):5.2f}" if len(gains) > 1 else "    -"
    line = f"{method:10} {fmean(accuracy):6.2f} {fmean(gains):+7.2f} {spread}"
    records = [record for record in trained.records if record]
    if records:
        before, after = (100 * fmean(r["accuracy"][i] for r in records) for i in (0, 1))
        kept = 100 * fmean(record["macs"][1] / record["macs"][0] for record in records)
        cut = fmean(record["cut_after"] for record in records)
        line += f" {cut:6.1f} {before:7.2f} {after:6.2f} {kept:6.1f}"
    else:
        line += f" {'-':>6} {'-':>7} {'-':>6} {100:6.1f}"
    return f"{line} {trained.seconds:7.1f}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS[1:], default=METHODS[1:])
    parser.add_argument("--remove", type=float, default=0.5, help="share of the MACs")
    parser.add_argument("--models", type=int, default=3, help="models per method, each of a seed")
    known, options = parser.parse_known_args()
    options = options or ["--config", str(ROOT / "recipes/pruning/digits.yaml")]
    dense = train_models("dense", known.remove, known.models, options)
    print("method     test %  - dense   std    cut  before  after  MACs%  s/model")
    print(describe("dense", dense, dense), flush=True)
    for method in known.methods:
        trained = train_models(method, known.remove, known.models, options)
        print(describe(method, trained, dense), flush=True)


if __name__ == "__main__":
    main()
