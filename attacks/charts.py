"""A figure as data: what the files for papers and the figures of the report are both made from."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

INK = "black"  # of what is drawn in the colour of the text
GUIDE = "gray"
Place = Literal["", "best", "upper left", "upper right", "lower left", "lower right"]
Share = Literal["none", "all", "row", "col"]
Interval = tuple[Sequence[float], Sequence[float]]  # lows and highs


class Series(NamedTuple):
    """Points, or a line through them, in one look.

    Attributes:
        label: in the legend.
        x: of each point; a category is a number that the axis has a name for.
        y: of each point, NaN where the line is broken.
        x_interval: error bars along x.
        y_interval: error bars along y, or the edges of a band.
        colour: any that matplotlib knows; `INK` is light on a dark page.
        marker: matplotlib's letter, "" for none.
        filled: whether markers are.
        size: of markers, in points.
        dashes: lengths of dashes and gaps, in widths of the line; () is solid, None no line.
        width: of the line, in points.
        bars: width of the error bars, in points.
        band: whether `y_interval` is a band.
        steps: whether y stays until the next x, as in a histogram's outline over its edges.
        names: of the points, for whoever points at them.
        variant: what it is of, by which the page selects; "" for what is always shown.
        knowledge: as `variant`.
        attack: as `variant`.
        group: of series that are alternatives only the one of the highest rank is drawn, on the
            page among those selected; "" for one without alternatives.
        rank: within the group.
    """

    label: str
    x: Sequence[float] = ()
    y: Sequence[float] = ()
    x_interval: Interval | None = None
    y_interval: Interval | None = None
    colour: Any = INK
    marker: str = ""
    filled: bool = True
    size: float = 6.0
    dashes: tuple[float, ...] | None = None
    width: float = 1.5
    bars: float = 0.8
    band: bool = False
    steps: bool = False
    names: Sequence[str] = ()
    variant: str = ""
    knowledge: str = ""
    attack: str = ""
    group: str = ""
    rank: float = 0.0


class Guide(NamedTuple):
    """A dotted line to compare with: at one x, at one y, or where both are equal."""

    x: float | None = None
    y: float | None = None
    label: str = ""


class Axis(NamedTuple):
    """An axis; without ticks (places and what stands there) they are found."""

    label: str = ""
    log: bool = False
    limits: tuple[float | None, float | None] = (None, None)
    ticks: Sequence[tuple[float, str]] = ()
    upright: bool = False  # ticks with long names, along a horizontal axis


class Panel(NamedTuple):
    """One pair of axes.

    Attributes:
        series: from back to front.
        x: the horizontal axis.
        y: the vertical one.
        title: said once for panels below each other.
        name: of its row, said once for panels beside each other.
        guides: lines to compare with.
        legend: where it is, in the figures for papers; "" for none.
    """

    series: Sequence[Series]
    x: Axis = Axis()
    y: Axis = Axis()
    title: str = ""
    name: str = ""
    guides: Sequence[Guide] = ()
    legend: Place = ""


class Chart(NamedTuple):
    """Rows of panels.

    Attributes:
        panels: rows of one length; None leaves a place empty.
        size: width and height in inches.
        title: of the whole.
        legend: of the whole, as series without points.
        share_x: which panels have one horizontal axis, as matplotlib's `sharex`.
        share_y: as `share_x`.
    """

    panels: Sequence[Sequence[Panel | None]]
    size: tuple[float, float]
    title: str = ""
    legend: Sequence[Series] = ()
    share_x: Share = "none"
    share_y: Share = "none"


def chosen(panel: Panel) -> list[Series]:
    """What is drawn when nothing is selected: of each group the first of the highest rank."""
    best: dict[str, Series] = {}
    for series in panel.series:
        if series.group not in best or series.rank > best[series.group].rank:
            best[series.group] = series
    return [s for s in panel.series if not s.group or s is best[s.group]]


def draw(chart: Chart) -> Figure:
    """The chart by matplotlib."""
    figure = Figure(figsize=chart.size, layout="constrained")
    panels = chart.panels
    shape = len(panels), len(panels[0])
    grid = figure.subplots(*shape, sharex=chart.share_x, sharey=chart.share_y, squeeze=False)
    for row, line in zip(grid, panels, strict=True):
        for axes, panel in zip(row, line, strict=True):
            if panel is None:
                axes.set_visible(False)
            else:
                _plot(axes, panel)
    for i, line in enumerate(panels):  # now that all there is to see is there
        for j, panel in enumerate(line):
            if panel is not None:
                _scale(grid[i, j], panel)
                _label(grid[i, j], panel, chart, i, j)
    if chart.title:
        figure.suptitle(chart.title)
    if chart.legend:
        handles = [Line2D([], [], **_style(series)) for series in chart.legend]
        figure.legend(handles=handles, fontsize="small", loc="outside right upper")
    return figure


def _plot(axes: Axes, panel: Panel) -> None:
    series = chosen(panel)
    for one in series:
        _series(axes, one)
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
    axes.grid(alpha=0.25)


def _scale(axes: Axes, panel: Panel) -> None:
    for axis, name in ((panel.x, "x"), (panel.y, "y")):
        if axis.log:
            getattr(axes, f"set_{name}scale")("log")
        if axis.limits != (None, None):
            getattr(axes, f"set_{name}lim")(*axis.limits)
        if axis.ticks:
            places, texts = zip(*axis.ticks, strict=True)
            turned: dict[str, Any] = {"rotation": 90, "fontsize": "small"} if axis.upright else {}
            getattr(axes, f"set_{name}ticks")(places, texts, parse_math=False, **turned)
            getattr(axes, f"{name}axis").minorticks_off()


def _label(axes: Axes, panel: Panel, chart: Chart, row: int, column: int) -> None:
    """Titles and labels; what a neighbour says is not repeated."""
    panels = chart.panels
    above = panels[row - 1][column] if row else None
    left = panels[row][column - 1] if column else None
    below = panels[row + 1][column] if row + 1 < len(panels) else None
    if above is None or above.title != panel.title:
        axes.set_title(panel.title)
    if below is None or chart.share_x not in ("all", "col"):
        axes.set_xlabel(panel.x.label)
        axes.tick_params(labelbottom=True)  # matplotlib has them in the last row alone
    name = "" if left is not None and left.name == panel.name else panel.name
    label = "" if left is not None and chart.share_y in ("all", "row") else panel.y.label
    axes.set_ylabel(": ".join(filter(None, (name, label))))


def _style(series: Series) -> dict[str, Any]:
    dashes = series.dashes
    return {
        "color": series.colour,
        "marker": series.marker or "None",
        "markersize": series.size,
        "fillstyle": "full" if series.filled else "none",
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
