"""The figures of what follows from the scores: convergence, and who is exposed."""

from collections.abc import Mapping
from math import ceil

from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from torch import Tensor

from attacks.metrics.exposure import most_exposed
from attacks.metrics.intervals import Estimate
from reporting.charts import Axis, Chart, Guide, Panel, Series
from reporting.styles import Look, by_method, looks


def convergence_chart(convergence: Mapping[str, tuple[str, Mapping[int, Estimate]]]) -> Chart:
    """AUC against the number of shadows, of the strongest attack on each variant.

    A panel a quantization method, in each of which full precision is drawn again.
    """
    shown = looks(list(convergence))
    counts = sorted({count for _, points in convergence.values() for count in points})
    limits = counts[0] / 1.1, counts[-1] * 1.1
    x = Axis("shadow models", True, limits, [(count, str(count)) for count in counts])
    panels: list[Panel | None] = []
    for method, variants in by_method(shown).items():
        lines = [_line(variant, *convergence[variant], shown[variant]) for variant in variants]
        guides = [Guide(y=0.5)]
        panels.append(Panel(lines, x, Axis("AUC"), method, guides=guides, legend="best"))
    columns = min(3, len(panels))
    rows = ceil(len(panels) / columns)
    panels += [None] * (rows * columns - len(panels))
    grid = [panels[i * columns : (i + 1) * columns] for i in range(rows)]
    return Chart(grid, (max(8, 4 * columns), 3.4 * rows), share_y="all")


def _line(variant: str, attack: str, points: Mapping[int, Estimate], look: Look) -> Series:
    estimates = points.values()
    return Series(
        f"{variant} ({attack})",
        list(points),
        [estimate.value for estimate in estimates],
        y_interval=([one.low for one in estimates], [one.high for one in estimates]),
        colour=look.colour,
        marker=".",
        dashes=look.dashes,
        band=True,
        variant=variant,
        knowledge="matched",
        attack=attack,
    )


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
