"""The page's tables, in Markdown; each speaks of one kind of attacker."""

from collections.abc import Sequence

from attacks.federated.leaks import FederatedLeak
from attacks.federated.view import Threat
from attacks.game import FULL
from docs.federated.claims import (
    Comparisons,
    accuracy,
    beyond_peers,
    claims_of,
    understated,
)
from docs.federated.fleets import Fleets
from docs.federated.numbers import ATTACKERS, BORROWERS, KINDS, MEASURES, Asked, Side, can_attack
from docs.study.tables import cell, table
from docs.study.verdicts import NAMES
from reporting.text import dagger, show

SHOWN = 4  # recorded rounds in a table


def updates(comparisons: Comparisons, fleets: Fleets) -> str:
    """What each update costs on the wire, and how accurate the federations become."""
    rows = []
    for update, fleet in fleets.all.items():
        accurate = show(fleet.study.results.variants[FULL].accuracy, percent=True)
        less = fleet.uploaded / fleets.full.uploaded
        change = "-" if update == FULL else cell(comparisons[accuracy(update)], "accuracy")
        rows.append((update, f"{fleet.uploaded:,}", f"{less:.1%}", accurate, change))
    wire = "bytes uploaded in a round", "of full precision"
    return table(("update", *wire, "test accuracy", "beyond full precision"), rows)


def claims(comparisons: Comparisons, fleets: Fleets, threat: Threat) -> str:
    """Every claim on one kind of attacker, with its number of pairs and its verdict."""
    rows = [
        (claim.text, claim.by, str(len(claim.pairs)), comparisons.overall(claim))
        for claim in claims_of(fleets, threat)
    ]
    return table(("claim", "by", "pairs", "verdict"), rows)


def levels(fleets: Fleets, threat: Threat) -> str:
    """What the strongest attack with each kind of knowledge finds of each update."""
    rows = []
    for update, fleet in fleets.all.items():
        leak = fleet.leaks[threat]
        for kind in KINDS:
            cells = [update, kind]
            for measure in MEASURES:
                best = leak.strongest(kind, metric=measure)
                if best is None:
                    break
                percent = measure != "auc"
                mark = dagger(leak.false_positives[measure]) if percent else ""
                found = show(getattr(best, measure), percent=percent)
                cells += [f"{found}{mark}", f"`{best.attack}`"]
            else:
                rows.append(cells)
    columns = [column for measure in MEASURES for column in (NAMES[measure], "by")]
    return table(("update", "knowledge", *columns), rows)


def beside_full(comparisons: Comparisons, fleets: Fleets, threat: Threat) -> str:
    """How much more of each quantized update is found than of full-precision ones."""
    known = {
        by: attacker
        for by, attacker in ATTACKERS.items()
        if can_attack(fleets, Side(FULL, threat, attacker))
    }
    rows = []
    for update in fleets.quantized:
        cells = [update]
        for attacker in known.values():
            pair = (Side(name, threat, attacker) for name in (update, FULL))
            cells += _cells(comparisons, *pair)
        rows.append(cells)
    return table(("update", *_columns([*known])), rows)


def shadows(comparisons: Comparisons, fleets: Fleets, threat: Threat) -> str:
    """What full-precision shadows find beyond those whose updates are rounded alike."""
    claims = [claim for by in BORROWERS if (claim := understated(fleets, threat, by)).pairs]
    rows = []
    for update in fleets.borrowing:
        cells = [update]
        for claim in claims:
            pair = next((pair for pair in claim.pairs if pair[0].update == update), None)
            cells += ["-"] * len(MEASURES) if pair is None else _cells(comparisons, *pair)
        rows.append(cells)
    return table(("update", *_columns([claim.by for claim in claims])), rows)


def peers(comparisons: Comparisons, fleets: Fleets) -> str:
    """What an attacker without shadows finds beyond one with matched shadows."""
    rows = [(pair[0].update, *_cells(comparisons, *pair)) for pair in beyond_peers(fleets).pairs]
    return table(("update", *(NAMES[measure] for measure in MEASURES)), rows)


def source(fleets: Fleets) -> str:
    """How often a server names the client that holds a member, beside guessing."""
    rows = []
    for update, fleet in fleets.all.items():
        leak = fleet.leaks["server"]
        found = (show(share, percent=True) for share in leak.source.values())
        rows.append((update, *found, f"{1 / leak.clients:.1%}"))
    signals = fleets.full.leaks["server"].source
    return table(("update", *(f"by the largest {name}" for name in signals), "by guessing"), rows)


def convergence(fleets: Fleets, threat: Threat) -> str:
    """How the AUC of the strongest attack grows with the rounds that it has seen."""
    rounds = shown_rounds(fleets.full.leaks[threat])
    rows = []
    for update, fleet in fleets.all.items():
        leak = fleet.leaks[threat]
        best = leak.strongest()
        name = "-" if best is None else f"`{best.attack}`"
        found = (leak.convergence.get(done) for done in rounds)
        rows.append((update, name, *("-" if area is None else show(area) for area in found)))
    return table(("update", "attack", *(f"after {done}" for done in rounds)), rows)


def shown_rounds(leak: FederatedLeak) -> list[int]:
    """A few recorded rounds, the first and the last among them."""
    last, count = len(leak.rounds) - 1, min(SHOWN, len(leak.rounds))
    places = dict.fromkeys(round(i * last / max(1, count - 1)) for i in range(count))
    return [leak.rounds[place] for place in places]


def _cells(comparisons: Comparisons, first: Side, second: Side) -> list[str]:
    return [cell(comparisons[Asked(first, second, m)], m) for m in MEASURES]


def _columns(attackers: Sequence[str]) -> list[str]:
    return [f"{NAMES[measure]}, {by}" for by in attackers for measure in MEASURES]
