"""The page's tables, in Markdown."""

from attacks.game import FULL
from docs.pruning.claims import (
    SCORED,
    SHADOWS,
    Widths,
    audited_of,
    early_stopping,
    find_claims,
    named,
    parts_of,
    pruned_networks,
    widths_of,
)
from docs.pruning.fleets import ARCHITECTURE, DENSE, METHODS, Fleets
from docs.study.beside import left_table, level
from docs.study.claims import Comparisons, pairs_of
from docs.study.numbers import ATTACKERS, MEASURES, accuracy, leak
from docs.study.tables import cell, counted_verdicts, pairs_table, table
from docs.study.verdicts import NAMES
from reporting.text import show


def claims(comparisons: Comparisons, fleets: Fleets) -> str:
    """Every claim with its number of pairs, and the verdict for each attacker."""
    return counted_verdicts(comparisons, find_claims(fleets).values())


def pairs(comparisons: Comparisons, fleets: Fleets) -> str:
    """The pairs of all claims but those on shadows, which know of no accuracy."""
    found = [claim for name, claim in find_claims(fleets).items() if name != SHADOWS]
    return pairs_table(comparisons, pairs_of(found))


def shadows(comparisons: Comparisons, fleets: Fleets) -> str:
    """What dense shadows find beyond a target's own."""
    rows = []
    for pair in find_claims(fleets)[SHADOWS].pairs:
        cells = [pair[1]]
        for attacker in ATTACKERS.values():
            cells += [cell(comparisons[leak(*pair, attacker, m)], m) for m in MEASURES]
        rows.append(cells)
    attacks = "`lira_online`", "the strongest attack"
    columns = [f"{NAMES[m]}, {attack}" for attack in attacks for m in MEASURES]
    return table(("network", *columns), rows)


def cost(comparisons: Comparisons, fleets: Fleets) -> str:
    """What each method removed and when, and the accuracy around the cut."""
    rows = []
    for method, study in fleets.pruned.items():
        pruned = study.results.pruned
        if pruned is None:  # such a fleet is refused where it is kept
            continue
        kept = [f"{small / dense:.1%}" for dense, small in (pruned.macs, pruned.parameters)]
        first, last = min(pruned.cut_after), max(pruned.cut_after)
        epochs = str(first) if first == last else f"{first} to {last}"
        stable = "-" if pruned.stable is None else f"{pruned.stable} of {pruned.models}"
        around = [f"{accurate:.1%}" for accurate in pruned.accuracy]
        beyond = comparisons[accuracy(named(method, FULL), named(DENSE, FULL))]
        change = cell(beyond, "accuracy")
        rows.append((method, METHODS[method], *kept, epochs, stable, *around, change))
    size = "MACs kept", "parameters kept", "cut after epoch", "stable then"
    accurate = "accuracy before the cut", "after it", "at the end", "at the end, minus dense"
    return table(("method", "channels that go", *size, *accurate), rows)


def networks(fleets: Fleets) -> str:
    """How accurate every network is, and what it leaks to the strongest attack."""
    rows = []
    for fleet in fleets.names:
        study = fleets.of(fleet)
        for variant in audited_of(fleets, fleet):
            accurate = show(study.results.variants[variant].accuracy, percent=True)
            leaks = (level(study, variant, measure) for measure in MEASURES)
            rows.append((fleet, variant, accurate, *leaks))
    return table(("network", "variant", "test accuracy", *(NAMES[m] for m in MEASURES)), rows)


def beside_early(comparisons: Comparisons, fleets: Fleets) -> str:
    """How much more each pruned network leaks than a dense one that was stopped early."""
    places = {}
    for name in pruned_networks(fleets):
        method, variant = parts_of(name)
        if (curve := early_stopping(fleets, method)) is not None:
            places[name] = curve.where(variant)
    return left_table(comparisons, places)


def has_widths(fleets: Fleets) -> bool:
    """Whether the attack by widths was run on any fleet."""
    return any(widths_of(fleets, method) for method in fleets.pruned)


def architecture(comparisons: Comparisons, fleets: Fleets) -> str:
    """What an attacker finds who sees nothing but widths."""
    rows = []
    for method, study in fleets.pruned.items():
        areas = widths_of(fleets, method)
        if not areas:
            continue
        found = study.results.findings[ARCHITECTURE]
        cells = [
            f"{comparisons[Widths(method, scored)].sign} {show(areas[scored])}".strip()
            if scored in areas
            else "-"
            for scored in SCORED
        ]
        rows.append((method, f"{found['varying']} of {found['groups']}", *cells))
    columns = (f"AUC by widths of {scored}" for scored in SCORED)
    return table(("method", "groups whose widths vary", *columns), rows)
