"""The page's tables, in Markdown."""

from collections.abc import Sequence
from statistics import fmean

from attacks.game import FULL
from attacks.metrics.measures import Metric
from docs.mixed.claims import (
    Copied,
    Left,
    copied_variants,
    early_stopping,
    find_claims,
    searched_of,
)
from docs.study.beside import turned
from docs.study.claims import Comparisons
from docs.study.fleets import made_of
from docs.study.numbers import ATTACKERS, MEASURES, STRONGEST, Study, missed
from docs.study.tables import cell, table
from docs.study.verdicts import NAMES
from reporting.text import show

LEVELS: tuple[Metric, ...] = ("auc", "tpr_01pct")
UNITS = {"kl": "nats", "changed": "points"}


def claims(comparisons: Comparisons) -> str:
    """Every claim with its number of pairs, and the verdict for each attacker."""
    rows = []
    for claim in find_claims(comparisons.study).values():
        verdicts = (comparisons.overall(claim, attacker) for attacker in ATTACKERS)
        rows.append((claim.text, str(len(claim.pairs)), *verdicts))
    return table(("claim", "pairs", *(f"by {attacker}" for attacker in ATTACKERS)), rows)


def pairs(comparisons: Comparisons) -> list[tuple[str, str]]:
    """The pairs of all claims, each once."""
    claims = find_claims(comparisons.study).values()
    return list(dict.fromkeys(pair for claim in claims for pair in claim.pairs))


def variants(study: Study) -> str:
    """What every variant costs, how accurate it is, and what it leaks to the strongest attack."""
    rows = []
    for variant in (FULL, *made_of(study)):
        facts = study.results.variants[variant]
        cost = ("-", "-", "-")
        if facts.cost is not None:
            bits, size, ratio = facts.cost.mean_bits, facts.cost.weight_bytes, facts.cost.intensity
            cost = f"{bits:.2f}", f"{size:,.0f}", f"{ratio:.3g}"
        accurate = show(facts.accuracy, percent=True)
        rows.append((variant, *cost, accurate, *_levels(study, variant)))
    costs = ("bits per weight", "bytes of weights", "FLOP / byte")
    return table(("variant", *costs, "test accuracy", *(NAMES[m] for m in LEVELS)), rows)


def beside(comparisons: Comparisons) -> str:
    """How much more each variant leaks than a network of equal accuracy that was stopped early."""
    curve = early_stopping(comparisons.study)
    if curve is None:
        return "The fleet has no snapshots."
    rows = []
    for variant in made_of(comparisons.study):
        cells = [variant, curve.where(variant)]
        for measure in MEASURES:
            known = comparisons.get(Left(variant, measure))
            cells.append("-" if known is None else cell(turned(known), measure))
        rows.append(cells)
    beyond = [f"{NAMES[measure]} beyond it" for measure in MEASURES]
    return table(("variant", "as accurate as", *beyond), rows)


def mismatch(comparisons: Comparisons) -> str:
    """What shadows that search for their bits find beyond full-precision ones."""
    rows = [
        (v, *(cell(comparisons[missed(v, None, m)], m) for m in MEASURES))
        for v in searched_of(comparisons.study)
    ]
    return table(("variant", *(NAMES[measure] for measure in MEASURES)), rows)


def copied_table(comparisons: Comparisons, copied: Study) -> str:
    """What shadows with the bits of one target find beyond those that search for themselves."""
    rows = [
        (v, *(cell(comparisons[Copied(v, m)], m) for m in MEASURES))
        for v in copied_variants(copied)
    ]
    return table(("variant", *(NAMES[measure] for measure in MEASURES)), rows)


def bits(study: Study) -> str:
    """Bits of each layer: the mean over the audited models, and the least and most."""
    searched = {
        variant: search.bits
        for variant in searched_of(study)
        if (search := study.results.variants[variant].search) is not None
    }
    layers = dict.fromkeys(layer for own in searched.values() for model in own for layer in model)
    rows = []
    for layer in layers:
        cells = [f"`{layer}`"]
        for own in searched.values():
            found = [float(model[layer]) for model in own if layer in model]
            spread = "" if min(found) == max(found) else f" ({min(found):g}-{max(found):g})"
            cells.append(f"{fmean(found):.3g}{spread}")
        rows.append(cells)
    return table(("layer", *searched), rows)


def additivity(study: Study) -> str:
    """The sum of what single layers lose beside what all lose together, on other images."""
    rows = []
    for variant in searched_of(study):
        search = study.results.variants[variant].search
        if search is None or search.loss not in UNITS:  # a sum of `fisher` is no divergence
            continue
        unit = UNITS[search.loss]
        off = f"{search.measured / search.expected:.2f}" if search.expected else "-"
        rows.append(
            (
                variant,
                f"{search.expected:.3g} {unit}",
                f"{search.measured:.3g} {unit}",
                off,
            )
        )
    return table(("variant", "expected", "measured", "measured / expected"), rows)


def _levels(study: Study, variant: str) -> Sequence[str]:
    rows = {m: study.best(variant, STRONGEST, m) for m in LEVELS}
    return [show(getattr(row.summary, m), percent=m != "auc") for m, row in rows.items()]
