"""The answer of an audit in four statements, each by a rule that docs/metrics.md states."""

from collections.abc import Iterable, Mapping, Sequence
from math import isnan

from attacks.evaluate import FEW, Row
from attacks.findings import Differences
from attacks.frontier import Frontier
from attacks.metrics.differences import Difference
from attacks.metrics.measures import Metric
from attacks.shadow_split import ShadowSplit
from reporting.text import (
    GUESSING,
    LEVEL,
    NAMES,
    SHADOWS,
    extent,
    false_positives,
    name_attack,
    show,
)
from reporting.worth import state_worth
from storage.records import VariantFacts

QUESTIONS = (
    "How much leaks?",
    "Which variants leak less, which more?",
    "Must the attacker quantize its shadows?",
    "Is it worth its accuracy?",
)
Shown = Mapping[Metric, Difference]  # differences of one variant that are shown


def answer(
    rows: Sequence[Row],
    variants: Mapping[str, VariantFacts],
    differences: Differences,
    shadows: Mapping[Metric, Mapping[str, ShadowSplit]],
    frontiers: Mapping[str, Frontier],
    tasks: bool = False,
) -> list[str]:
    """State what leaks, which variants leak otherwise, what shadows matter, and what it is worth.

    1. A leak of the reference is shown at an end of its risk, AUC or TPR at a low FPR, where the
       95% interval of the attack that is strongest there lies above guessing.
    2. A variant is shown to leak less than the reference if p is below 5% after correction at one
       end at least, with less there, and not with more at the other; likewise more. A variant that
       differs in both directions is named apart. Of several, the statement names the one with the
       largest difference in AUC (in TPR if no AUC differs), and the most accurate of those that
       leak less. That these leak less than the rest is an estimate, and called so.
    3. Matched shadows are compared by AUC with the next best that an attacker has who cannot
       quantize: full-precision shadows, recalibrated where there is a population, and the strongest
       attack with each; again at 5% after correction.
    4. As `state_worth` says. Snapshots of training are no variants of 2 and 3, but what 4 compares
       with.

    Args:
        rows: attacks on all variants, of which the strongest are marked.
        variants: facts about each variant.
        differences: of the variants from the reference.
        shadows: by metric and variant, what each step to matched shadows gains.
        frontiers: variants beside networks of equal accuracy, by curve.
        tasks: whether training learns one task after another.
    """
    ends, snapshots = differences.against_reference, differences.snapshots
    strongest = {
        metric: row
        for metric in ends
        for row in rows
        if row.variant == differences.reference and metric in row.strongest
    }
    splits = {v: split for v, split in shadows["auc"].items() if v not in snapshots}
    return [
        _leak(strongest),
        _variants(differences, variants),
        _shadows(splits),
        state_worth(frontiers, snapshots, tasks),
    ]


def _leak(strongest: Mapping[Metric, Row]) -> str:
    """Whether the reference leaks on average and in the tail."""
    (_, by_auc), (tail, by_tail) = strongest.items()
    variant, summary = by_auc.variant, by_auc.summary
    share, rate = getattr(by_tail.summary, tail), NAMES[tail].removeprefix("TPR ")
    average, rare = summary.auc.low > GUESSING["auc"], share.low > GUESSING[tail]
    area = f"{name_attack(by_auc)} reaches AUC {show(summary.auc)}"
    finds = "finds" if by_tail == by_auc else f"{name_attack(by_tail)} finds"
    found = f"{finds} {show(share, percent=True)} of the members {rate}"
    guess = "" if average else f", where guessing reaches {GUESSING['auc']}"
    caught = "" if rare else f", where guessing finds {100 * GUESSING[tail]:g}%"
    verdict = {
        (True, True): f"{variant} leaks",
        (True, False): f"{variant} leaks on average, and no leak is shown in the tail",
        (False, True): f"{variant} leaks in the tail, and no leak is shown on average",
        (False, False): f"No leak of {variant} is shown",
    }[average, rare]
    pause = "" if average and by_tail == by_auc else ","
    return f"{verdict}: {area}{guess}{pause} and {found}{caught} ({_basis(by_tail, tail)})."


def _basis(row: Row, tail: Metric) -> str:
    targets, count = row.summary.targets, false_positives(row.summary, tail)
    models = f"{targets} audited models, each" if targets > 1 else "1 audited model"
    little = " and proves little" if count is not None and count < FEW else ""
    rests = f"the TPR rests on {count} false positive{'' if count == 1 else 's'}{little}"
    return f"{models} with {row.summary.non_members} non-members; {rests}"


