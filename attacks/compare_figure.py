"""Several experiments in one figure: accuracy against leakage, and leakage by variant."""

from collections.abc import Sequence
from itertools import chain, count
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from attacks.compare import Entry, estimate
from attacks.figures import FILLS, TITLES
from attacks.looks import MARKERS

FIRST, LAST = -0.3, 0.3  # of a variant's points, about its place on the axis


def comparison_figure(entries: Sequence[Entry]) -> Figure:
    """A colour an experiment, a marker a variant, filled and hollow for both kinds of shadows."""
    variants = list(dict.fromkeys(entry.variant for entry in entries))
    experiments = list(dict.fromkeys(entry.experiment for entry in entries))
    more = ((points, 1, 0) for points in count(4))  # stars, once the common markers are used up
    rest = (variant for variant in variants if variant != "full")
    markers: dict[str, Any] = {"full": "*"} | dict(zip(rest, chain(MARKERS, more), strict=False))
    colours = {name: colormaps["tab10"](i % 10) for i, name in enumerate(experiments)}
    figure = Figure(figsize=(11, 9.5), layout="constrained")
    plane, by_variant = figure.subplots(2, 1)
    step = (LAST - FIRST) / (2 * len(experiments) - 1)
    for entry in entries:
        look = {"color": colours[entry.experiment], "marker": markers[entry.variant]}
        start = variants.index(entry.variant) + FIRST
        start += 2 * step * experiments.index(entry.experiment)
        _draw(plane, by_variant, entry, look, (start, start + step))
    for axes in (plane, by_variant):
        axes.set_ylabel("AUC")
        axes.axhline(0.5, color="gray", ls=":", lw=1)
        axes.grid(alpha=0.25)
    plane.set_xlabel("test accuracy")
    turned: dict[str, Any] = {"rotation": 30, "ha": "right"} if len(variants) > 6 else {}
    by_variant.set_xticks(range(len(variants)), variants, parse_math=False, **turned)
    handles = [_entry(name, colour, "s") for name, colour in colours.items()]
    handles += [_entry(variant, "gray", markers[variant]) for variant in variants]
    handles += [_entry(TITLES[kind], "gray", "o", fill) for kind, fill in FILLS.items()]
    figure.legend(handles=handles, fontsize="small", loc="outside right upper")
    return figure


def _draw(
    plane: Axes, by_variant: Axes, entry: Entry, look: dict[str, Any], places: tuple[float, float]
) -> None:
    """Both points of an entry, in both panels."""
    across = entry.accuracy
    sides = [[across.value - across.low], [across.high - across.value]]
    for line, fill, place in zip((entry.matched, entry.full), FILLS.values(), places, strict=True):
        if line is not None:
            auc = estimate(line, "auc")
            look |= {"yerr": [[auc.value - auc.low], [auc.high - auc.value]], "fillstyle": fill}
            look |= {"elinewidth": 0.7, "markersize": 6.5}
            plane.errorbar(across.value, auc.value, xerr=sides, **look)
            by_variant.errorbar(place, auc.value, **look)


def _entry(label: str, colour: Any, marker: Any, fill: Any = "full") -> Line2D:  # noqa: ANN401
    look: dict[str, Any] = {"color": colour, "marker": marker, "fillstyle": fill, "markersize": 7}
    return Line2D([], [], ls="", label=label.replace("$", r"\$"), **look)
