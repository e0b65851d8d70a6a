"""A figure as data: what the files for papers and the figures of the report are both made from."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

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
