"""The figures of what follows from the scores: convergence, and who is exposed."""

from collections.abc import Mapping
from math import ceil

from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from torch import Tensor

from attacks.exposure import most_exposed
from attacks.intervals import Estimate
from attacks.looks import looks


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
