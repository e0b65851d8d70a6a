"""How variants are drawn: the same in every figure."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib import colormaps
from matplotlib.lines import Line2D

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


def legend(shown: Mapping[str, Look], variants: Sequence[str]) -> list[Line2D]:
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
