"""Several experiments in one figure: accuracy against leakage, and leakage per variant."""

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from matplotlib import colormaps

from attacks.game import FULL
from attacks.metrics.intervals import Estimate
from attacks.metrics.measures import Metric
from reporting.axis_limits import at_edge, bulk_limits
from reporting.charts import GUIDE, Axis, Chart, Guide, Panel, Series
from reporting.compare import Entry
from reporting.plane import fill, knowledge_legend
from reporting.styles import MARKERS
from reporting.text import GUESSING, NAMES, show_metric
from storage.names import in_order, is_snapshot

MANY = [*MARKERS, *(f"${letter}$" for letter in ascii_uppercase)]
SNAPSHOT = "."
FIRST, LAST = -0.3, 0.3  # positions of a variant's points, from its tick


def comparison_chart(entries: Sequence[Entry]) -> Chart:
    """One colour per experiment, one marker per variant, and one filling per kind of shadows.

    One column of panels per end of the risk. Snapshots of training share a dot, which in the plane
    are joined to a curve with its band.
    """
    variants = list(dict.fromkeys(entry.variant for entry in entries))
    experiments = list(dict.fromkeys(entry.experiment for entry in entries))
    kinds = list(dict.fromkeys(kind for entry in entries for kind in entry.by_kind["auc"]))
    rest = [variant for variant in variants if variant != FULL and not is_snapshot(variant)]
    markers = {FULL: "*"} | {v: MANY[i % len(MANY)] for i, v in enumerate(rest)}
    markers |= {v: SNAPSHOT for v in variants if is_snapshot(v)}
    colours = {name: colormaps["tab10"](i % 10) for i, name in enumerate(experiments)}
    step = (LAST - FIRST) / max(1, len(kinds) * len(experiments) - 1)
    accuracy = Axis("test accuracy", limits=bulk_limits([e.facts.accuracy for e in entries]))
    ticks = Axis(ticks=list(enumerate(variants)), upright=len(variants) > 6)
    planes, by_variant = [], []
    for end in entries[0].risk:
        plane, names = curves(entries, end, colours), list[Series]()
        leakage, guessing = Axis(NAMES[end]), [Guide(y=GUESSING[end])]
        for entry in entries:
            place = variants.index(entry.variant) + FIRST
            place += len(kinds) * step * experiments.index(entry.experiment)
            for kind, row in entry.by_kind[end].items():
                leak: Estimate = getattr(row.summary, end)
                edges, size = ([leak.low], [leak.high]), 6.5
                point = Series("", y=[leak.value], y_interval=edges, size=size, bars=0.7)
                point = fill(point, kind)._replace(
                    colour=colours[entry.experiment], marker=markers[entry.variant]
                )
                across = entry.facts.accuracy
                sides = [across.low], [across.high]
                placed = point._replace(x=[across.value], x_interval=sides)
                name = entry.variant if kind == next(iter(entry.by_kind[end])) else ""
                values = f"{100 * across.value:.1f}%", show_metric(row.summary, end)
                if not is_snapshot(entry.variant):
                    plane.append(at_edge(placed, accuracy, leakage, name, values))
                names.append(point._replace(x=[place + step * kinds.index(kind)]))
        planes.append(Panel(plane, accuracy, leakage, guides=guessing))
        by_variant.append(Panel(names, ticks, leakage, guides=guessing))
    legend = [Series(_plain(name), colour=colour, marker="s") for name, colour in colours.items()]
    kept = [variant for variant in variants if not is_snapshot(variant)]
    legend += [Series(_plain(v), colour=GUIDE, marker=markers[v]) for v in kept]
    if len(kept) < len(variants):
        legend.append(Series("stopped early", colour=GUIDE, marker=SNAPSHOT, dashes=()))
    if len(kinds) > 1:
        legend += knowledge_legend(kinds)
    return Chart([planes, by_variant], (14, 9.5), legend=legend)


def curves(entries: Sequence[Entry], end: Metric, colours: Mapping[str, Any]) -> list[Series]:
    """The way of each experiment through its snapshots to the end of training, with its band."""
    drawn = []
    for name, colour in colours.items():
        own = {entry.variant: entry for entry in entries if entry.experiment == name}
        path = [own[variant] for variant in in_order(own)]
        if not path or FULL not in own:
            continue
        path.append(own[FULL])
        leaks: list[Estimate] = [getattr(entry.risk[end].summary, end) for entry in path]
        band = [leak.low for leak in leaks], [leak.high for leak in leaks]
        x, y = [entry.facts.accuracy.value for entry in path], [leak.value for leak in leaks]
        curve = Series("", x, y, None, band, colour, SNAPSHOT, dashes=(), width=1.0, band=True)
        drawn.append(curve._replace(names=[entry.variant for entry in path]))
    return drawn


def _plain(name: str) -> str:
    """A name that matplotlib does not take for a formula."""
    return name.replace("$", r"\$")
