"""The page's tables, in Markdown."""

from statistics import fmean

from attacks.game import FULL
from docs.mixed.claims import (
    Copied,
    copied_variants,
    early_stopping,
    find_claims,
    searched_of,
)
from docs.study.beside import LEVELS, left_table, level
from docs.study.claims import Comparisons, pairs_of
from docs.study.fleets import made_of
from docs.study.numbers import MEASURES, Study, missed
from docs.study.tables import cell, counted_verdicts, pairs_table, table
from docs.study.verdicts import NAMES
from reporting.text import show

UNITS = {"kl": "nats", "changed": "points"}


def claims(comparisons: Comparisons) -> str:
    """The verdicts on every claim, and below them its pairs."""
    found = find_claims(comparisons.study).values()
    return f"{counted_verdicts(comparisons, found)}\n\n{pairs_table(comparisons, pairs_of(found))}"


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
        leaks = (level(study, variant, measure) for measure in LEVELS)
        rows.append((variant, *cost, accurate, *leaks))
    costs = ("bits per weight", "bytes of weights", "FLOP / byte")
    return table(("variant", *costs, "test accuracy", *(NAMES[m] for m in LEVELS)), rows)


def beside(comparisons: Comparisons) -> str:
    """How much more each variant leaks than a network of equal accuracy that was stopped early."""
    curve = early_stopping(comparisons.study)
    if curve is None:
        return "The fleet has no snapshots."
    return left_table(comparisons, {v: curve.where(v) for v in made_of(comparisons.study)})


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
