"""Several experiments in one figure: accuracy against leakage, and leakage per variant."""

from collections.abc import Sequence
from string import ascii_uppercase

from matplotlib import colormaps

from attacks.game import FULL
from attacks.metrics.intervals import Estimate
from reporting.charts import GUIDE, Axis, Chart, Guide, Panel, Series
from reporting.compare import Entry
from reporting.plane import fill, knowledge_legend
from reporting.styles import MARKERS
from reporting.text import GUESSING, NAMES

MANY = [*MARKERS, *(f"${letter}$" for letter in ascii_uppercase)]
FIRST, LAST = -0.3, 0.3  # positions of a variant's points, from its tick


def comparison_chart(entries: Sequence[Entry]) -> Chart:
    """One colour per experiment, one marker per variant, and one filling per kind of shadows.

    One column of panels per end of the risk.
    """
    variants = list(dict.fromkeys(entry.variant for entry in entries))
    experiments = list(dict.fromkeys(entry.experiment for entry in entries))
    kinds = list(dict.fromkeys(kind for entry in entries for kind in entry.by_kind["auc"]))
    rest = [variant for variant in variants if variant != FULL]
    markers = {FULL: "*"} | {v: MANY[i % len(MANY)] for i, v in enumerate(rest)}
    colours = {name: colormaps["tab10"](i % 10) for i, name in enumerate(experiments)}
    step = (LAST - FIRST) / max(1, len(kinds) * len(experiments) - 1)
    ticks = Axis(ticks=list(enumerate(variants)), upright=len(variants) > 6)
    planes, by_variant = [], []
    for end in entries[0].risk:
        plane, names = [], []
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
                plane.append(point._replace(x=[across.value], x_interval=sides))
                names.append(point._replace(x=[place + step * kinds.index(kind)]))
        leakage, guessing = Axis(NAMES[end]), [Guide(y=GUESSING[end])]
        planes.append(Panel(plane, Axis("test accuracy"), leakage, guides=guessing))
        by_variant.append(Panel(names, ticks, leakage, guides=guessing))
    legend = [Series(_plain(name), colour=colour, marker="s") for name, colour in colours.items()]
    legend += [Series(_plain(v), colour=GUIDE, marker=markers[v]) for v in variants]
    if len(kinds) > 1:
        legend += knowledge_legend(kinds)
    return Chart([planes, by_variant], (14, 9.5), legend=legend)


def _plain(name: str) -> str:
    """A name that matplotlib does not take for a formula."""
    return name.replace("$", r"\$")
