"""Every comparison that the second edition makes, by a key that its tables look it up by."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from attacks.game import FULL
from docs.study.claims import CLAIMS, METHODS, TERNARY, Claim, order
from docs.study.fleets import (
    BASE,
    FLEETS,
    base_of,
    controls_of,
    curve_of,
    made_of,
    noise_curve,
    published_of,
    ternary_of,
)
from docs.study.frontier import KeptCurve
from docs.study.numbers import (
    ATTACKERS,
    MEASURES,
    PAPERS,
    REPAIRED,
    STRONGEST,
    UNMATCHED,
    Contrast,
    Study,
    contrasts_of,
    uncorrected,
)
from docs.study.verdicts import Uncorrected

SEEN_BY = {  # by whom the gain is seen that the shares are of
    "full-precision shadows": UNMATCHED,
    "the same, recalibrated": REPAIRED,
    "the paper's attacker": PAPERS,
}
FIRST_SEEN = next(iter(SEEN_BY))
INSTEAD_OF = (FULL, TERNARY[0])  # what weight decay is compared with
SPLIT = (BASE, "large")  # the fleets whose gains are split
ASYMMETRIC = "adaround-w1.58-asym"  # the paper's own ternary grid


class Asked(NamedTuple):
    """One comparison of the second edition.

    Attributes:
        fleet: the fleet of the variant.
        what: what is compared; the generators below say what each word means.
        variant: the variant.
        measure: by which measure.
        other: what it is compared with, or who sees it, where there is a choice.
    """

    fleet: str
    what: str
    variant: str
    measure: str
    other: str = ""


Tests = Iterator[tuple[Asked, Uncorrected | None]]


def curve_for(fleets: Mapping[str, Study], fleet: str) -> KeptCurve | None:
    """Early stopping of the fleet itself, or of `BASE` for one that is paired with it."""
    if fleet == "published":  # a question of order alone
        return None
    study = fleets[BASE] if FLEETS[fleet].paired else fleets[fleet]
    points = curve_of(study)
    return KeptCurve(study, points, fleets[fleet]) if points else None


def compared_of(fleet: str, study: Study) -> list[str]:
    """The variants of a fleet that stand beside early stopping."""
    return [FULL, *made_of(study)] if FLEETS[fleet].paired else made_of(study)


def claims_of(fleets: Mapping[str, Study]) -> Iterator[tuple[str, Claim]]:
    """The paper's claims that are tested again, with their fleet."""
    if "large" in fleets:
        variants = fleets["large"].variants
        for claim in CLAIMS.values():
            pairs = [pair for pair in claim.pairs if set(pair) <= set(variants)]
            if pairs:
                yield "large", claim._replace(pairs=pairs)
    if "published" in fleets:
        claim = published_order(fleets["published"])
        if claim.pairs:
            yield "published", claim


def fast_pairs(study: Study) -> list[tuple[str, str]]:
    """Each variant by a published loop beside the fast roundings with its bits and its grid.

    That is of its own method, and of those whose own loop was not run.
    """
    loops = published_of(study)
    pairs = []
    for variant in loops:
        method, _, settings = variant.replace("-paper", "").partition("-")
        own, *others = [method, *(m for m in METHODS if f"{m}-{settings}-paper" not in loops)]
        pairs += [(variant, f"{name}-{settings}") for name in (own, *others)]
    return [(variant, fast) for variant, fast in pairs if fast in study.variants]


def published_order(study: Study) -> Claim:
    """The paper's order of methods at 1.58 bits, of the variants by the published loops."""
    claim, loops = order("1.58"), published_of(study)
    named = {v.split("-")[0]: v for v in loops if v in ternary_of(study)}
    pairs = [(first.split("-")[0], second.split("-")[0]) for first, second in claim.pairs]
    kept = [(named[a], named[b]) for a, b in pairs if a in named and b in named]
    return claim._replace(pairs=kept)


def all_tests(fleets: Mapping[str, Study]) -> Tests:
    """Every comparison, uncorrected; None for those that are outside a curve."""
    base = fleets[BASE]
    for fleet in SPLIT:
        if fleet in fleets:
            yield from _gains(fleet, fleets[fleet], curve_for(fleets, fleet))
    for fleet, study in fleets.items():
        if curve := curve_for(fleets, fleet):
            for variant in compared_of(fleet, study):
                for measure in MEASURES:
                    yield Asked(fleet, "left", variant, measure), curve.left(variant, measure)
    yield from _controls(base, curve_for(fleets, BASE))
    if ASYMMETRIC in base.variants:
        yield from _pair(BASE, base, ASYMMETRIC, TERNARY[0])
    if "published" in fleets:
        for pair in fast_pairs(fleets["published"]):
            yield from _pair("published", fleets["published"], *pair)
    if "decay" in fleets:
        yield from _instead(fleets)
    for fleet, claim in claims_of(fleets):
        for pair in claim.pairs:
            yield from _pair(fleet, fleets[fleet], *pair)


def _gains(fleet: str, study: Study, curve: KeptCurve | None) -> Tests:
    """Gains in privacy as each attacker sees them, and their parts but for what is left."""
    for variant in ternary_of(study):
        for measure in MEASURES:
            full, own = (study.outcome(v, STRONGEST, measure) for v in (FULL, variant))
            margin = study.margin(STRONGEST, measure)
            for name, attacker in SEEN_BY.items():
                seen = study.outcome(variant, attacker, measure)
                key = Asked(fleet, "gain", variant, measure, name)
                yield key, uncorrected(full, seen, margin)
                yield key._replace(what="mismatch"), uncorrected(own, seen, margin)
            if curve is not None:
                yield Asked(fleet, "lost", variant, measure), curve.lost(variant, measure)


def _controls(base: Study, early: KeptCurve | None) -> Tests:
    """Quantized variants beside their controls, at equal accuracy.

    `like noise`: on the curve of noise; `beyond`: what is left of one on the curve of early
    stopping, beyond what is left of the other.
    """
    for variant in dict.fromkeys(map(base_of, controls_of(base))):
        noise = noise_curve(base, variant)
        for measure in MEASURES:
            if noise:
                found = KeptCurve(base, noise).left(variant, measure)
                yield Asked(BASE, "like noise", variant, measure), found
    for control in controls_of(base):
        variant = base_of(control)
        for measure in MEASURES:
            found = early.beyond(variant, control, measure) if early else None
            yield Asked(BASE, "beyond", variant, measure, control), found


def _instead(fleets: Mapping[str, Study]) -> Tests:
    """Weight decay beside full precision without it, and beside a ternary variant."""
    base = fleets[BASE]
    curve = KeptCurve(base, [FULL], fleets["decay"])
    for other in INSTEAD_OF:
        for measure in ("accuracy", *MEASURES):
            pair = curve.here(FULL, measure), curve.there(other, measure)
            found = uncorrected(*pair, base.margin(STRONGEST, measure), together=False)
            yield Asked("decay", "instead", FULL, measure, other), found


def _pair(fleet: str, study: Study, first: str, second: str) -> Tests:
    """Two variants of a fleet, by accuracy and by each attacker."""
    for contrast in contrasts_of(first, second):
        yield key_of(fleet, contrast), study.compare(contrast)


def key_of(fleet: str, contrast: Contrast) -> Asked:
    """The key of a contrast between two variants, each attacked by the same attacker."""
    (first, attacker), (second, _), measure = contrast
    name = next((name for name, known in ATTACKERS.items() if known == attacker), "nobody")
    return Asked(fleet, name, first, measure, second)
