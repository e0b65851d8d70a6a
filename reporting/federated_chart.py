"""The figure of what the rounds of federated training leak."""

from collections.abc import Mapping, Sequence

from matplotlib import colormaps
from matplotlib.colors import to_hex

from attacks.federated.leaks import FederatedLeak, FederatedRow
from attacks.federated.view import Threat
from attacks.metrics.intervals import Estimate
from attacks.rounds import SIGNALS, RoundSignal
from reporting.charts import GUIDE, Axis, Chart, Guide, Panel, Series
from reporting.federated import attack_name

ROWS: dict[Threat, str] = {  # of the figure
    "server": "each upload",
    "client": "global model",
    "subtracting": "the others' mean",
}
AXES: dict[RoundSignal, str] = {
    "phi": "scaled logit phi",
    "gradient": "minus log norm of the gradient",
    "cosine": "cosine of gradient and update",
}
CAPTION = (
    "Federated training, round by round, for each kind of attacker. First three columns: the mean "
    "signal in standard deviations from what shadow federations expect of a client that does not "
    "hold the example, over federations, with a band of 95% intervals (none with a single "
    "federation): of a client's members, of its peers' members and of examples that nobody holds. "
    "Then the AUC of the strongest attack, made after the first recorded rounds, and that of the "
    "strongest with matched shadows, by their number. Dotted: no signal, and guessing."
)
COLOURS = [to_hex(colormaps["plasma"](place)) for place in (0.05, 0.6)]  # members, their peers


def rounds_chart(leaks: Sequence[FederatedLeak | None]) -> Chart | None:
    """Where members stand in each round, and how the strongest attack grows; None without any."""
    known = [leak for leak in leaks if leak is not None]
    if not known:
        return None
    panels: list[list[Panel | None]] = []
    for leak in known:
        name = ROWS[leak.threat]
        x = Axis("rounds done", ticks=[(done, str(done)) for done in leak.rounds])
        row: list[Panel | None] = [_signals(leak, signal, name, x) for signal in SIGNALS]
        best = leak.strongest()
        row.append(_growth(best, leak.convergence, name, x, "AUC of the strongest attack"))
        if leak.by_shadows:
            x = Axis("shadow federations", ticks=[(n, str(n)) for n in leak.by_shadows])
            best = leak.strongest("matched")
            row.append(_growth(best, leak.by_shadows, name, x, "AUC by number of shadows"))
        panels.append([panel for panel in row if panel])
    columns = max(len(row) for row in panels)
    return Chart(panels, (max(6.0, 3.6 * columns), 3.2 * len(panels)))


def _signals(leak: FederatedLeak, signal: RoundSignal, name: str, x: Axis) -> Panel | None:
    curves = leak.curves.get(signal)
    if curves is None:
        return None
    held = "the client's members" if leak.threat == "server" else "members"
    lines = [_line("nobody's examples", leak.rounds, curves.non_members, GUIDE)]
    if curves.peers:
        lines.append(_line("its peers' members", leak.rounds, curves.peers, COLOURS[1]))
    lines.append(_line(held, leak.rounds, curves.members, COLOURS[0]))
    panel = Panel(lines, x, Axis("mean z"), AXES[signal], name, [Guide(y=0.0)])
    return panel._replace(legend="best") if signal == SIGNALS[0] else panel


def _growth(
    best: FederatedRow | None, found: Mapping[int, Estimate], name: str, x: Axis, title: str
) -> Panel:
    label = "" if best is None else attack_name(best)
    line = _line(label, list(found), list(found.values()), COLOURS[0])
    return Panel([line], x, Axis("AUC"), title, name, [Guide(y=0.5)], "best")


def _line(label: str, x: Sequence[int], estimates: Sequence[Estimate], colour: str) -> Series:
    ends = [e.low for e in estimates], [e.high for e in estimates]
    values = [estimate.value for estimate in estimates]
    return Series(
        label, x, values, y_interval=ends, colour=colour, marker=".", dashes=(), band=True
    )
