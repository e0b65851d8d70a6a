"""The plane of utility against risk, for each kind of attacker: rows in, a chart out."""

from collections.abc import Mapping, Sequence

from attacks.evaluate import Row, tail_metric
from attacks.game import FULL, Knowledge
from attacks.metrics.intervals import Estimate
from attacks.metrics.measures import Metric
from reporting.axis_limits import at_edge, bulk_limits
from reporting.charts import GUIDE, Axis, Chart, Choice, Guide, Panel, Series
from reporting.styles import EARLY, LINES, Style, legend, styles_of
from reporting.text import (
    GUESSING,
    NAMES,
    SHADOWS,
    dagger,
    false_positives,
    kinds_of,
    show_metric,
)


def attackers(rows: Sequence[Row]) -> list[Knowledge]:
    """The kinds of attackers: by their shadows, or all alike if no attack uses any."""
    return kinds_of(rows) or ["none"]


def open_to(rows: Sequence[Row], variant: str, knowledge: Knowledge) -> list[Row]:
    """Attacks with one kind of shadows or none; against `full` all kinds are the same."""
    same = variant == FULL and knowledge != "other"  # full precision has nothing to be matched
    kinds = ("none", "matched" if same else knowledge)
    return [row for row in rows if row.variant == variant and row.knowledge in kinds]


def alternative(row: Row, style: Style, group: str, metric: Metric = "auc") -> Series:
    """The series of one attack, still without points; the strongest of its group is drawn."""
    return Series(
        f"{row.variant} ({row.attack})",
        colour=style.colour,
        choice=Choice(row.variant, row.knowledge, row.attack, group, leak_of(row, metric).value),
    )


def plane_chart(
    rows: Sequence[Row],
    accuracy: Mapping[str, Estimate],
    curves: Mapping[str, Sequence[str]] = {},
) -> Chart:
    """Utility against risk at both ends, for each kind of attacker, as Fig. 1 of arXiv:2512.15335.

    The limits are those of `bulk_limits`; a point beyond them stands at the edge.

    Args:
        rows: attacks on all variants.
        accuracy: test accuracy of each variant.
        curves: the variants that each curve runs through, by its name.
    """
    shown, kinds = styles_of(list(accuracy)), attackers(rows)
    x = Axis("test accuracy", limits=bulk_limits(list(accuracy.values())))
    ends: tuple[Metric, ...] = ("auc", tail_metric(rows[0].summary))
    panels = []
    for metric in ends:
        panel = _plane(rows, accuracy, shown, x, metric)
        lines = [_curve(*named, rows, accuracy, metric) for named in curves.items()]
        panels.append(panel._replace(series=[*lines, *panel.series]))
    lines = [_line(name, size=7.0) for name in curves]
    own = [entry for entry in legend(shown, list(accuracy)) if entry.label not in curves]
    entries = own + [line._replace(marker="." * (line.label == EARLY)) for line in lines]
    if len(kinds) > 1:
        entries += knowledge_legend(kinds)
    return Chart([panels], (11.5, 4.8), legend=entries)


def _curve(
    name: str,
    variants: Sequence[str],
    rows: Sequence[Row],
    accuracy: Mapping[str, Estimate],
    metric: Metric,
) -> Series:
    """A line through variants, each by the strongest attack on it, with its band."""
    leaks = [max(leak_of(row, metric) for row in rows if row.variant == v) for v in variants]
    return _line(name)._replace(
        x=[accuracy[variant].value for variant in variants],
        y=[leak.value for leak in leaks],
        y_interval=([leak.low for leak in leaks], [leak.high for leak in leaks]),
        band=True,
        names=list(variants),
    )


def _line(name: str, size: float = 6.0) -> Series:
    """The style of a curve: early stopping has a solid line."""
    return Series(name, colour=GUIDE, dashes=LINES[name != EARLY], width=1.2, size=size)


def knowledge_legend(kinds: Sequence[Knowledge]) -> list[Series]:
    """Entries of a legend: how the points of each kind of attacker are filled."""
    return [fill(Series(SHADOWS[k], marker="o", size=7), k) for k in kinds]


def fill(series: Series, knowledge: Knowledge) -> Series:
    """Points of one kind of attacker: hollow full-precision, half recalibrated, else filled.

    A cross is one whose shadows are another experiment's.
    """
    marker = "X" if knowledge == "other" else series.marker
    filled, half = knowledge != "unquantized", knowledge == "recalibrated"
    return series._replace(marker=marker, filled=filled, half=half)


def _plane(
    rows: Sequence[Row],
    accuracy: Mapping[str, Estimate],
    shown: Mapping[str, Style],
    x: Axis,
    metric: Metric,
) -> Panel:
    """One end of the risk, of each variant by the strongest attack of each kind of attacker."""
    kinds = attackers(rows)
    at_full = [*kinds[:1], *(kind for kind in kinds[1:] if kind == "other")]
    against = {v: at_full if v == FULL else kinds for v in accuracy}
    attacks = {(v, kind): open_to(rows, v, kind) for v, known in against.items() for kind in known}
    attacks = {key: own for key, own in attacks.items() if own}
    strongest = {key: max(leak_of(row, metric) for row in own) for key, own in attacks.items()}
    guess, count = GUESSING[metric], false_positives(rows[0].summary, metric)
    label = NAMES[metric] if count is None else f"{NAMES[metric]} {dagger(count)}".rstrip()
    y = Axis(label, limits=bulk_limits(list(strongest.values()), guess))
    size, bars = (8.0, 0.8) if len(accuracy) < 8 else (6.5, 0.4)
    points = []
    for (variant, kind), own in attacks.items():
        highest = max((key for key in attacks if key[0] == variant), key=strongest.__getitem__)
        named = variant if (variant, kind) == highest else ""
        for row in own:
            point = _point(row, accuracy[variant], shown[variant], kind, metric)
            values = f"{100 * accuracy[variant].value:.1f}%", show_metric(row.summary, metric)
            point = point._replace(size=size, bars=bars)
            if shown[variant].method == EARLY:
                point = _on_curve(point)._replace(marker=shown[variant].marker)
            point = at_edge(point, x, y, named, values)
            points.append(point)
    return Panel(points, x, y, guides=[Guide(y=guess)])


def _on_curve(point: Series) -> Series:
    """A snapshot's point: one for all kinds of attackers, whose intervals the band shows."""
    group = point.choice._replace(group=point.choice.variant)
    return point._replace(filled=True, half=False, bars=0.0, size=8.0, choice=group)


def leak_of(row: Row, metric: Metric) -> Estimate:
    """One metric of an attack."""
    estimate: Estimate = getattr(row.summary, metric)
    return estimate


def _point(
    row: Row, utility: Estimate, style: Style, knowledge: Knowledge, metric: Metric
) -> Series:
    leak = leak_of(row, metric)
    series = alternative(row, style, f"{row.variant} {knowledge}", metric)._replace(
        x=[utility.value],
        y=[leak.value],
        x_interval=([utility.low], [utility.high]),
        y_interval=([leak.low], [leak.high]),
        marker=style.marker,
    )
    return fill(series, knowledge)