def _variants(differences: Differences, variants: Mapping[str, VariantFacts]) -> str:
    """Which variants leak less or more than the reference, at what accuracy."""
    reference, ends = differences.reference, differences.against_reference
    shown: dict[str, Shown] = {
        variant: {end: ends[end][variant] for end in ends if ends[end][variant].p_holm < LEVEL}
        for variant in ends["auc"]
        if variant not in differences.snapshots
    }
    if not any(shown.values()):
        alone = (
            f"{reference} and its snapshots were" if differences.snapshots else f"{reference} was"
        )
        return _nothing_shown(list(shown), reference, alone)
    signs = {v: {d.estimate.value > 0 for d in found.values()} for v, found in shown.items()}
    less, more, both = (
        {v: found for v, found in shown.items() if signs[v] == wanted}
        for wanted in ({False}, {True}, {False, True})
    )
    descriptions = {v: _describe(found, ends, variants[v]) for v, found in shown.items()}
    statements = []
    if less:
        statements.append(_introduce(less, f"less than {reference}", descriptions))
        known = [v for v in less if not isnan(variants[v].accuracy.value)]
        accurate = max(known, key=lambda v: variants[v].accuracy.value, default=_largest(less))
        if accurate != _largest(less):
            end = f"The most accurate of them is {accurate}: {descriptions[accurate]}."
            statements.append(end)
    if more:
        statements.append(_introduce(more, f"more than {reference}", descriptions))
    if both:
        split = f"less than {reference} at one end and more at the other"
        statements.append(_introduce(both, split, descriptions))
    elif len(shown) > 1 and not (less and more):
        statements.append(f"None is shown to leak {'more' if less else 'less'}.")
    accuracy = show(variants[reference].accuracy, percent=True)
    return " ".join([*statements, f"The test accuracy of {reference} is {accuracy}."])


def _nothing_shown(others: Sequence[str], reference: str, alone: str) -> str:
    if not others:
        return f"Only {alone} audited: there is no variant to compare it with."
    none = f"{others[0]} is not"
    if len(others) > 1:
        none = f"None of {len(others)} other variants is"
    return (
        f"{none} shown to leak less or more than {reference}, which does not show that they leak "
        "alike."
    )


def _describe(found: Shown, ends: Iterable[Metric], facts: VariantFacts) -> str:
    """Differences of one variant at both ends, and its accuracy."""
    extents = [
        extent(end, found[end].estimate) if end in found else f"no difference shown in {NAMES[end]}"
        for end in ends
    ]
    return f"{', '.join(extents)}, at {show(facts.accuracy, percent=True)} test accuracy"


def _introduce(group: Mapping[str, Shown], verdict: str, descriptions: Mapping[str, str]) -> str:
    """How many variants differ in one direction, and the one that differs most."""
    largest, number = _largest(group), len(descriptions)
    described = f"{largest}: {descriptions[largest]}."
    if number == 1:
        return f"{largest} is shown to leak {verdict}: {descriptions[largest]}."
    if len(group) == 1:
        return f"1 of {number} other variants is shown to leak {verdict}, {described}"
    return (
        f"{len(group)} of {number} other variants are shown to leak {verdict}. The largest "
        f"difference is that of {described}"
    )


def _largest(group: Mapping[str, Shown]) -> str:
    """The variant with the largest difference in AUC, or in TPR where no AUC differs."""

    def extent_of(variant: str) -> tuple[bool, float]:
        by_auc = group[variant].get("auc")
        difference = by_auc or next(iter(group[variant].values()))
        return by_auc is not None, abs(difference.estimate.value)

    return max(group, key=extent_of)


def _shadows(splits: Mapping[str, ShadowSplit]) -> str:
    """Whether full-precision shadows (recalibrated, if known) find less than matched ones."""
    differences = {variant: split.quantizing for variant, split in splits.items()}
    kind = "unquantized"
    if any(split.recalibration is not None for split in splits.values()):
        kind = "recalibrated"
    if not differences:
        return (
            "Whether an attacker must quantize its shadows was not tested: no variant was attacked "
            "with both matched and full-precision shadows."
        )
    number = len(differences)
    shown = {v: d.estimate for v, d in differences.items() if d.p_holm < LEVEL}
    verdicts = (
        (f"{SHADOWS[kind]} find less than matched shadows", 1),
        (f"{SHADOWS[kind]} find more than matched shadows", -1),
    )
    clauses = []
    for verdict, sign in verdicts:
        group = {v: estimate for v, estimate in shown.items() if sign * estimate.value > 0}
        if group:
            largest = max(group, key=lambda variant: abs(group[variant].value))
            value, low, high, _ = group[largest]
            less = extent("auc", group[largest]._replace(value=-value, low=-high, high=-low))
            where = f"on {len(group)} of {number} variants" if number > 1 else "on"
            most = ", by estimate most on" if len(group) > 1 else ":" if number > 1 else ""
            clauses.append(f"{verdict} {where}{most} {largest} ({less})")
    if not clauses:
        where = f"any of {number} variants" if number > 1 else next(iter(differences))
        return (
            "It is unclear whether an attacker must quantize its shadows: no difference between "
            f"matched and {SHADOWS[kind]} is shown on {where} (AUC)."
        )
    if rest := number - len(shown):
        others = "the other" if rest == 1 else f"the other {rest}"
        clauses.append(f"no difference is shown on {others}")
    sentence = "; ".join(clauses)
    return f"{sentence[0].upper()}{sentence[1:]}."
