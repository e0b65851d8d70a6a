"""The figures of the report: rows in, matplotlib figures out."""

from collections.abc import Mapping, Sequence
from typing import Literal

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attacks.evaluate import FPR_GRID, Knowledge, Metric, Row, strongest
from attacks.intervals import Estimate

TITLES: dict[Knowledge, str] = {
    "matched": "shadows quantized like the target",
    "full": "full-precision shadows",
}
FEW = 10  # false positives under which a TPR is marked
MARK = "†"
FILLS: dict[Knowledge, Literal["full", "none"]] = {"matched": "full", "full": "none"}


def _colours(variants: Sequence[str]) -> dict[str, object]:
    """Black for full precision, then one colour a variant."""
    quantized = [variant for variant in variants if variant != "full"]
    shades = colormaps["plasma"]
    step = 0.78 / max(1, len(quantized) - 1)
    return {"full": "black"} | {v: shades(0.05 + i * step) for i, v in enumerate(quantized)}


def _of(
    rows: Sequence[Row], variant: str, knowledge: Knowledge, metric: Metric = "auc"
) -> Row | None:
    """The strongest attack with one kind of shadows or none; against `full` both kinds are one."""
    kinds = ("none", "matched" if variant == "full" else knowledge)
    return strongest([row for row in rows if row.knowledge in kinds], variant, metric)


def roc_figure(rows: Sequence[Row], non_members: int) -> Figure:
    """ROC of the strongest attack on each variant, on log axes, a panel a kind of knowledge."""
    variants = list(dict.fromkeys(row.variant for row in rows))
    colours = _colours(variants)
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left = max(1 / non_members, FPR_GRID[0].item())  # below one false positive there is no curve
    for axes, knowledge in zip(figure.subplots(1, 2, sharey=True), TITLES, strict=True):
        for variant in variants:
            row = _of(rows, variant, knowledge)
            if row is not None:
                label = f"{variant} ({row.attack})"
                axes.plot(FPR_GRID, row.curve, color=colours[variant], label=label, lw=1.5)
        axes.plot(FPR_GRID, FPR_GRID, color="gray", ls=":", lw=1, label="guessing")
        axes.set(xscale="log", yscale="log", xlim=(left, 1), ylim=(left, 1))
        axes.set(xlabel="false positive rate", title=f"Attacker with {TITLES[knowledge]}")
        axes.legend(fontsize="small", loc="lower right")
        axes.grid(alpha=0.25)
    figure.axes[0].set_ylabel("true positive rate (mean over targets)")
    return figure


def plane_figure(rows: Sequence[Row], accuracy: Mapping[str, Estimate]) -> Figure:
    """Utility against leakage, as Fig. 1 of arXiv:2512.15335, for both kinds of attacker."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    few = min(row.summary.false_positives_01pct for row in rows) < FEW
    _plane(left, rows, accuracy, "auc", "AUC")
    _plane(right, rows, accuracy, "tpr_01pct", "TPR at 0.1% FPR" + (f" {MARK}" if few else ""))
    left.axhline(0.5, color="gray", ls=":", lw=1)
    figure.suptitle("filled: shadows quantized like the target; hollow: full-precision shadows")
    return figure


def _plane(
    axes: Axes,
    rows: Sequence[Row],
    accuracy: Mapping[str, Estimate],
    metric: Metric,
    label: str,
) -> None:
    colours = _colours(list(accuracy))
    for variant, utility in accuracy.items():
        for knowledge, fill in FILLS.items():
            row = _of(rows, variant, knowledge, metric)
            if row is None or (variant == "full" and knowledge == "full"):
                continue
            leak: Estimate = getattr(row.summary, metric)
            axes.errorbar(
                utility.value,
                leak.value,
                xerr=[[utility.value - utility.low], [utility.high - utility.value]],
                yerr=[[leak.value - leak.low], [leak.high - leak.value]],
                color=colours[variant],
                marker="o",
                markersize=8,
                fillstyle=fill,
                elinewidth=0.8,
                label=variant if knowledge == "matched" else None,
            )
    axes.set(xlabel="test accuracy", ylabel=label)
    axes.legend(fontsize="small", loc="upper left")  # what is accurate and leaks is on the right
    axes.grid(alpha=0.25)
