"""The page's figures: leakage by update and knowledge, and members over rounds."""

from collections.abc import Sequence

from matplotlib import colormaps
from matplotlib.colors import to_hex

from attacks.federated.leaks import FederatedLeak, Known
from attacks.federated.view import Threat
from docs.federated.fleets import THREATS, Fleets
from docs.federated.numbers import KINDS
from reporting.charts import Axis, Chart, Guide, Panel, Series
from reporting.federated_chart import rounds_chart

TITLES: dict[Threat, str] = {
    "server": "server that sees each upload",
    "client": "client, or secure aggregation",
}
LABELS: dict[Known, str] = {  # of kinds of knowledge
    "none": "nothing",
    "peers": "other clients",
    "matched": "matched shadows",
    "other": "full-precision shadows",
}
MARKERS = dict(zip(KINDS, "sD^o", strict=True))
COLOURS = {kind: to_hex(colormaps["plasma"](place / 5)) for place, kind in enumerate(KINDS)}
ROWS = "phi", "gradient", "cosine", "strongest attack"  # of the figure over rounds
STEP = 0.12  # between kinds of one update


def all_of(fleets: Fleets) -> dict[str, Chart]:
    """Every figure, by name."""
    return {"leaks": leaks(fleets), "rounds": rounds(fleets)}


def leaks(fleets: Fleets) -> Chart:
    """AUC of the strongest attack by update and knowledge, a panel per kind of attacker."""
    ticks = [(float(place), update) for place, update in enumerate(fleets.all)]
    panels, legend = [], dict[str, Series]()
    for threat in THREATS:
        own = [fleet.leaks[threat] for fleet in fleets.all.values()]
        series = [line for kind in KINDS if (line := _line(own, kind)).x]
        legend = {line.label: _without_points(line) for line in series} | legend
        axes = Axis("update", ticks=ticks), Axis("AUC")
        panels.append(Panel(series, *axes, TITLES[threat], "", [Guide(y=0.5)]))
    return Chart([panels], (13, 4.2), legend=[*legend.values()], share_y="all")


def rounds(fleets: Fleets) -> Chart:
    """Where members stand in each round, to a server: a column per update, a row per signal."""
    columns, legend = [], list[Series]()
    for update, fleet in fleets.all.items():
        chart = rounds_chart([fleet.leaks["server"]])
        panels = [] if chart is None else [p for p in chart.panels[0] if p is not None]
        named = zip(ROWS[-len(panels) :], panels, strict=True)
        legend = legend or [_without_points(line) for line in panels[0].series]
        columns.append([panel._replace(title=update, name=row, legend="") for row, panel in named])
    rows = [list(row) for row in zip(*columns, strict=True)]
    size = 3.2 * len(columns) + 1.6, 2.6 * len(rows)
    return Chart(rows, size, legend=legend, share_y="row")


def _without_points(line: Series) -> Series:
    return line._replace(x=(), y=(), y_interval=None)


def _line(own: Sequence[FederatedLeak], kind: Known) -> Series:
    """AUC of the strongest attack with one kind of knowledge on every update that it attacks."""
    found = {
        place: best.auc
        for place, leak in enumerate(own)
        if (best := leak.strongest(kind)) is not None
    }
    shift = STEP * (KINDS.index(kind) - (len(KINDS) - 1) / 2)
    estimates = found.values()
    return Series(
        LABELS[kind],
        [place + shift for place in found],
        [estimate.value for estimate in estimates],
        y_interval=([e.low for e in estimates], [e.high for e in estimates]),
        colour=COLOURS[kind],
        marker=MARKERS[kind],
    )
