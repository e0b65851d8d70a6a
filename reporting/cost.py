"""What variants cost beside what they leak: a table, a plane, and the bits that were chosen."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from math import ceil, nan

from matplotlib import colormaps
from matplotlib.colors import to_hex

from attacks.evaluate import Row, tail_metric
from attacks.metrics.measures import Metric
from reporting.charts import INK, Axis, Chart, Choice, Guide, Panel, Series
from reporting.plane import leak_of
from reporting.styles import LINES, legend, styles_of
from reporting.tables import DASH, Cell, Table, number
from reporting.text import GUESSING, NAMES
from storage.records import VariantFacts
from storage.searches import SearchMeans

UNITS = {"kl": "nats", "fisher": "nats (estimate)", "changed": "points"}
AXES = {"weight_bytes": "bytes of weights", "intensity": "arithmetic intensity, FLOP / byte"}
LARGEST = 40  # names of layers that can be read below a heat map


def cost_table(variants: Mapping[str, VariantFacts]) -> Table | None:
    """Bytes, FLOPs and arithmetic intensity of each variant; None if no record has them."""
    rows = []
    for variant, facts in variants.items():
        if (cost := facts.cost) is None:
            continue
        rows.append(
            (
                Cell(variant),
                number(cost.mean_bits, f"{cost.mean_bits:.2f}"),
                number(cost.weight_bytes, f"{cost.weight_bytes:,.0f}"),
                number(cost.activation_bytes, f"{cost.activation_bytes:,.0f}"),
                number(cost.flops, f"{cost.flops:,.0f}"),
                number(cost.intensity, f"{cost.intensity:.3g}"),
                *_losses(facts.search),
            )
        )
    if not rows:
        return None
    batch = next(facts.cost.batch for facts in variants.values() if facts.cost)
    columns = (
        *("variant", "bits per weight", "bytes of weights", "bytes of activations", "FLOPs"),
        *("FLOP / byte", "expected loss", "measured loss"),
    )
    note = (
        f"Of convolutions and linear layers, for a batch of {batch}; mean over audited models. "
        "Weights count with scales, zero points and biases, activations once as a layer's "
        "output and once as the next one's input; nothing else moves by this count. Arithmetic "
        "intensity is FLOPs over both bytes: it is a property of the numbers, and no "
        "measurement of speed. Losses are those of bits that were chosen per layer: the sum of "
        "what each layer alone loses, and what all lose together on other images, each layer by "
        "the codes that it has alone. They differ as far as layers act on each other."
    )
    return Table("cost", "Cost", columns, rows, note)


def _losses(search: SearchMeans | None) -> tuple[Cell, Cell]:
    if search is None:
        return DASH, DASH
    unit = UNITS[search.loss]
    measured_unit = UNITS["kl"] if search.loss == "fisher" else unit
    return (
        number(search.expected, f"{search.expected:.3g} {unit}"),
        number(search.measured, f"{search.measured:.3g} {measured_unit}"),
    )


def cost_chart(rows: Sequence[Row], variants: Mapping[str, VariantFacts]) -> Chart | None:
    """Bytes of weights and arithmetic intensity against risk at both ends."""
    known = {variant: facts.cost for variant, facts in variants.items() if facts.cost}
    if len({cost.weight_bytes for cost in known.values()}) < 2:
        return None
    shown = styles_of(list(variants))
    ends: tuple[Metric, ...] = ("auc", tail_metric(rows[0].summary))
    panels = []
    for metric in ends:
        line = []
        for field, label in AXES.items():
            points = []
            for variant, cost in known.items():
                own = [row for row in rows if row.variant == variant]
                row = max(own, key=lambda row: leak_of(row, metric).value)
                leak, style = leak_of(row, metric), shown[variant]
                points.append(
                    Series(
                        f"{variant} ({row.attack})",
                        [getattr(cost, field)],
                        [leak.value],
                        y_interval=([leak.low], [leak.high]),
                        colour=style.colour,
                        marker=style.marker,
                        names=[variant],
                        choice=Choice(variant),
                    )
                )
            x = Axis(label, log=field == "weight_bytes")
            line.append(Panel(points, x, Axis(NAMES[metric]), guides=[Guide(y=GUESSING[metric])]))
        panels.append(line)
    return Chart(
        panels, (11.5, 8.4), legend=legend(shown, list(known)), share_x="col", share_y="row"
    )


def bits_chart(variants: Mapping[str, VariantFacts]) -> Chart | None:
    """Bits of each layer (across) in each audited model (upwards), where they were chosen."""
    searched = {v: facts.search for v, facts in variants.items() if facts.search}
    if not searched:
        return None
    names = list(dict.fromkeys(n for s in searched.values() for own in s.bits for n in own))
    widths = sorted({b for s in searched.values() for own in s.bits for b in own.values()})
    step = 0.85 / max(1, len(widths) - 1)
    colours = {bits: to_hex(colormaps["viridis"](0.95 - i * step)) for i, bits in enumerate(widths)}
    ticks = list(enumerate(names))[:: ceil(len(names) / LARGEST)]
    panels = []
    for variant, search in searched.items():
        cells = []
        for bits in widths:
            at = [
                (names.index(name), model)
                for model, own in enumerate(search.bits)
                for name, chosen in own.items()
                if chosen == bits
            ]
            if at:
                layers, models = zip(*at, strict=True)
                cells.append(
                    Series(
                        f"{bits:g} bits",
                        layers,
                        models,
                        colour=colours[bits],
                        marker="s",
                        size=9.0,
                        names=[names[layer] for layer in layers],
                        choice=Choice(variant),
                    )
                )
        y = Axis(limits=(-0.7, len(search.bits) - 0.3))
        panels.append([Panel(cells, Axis(ticks=ticks, upright=True), y, name=variant)])
    entries = [Series(f"{b:g} bits", colour=colours[b], marker="s", size=9.0) for b in widths]
    height = sum(max(1.6, 0.4 + 0.16 * len(search.bits)) for search in searched.values())
    return Chart(
        panels, (max(7, 2 + 0.3 * len(names)), 1.6 + height), legend=entries, share_x="all"
    )


def choice_chart(variants: Mapping[str, VariantFacts]) -> Chart | None:
    """The best trade-offs of bytes against expected loss in the first audited model."""
    searched = {v: facts.search for v, facts in variants.items() if facts.search}
    if not searched:
        return None
    shown, panels = styles_of(list(variants)), []
    for loss in dict.fromkeys(search.loss for search in searched.values()):
        own = {v: search for v, search in searched.items() if search.loss == loss}
        methods = dict.fromkeys(shown[variant].method for variant in own)
        series = []
        for dashes, method in zip(cycle(LINES), methods, strict=False):
            first = next(search for v, search in own.items() if shown[v].method == method)
            line = [_drawn(value, loss) for value in first.losses]
            series.append(Series(method, first.sizes, line, colour=INK, dashes=dashes, steps=True))
        series += [
            Series(
                variant,
                [search.chosen[0]],
                [_drawn(search.chosen[1], loss)],
                colour=shown[variant].colour,
                marker=shown[variant].marker,
                names=[variant],
                choice=Choice(variant),
            )
            for variant, search in own.items()
        ]
        unit = "percentage points" if loss == "changed" else "nats per image"
        y = Axis(f"expected loss ({loss}), {unit}", log=loss != "changed")
        panels.append(Panel(series, Axis("bytes of weights"), y, legend="best"))
    return Chart([panels], (max(6, 5.5 * len(panels)), 4.6))


def _drawn(loss: float, kind: str) -> float:
    """A loss on its axis; 0 has no logarithm."""
    return loss if loss > 0 or kind == "changed" else nan
