"""What the page asks of the results: claims on pairs of networks, and what stands beside them."""

from collections.abc import Hashable, Iterator
from typing import NamedTuple

from attacks.game import FULL
from attacks.metrics.intervals import Estimate
from docs.pruning.fleets import ARCHITECTURE, DENSE, METHODS, OCS, Fleets
from docs.study.claims import Claim, Comparisons, against_guessing, pairs_of
from docs.study.fleets import curve_of, made_of, quantized_of
from docs.study.frontier import KeptCurve, Left
from docs.study.numbers import (
    ATTACKERS,
    MATCHED_LIRA,
    MEASURES,
    STRONGEST,
    Attacker,
    contrasts_of,
    leak,
    uncorrected,
)
from docs.study.verdicts import Uncorrected

MORE, LESS, PEERS, SHADOWS = "more", "less", "peers", "shadows"  # claims with sentences on them
SCORED = "the example", "its class"  # what widths score
BY_DENSE = " by dense shadows"  # after the name of a network
# by attack: dense shadows and a target's own, both in the target's variant
BORROWERS = MATCHED_LIRA._replace(kinds=("other",)), Attacker(("other",))
OWNERS = MATCHED_LIRA, Attacker(("matched",))


class Widths(NamedTuple):
    """The key of a comparison: what widths tell of an example or its class, beyond guessing."""

    method: str
    scored: str


def named(fleet: str, variant: str) -> str:
    """The name of a network on the page: `ocs adaround-w2`."""
    return f"{fleet} {variant}"


def parts_of(name: str) -> tuple[str, str]:
    """The fleet and the variant of a network."""
    fleet, _, variant = name.partition(" ")
    return fleet, variant


def audited_of(fleets: Fleets, fleet: str) -> list[str]:
    """The variants of a fleet but for its snapshots, `full` first."""
    return [FULL, *made_of(fleets.of(fleet))]


def pruned_networks(fleets: Fleets) -> list[str]:
    """Every pruned network of the page, by method and variant."""
    return [named(method, v) for method in fleets.pruned for v in audited_of(fleets, method)]


def find_claims(fleets: Fleets) -> dict[str, Claim]:
    """The claims that the fleets can test, by name; those without a pair are left out."""
    full = [_beside_dense(method, FULL) for method in fleets.pruned]
    peers = [
        (named(OCS, FULL), named(method, FULL))
        for method in METHODS
        if {OCS, method} <= {*fleets.pruned} and method != OCS
    ]
    lent = [
        (f"{named(method, variant)}{BY_DENSE}", named(method, variant))
        for method in fleets.borrowed
        for variant in _lent_variants(fleets, method)
    ]
    claims = {
        MORE: Claim(
            "pruning makes members stand out: pruned networks leak more (SAMIA)", full, "more"
        ),
        LESS: Claim(
            "pruning reduces leakage: pruned networks leak less (Wang et al. 2020)", full, "less"
        ),
    }
    for variant in quantized_of(fleets.dense):
        methods = [m for m, study in fleets.pruned.items() if variant in study.variants]
        claims[variant] = Claim(
            f"quantized to {variant}, pruned networks leak more than dense ones",
            [_beside_dense(method, variant) for method in methods],
            "more",
        )
    claims[PEERS] = Claim(
        f"`{OCS}` is more accurate than the other methods, and leaks alike",
        peers,
        "alike",
        accuracy="more",
    )
    claims[SHADOWS] = Claim(
        "dense shadows understate what pruned networks leak to shadows of their own", lent, "less"
    )
    return {name: claim for name, claim in claims.items() if claim.pairs}


def early_stopping(fleets: Fleets, method: str) -> KeptCurve | None:
    """The dense fleet's curve of early stopping beside a method; None without snapshots."""
    points = curve_of(fleets.dense)
    return KeptCurve(fleets.dense, points, fleets.of(method)) if points else None


def widths_of(fleets: Fleets, method: str) -> dict[str, Estimate]:
    """What widths alone tell of an example and of its class, as AUC."""
    found = fleets.of(method).results.findings.get(ARCHITECTURE)
    if not found:
        return {}
    areas = zip(SCORED, (found["summary"]["auc"], found["by_class"]), strict=True)
    return {scored: Estimate(**area) for scored, area in areas if area}


def compare_all(fleets: Fleets) -> Comparisons:
    """Make every comparison of the page, corrected together."""
    return Comparisons(fleets.dense, dict(_tests(fleets)))


def _tests(fleets: Fleets) -> Iterator[tuple[Hashable, Uncorrected]]:
    claims = find_claims(fleets)
    lent = claims.pop(SHADOWS, None)
    for pair in pairs_of(claims.values()):
        yield from _between(fleets, *pair)
    for pair in lent.pairs if lent else []:
        yield from _by_shadows(fleets, *pair)
    for method in fleets.pruned:
        yield from _beside_early(fleets, method)
        margin = fleets.dense.margin(STRONGEST, "auc")
        targets = len(fleets.of(method).each(FULL, STRONGEST, "auc"))
        for scored, area in widths_of(fleets, method).items():
            yield Widths(method, scored), against_guessing(area, targets, margin)


def _between(fleets: Fleets, first: str, second: str) -> Iterator[tuple[Hashable, Uncorrected]]:
    """Two fleets on the same targets, by accuracy and by each attacker."""
    (fleet, variant), (other, reference) = parts_of(first), parts_of(second)
    pair = KeptCurve(fleets.of(other), [reference], fleets.of(fleet))
    for contrast in contrasts_of(first, second):
        (_, attacker), _, measure = contrast
        found = pair.here(variant, measure, attacker), pair.there(reference, measure, attacker)
        margin = fleets.dense.margin(attacker, measure)
        yield contrast, uncorrected(*found, margin, together=False)


def _by_shadows(fleets: Fleets, first: str, second: str) -> Iterator[tuple[Hashable, Uncorrected]]:
    """Dense shadows and a target's own, on the same targets."""
    method, variant = parts_of(second)
    study = fleets.borrowed[method]
    for attacker, *sides in zip(ATTACKERS.values(), BORROWERS, OWNERS, strict=True):
        for measure in MEASURES:
            theirs, own = (study.outcome(variant, side, measure) for side in sides)
            margin = fleets.dense.margin(attacker, measure)
            yield leak(first, second, attacker, measure), uncorrected(theirs, own, margin)


def _beside_early(fleets: Fleets, method: str) -> Iterator[tuple[Hashable, Uncorrected]]:
    """Each variant beside dense networks of equal accuracy; without those outside the curve."""
    curve = early_stopping(fleets, method)
    if curve is None:
        return
    for variant in audited_of(fleets, method):
        for measure in MEASURES:
            if (left := curve.left(variant, measure)) is not None:
                yield Left(named(method, variant), measure), left


def _beside_dense(method: str, variant: str) -> tuple[str, str]:
    return named(method, variant), named(DENSE, variant)


def _lent_variants(fleets: Fleets, method: str) -> list[str]:
    """The variants of a fleet that dense shadows attack."""
    study = fleets.borrowed[method]
    return [variant for variant in study.variants if (variant, "other") in study.rows]
