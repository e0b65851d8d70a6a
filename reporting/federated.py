"""What the rounds of federated training leak: tables, sentences and a figure."""

from collections.abc import Sequence

from matplotlib import colormaps
from matplotlib.colors import to_hex

from attacks.federated.leaks import FederatedLeak, FederatedRow
from attacks.federated.view import Threat
from attacks.metrics.intervals import Estimate
from attacks.metrics.measures import Metric
from attacks.rounds import SIGNALS, RoundSignal
from reporting.charts import GUIDE, Axis, Chart, Guide, Panel, Series
from reporting.tables import DASH, Body, Cell, difference_cells, estimate_cell, number
from reporting.text import LEVEL, NAMES, SHADOWS, dagger, extent, listed, show, show_change

ATTACKERS: dict[Threat, str] = {
    "server": "A server that sees each upload",
    "client": "A client, or a server under secure aggregation, that sees the global model alone",
}
QUESTIONS: dict[Threat, str] = {
    "server": "tells a client's members from examples that nobody holds",
    "client": "tells members of the federation from examples that nobody holds",
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
    "Last column: AUC of the strongest attack, made after the first recorded rounds. Dotted: no "
    "signal, and guessing."
)
COLOURS = [to_hex(colormaps["plasma"](place)) for place in (0.05, 0.6)]  # members, their peers


def federated_table(leak: FederatedLeak | None) -> Body:
    """One row per attack and kind of knowledge; empty for models without clients."""
    if leak is None:
        return Body((), [], "")
    server = leak.threat == "server"
    columns = ["attack", "knowledge", "AUC", NAMES["tpr_1pct"], NAMES["tpr_01pct"]]
    columns += ["AUC against peers' members"] * server
    classes = any(row.by_class for row in leak.rows)
    columns += ["AUC of classes alone"] * classes
    columns += ["matched AUC beyond it", "p"] * bool(leak.gains)
    rows = []
    for row in leak.rows:
        cells = [Cell(row.attack), Cell(row.knowledge), estimate_cell(row.auc)]
        cells += [_rate(leak, row, metric) for metric in ("tpr_1pct", "tpr_01pct")]
        if server:
            cells.append(DASH if row.peers is None else estimate_cell(row.peers))
        if classes:
            cells.append(DASH if row.by_class is None else estimate_cell(row.by_class))
        if leak.gains:
            gain = leak.gains.get(row.attack) if row.knowledge == "other" else None
            cells += difference_cells(gain)
        rows.append(tuple(cells))
    return Body(tuple(columns), rows, " ".join(_note(leak)))


def _rate(leak: FederatedLeak, row: FederatedRow, metric: Metric) -> Cell:
    estimate: Estimate = getattr(row, metric)
    text = show(estimate, percent=True) + dagger(leak.false_positives[metric])
    return number(estimate.value, text)


def _note(leak: FederatedLeak) -> list[str]:
    """How to read the table."""
    rounds = ", ".join(map(str, leak.rounds))
    notes = [
        f"{ATTACKERS[leak.threat]}, over {_count(leak.federations, 'federation')} of "
        f"{_count(leak.clients, 'client')}; {leak.shadows} shadow federations attack each. "
        f"Recorded rounds: {rounds}."
    ]
    if leak.threat == "server":
        notes.append(
            "A member is an example of the client in question, and a non-member one that nobody "
            "holds: each federation counts once, with the mean over its clients, whose scores are "
            "correlated. An example of another client is neither, and has a column of its own, "
            "where 0.5 would be no telling apart. Classes alone: each example has the mean score "
            "of its class among nobody's examples; beyond 0.5, clients hold different classes."
        )
    else:
        notes.append("A member is an example of any client, and a non-member one of nobody.")
    notes.append(
        "Knowledge: `none` compares examples with one another, `matched` with shadow federations "
        "that went through what the target did, `other` with another experiment's"
        + (
            ", `peers` with the other clients of the same round."
            if leak.threat == "server"
            else "."
        )
    )
    notes.append(
        "Intervals are over federations (Student's t) and examples, for these shadows. "
        "docs/federated_attacks.md says what each attack is."
    )
    if leak.gains:
        notes.append("p is corrected for all attacks of this table (Holm).")
    return notes


def sentences(leak: FederatedLeak | None) -> list[str]:
    """What one kind of attacker finds, by written rules.

    An attack is said to tell members, and classes to tell, if the interval of the AUC lies above
    0.5; a source to be named if that of its share lies above 1 / clients; and a difference to be
    shown if its corrected p is below 5%.
    """
    if leak is None or not leak.rows:
        return []
    told = [_strongest(leak)]
    reference = leak.strongest("none", "peers")
    best = leak.strongest()
    if best is not None and best.by_class is not None and best.by_class.low > 0.5:
        told.append(
            f"Part of it is the example's class, which clients hold unequally: by it alone, the "
            f"same attack has AUC {show(best.by_class)}."
        )
    if reference is not None and best is not None and best.knowledge in ("matched", "other"):
        told.append(f"Without shadows, its strongest is {reference.attack}: {_rates(reference)}.")
    if leak.gains:
        told.append(_gain(leak))
    return told + [_source(leak, name, share) for name, share in leak.source.items()]


