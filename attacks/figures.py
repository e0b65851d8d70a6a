"""The figures of the report: rows and records in, matplotlib figures out."""

from collections.abc import Mapping, Sequence
from math import ceil, nan
from typing import Any, Literal, NamedTuple

from jaxtyping import Float, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from attacks.evaluate import FPR_GRID, Knowledge, Metric, Row, strongest
from attacks.exposure import most_exposed
from attacks.intervals import Estimate
from attacks.making import Making

TITLES: dict[Knowledge, str] = {
    "matched": "shadows quantized like the target",
    "full": "full-precision shadows",
}
FEW = 10  # false positives under which a TPR is marked
MARK = "†"
FILLS: dict[Knowledge, Literal["full", "none"]] = {"matched": "full", "full": "none"}
MARKERS = "osD^vPXph<>8dH"
LINES = ("-", "--", "-.", (0, (4, 1, 1, 1, 1, 1)), (0, (2, 2)), (0, (6, 1)))


class Look(NamedTuple):
    """How a variant is drawn: its bits are the colour, its method and settings the marker.

    Attributes:
        method: what is before the bits in its name, which is a panel of its own where lines are.
        recipe: method and settings, the name without its bits: `obc-last8`.
        bits: as in its name.
        colour: black for full precision.
        marker: of a point.
        line: its style, by the settings among those of the method.
    """

    method: str
    recipe: str
    bits: str
    colour: Any
    marker: str
    line: Any


def looks(variants: Sequence[str]) -> dict[str, Look]:
    """Looks of `full` and of variants named METHOD-wBITS[-SETTINGS]: no two alike."""
    parts = {}
    for variant in (variant for variant in variants if variant != "full"):
        method, _, rest = variant.partition("-w")
        bits, dash, settings = rest.partition("-")
        parts[variant] = method, f"{method}{dash}{settings}", bits
    widths = sorted({bits for *_, bits in parts.values()}, key=_width, reverse=True)
    step = 0.78 / max(1, len(widths) - 1)
    colours = {bits: colormaps["plasma"](0.05 + i * step) for i, bits in enumerate(widths)}
    recipes = list(dict.fromkeys(recipe for _, recipe, _ in parts.values()))
    found = dict.fromkeys(variants, Look("full", "full", "", "black", "*", "-"))
    for variant, (method, recipe, bits) in parts.items():
        marker = MARKERS[recipes.index(recipe) % len(MARKERS)]
        siblings = list(dict.fromkeys(r for m, r, _ in parts.values() if m == method))
        line = LINES[siblings.index(recipe) % len(LINES)]
        found[variant] = Look(method, recipe, bits, colours[bits], marker, line)
    return found


def _width(bits: str) -> float:
    return float(bits) if bits.replace(".", "", 1).isdigit() else 0.0


def _key(shown: Mapping[str, Look], variants: Sequence[str]) -> list[Line2D]:
    """Entries of a legend: one a number of bits and one a recipe, instead of one a variant."""
    quantized = [shown[variant] for variant in variants if variant != "full"]
    entries = [("full", "black", "*")] if "full" in variants else []
    colours = {look.bits: look.colour for look in quantized}
    widths = sorted(colours, key=_width, reverse=True)
    entries += [(f"{bits} bits", colours[bits], "s") for bits in widths]
    markers = {look.recipe: look.marker for look in quantized}
    entries += [(recipe, "gray", marker) for recipe, marker in markers.items()]
    return [
        Line2D([], [], ls="", color=colour, marker=marker, markersize=7, label=label)
        for label, colour, marker in entries
    ]


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
    figure.legend(handles=_key(shown, list(accuracy)), fontsize="small", loc="outside right upper")
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
    entries = [line for line in _key(shown, list(moved)) if line.get_label() not in recipes]
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


def convergence_figure(convergence: Mapping[str, tuple[str, Mapping[int, Estimate]]]) -> Figure:
    """AUC against the number of shadows, of the strongest attack on each variant.

    A panel a quantization method, in each of which full precision is drawn again.
    """
    shown = looks(list(convergence))
    methods = list(dict.fromkeys(look.method for look in shown.values()))
    methods = [method for method in methods if method != "full"] or methods
    columns = min(3, len(methods))
    rows = ceil(len(methods) / columns)
    figure = Figure(figsize=(max(8, 4 * columns), 3.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for method, axes in zip(methods, panels.flat, strict=False):
        for variant, (attack, points) in convergence.items():
            look = shown[variant]
            if look.method in ("full", method):
                low, value, high = zip(
                    *((e.low, e.value, e.high) for e in points.values()), strict=True
                )
                label, counts = f"{variant} ({attack})", list(points)
                axes.plot(counts, value, color=look.colour, ls=look.line, marker=".", label=label)
                axes.fill_between(counts, low, high, color=look.colour, alpha=0.12, lw=0)
        counts = sorted({count for _, points in convergence.values() for count in points})
        axes.set(xscale="log", xticks=counts, xticklabels=counts, xlabel="shadow models")
        axes.minorticks_off()
        axes.tick_params(labelbottom=True)  # below the panels of the last row there may be none
        axes.axhline(0.5, color="gray", ls=":", lw=1)
        axes.legend(fontsize="x-small")
        axes.grid(alpha=0.25)
    for axes in panels.flat[len(methods) :]:
        axes.set_visible(False)
    for row in panels:
        row[0].set_ylabel("AUC")
    return figure


def gallery_figure(
    images: UInt8[Tensor, "examples channels height width"],
    exposures: Mapping[str, Float[Tensor, " examples"]],
    count: int = 16,
) -> Figure:
    """The images that are most exposed in each variant, the most exposed first."""
    figure = Figure(figsize=(0.75 * count + 1.6, 0.95 * len(exposures) + 0.3), layout="constrained")
    panels = figure.subplots(len(exposures), count, squeeze=False)
    for row, (variant, some) in zip(panels, exposures.items(), strict=True):
        for axes in row:
            axes.set(xticks=[], yticks=[], frame_on=False)
        for axes, index in zip(row, most_exposed(some, count).tolist(), strict=False):
            image = images[index].movedim(0, -1).squeeze(-1).numpy()
            axes.imshow(image, cmap="gray", interpolation="nearest")
            axes.set_title(f"{index}: {100 * some[index]:.1f}%", fontsize=6, pad=2)
        row[0].set_ylabel(variant, rotation=0, ha="right", va="center", fontsize=8)
    return figure
