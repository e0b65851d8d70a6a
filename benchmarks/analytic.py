"""Accuracy of analytic learners of tasks, and what each part of REAL's backbone training is worth.

    python -m benchmarks.analytic --data ImageFolder --data.root photographs --data.pool_size 2000

All rows have the same members, classes, augmentation and epochs. Each is trained by train.py, to
which all other options go. Measured so far, with 800 photographs of the first task, of which each
of two models has half, and 12 epochs; seconds are those of two busy cores:

    method       average    last   first   later    std  s/model
    acil            44.6    35.8    32.8    37.8    0.8      149
    acil, fused     38.5    32.5    31.4    33.2    0.0       14
    dsal            45.1    37.3    27.2    44.0    0.2       13
    contrastive     40.2    31.2    31.4    31.1    2.4      321
    distilled       41.8    32.3    29.6    34.1    2.8       76
    real            35.4    27.5    26.1    28.5    1.3       97
    finetune        24.4    14.0     0.0    23.4    0.0       67
    joint           33.2    22.5    31.3    16.6    1.6       13

`average` is over stages, of all classes seen by then; `last` is after the last task, `first` of the
first task's classes then, and `later` of the others; `std` is that of `last`. At this budget REAL
loses: features that saw no labels are worse, on later classes too, a teacher of a quarter of the
epochs makes up for a part, and fused features of early stages cost more. Fine-tuning and joint
training have hardly begun. With 48 epochs (`--epochs 48`), and then with 96 and five times as many
photographs (`--data.pool_size 10000`), REAL catches up on what it is made for, classes that came
later, by 2.6 points, and is no better over all:

    acil, 48        47.5    38.6    35.2    40.9    1.4       21
    acil, fused     41.1    33.7    31.8    35.0    1.1       24
    real, 48        38.0    32.1    29.4    33.9    1.8       31
    acil, 96        59.7    48.9    50.9    47.5    0.2      140
    distilled       56.9    46.7    43.6    48.7    0.2      178
    real, 96        57.4    49.3    48.1    50.1    2.2      213
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
from safetensors.torch import load_file
from torch import Tensor

import train
from storage.names import ModelName
from storage.records import read_seconds
from storage.run_folder import RunFolder

TASKS, BASE = 4, 4  # tasks, and classes of the first; the others have two each, of ten
DEFAULTS = (
    "--model.network convnet --model.lr 0.05 "
    f"--continual.tasks {TASKS} --continual.base_classes {BASE} --fleet.shadows 2 "
    "--fleet.targets 0 --trainer.accelerator cpu --trainer.check_val_every_n_epoch 1000 --threads 1"
).split()


class Method(NamedTuple):
    """A row of the table.

    Attributes:
        learner: what learns the tasks.
        shares: quarters of the epochs that train a backbone with labels, without, and by a teacher.
        options: further options of train.py.
    """

    learner: str
    shares: tuple[int, int, int] = (0, 0, 0)
    options: tuple[str, ...] = ()


FUSED, ALONE = (("--continual.analytic.fusion", value) for value in ("true", "false"))
METHODS = {
    "finetune": Method("finetune"),
    "joint": Method("finetune", options=("--continual.joint", "true")),
    "acil": Method("acil", (4, 0, 0)),
    "dsal": Method("dsal", (4, 0, 0)),
    "acil, fused": Method("real", (4, 0, 0), FUSED),
    "contrastive": Method("real", (0, 4, 0), ALONE),
    "distilled": Method("real", (1, 2, 1), ALONE),
    "real": Method("real", (1, 2, 1), FUSED),
}  # `real` is distilled and fused


def train_models(method: Method, epochs: int, options: Sequence[str]) -> tuple[Tensor, float]:
    """Train two models; returns their accuracy by stage and task, and the seconds per model."""
    solved = sum(method.shares) > 0
    labelled, contrastive, distil = (epochs * share // 4 for share in method.shares)
    given = {
        "continual.learner": method.learner,
        "trainer.max_epochs": epochs + TASKS if solved else epochs,
        "continual.backbone_epochs": labelled,
        "continual.analytic.contrastive_epochs": contrastive,
        "continual.analytic.distill_epochs": distil,
    }
    if solved:
        given["continual.analytic.worlds"] = 0
    own = [f"--{name}={value}" for name, value in given.items()]
    with TemporaryDirectory() as folder:
        place = ["--run_dir", folder, "--quantize", "--snapshots"]
        with redirect_stdout(StringIO()) as said:
            try:
                train.main([*DEFAULTS, *options, *place, *own, *method.options])
            except SystemExit as error:
                raise SystemExit(f"{method}: {error}\n{said.getvalue()}") from error
        run, names = RunFolder(Path(folder)), [ModelName("shadow", i) for i in range(2)]
        stages = [
            [load_file(run.task(name, number + 1))["accuracy"] for number in range(TASKS)]
            for name in names
        ]
        seconds = fmean(read_seconds(run, name) or 0.0 for name in names)
        return torch.stack([torch.stack(matrix) for matrix in stages]), seconds


def describe(name: str, matrices: Tensor, seconds: float) -> str:
    """A line of the table, in percent: means over models, and how `last` varies between them."""
    sizes = torch.tensor([BASE, *[2] * (TASKS - 1)], dtype=torch.float64)
    over_seen = [
        (matrices[:, stage, : stage + 1] @ sizes[: stage + 1]) / sizes[: stage + 1].sum()
        for stage in range(TASKS)
    ]
    last = (100 * over_seen[-1]).tolist()
    numbers = {
        "average": 100 * torch.stack(over_seen).mean().item(),
        "last": fmean(last),
        "first": 100 * matrices[:, -1, 0].mean().item(),
        "later": 100 * matrices[:, -1, 1:].mean().item(),
    }
    figures = " ".join(f"{number:7.1f}" for number in numbers.values())
    return f"{name:12} {figures} {stdev(last):6.1f} {seconds:8.0f}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--epochs", type=int, default=12, help="of each model, a multiple of 4")
    known, options = parser.parse_known_args()
    print("method       average    last   first   later    std  s/model")
    for name in known.methods:
        print(describe(name, *train_models(METHODS[name], known.epochs, options)), flush=True)


if __name__ == "__main__":
    main()
