"""Charts for the page: panels as plotly figures, whose colours follow the theme."""

from collections.abc import Sequence
from colorsys import hls_to_rgb, rgb_to_hls
from html import escape
from math import isfinite, log10
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.colors import to_hex, to_rgb
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path

from reporting.charts import GUIDE, HEAT, Axis, Chart, Heat, Panel, Series, leans_left
from reporting.text import SHADOWS

SYMBOLS = {
    "o": "circle",
    ".": "circle",
    "s": "square",
    "D": "diamond",
    "^": "triangle-up",
    "v": "triangle-down",
    "P": "cross",
    "X": "x",
    "p": "pentagon",
    "h": "hexagon2",
    "*": "star",
    "<": "triangle-left",
    ">": "triangle-right",
    "8": "octagon",
    "d": "diamond-tall",
    "H": "hexagon",
}
PX = 4 / 3  # in a point


def on_dark(colour: str) -> str:
    """A colour for a dark page: the lightness of dark colours is mirrored, so black turns white."""
    hue, lightness, saturation = rgb_to_hls(*to_rgb(colour))
    return to_hex(hls_to_rgb(hue, max(lightness, 1 - lightness), saturation))


def outlines() -> dict[str, str]:
    """Plotly's symbols as SVG paths, ten units wide, for legends."""
    paths: dict[str, str] = {}
    for marker, symbol in SYMBOLS.items():
        style = MarkerStyle(marker)
        path = style.get_path().transformed(style.get_transform())
        paths.setdefault(symbol, "".join(map(_command, *zip(*path.iter_segments(), strict=True))))
    return paths


def _command(points: Float[np.ndarray, " coordinates"], code: np.uint8) -> str:
    letters: dict[Any, str] = {
        Path.MOVETO: "M",
        Path.LINETO: "L",
        Path.CURVE3: "Q",
        Path.CURVE4: "C",
    }
    if code not in letters:
        return "Z"
    down = points.reshape(-1, 2) * [10, -10]
    return letters[code] + " ".join(f"{place:.2f}" for place in down.flat)


def to_page(chart: Chart) -> dict[str, Any]:
    """A chart as the page's script reads it: plotly figures, and the entries of legends."""
    panels = [panel for row in chart.panels for panel in row if panel is not None]
    return {
        "title": chart.title,
        "columns": max(len(row) for row in chart.panels),
        "legend": [_trace(entry, Panel([])) for entry in chart.legend],
        "panels": [
            to_plotly(panel)
            | {"heading": ": ".join(filter(None, (panel.name, panel.title)))}
            | {"legend": bool(panel.legend)}
            for panel in panels
        ],
    }


def to_plotly(panel: Panel) -> dict[str, Any]:
    """A panel as `data` and `layout` of a plotly figure, for a light page.

    All alternatives are there, because the page's selection decides which are drawn. A trace's
    `meta` holds what the page selects by, and its colours on a light and on a dark page.
    """
    traces = [] if panel.heat is None else [_heat(panel.heat)]
    for series in panel.series:
        if series.band and series.y_interval is not None:
            traces += _band(series, panel)
        traces.append(_trace(series, panel))
    line = {"color": to_hex(GUIDE), "dash": "dot", "width": 1}
    shapes: list[dict[str, Any]] = []
    for x, y, _ in panel.guides:
        shape: dict[str, Any] = {"type": "line", "layer": "above", "line": line}
        if x is not None:
            shape |= {"x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper"}
        elif y is not None:
            shape |= {"x0": 0, "x1": 1, "xref": "paper", "y0": y, "y1": y}
        else:
            low, high = (edge if edge is not None else i for i, edge in enumerate(panel.x.limits))
            shape |= {"x0": low, "x1": high, "y0": low, "y1": high}
        shapes.append(shape)
    layout = {"xaxis": _axis(panel.x), "yaxis": _axis(panel.y), "shapes": shapes}
    return {"data": traces, "layout": layout}


def _heat(heat: Heat) -> dict[str, Any]:
    """A matrix; its colours are the same on a dark page."""
    low, high = heat.limits
    return {
        "type": "heatmap",
        "x": list(range(1, len(heat.values[0]) + 1)),
        "y": list(range(1, len(heat.values) + 1)),
        "z": [_numbers(row) for row in heat.values],
        "zmin": low,
        "zmax": high,
        "colorscale": HEAT.capitalize(),
        "showscale": False,
        "hoverongaps": False,
        "text": [[heat.number(value) for value in row] for row in heat.values],
        "texttemplate": "%{text}",
        "customdata": [list(map(escape, row)) for row in heat.texts],
        "hovertemplate": "%{customdata}<extra></extra>",
        "meta": _meta(Series("")) | {"label": ""},
    }


