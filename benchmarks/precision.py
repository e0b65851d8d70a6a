"""Does training in bfloat16 change what an attacker finds? AUC beside that of float32.

    python -m benchmarks.precision data/cifar10-jpeg

Trains 16 shadows and 4 targets in both precisions from the same seeds. One thread of a shared AMD
EPYC (Zen 4, AVX512-BF16), torch 2.14:

    32-true: AUC 0.6702 (0.6484 to 0.6921), test accuracy 49.2%
    bf16-mixed: AUC 0.6691 (0.6546 to 0.6836), test accuracy 49.4%
    bf16-mixed and 32-true: no difference shown (AUC -0.01 to 0.01)
"""

import argparse
import tempfile
from pathlib import Path

from rich.console import Console

import train
from attacks.evaluate import evaluate, tail_metric
from attacks.game import FULL
from attacks.metrics.differences import Difference, Outcome, paired_differences
from attacks.metrics.measures import MEASURES, Metric
from benchmarks.train import PRECISIONS, some_images
from reporting.text import compare
from storage.evidence import gather
from storage.run_folder import RunFolder

ATTACK = "lira_online_fixed"


def main() -> None:
    """Train and audit a small fleet in each precision; print AUCs, and their paired difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="folder of CIFAR-10 images, train and test")
    console, scores = Console(highlight=False), {}
    with some_images(parser.parse_args().root, 1000, 200) as root:
        for precision in PRECISIONS:
            with tempfile.TemporaryDirectory() as folder:
                text = (
                    f"--run_dir {folder} --threads 1 --data ImageFolder --data.root {root} "
                    "--data.pool_size 4000 --data.batch_size 64 --data.flip false --data.crop 0 "
                    f"--model.network convnet --trainer.accelerator cpu "
                    f"--trainer.precision {precision} --trainer.max_epochs 12 --quantize "
                    "--trainer.check_val_every_n_epoch 13 --fleet.shadows 16 --fleet.targets 4"
                )
                train.main(text.split())
                evidence = gather(RunFolder(Path(folder)), allow_partial=False)
                (scored,) = evaluate(evidence.game, FULL, [ATTACK])
            members, scores[precision] = evidence.game.audited, scored.scores
            auc, accuracy = scored.row.summary.auc, evidence.variants[FULL].accuracy
            console.print(
                f"{precision}: AUC {auc.value:.4f} ({auc.low:.4f} to {auc.high:.4f}), "
                f"test accuracy {accuracy.value:.1%}"
            )
    fast, plain = reversed(PRECISIONS)
    differences: dict[Metric, Difference] = {}
    metrics: tuple[Metric, ...] = "auc", tail_metric(scored.row.summary)
    for metric in metrics:
        outcomes = {p: Outcome(MEASURES[metric](rows, members)) for p, rows in scores.items()}
        (differences[metric],) = paired_differences(outcomes, [(fast, plain)])
    console.print(compare(differences))


if __name__ == "__main__":
    main()
