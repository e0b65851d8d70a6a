"""What the rounds of federated training leak: tables and sentences."""

from attacks.federated.leaks import FederatedLeak, FederatedRow
from attacks.federated.view import Threat
from attacks.metrics.intervals import Estimate
from attacks.metrics.measures import Metric
from attacks.rounds import RoundSignal
from reporting.tables import DASH, Body, Cell, difference_cells, estimate_cell, number
from reporting.text import LEVEL, NAMES, SHADOWS, dagger, extent, listed, show, show_change

ATTACKERS: dict[Threat, str] = {
    "server": "A server that sees each upload",
    "client": "A client, or a server under secure aggregation, that sees the global model alone",
    "subtracting": "A client that takes its own upload out of the global model",
}
MALICIOUS: dict[tuple[str, Threat], str] = {
    ("isolate", "server"): "A malicious server that isolates each client, and sees each upload",
    ("ascent", "client"): (
        "A malicious client that raises the loss of all that it does not hold before it uploads, "
        "and sees the global model alone"
    ),
    ("ascent", "subtracting"): (
        "A malicious client that raises the loss of all that it does not hold before it uploads, "
        "and takes its own upload out of the global model"
    ),
}
HEADINGS: dict[Threat, str] = {
    "server": "What a server finds in the rounds of federated training",
    "client": (
        "What a client finds in the rounds of federated training, and secure aggregation leaves"
    ),
    "subtracting": "What a client finds that takes its own upload out of the global model",
}
TITLES: dict[tuple[str, Threat], str] = {
    ("isolate", "server"): "What a malicious server finds that isolates clients",
    ("ascent", "client"): "What a malicious client finds by gradient ascent",
    ("ascent", "subtracting"): (
        "What a malicious client finds by gradient ascent, without its own upload"
    ),
}
QUESTIONS: dict[Threat, str] = {
    "server": "tells a client's members from examples that nobody holds",
    "client": "tells members of the federation from examples that nobody holds",
    "subtracting": "tells the other clients' members from examples that nobody holds",
}


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


def federated_heading(leak: FederatedLeak) -> str:
    """The heading of a table, which names a malicious attacker as such."""
    if leak.adversary is None:
        return HEADINGS[leak.threat]
    return TITLES[leak.adversary, leak.threat]


def _rate(leak: FederatedLeak, row: FederatedRow, metric: Metric) -> Cell:
    estimate: Estimate = getattr(row, metric)
    text = show(estimate, percent=True) + dagger(leak.false_positives[metric])
    return number(estimate.value, text)


def _note(leak: FederatedLeak) -> list[str]:
    """How to read the table."""
    rounds = ", ".join(map(str, leak.rounds))
    notes = [
        f"{_attacker(leak)}, over {_count(leak.federations, 'federation')} of "
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
    elif leak.threat == "client" and leak.adversary is None:
        notes.append("A member is an example of any client, and a non-member one of nobody.")
    else:
        notes.append(
            "A member is an example of any other client, and a non-member one of nobody: the "
            "attacker, one client per federation, knows its own."
        )
    if leak.adversary is not None:
        notes.append(
            f"Targets and shadows went through the same attack (`--federated.adversary "
            f"{leak.adversary}`). What it costs in accuracy is the difference from an experiment "
            "without it, by `audit.py --compare`."
        )
    if leak.by_shadows:
        best = leak.strongest("matched")
        grown = ", ".join(f"{n}: {show(auc)}" for n, auc in leak.by_shadows.items())
        notes.append(f"AUC of {best.attack if best else ''} by number of shadows: {grown}.")
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


def _attacker(leak: FederatedLeak) -> str:
    known = ATTACKERS[leak.threat]
    return known if leak.adversary is None else MALICIOUS[leak.adversary, leak.threat]


def _strongest(leak: FederatedLeak) -> str:
    best = leak.strongest()
    if best is None:
        return f"{_attacker(leak)} has no attack here."
    if best.auc.low > 0.5:
        return (
            f"{_attacker(leak)} {QUESTIONS[leak.threat]}: {_rates(best)}, by {attack_name(best)}."
        )
    return (
        f"No attack is shown to find members. {_attacker(leak)}: the strongest, "
        f"{attack_name(best)}, reaches {_rates(best)}."
    )


def _rates(row: FederatedRow) -> str:
    rate = show(row.tpr_1pct, percent=True)
    return f"AUC {show(row.auc)}, {NAMES['tpr_1pct']} {rate}"


def attack_name(row: FederatedRow) -> str:
    """An attack, and the shadows that it takes."""
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
