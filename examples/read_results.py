"""Read an audit's results, draw accuracy against leakage, and attack arrays of your own.

python examples/read_results.py runs/digits   # after `make demo`; writes accuracy_and_auc.png
"""

import json
import shlex
import sys
from math import nan
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from matplotlib.figure import Figure
from torch import Tensor

from attacks.lira import lira
from attacks.metrics.intervals import Estimate, summarise
from attacks.signals import signals


class Point(NamedTuple):
    """A variant: its test accuracy, and what the strongest attack on it finds."""

    variant: str
    attack: str
    accuracy: Estimate
    risk: Estimate


def read_points(results: dict[str, Any], metric: str = "auc") -> list[Point]:
    """Every variant in results.json, `full` first, by one end of its risk.

    Args:
        results: content of results.json.
        metric: `auc`, or `results["tail"]`, a TPR at a low FPR.
    """
    return [
        Point(
            row["variant"],
            row["attack"],
            read_estimate(results["variants"][row["variant"]]["accuracy"]),
            Estimate(*(row[f"{metric}{end}"] for end in ("", "_low", "_high", "_spread"))),
        )
        for row in results["rows"]
        if metric in row["strongest"].split()
    ]


def read_estimate(numbers: dict[str, float | None]) -> Estimate:
    """A number with its interval; null in the file, where it is unknown, becomes NaN."""
    return Estimate(**{key: nan if number is None else number for key, number in numbers.items()})


def draw(points: list[Point]) -> Figure:
    """Accuracy against AUC, each with its 95% interval."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="test accuracy", ylabel="AUC of the strongest attack")
    for variant, _, accuracy, risk in points:
        axes.errorbar(
            accuracy.value,
            risk.value,
            xerr=[[accuracy.value - accuracy.low], [accuracy.high - accuracy.value]],
            yerr=[[risk.value - risk.low], [risk.high - risk.value]],
            marker="o",
            label=variant,
        )
    axes.axhline(0.5, color="gray", linestyle="dotted")  # guessing
    figure.legend(loc="outside right upper", fontsize="small")
    return figure


def attack(
    logits: Float[Tensor, "models examples classes"],
    labels: Int64[Tensor, " examples"],
    members: Bool[Tensor, "models examples"],
) -> Estimate:
    """AUC of LiRA on the first model, with the others as its shadows.

    Args:
        logits: of every model, from any framework.
        labels: true classes.
        members: which model trained on which example.
    """
    phi = signals(logits, labels).phi[:, None]  # one query: a single view of each example
    scores = lira(phi[0], phi[1:], members[1:])
    return summarise(scores[None], members[:1]).auc


def simulate() -> tuple[Tensor, Tensor, Tensor]:
    """Logits of 17 overfitted models, to be replaced by your own: members' true class stands out.

    Each shadow and the next one train on complementary halves, so that every example has 8 shadows
    that trained on it and 8 that did not.
    """
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(500) % 10
    halves = torch.rand(9, 500, generator=generator).argsort(1) < 250
    members = torch.cat([halves[:1], torch.stack([halves[1:], ~halves[1:]], 1).flatten(0, 1)])
    logits = torch.randn(17, 500, 10, generator=generator)
    logits += 1.5 * members[..., None] * (torch.arange(10) == labels[:, None])
    return logits, labels, members


def main(run_dir: Path, picture: Path) -> None:
    """Print the points of an audit, draw them, and attack simulated arrays."""
    path = run_dir / "audit" / "results.json"
    if not path.exists():
        sys.exit(f"No {path}. Run `python audit.py --run_dir {shlex.quote(str(run_dir))}` first.")
    results = json.loads(path.read_text(encoding="utf-8"))
    points, tail = read_points(results), read_points(results, results["tail"])
    for average, rare in zip(points, tail, strict=True):
        print(
            f"{average.variant}: accuracy {average.accuracy.value:.3f}, "
            f"AUC {average.risk.value:.3f} by {average.attack}, "
            f"{results['tail']} {rare.risk.value:.3f} by {rare.attack}"
        )
    draw(points).savefig(picture)
    auc = attack(*simulate())
    print(f"LiRA on simulated logits: AUC {auc.value:.3f} ({auc.low:.3f}-{auc.high:.3f})")


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else "runs/digits"), Path("accuracy_and_auc.png"))
