"""The page's tables, in Markdown."""

from attacks.continual.over_targets import over_targets
from attacks.game import FULL
from attacks.metrics.differences import Difference
from docs.continual.claims import BESIDE, Claim, Comparisons, beside, change, claims_of, few_heads
from docs.continual.fleets import Fleets
from docs.continual.measures import ACCURACY, MEASURES
from docs.continual.numbers import (
    LIRA,
    LOSS,
    STRONGEST,
    WORLDS,
    Asked,
    Head,
    Side,
    can_attack,
    heads_of,
    values,
)
from docs.continual.published import RESULTS
from docs.study.numbers import STRONGEST as ANY_SHADOWS
from docs.study.tables import cell, points, table
from docs.study.verdicts import NAMES
from reporting.text import LEVEL, show, show_difference

HELD = {
    "snapshot": "the last network",
    "snapshots": "every task's network",
    "state": "these and the learner's state",
}
NEURONS = {  # what models record of them, and its name in a table
    "active": "active neurons per example",
    "silent": "neurons that none activates",
    "entropy": "entropy of a neuron's activity, bits",
    "alive": "share of examples that activate a neuron of the last subnetwork",
}


def utility(fleets: Fleets) -> str:
    """How accurate the learners are, over stages and at the end."""
    rows = []
    for name, fleet in fleets.items():
        known = fleet.leak.utility
        backward = "-" if known.backward is None else points(known.backward)
        rows.append((name, show(known.average, True), show(known.last, True), backward))
    return table(("learner", "average", "last", "change of earlier tasks, in points"), rows)


def published(fleets: Fleets) -> str:
    """What was published of these learners, and what is otherwise here."""
    rows = []
    for known in RESULTS:
        own = fleets.get(known.learner)
        here = "not run" if own is None else show(own.leak.utility.last, percent=True)
        numbers = (known.average or "-", known.last, known.backward or "-", here)
        rows.append((known.learner, known.setting, *numbers, known.differs, known.source))
    columns = "learner", "published on", "average", "last", "change of earlier tasks", "last here"
    return table((*columns, "there", "source"), rows)


def claims(comparisons: Comparisons, fleets: Fleets) -> str:
    """Every claim with its number of pairs and its verdict."""
    rows = [
        (claim.text, str(len(claim.pairs)), comparisons.overall(claim))
        for claim in claims_of(fleets)
    ]
    return table(("claim", "pairs", "verdict"), rows)


def changes(comparisons: Comparisons, fleets: Fleets) -> str:
    """What is found of earlier tasks right after each and at the end, and how accuracy changes."""
    rows = []
    for name, fleet in fleets.items():
        pair = change(name, STRONGEST)
        levels = [show(over_targets(values(fleet, side, "auc"))) for side in pair[::-1]]
        cells = [cell(comparisons[Asked(*pair, m)], m) for m in MEASURES]
        loss = change(name, LOSS)
        known = all(can_attack(fleets, side) for side in loss)
        cells.append(cell(comparisons[Asked(*loss, "auc")], "auc") if known else "-")
        accurate = Asked(*change(name, ACCURACY), ACCURACY)
        rows.append((name, *levels, *cells, cell(comparisons[accurate], ACCURACY)))
    moments = "AUC right after each task", "AUC at the end"
    differences = (*(f"change of {NAMES[m]}" for m in MEASURES), "change of AUC, loss attack")
    return table(("learner", *moments, *differences, "change of test accuracy"), rows)


def pairs(comparisons: Comparisons, fleets: Fleets) -> str:
    """What remembering more costs: each learner beside the one that it adds to."""
    rows = []
    for first, second in BESIDE:
        both = beside(fleets, first, second)
        for accurate, leaks in [both] if both else []:
            cells = [cell(comparisons.of(accurate, ACCURACY)[0], ACCURACY)]
            cells += [cell(comparisons.of(leaks, m)[0], m) for m in MEASURES]
            rows.append((f"{first} beyond {second}", *cells))
    leaked = (f"{NAMES[m]} of earlier tasks at the end" for m in MEASURES)
    return table(("learners", "change of test accuracy of earlier tasks", *leaked), rows)


def claim_pairs(comparisons: Comparisons, claim: Claim) -> str:
    """The comparisons of a claim on one fleet each, by fleet."""
    rows = [
        (pair[0].fleet, *(cell(comparisons[Asked(*pair, m)], m) for m in claim.measures))
        for pair in claim.pairs
    ]
    return table(("learner", *(NAMES[m] for m in claim.measures)), rows)


def attackers(fleets: Fleets) -> str:
    """What is found at the end by who holds ever more."""
    rows = []
    for name, fleet in fleets.items():
        for held in fleet.leak.attackers:
            found = [show(held.auc), show(held.tpr_1pct, True)]
            gain = _marked(held.gain)
            names = ", ".join(f"`{attack}`" for attack in held.attacks)
            rows.append((name, HELD[held.holds], *found, gain, names))
    columns = *(NAMES[m] for m in MEASURES), "AUC beyond the row above", "by"
    return table(("learner", "the attacker holds", *columns), rows)


def state(fleets: Fleets) -> str:
    """What a learner's state tells, right after a task and at the end."""
    rows = []
    for name, fleet in fleets.items():
        for known in fleet.leak.state:
            found = (known.auc, known.auc_at_end)
            rates = (known.tpr_1pct, known.tpr_1pct_at_end)
            cells = ["-" if e is None else show(e) for e in found]
            cells += ["-" if e is None else show(e, percent=True) for e in rates]
            rows.append((name, f"`{known.attack}`", *cells))
    moments = "right after the task", "earlier tasks at the end"
    return table(
        ("learner", "attack", *(f"{m}, {w}" for m in ("AUC", "TPR at 1% FPR") for w in moments)),
        rows,
    )