def _strongest(leak: FederatedLeak) -> str:
    best = leak.strongest()
    if best is None:
        return f"{ATTACKERS[leak.threat]} has no attack here."
    if best.auc.low > 0.5:
        return (
            f"{ATTACKERS[leak.threat]} {QUESTIONS[leak.threat]}: {_rates(best)}, by {_name(best)}."
        )
    return (
        f"No attack is shown to find members. {ATTACKERS[leak.threat]}: the strongest, "
        f"{_name(best)}, reaches {_rates(best)}."
    )


def _rates(row: FederatedRow) -> str:
    rate = show(row.tpr_1pct, percent=True)
    return f"AUC {show(row.auc)}, {NAMES['tpr_1pct']} {rate}"


def _name(row: FederatedRow) -> str:
    return row.attack if row.knowledge in ("none", "peers") else (
        f"{row.attack} with {SHADOWS[row.knowledge]}"
    )  # fmt: skip


def _gain(leak: FederatedLeak) -> str:
    gain = leak.gains["strongest"]
    names = [row.attack for kind in ("matched", "other") if (row := leak.strongest(kind))]
    attacks = listed(list(dict.fromkeys(names)))
    who = "A server" if leak.threat == "server" else "A client"
    if gain.p_holm >= LEVEL:
        return (
            f"{who} is not shown to lose by another experiment's shadows (by {attacks}: AUC "
            f"{show_change(gain.estimate, 'auc')} with matched ones)."
        )
    return f"{who} finds {extent('auc', gain.estimate)} with matched shadows, by {attacks}."


def _source(leak: FederatedLeak, name: RoundSignal, share: Estimate) -> str:
    guess = f"{1 / leak.clients:.1%}"
    found = f"{show(share, percent=True)} of members"
    if share.low > 1 / leak.clients:
        return f"The largest {name} names the client that holds {found}; guessing names {guess}."
    return (
        f"The largest {name} is not shown to name the client that holds a member: right for "
        f"{found}, and {guess} by guessing."
    )


def _count(number_of: int, noun: str) -> str:
    return f"{number_of} {noun}{'' if number_of == 1 else 's'}"


def rounds_chart(leaks: Sequence[FederatedLeak | None]) -> Chart | None:
    """Where members stand in each round, and how the strongest attack grows; None without any."""
    known = [leak for leak in leaks if leak is not None]
    if not known:
        return None
    panels: list[list[Panel | None]] = []
    for leak in known:
        name = "each upload" if leak.threat == "server" else "global model"
        x = Axis("rounds done", ticks=[(done, str(done)) for done in leak.rounds])
        row: list[Panel | None] = [_signals(leak, signal, name, x) for signal in SIGNALS]
        panels.append([*(panel for panel in row if panel), _growth(leak, name, x)])
    columns = max(len(row) for row in panels)
    return Chart(panels, (max(6.0, 3.6 * columns), 3.2 * len(panels)))


def _signals(leak: FederatedLeak, signal: RoundSignal, name: str, x: Axis) -> Panel | None:
    curves = leak.curves.get(signal)
    if curves is None:
        return None
    held = "members" if leak.threat == "client" else "the client's members"
    lines = [_line("nobody's examples", leak.rounds, curves.non_members, GUIDE)]
    if curves.peers:
        lines.append(_line("its peers' members", leak.rounds, curves.peers, COLOURS[1]))
    lines.append(_line(held, leak.rounds, curves.members, COLOURS[0]))
    panel = Panel(lines, x, Axis("mean z"), AXES[signal], name, [Guide(y=0.0)])
    return panel._replace(legend="best") if signal == SIGNALS[0] else panel


def _growth(leak: FederatedLeak, name: str, x: Axis) -> Panel:
    best = leak.strongest()
    label = "" if best is None else _name(best)
    line = _line(label, list(leak.convergence), list(leak.convergence.values()), COLOURS[0])
    guides = [Guide(y=0.5)]
    return Panel([line], x, Axis("AUC"), "AUC of the strongest attack", name, guides, "best")


def _line(label: str, x: Sequence[int], estimates: Sequence[Estimate], colour: str) -> Series:
    ends = [e.low for e in estimates], [e.high for e in estimates]
    values = [estimate.value for estimate in estimates]
    return Series(
        label, x, values, y_interval=ends, colour=colour, marker=".", dashes=(), band=True
    )
