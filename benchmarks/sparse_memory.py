"""Accuracy of sparse learners on five tasks of two digits, beside SDMLP's published ordering.

OMP_NUM_THREADS=1 python -m benchmarks.sparse_memory   # 3 models per learner
"""

import argparse
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

import train
from attacks.game import FULL
from storage.names import ModelName
from storage.records import read_record, read_seconds
from storage.run_folder import RunFolder

LEARNERS = {
    "relu": "--continual.learner relu",
    "topk": "--continual.learner topk",
    "sdmlp": "--continual.learner sdmlp",
    "sdmlp-ewc": "--continual.learner sdmlp --continual.ewc 30",
    "ssd": "--continual.learner ssd",
    "ssd-before": "--continual.learner ssd --continual.sdmlp.activations before",
    "ssd-reverse": "--continual.learner ssd --continual.sdmlp.forward_kl false",
    "ssd-ewc": "--continual.learner ssd --continual.ewc 30",
}
BASE = "sdmlp"
PEERS = [learner for learner in LEARNERS if learner != BASE]
DIGITS = (
    "--data datamodules.Digits --data.pool_size 1400 --data.batch_size 32 --data.flip false "
    "--data.crop 0 --trainer.accelerator cpu --trainer.max_epochs 200 "
    "--trainer.check_val_every_n_epoch 200 --model.lr 1 --continual.tasks 5"
)


class Learnt(NamedTuple):
    """The models of one learner.

    Attributes:
        accuracy: share correct of each task's test examples at the end of each stage.
        active: neurons that are active per example at the end of the first stage, and of the last.
        seconds: per model, with its signals.
    """

    accuracy: Float[Tensor, "models stages tasks"]
    active: tuple[float, float]
    seconds: float

    @property
    def final(self) -> list[float]:
        """Mean over tasks at the end, of each model."""
        tasks: list[float] = self.accuracy[:, -1].mean(1).tolist()
        return tasks

    @property
    def average(self) -> float:
        """Mean over stages of the mean over the tasks so far."""
        stages = range(self.accuracy.shape[1])
        return fmean(self.accuracy[:, n, : n + 1].mean().item() for n in stages)

    @property
    def first(self) -> float:
        """Mean over tasks at the end of their own stage."""
        return self.accuracy.diagonal(dim1=1, dim2=2).mean().item()

    @property
    def backward(self) -> float:
        """Backward transfer: what earlier tasks gain on average from their own stage to the end."""
        own = self.accuracy.diagonal(dim1=1, dim2=2)
        return (self.accuracy[:, -1] - own)[:, :-1].mean().item()


def train_models(learner: str, models: int, options: Sequence[str]) -> Learnt:
    """Train some models of a fleet by a learner, in a temporary folder."""
    few = ["--fleet.models", f"0-{models - 1}", "--fleet.shadows", str(2 * ((models + 1) // 2))]
    with TemporaryDirectory() as folder:
        place = ["--run_dir", folder, "--quantize", "--snapshots", "--threads", "1"]
        arguments = [*DIGITS.split(), *options, *LEARNERS[learner].split(), *place, *few]
        with redirect_stdout(StringIO()) as said:
            try:
                train.main(arguments)
            except SystemExit as error:
                raise SystemExit(f"{learner}: {error}\n{said.getvalue()}") from error
        run, names = RunFolder(Path(folder)), [ModelName("shadow", i) for i in range(models)]
        stages = [(read_record(run, name, FULL) or {})["stages"] for name in names]
        return Learnt(
            torch.tensor([[stage["accuracy"] for stage in own] for own in stages]).double(),
            (fmean(own[0]["active"] for own in stages), fmean(own[-1]["active"] for own in stages)),
            fmean(read_seconds(run, name) or 0.0 for name in names),
        )


def describe(learner: str, learnt: Learnt, base: Learnt) -> str:
    """A line of the table, in percent and points; gains are paired, model by model."""
    final = [100 * value for value in learnt.final]
    gains = [value - 100 * other for value, other in zip(final, base.final, strict=True)]
    spread = f"{stdev(gains):5.1f}" if len(gains) > 1 else "    -"
    active = "{:8.1f} {:6.1f}".format(*learnt.active)
    parts = (100 * learnt.average, 100 * learnt.first, 100 * learnt.backward)
    shares = "{:8.1f} {:6.1f} {:+9.1f}".format(*parts)
    line = f"{learner:11} {fmean(final):6.1f} {fmean(gains):+8.1f} {spread} {shares} {active}"
    return f"{line} {learnt.seconds:8.1f}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--learners", nargs="+", choices=PEERS, default=PEERS)
    parser.add_argument("--models", type=int, default=3, help="models per learner, each of a seed")
    known, options = parser.parse_known_args()
    base = train_models(BASE, known.models, options)
    print("learner      final  - sdmlp   std  average  first  backward  active   last  s/model")
    print(describe(BASE, base, base), flush=True)
    for learner in known.learners:
        print(describe(learner, train_models(learner, known.models, options), base), flush=True)


if __name__ == "__main__":
    main()
