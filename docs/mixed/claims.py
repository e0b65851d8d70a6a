"""What the page asks of the results: claims on pairs of variants, and what stands beside them."""

import re
from collections.abc import Hashable, Iterator
from typing import NamedTuple

from docs.study.claims import Claim, Comparisons, pairs_of
from docs.study.fleets import curve_of, made_of
from docs.study.frontier import KeptCurve, Left
from docs.study.numbers import (
    MEASURES,
    STRONGEST,
    Attacker,
    Study,
    contrasts_of,
    missed,
    uncorrected,
)
from docs.study.verdicts import Uncorrected
from storage.borrowed import AT_FULL, FACT

UNIFORM = re.compile(r"(\w+)-w[\d.]+(-sym)?")  # the same bits in every layer
MIXED = re.compile(r"(\w+)-mix[\d.]+(-greedy)?")
AIQ = re.compile(r"(\w+)-aiq[\d.]+(-greedy)?")
ACTIVATIONS = re.compile(r"-a\d+")
ALIKE = 0.01  # relative difference up to which bytes are equal: rows have whole bytes
COPIED = Attacker(("other",))  # whose shadows all have the bits of one target
OWN = Attacker(("matched",))  # whose shadows search for themselves


class Copied(NamedTuple):
    """Shadows with the bits of one target, less shadows that search for their own."""

    variant: str
    measure: str


def find_claims(study: Study) -> dict[str, Claim]:
    """The claims that a fleet's variants can test, by name; those without a pair are left out."""
    known = made_of(study)
    closest = {v: found for v in searched_of(study) if (found := closest_uniform(study, v))}
    mixed = [
        (v, other) for v, (other, gap) in closest.items() if MIXED.fullmatch(v) and gap < ALIKE
    ]
    aiq = [(v, other) for v, (other, _) in closest.items() if AIQ.fullmatch(v)]
    plain = {v: weights_of(v) for v in known if ACTIVATIONS.search(v)}
    eight, four = (
        [(v, weights) for v, weights in plain.items() if bits in v] for bits in ("-a8", "-a4")
    )
    claims = {
        "alike": Claim("a mixed network leaks like a uniform one of equal bytes", mixed, "alike"),
        "more": Claim(
            "a mixed network is more accurate than a uniform one of equal bytes, and leaks more",
            mixed,
            "more",
            accuracy="more",
        ),
        "aiq": Claim(
            "bits chosen by AIQ leak less than uniform ones of the closest bytes", aiq, "less"
        ),
        "eight": Claim("8-bit activations leak like the weights alone", eight, "alike"),
        "four": Claim("4-bit activations leak less than the weights alone", four, "less"),
    }
    present = {
        name: claim._replace(pairs=[pair for pair in claim.pairs if set(pair) <= {*known}])
        for name, claim in claims.items()
    }
    return {name: claim for name, claim in present.items() if claim.pairs}


def closest_uniform(study: Study, variant: str) -> tuple[str, float] | None:
    """The variant of the same method with equal bits in all layers that is closest in bytes.

    Returns:
        Its name, and by what share of its bytes they differ; None if there is no such variant.
    """
    facts, method = study.results.variants, variant.partition("-")[0]
    own, found = facts[variant].cost, dict[str, float]()
    for other in made_of(study):
        match, cost = UNIFORM.fullmatch(other), facts[other].cost
        if match is not None and match[1] == method and own and cost:
            found[other] = abs(own.mean_bits / cost.mean_bits - 1)
    return min(found.items(), key=lambda item: item[1], default=None)


def weights_of(variant: str) -> str:
    """The variant with the same weights, and activations at full precision.

    Beside quantized activations, weights of 8 bits have symmetric grids.
    """
    return re.sub(r"-w8$", "-w8-sym", ACTIVATIONS.sub("", variant))


def searched_of(study: Study) -> list[str]:
    """The variants whose bits are searched."""
    return [variant for variant in made_of(study) if re.search(r"-(mix|aiq)", variant)]


def early_stopping(study: Study) -> KeptCurve | None:
    """The curve of early stopping, where the fleet has snapshots."""
    points = curve_of(study)
    return KeptCurve(study, points) if points else None


def compare_all(study: Study, copied: Study | None) -> Comparisons:
    """Make every comparison of the page, corrected together.

    Args:
        study: the fleet's results.
        copied: those of its targets attacked by shadows with the bits of one of them; None before
            it is run.
    """
    return Comparisons(study, dict(_tests(study, copied)))


def _tests(study: Study, copied: Study | None) -> Iterator[tuple[Hashable, Uncorrected]]:
    pairs = pairs_of(find_claims(study).values())
    contrasts = [contrast for pair in pairs for contrast in contrasts_of(*pair)]
    contrasts += [missed(v, None, m) for v in searched_of(study) for m in MEASURES]
    for contrast in contrasts:
        yield contrast, study.compare(contrast)
    if (curve := early_stopping(study)) is not None:
        for variant in made_of(study):
            for measure in MEASURES:
                if (left := curve.left(variant, measure)) is not None:
                    yield Left(variant, measure), left
    if copied is not None:
        for variant in copied_variants(copied):
            for measure in MEASURES:
                theirs, own = (copied.outcome(variant, who, measure) for who in (COPIED, OWN))
                found = uncorrected(theirs, own, copied.margin(STRONGEST, measure))
                yield Copied(variant, measure), found


def copied_variants(copied: Study) -> list[str]:
    """The variants with chosen bits that shadows of another experiment attack in the same variant.

    That experiment's full-precision shadows attack what it does not have.
    """
    at_full = copied.results.basis.get(FACT, "").partition(AT_FULL)[2].split(", ")
    return [v for v in searched_of(copied) if (v, "other") in copied.rows and v not in at_full]
