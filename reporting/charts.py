"""A figure as data, from which both the files for papers and the figures of the page are drawn."""

from collections.abc import Sequence
from math import isnan
from typing import Any, Literal, NamedTuple

INK = "black"  # the colour of the text; light on a dark page
GUIDE = "gray"
HEAT = "viridis"  # colours of a matrix, of both libraries
Place = Literal["", "best", "upper left", "upper right", "lower left", "lower right"]
Share = Literal["none", "all", "row", "col"]
Interval = tuple[Sequence[float], Sequence[float]]  # lows and highs


class Choice(NamedTuple):
    """What the page selects a series by, and what it is an alternative to.

    Attributes:
        variant: the variant that it shows; empty: shown whatever is selected. So are the next two.
        knowledge: what the attacker's shadows went through.
        attack: the attack that it shows.
        group: series of one group are alternatives, and only the highest-ranked selected one is
            drawn. Empty: always drawn.
        rank: within the group; the first of equal ranks is drawn.
    """

    variant: str = ""
    knowledge: str = ""
    attack: str = ""
    group: str = ""
    rank: float = 0.0


class Series(NamedTuple):
    """Points, or a line through them, in one style.

    Attributes:
        label: its text in the legend.
        x: position of each point; a category is a number that the axis has a name for.
        y: height of each point, NaN where the line is broken.
        x_interval: error bars along x.
        y_interval: error bars along y, or the edges of a band.
        colour: any that matplotlib knows.
        marker: matplotlib's letter; empty: no markers.
        filled: whether the markers are filled.
        half: whether half of a marker is filled, or a dot in it where halves cannot be drawn.
        size: size of the markers, in points.
        dashes: lengths of dashes and gaps, in widths of the line; () is solid, None no line.
        width: width of the line, in points.
        bars: width of the error bars, in points.
        band: whether `y_interval` is a band.
        steps: whether y stays until the next x, as in a histogram's outline over its edges.
        names: names of the points, shown where the mouse points at them.
        note: text beside a point that stands at the edge, because its place is beyond the limits;
            `names` then has its values.
        choice: what the page selects it by.
    """

    label: str
    x: Sequence[float] = ()
    y: Sequence[float] = ()
    x_interval: Interval | None = None
    y_interval: Interval | None = None
    colour: Any = INK
    marker: str = ""
    filled: bool = True
    half: bool = False
    size: float = 6.0
    dashes: tuple[float, ...] | None = None
    width: float = 1.5
    bars: float = 0.8
    band: bool = False
    steps: bool = False
    names: Sequence[str] = ()
    note: str = ""
    choice: Choice = Choice()


class Guide(NamedTuple):
    """A dotted line to compare with: at one x, at one y, or where x and y are equal."""

    x: float | None = None
    y: float | None = None
    label: str = ""


class Axis(NamedTuple):
    """An axis; without ticks (positions and their texts) the plotting library chooses them."""

    label: str = ""
    log: bool = False
    limits: tuple[float | None, float | None] = (None, None)
    ticks: Sequence[tuple[float, str]] = ()
    upright: bool = False  # ticks with long names, along a horizontal axis


class Heat(NamedTuple):
    """A matrix in colours, whose cells stand at whole numbers from 1 on both axes.

    Attributes:
        values: rows of the matrix; NaN leaves a cell empty.
        limits: values of the darkest and of the brightest colour.
        texts: of each cell, shown where the mouse points at it.
        decimals: of the number in each cell; None: no numbers.
        percent: whether the numbers are in percent.
    """

    values: Sequence[Sequence[float]]
    limits: tuple[float, float]
    texts: Sequence[Sequence[str]]
    decimals: int | None = None
    percent: bool = False

    def number(self, value: float) -> str:
        """The number in a cell; empty in an empty one."""
        if self.decimals is None or isnan(value):
            return ""
        return f"{100 * value if self.percent else value:.{self.decimals}f}"


class Panel(NamedTuple):
    """One pair of axes.

    Attributes:
        series: what is drawn, from back to front.
        x: the horizontal axis.
        y: the vertical axis.
        title: its heading; panels below each other share it.
        name: the name of its row; panels beside each other share it.
        guides: lines to compare with.
        legend: its place in the figures for papers; empty: no legend.
        heat: a matrix behind everything else.
    """

    series: Sequence[Series]
    x: Axis = Axis()
    y: Axis = Axis()
    title: str = ""
    name: str = ""
    guides: Sequence[Guide] = ()
    legend: Place = ""
    heat: Heat | None = None


class Chart(NamedTuple):
    """Rows of panels.

    Attributes:
        panels: rows of one length; None leaves a place empty.
        size: width and height in inches.
        title: heading of the whole figure.
        legend: legend of the whole figure, as series without points.
        share_x: which panels share a horizontal axis, as matplotlib's `sharex`.
        share_y: which panels share a vertical axis, as matplotlib's `sharey`.
    """

    panels: Sequence[Sequence[Panel | None]]
    size: tuple[float, float]
    title: str = ""
    legend: Sequence[Series] = ()
    share_x: Share = "none"
    share_y: Share = "none"


def leans_left(series: Series, panel: Panel) -> bool:
    """Whether the note of a point in the right half of a panel stands to the left of it."""
    low, high = panel.x.limits
    return low is not None and high is not None and series.x[0] > (low + high) / 2


def chosen(panel: Panel) -> list[Series]:
    """The series that are drawn where everything is selected."""
    best: dict[str, Series] = {}
    for series in panel.series:
        group, rank = series.choice.group, series.choice.rank
        if group not in best or rank > best[group].choice.rank:
            best[group] = series
    return [s for s in panel.series if not s.choice.group or s is best[s.choice.group]]