def _axis(axis: Axis) -> dict[str, Any]:
    layout: dict[str, Any] = {"title": {"text": escape(axis.label)}}
    if axis.log:
        layout |= {"type": "log", "dtick": 1, "exponentformat": "power"}
    if axis.limits != (None, None):
        scale = log10 if axis.log else float
        layout["range"] = [None if edge is None else scale(edge) for edge in axis.limits]
    if axis.ticks:
        places, texts = zip(*axis.ticks, strict=True)
        layout |= {"tickmode": "array", "tickvals": places, "ticktext": list(map(escape, texts))}
    return layout | ({"tickangle": 90, "tickfont": {"size": 9}} if axis.upright else {})


def _trace(series: Series, panel: Panel) -> dict[str, Any]:
    colour = to_hex(series.colour)
    shown = ("lines", series.dashes is not None), ("markers", bool(series.marker))
    small = 0.5 if series.marker == "." else 1.0  # matplotlib's point is half of its circle
    trace: dict[str, Any] = {
        "type": "scatter",
        "x": _numbers(series.x),
        "y": _numbers(series.y),
        "mode": "+".join(mode for mode, there in shown if there) or "none",
        "name": escape(
            ", ".join(filter(None, (series.label, SHADOWS.get(series.choice.knowledge))))
        ),
        "hovertemplate": _hover(series, panel),
        "line": {
            "color": colour,
            "width": series.width * PX,
            "dash": ",".join(
                f"{length * series.width * PX:.3g}px" for length in series.dashes or ()
            )
            or "solid",
            "shape": "hv" if series.steps else "linear",
        },
        "meta": _meta(series) | {"label": series.label},
    }
    if series.marker:
        look = "-open-dot" if series.half else "" if series.filled else "-open"
        symbol = SYMBOLS[series.marker] + look
        trace["marker"] = {"color": colour, "symbol": symbol, "size": series.size * PX * small}
    if series.names:
        trace["text"] = list(map(escape, series.names))
    if series.note:
        trace["mode"] += "+text"
        trace["texttemplate"] = escape(series.note)
        trace["textposition"] = "middle left" if leans_left(series, panel) else "middle right"
        trace["textfont"] = {"color": colour}
    edges = None if series.band else series.y_interval
    for key, values, interval in (
        ("error_x", series.x, series.x_interval),
        ("error_y", series.y, edges),
    ):
        if interval is not None:
            trace[key] = {
                "array": _numbers([e - v for v, e in zip(values, interval[1], strict=True)]),
                "arrayminus": _numbers([v - e for v, e in zip(values, interval[0], strict=True)]),
                "color": colour,
                "thickness": series.bars * PX,
                "width": 0,
            }
    intervals = [edge for pair in (series.x_interval, series.y_interval) if pair for edge in pair]
    if intervals:
        trace["customdata"] = [_numbers(edges) for edges in zip(*intervals, strict=True)]
    return trace


def _band(series: Series, panel: Panel) -> list[dict[str, Any]]:
    edges = []
    for values, fill in zip(series.y_interval or (), ("none", "tonexty"), strict=True):
        edge = _trace(series._replace(y=values, marker="", dashes=(), width=0), panel)
        edge |= {"fill": fill, "fillcolor": to_hex(series.colour) + "1f", "hoverinfo": "skip"}
        del edge["hovertemplate"], edge["customdata"]
        edge["meta"]["label"] = ""  # the line's entry stands for both
        edges.append(edge)
    return edges


def _meta(series: Series) -> dict[str, Any]:
    return {
        "colours": [to_hex(series.colour), on_dark(series.colour)],
        **series.choice._asdict(),
        "rank": series.choice.rank if isfinite(series.choice.rank) else None,
    }


def _hover(series: Series, panel: Panel) -> str:
    """A template of a point's name and values with their intervals, which plotly fills in."""
    lines, position = ["<b>%{fullData.name}</b>"], 0
    if series.note:
        return f"{lines[0]}<br>%{{text}}<extra></extra>"
    for letter, axis, interval in (
        ("x", panel.x, series.x_interval),
        ("y", panel.y, series.y_interval),
    ):
        line = f"{escape(axis.label or panel.title)}: %{{{letter}:.4g}}"
        if letter == "x" and series.names:
            line = "%{text}"
        if interval is not None:
            low, high = (f"%{{customdata[{position + i}]:.4g}}" for i in range(2))
            line, position = f"{line} ({low} to {high})", position + 2
        lines.append(line)
    return "<br>".join(lines) + "<extra></extra>"


def _numbers(values: Sequence[float | int]) -> list[float | None]:
    """Values to five digits, more than can be seen; None for NaN, which JSON lacks."""
    return [float(f"{value:.5g}") if isfinite(value) else None for value in values]
