"""The style of each variant, the same in every figure."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib import colormaps
from matplotlib.colors import to_hex

from attacks.game import FULL
from reporting.charts import GUIDE, INK, Series
from storage.names import is_snapshot, split_variant

MARKERS = "osD^vPXph<>8dH"
LINES = ((), (3.7, 1.6), (6.4, 1.6, 1, 1.6), (4, 1, 1, 1, 1, 1), (2, 2), (6, 1))
EARLY = "early stopping"  # the method of snapshots


class Style(NamedTuple):
    """The style of one variant: bits set the colour, method and settings the marker.

    Snapshots of training are small points in greys that darken with time.

    Attributes:
        method: the part of the name before the bits; lines of one method share a panel.
        scheme: method and settings, the name without its bits: `obc-last8`.
        bits: the bits in its name, as text: `2`, or `mix3` and `aiq0.9` where they are chosen.
        colour: colour of points and lines; full precision has that of the text.
        marker: marker of points.
        dashes: dashes of its line, which tell the schemes of one method apart.
    """

    method: str
    scheme: str
    bits: str
    colour: str
    marker: str
    dashes: tuple[float, ...]


def styles_of(variants: Sequence[str]) -> dict[str, Style]:
    """Styles of `full`, snapshots and variants named METHOD-BITS[-SETTINGS]: no two alike."""
    parts = {}
    snapshots = [variant for variant in variants if is_snapshot(variant)]
    for variant in (v for v in variants if v != FULL and v not in snapshots):
        method, bits, settings = split_variant(variant)
        kind = bits.rstrip("0123456789.")  # bits that are chosen have a marker of their own
        scheme = "-".join(filter(None, (method, kind.removeprefix("w"), settings)))
        parts[variant] = method, scheme, bits.removeprefix("w")
    widths = sorted({bits for *_, bits in parts.values()}, key=_width, reverse=True)
    step = 0.59 / max(1, len(widths) - 1)  # beyond 0.64 contrast with white is below 3 to 1
    colours = {bits: to_hex(colormaps["plasma"](0.05 + i * step)) for i, bits in enumerate(widths)}
    schemes = list(dict.fromkeys(scheme for _, scheme, _ in parts.values()))
    styles = dict.fromkeys(variants, Style(FULL, FULL, "", INK, "*", ()))
    for variant, (method, scheme, bits) in parts.items():
        marker = MARKERS[schemes.index(scheme) % len(MARKERS)]
        siblings = list(dict.fromkeys(r for m, r, _ in parts.values() if m == method))
        dashes = LINES[siblings.index(scheme) % len(LINES)]
        styles[variant] = Style(method, scheme, bits, colours[bits], marker, dashes)
    for place, variant in enumerate(snapshots):
        level = 0.57 - 0.4 * place / len(snapshots)  # 0.57 is 3.1 to 1 on white
        grey = to_hex((level, level, level))
        styles[variant] = Style(EARLY, EARLY, "", grey, ".", LINES[place % len(LINES)])
    return styles


def _width(bits: str) -> float:
    """Bits, to sort by; where they follow from lambda, the fewer the larger it is."""
    kind = bits.rstrip("0123456789.")
    number = bits.removeprefix(kind)
    if kind not in ("", "mix", "aiq") or not number.replace(".", "", 1).isdigit():
        return 0.0
    return -float(number) if kind == "aiq" else float(number)


def _describe(bits: str) -> str:
    """Bits in a legend: 2 bits, 3 bits on average, or AIQ's lambda."""
    if bits.startswith("mix"):
        return f"{bits.removeprefix('mix')} bits on average"
    if bits.startswith("aiq"):
        return f"AIQ, lambda {bits.removeprefix('aiq')}"
    return f"{bits} bits"


def by_method(shown: Mapping[str, Style]) -> dict[str, list[str]]:
    """The variants in the panel of each method, full precision in every one of them."""
    methods = list(dict.fromkeys(style.method for style in shown.values()))
    methods = [method for method in methods if method != FULL] or methods
    return {
        method: [variant for variant, style in shown.items() if style.method in (FULL, method)]
        for method in methods
    }


def legend(shown: Mapping[str, Style], variants: Sequence[str]) -> list[Series]:
    """Entries of a legend: one per number of bits and one per scheme, not per variant."""
    quantized = [shown[variant] for variant in variants if variant != FULL]
    entries = [(FULL, INK, "*")] if FULL in variants else []
    colours = {style.bits: style.colour for style in quantized if style.method != EARLY}
    widths = sorted(colours, key=_width, reverse=True)
    entries += [(_describe(bits), colours[bits], "s") for bits in widths]
    markers = {style.scheme: style.marker for style in quantized}
    entries += [(scheme, GUIDE, marker) for scheme, marker in markers.items()]
    return [
        Series(label, colour=colour, marker=marker, size=7) for label, colour, marker in entries
    ]
