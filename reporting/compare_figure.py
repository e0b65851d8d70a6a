"""Several experiments in one figure: accuracy against leakage, and leakage per variant."""

from collections.abc import Sequence
from string import ascii_uppercase

from matplotlib import colormaps

from attacks.evaluate import Row
from attacks.game import FULL
from reporting.charts import GUIDE, Axis, Chart, Guide, Panel, Series
from reporting.compare import Entry
from reporting.styles import MARKERS
from reporting.text import TITLES

MANY = [*MARKERS, *(f"${letter}$" for letter in ascii_uppercase)]
FIRST, LAST = -0.3, 0.3  # positions of a variant's points, from its tick


def comparison_chart(entries: Sequence[Entry]) -> Chart:
    """One colour per experiment and one marker per variant, filled or hollow by kind of shadows."""
    variants = list(dict.fromkeys(entry.variant for entry in entries))
    experiments = list(dict.fromkeys(entry.experiment for entry in entries))
    rest = [variant for variant in variants if variant != FULL]
    markers = {FULL: "*"} | {v: MANY[i % len(MANY)] for i, v in enumerate(rest)}
    colours = {name: colormaps["tab10"](i % 10) for i, name in enumerate(experiments)}
    step = (LAST - FIRST) / (2 * len(experiments) - 1)
    plane, by_variant = [], []
    for entry in entries:
        place = variants.index(entry.variant) + FIRST
        place += 2 * step * experiments.index(entry.experiment)
        for row, filled in ((entry.matched, True), (entry.unquantized, False)):
            if row is not None:
                point = _point(row)._replace(
                    colour=colours[entry.experiment], marker=markers[entry.variant], filled=filled
                )
                across = entry.facts.accuracy
                sides = [across.low], [across.high]
                plane.append(point._replace(x=[across.value], x_interval=sides))
                by_variant.append(point._replace(x=[place if filled else place + step]))
    ticks = Axis(ticks=list(enumerate(variants)), upright=len(variants) > 6)
    auc, guessing = Axis("AUC"), [Guide(y=0.5)]
    panels = [
        [Panel(plane, Axis("test accuracy"), auc, guides=guessing)],
        [Panel(by_variant, ticks, auc, guides=guessing)],
    ]
    legend = [Series(_plain(name), colour=colour, marker="s") for name, colour in colours.items()]
    legend += [Series(_plain(v), colour=GUIDE, marker=markers[v]) for v in variants]
    legend += [
        Series(title, colour=GUIDE, marker="o", filled=kind == "matched")
        for kind, title in TITLES.items()
        if kind != "recalibrated"
    ]
    return Chart(panels, (11, 9.5), legend=legend)


def _point(row: Row) -> Series:
    auc = row.summary.auc
    return Series("", y=[auc.value], y_interval=([auc.low], [auc.high]), size=6.5, bars=0.7)


def _plain(name: str) -> str:
    """A name that matplotlib does not take for a formula."""
    return name.replace("$", r"\$")
