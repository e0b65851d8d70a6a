"""The figures of the report: rows and records in, matplotlib figures out."""

from collections.abc import Mapping, Sequence
from math import ceil, nan
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attacks.evaluate import FPR_GRID, Knowledge, Metric, Row, strongest
from attacks.intervals import Estimate
from attacks.looks import Look, legend, looks
from attacks.making import Making

TITLES: dict[Knowledge, str] = {
    "matched": "shadows quantized like the target",
    "full": "full-precision shadows",
}
FEW = 10  # false positives under which a TPR is marked
MARK = "†"
FILLS: dict[Knowledge, Literal["full", "none"]] = {"matched": "full", "full": "none"}


def _of(
    rows: Sequence[Row], variant: str, knowledge: Knowledge, metric: Metric = "auc"
) -> Row | None:
    """The strongest attack with one kind of shadows or none; against `full` both kinds are one."""
    kinds = ("none", "matched" if variant == "full" else knowledge)
    return strongest([row for row in rows if row.knowledge in kinds], variant, metric)


def roc_figure(rows: Sequence[Row], non_members: int) -> Figure:
    """ROC of the strongest attack on each variant, on log axes.

    A row of panels a quantization method, in each of which full precision is drawn again, and a
    column a kind of knowledge.
    """
    shown = looks(list(dict.fromkeys(row.variant for row in rows)))
    methods = list(dict.fromkeys(look.method for look in shown.values()))
    methods = [method for method in methods if method != "full"] or methods
    height = 4.6 if len(methods) == 1 else 3.2 * len(methods)
    figure = Figure(figsize=(10, height), layout="constrained")
    left = max(1 / non_members, FPR_GRID[0].item())  # below one false positive there is no curve
    panels = figure.subplots(len(methods), 2, sharex=True, sharey=True, squeeze=False)
    for method, pair in zip(methods, panels, strict=True):
        some = {v: look for v, look in shown.items() if look.method in ("full", method)}
        for axes, knowledge in zip(pair, TITLES, strict=True):
            _roc(axes, rows, some, knowledge)
            axes.set(xscale="log", yscale="log", xlim=(left, 1), ylim=(left, 1))
            if len(methods) > 1:
                axes.minorticks_off()  # decades suffice, and small ticks cost half the drawing
        pair[0].set_ylabel("true positive rate" if len(methods) == 1 else f"{method}: TPR")
    for axes, knowledge in zip(panels[0], TITLES, strict=True):
        axes.set_title(f"Attacker with {TITLES[knowledge]}")
    for axes in panels[-1]:
        axes.set_xlabel("false positive rate")
    return figure


def _roc(axes: Axes, rows: Sequence[Row], shown: Mapping[str, Look], knowledge: Knowledge) -> None:
    for variant, look in shown.items():
        row = _of(rows, variant, knowledge)
        if row is not None:
            label = f"{variant} ({row.attack})"
            axes.plot(FPR_GRID, row.curve, color=look.colour, ls=look.line, label=label, lw=1.5)
    axes.plot(FPR_GRID, FPR_GRID, color="gray", ls=":", lw=1, label="guessing")
    axes.legend(fontsize="small" if len(shown) < 6 else "x-small", loc="lower right")
    axes.grid(alpha=0.25)


def plane_figure(rows: Sequence[Row], accuracy: Mapping[str, Estimate]) -> Figure:
    """Utility against leakage, as Fig. 1 of arXiv:2512.15335, for both kinds of attacker."""
    figure = Figure(figsize=(11.5, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    few = min(row.summary.false_positives_01pct for row in rows) < FEW
    shown = looks(list(accuracy))
    _plane(left, rows, accuracy, shown, "auc", "AUC")
    label = "TPR at 0.1% FPR" + (f" {MARK}" if few else "")
    _plane(right, rows, accuracy, shown, "tpr_01pct", label)
    left.axhline(0.5, color="gray", ls=":", lw=1)
    figure.suptitle("filled: shadows quantized like the target; hollow: full-precision shadows")
    figure.legend(
        handles=legend(shown, list(accuracy)), fontsize="small", loc="outside right upper"
    )
    return figure


def _plane(
    axes: Axes,
    rows: Sequence[Row],
    accuracy: Mapping[str, Estimate],
    shown: Mapping[str, Look],
    metric: Metric,
    label: str,
) -> None:
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
                color=shown[variant].colour,
                marker=shown[variant].marker,
                markersize=8 if len(accuracy) < 8 else 6.5,
                fillstyle=fill,
                elinewidth=0.8 if len(accuracy) < 8 else 0.4,
                label=variant if knowledge == "matched" else None,
            )
    axes.set(xlabel="test accuracy", ylabel=label)
    axes.grid(alpha=0.25)


def layers_figure(made: Mapping[str, Making | None]) -> Figure | None:
    """What became of each layer: share of moved weights, and error before and after.

    A row of panels a recipe. None where there is nothing to see, as in rounding to nearest.
    """
    shown = looks(list(made))
    moved = {variant: making for variant, making in made.items() if making and making.moves}
    if not moved:
        return None
    recipes = list(dict.fromkeys(shown[variant].recipe for variant in moved))
    names = list(dict.fromkeys(layer.name for making in moved.values() for layer in making.layers))
    figure = Figure(figsize=(12, 1.6 + 1.9 * len(recipes)), layout="constrained")
    panels = figure.subplots(len(recipes), 2, sharex=True, sharey="col", squeeze=False)
    for recipe, (left, right) in zip(recipes, panels, strict=True):
        for variant, making in moved.items():
            if shown[variant].recipe == recipe:
                _layers(left, right, making, names, shown[variant])
        left.set_ylabel(recipe)
    panels[0, 0].set_title("share of weights not at the nearest code")
    panels[0, 1].set_title("relative error; hollow: nearest codes, filled: chosen ones")
    panels[0, 0].set_ylim(bottom=0)
    step = ceil(len(names) / 40)  # more names than that cannot be read
    style: dict[str, Any] = {"rotation": 90, "fontsize": "small", "parse_math": False}
    for axes in panels[-1]:
        axes.set_xticks(range(0, len(names), step), names[::step], **style)
    entries = [line for line in legend(shown, list(moved)) if line.get_label() not in recipes]
    figure.legend(handles=entries, fontsize="small", loc="outside right upper")
    return figure


def _layers(left: Axes, right: Axes, made: Making, names: list[str], look: Look) -> None:
    colour, at = look.colour, [names.index(layer.name) for layer in made.layers]
    style: dict[str, Any] = {"color": colour, "marker": "o", "markersize": 4, "lw": 1}
    left.plot(at, [layer.flipped for layer in made.layers], **style)
    right.set_yscale("log")
    for key, ls, fill in (("before", "--", "none"), ("after", "-", "full")):
        errors = [getattr(layer, key) or nan for layer in made.layers]  # nought has no logarithm
        if any(error > 0 for error in errors):
            right.plot(at, errors, ls=ls, fillstyle=fill, **style)
    for axes in (left, right):
        axes.grid(alpha=0.25)
