"""Charts for papers, drawn by matplotlib."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from reporting.charts import GUIDE, HEAT, Chart, Heat, Panel, Series, chosen, leans_left
from storage.files import write_whole

DPI = 150  # of every figure


def draw(chart: Chart) -> Figure:
    """Draw a chart."""
    figure = Figure(figsize=chart.size, dpi=DPI)
    panels = chart.panels
    shape = len(panels), len(panels[0])
    grid = figure.subplots(*shape, sharex=chart.share_x, sharey=chart.share_y, squeeze=False)
    for row, line in zip(grid, panels, strict=True):
        for axes, panel in zip(row, line, strict=True):
            if panel is None:
                axes.set_visible(False)
            else:
                _plot(axes, panel)
    for i, line in enumerate(panels):  # once everything is drawn
        for j, panel in enumerate(line):
            if panel is not None:
                _scale(grid[i, j], panel)
                _label(grid[i, j], panel, chart, i, j)
    if chart.title:
        figure.suptitle(chart.title)
    if chart.legend:
        handles = [Line2D([], [], **_style(series)) for series in chart.legend]
        figure.legend(handles=handles, fontsize="small", loc="outside right upper")
    # once, here: a figure that has a layout engine is laid out and drawn twice when it is saved
    with _boxes():
        ConstrainedLayoutEngine().execute(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole."""
    with _boxes():
        write_whole(path, partial(figure.savefig, format="png", dpi=DPI))


@contextmanager
def _boxes() -> Iterator[None]:
    """Let letters of names that the font lacks be boxes, without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from", UserWarning)
        yield


def _plot(axes: Axes, panel: Panel) -> None:
    series = chosen(panel)
    if panel.heat is not None:
        _heat(axes, panel.heat)
    for curve in series:
        _series(axes, curve)
        if curve.note:
            left = leans_left(curve, panel)
            axes.annotate(
                curve.note,
                (curve.x[0], curve.y[0]),
                (-6 if left else 6, 0),
                textcoords="offset points",
                ha="right" if left else "left",
                va="center",
                fontsize="small",
                color=curve.colour,
                parse_math=False,
            )
    for guide in panel.guides:
        style: dict[str, Any] = {"color": GUIDE, "ls": ":", "lw": 1, "label": guide.label or None}
        if guide.x is not None:
            axes.axvline(guide.x, **style)
        elif guide.y is not None:
            axes.axhline(guide.y, **style)
        else:
            axes.axline((0.1, 0.1), (1, 1), **style)
    if panel.legend:
        size = "small" if len(series) < 6 else "x-small"
        axes.legend(fontsize=size, loc=panel.legend)
    axes.grid(alpha=0 if panel.heat else 0.25)


def _heat(axes: Axes, heat: Heat) -> None:
    rows, columns = len(heat.values), len(heat.values[0])
    extent = (0.5, columns + 0.5, rows + 0.5, 0.5)
    low, high = heat.limits
    axes.imshow(heat.values, cmap=HEAT, vmin=low, vmax=high, extent=extent, aspect="auto", zorder=0)
    for row, values in enumerate(heat.values, start=1):
        for column, value in enumerate(values, start=1):
            bright = value > (low + high) / 2
            axes.text(
                column,
                row,
                heat.number(value),
                ha="center",
                va="center",
                fontsize="x-small",
                color="black" if bright else "white",
            )


def _scale(axes: Axes, panel: Panel) -> None:
    for axis, name in ((panel.x, "x"), (panel.y, "y")):
        if axis.log:
            # with all of 2 to 9, drawing a page of ROC curves took half as long again
            getattr(axes, f"set_{name}scale")("log", subs=(2, 5))
        if axis.limits != (None, None):
            getattr(axes, f"set_{name}lim")(*axis.limits)
        if axis.ticks:
            places, texts = zip(*axis.ticks, strict=True)
            turned: dict[str, Any] = {"rotation": 90, "fontsize": "small"} if axis.upright else {}
            getattr(axes, f"set_{name}ticks")(places, texts, parse_math=False, **turned)
            getattr(axes, f"{name}axis").minorticks_off()


def _label(axes: Axes, panel: Panel, chart: Chart, row: int, column: int) -> None:
    """Set titles and labels, without repeating those of a neighbour."""
    panels = chart.panels
    above = panels[row - 1][column] if row else None
    left = panels[row][column - 1] if column else None
    below = panels[row + 1][column] if row + 1 < len(panels) else None
    if above is None or above.title != panel.title:
        axes.set_title(panel.title)
    if below is None or chart.share_x not in ("all", "col"):
        axes.set_xlabel(panel.x.label)
        axes.tick_params(labelbottom=True)  # matplotlib has them in the last row only
    name = "" if left is not None and left.name == panel.name else panel.name
    label = "" if left is not None and chart.share_y in ("all", "row") else panel.y.label
    axes.set_ylabel(": ".join(filter(None, (name, label))))


def _style(series: Series) -> dict[str, Any]:
    dashes = series.dashes
    return {
        "color": series.colour,
        "marker": series.marker or "None",
        "markersize": series.size,
        "fillstyle": "bottom" if series.half else "full" if series.filled else "none",
        "markerfacecoloralt": "none",
        "linestyle": "None" if dashes is None else (0, dashes) if dashes else "-",
        "linewidth": series.width,
        "drawstyle": "steps-post" if series.steps else "default",
        "label": series.label or None,
    }


def _series(axes: Axes, series: Series) -> None:
    x, y, edges = series.x, series.y, series.y_interval
    if series.band and edges is not None:
        step: Literal["post"] | None = "post" if series.steps else None
        axes.fill_between(x, *edges, color=series.colour, alpha=0.12, lw=0, step=step)
        edges = None
    if edges is None and series.x_interval is None:
        axes.plot(x, y, **_style(series))
        return
    bars: dict[str, Any] = {"elinewidth": series.bars}
    for key, values, interval in (("xerr", x, series.x_interval), ("yerr", y, edges)):
        if interval is not None:
            low, high = interval
            bars[key] = [
                [value - edge for value, edge in zip(values, low, strict=True)],
                [edge - value for value, edge in zip(values, high, strict=True)],
            ]
    axes.errorbar(x, y, **bars, **_style(series))