def heads(comparisons: Comparisons, fleets: Fleets) -> str:
    """How accurate and how exposed quantized networks are, beside full precision."""
    rows = []
    for name, fleet in fleets.items():
        whole = {leak.variant: show(leak.auc) for leak in fleet.leak.variants if leak.whole}
        for head in [FULL, *heads_of(fleet)] if heads_of(fleet) else []:
            accurate = fleet.study.results.variants[head].accuracy
            best = fleet.study.best(head, ANY_SHADOWS).summary
            levels = [show(accurate, percent=True), show(best.auc)]
            pair = Head(name, head), Head(name, FULL)
            asked = [Asked(*pair, m) for m in (ACCURACY, *MEASURES)]
            cells = ["-"] * 3 if head == FULL else [cell(comparisons[a], a.measure) for a in asked]
            rows.append((name, head, *levels, *cells, whole.get(head, "-")))
    beyond = [f"{NAMES[m]} beyond full precision" for m in (ACCURACY, *MEASURES)]
    columns = "learner", "variant", "test accuracy", "AUC", *beyond, "AUC by whole outputs"
    return table(columns, rows)


def rounded(fleets: Fleets) -> str:
    """What the strongest attack finds of quantized networks, and what rounded heads find."""
    rows = []
    for name, fleet in fleets.items():
        for leak in fleet.leak.variants if has_rounded({name: fleet}) else []:
            cells, found = [show(leak.auc), _marked(leak.beyond)], leak.rounded
            parts = [show(found.worlds), show(found.shadows), _marked(found.gain)] if found else []
            rows.append((name, leak.variant, *cells, *(parts or ["-"] * 3)))
    columns = "AUC", "AUC beyond full", "AUC, rounded heads", "AUC, LiRA", "AUC beyond LiRA"
    return table(("learner", "variant", *columns), rows)


def has_rounded(fleets: Fleets) -> bool:
    """Whether heads were rounded as quantized networks were."""
    return any(leak.rounded for fleet in fleets.values() for leak in fleet.leak.variants)


def _marked(difference: Difference | None) -> str:
    """A difference, with a question mark if it is not shown."""
    if difference is None:
        return "-"
    shown = "" if difference.p_holm < LEVEL else "? "
    return f"{shown}{show_difference(difference.estimate)}"


def shipped(fleets: Fleets) -> str:
    """What is found of earlier tasks at the end by who only ever got networks of one precision."""
    rows = []
    for name, fleet in fleets.items():
        for known in fleet.leak.precisions:
            for held in known.holders:
                cells = show(held.auc), show(held.tpr_1pct, True), _marked(held.beyond)
                rows.append((name, known.precision, HELD[held.holds], *cells))
    columns = *(NAMES[m] for m in MEASURES), "AUC beyond full"
    return table(("learner", "networks", "the attacker holds", *columns), rows)


def has_shipped(fleets: Fleets) -> bool:
    """Whether the ends of tasks were quantized, too."""
    return any(fleet.leak.precisions for fleet in fleets.values())


def few(comparisons: Comparisons, fleets: Fleets) -> str:
    """What a few heads find beside ordinary LiRA, and what each takes."""
    rows = []
    for pair in few_heads(fleets).pairs:
        name = pair[0].fleet
        leak, seconds = fleets[name].leak, fleets[name].study.results.seconds.values()
        levels = [
            show(over_targets(values(fleets[name], Side(name, "all", attack), "auc")))
            for attack in (WORLDS, LIRA)
        ]
        cells = [cell(comparisons[Asked(*pair, m)], m) for m in MEASURES]
        cost = f"{leak.world_seconds:.3f}", f"{sum(seconds) / max(1, len(seconds)):.1f}"
        rows.append((name, str(leak.worlds), str(leak.shadows), *levels, *cells, *cost))
    columns = "AUC, heads", "AUC, LiRA", *(f"{NAMES[m]} beyond LiRA" for m in MEASURES)
    return table(
        ("learner", "heads", "shadows", *columns, "seconds per head", "seconds per model"), rows
    )


def neurons(fleets: Fleets) -> str:
    """What the neurons of sparse learners do at the end, mean over targets."""
    rows = []
    for name, fleet in fleets.items():
        if "active" in fleet.facts:
            known = (fleet.facts.get(fact) for fact in NEURONS)
            rows.append((name, *("-" if fact is None else f"{fact:.3g}" for fact in known)))
    return table(("learner", *NEURONS.values()), rows)


def risk(fleets: Fleets) -> str:
    """AUC that leverages let expect beside AUC that is found, by groups of examples."""
    rows = []
    for name, fleet in fleets.items():
        known = fleet.leak.risk_map
        for group in known.groups if known else ():
            numbers = f"{group.leverage:.3f}", f"{group.expected:.3f}", show(group.found)
            rows.append((name, str(group.examples), *numbers))
    return table(("learner", "examples", "mean leverage", "AUC expected", "AUC found"), rows)


def has_pairs(fleets: Fleets) -> bool:
    """Whether a learner was run with the one that it adds to."""
    return any(beside(fleets, *pair) for pair in BESIDE)


def has_neurons(fleets: Fleets) -> bool:
    """Whether any learner recorded what its neurons do."""
    return any("active" in fleet.facts for fleet in fleets.values())


def has_state(fleets: Fleets) -> bool:
    """Whether any learner keeps anything beside its weights."""
    return any(fleet.leak.state for fleet in fleets.values())
