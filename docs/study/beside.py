"""Variants beside networks of equal accuracy: tables, and what they show in words."""

from collections.abc import Mapping, Sequence

from attacks.metrics.intervals import Estimate
from attacks.metrics.measures import Metric
from docs.study.claims import TERNARY, Comparisons
from docs.study.comparisons import Asked, compared_of
from docs.study.edition import Edition
from docs.study.fleets import BASE, base_of, controls_of, noise_curve
from docs.study.frontier import KeptCurve, Left
from docs.study.numbers import MEASURES, STRONGEST, Study
from docs.study.tables import cell, table
from docs.study.verdicts import NAMES, Compared, Status, judge, overall
from reporting.text import listed, show

LEVELS: tuple[Metric, ...] = ("auc", "tpr_01pct")


def turned(compared: Compared) -> Compared:
    """The variant less the network, where a comparison is the network less the variant."""
    value, low, high = compared.estimate[:3]
    return compared._replace(estimate=Estimate(-value, -high, -low, compared.estimate.spread))


def left_table(comparisons: Comparisons, places: Mapping[str, str]) -> str:
    """How much more each variant leaks than a network of equal accuracy that was stopped early.

    Args:
        comparisons: those of the page, by `Left`.
        places: where the curve is as accurate as each variant, in words.
    """
    rows = []
    for variant, where in places.items():
        cells = [variant, where]
        for measure in MEASURES:
            known = comparisons.get(Left(variant, measure))
            cells.append("-" if known is None else cell(turned(known), measure))
        rows.append(cells)
    beyond = [f"{NAMES[measure]} beyond it" for measure in MEASURES]
    return table(("variant", "as accurate as", *beyond), rows)


def left_counts(comparisons: Comparisons, variants: Sequence[str]) -> str:
    """How many variants leak less or more than networks of equal accuracy, by each measure."""
    parts = []
    for measure in MEASURES:
        keys = [Left(variant, measure) for variant in variants]
        known = [pair for key in keys if (pair := comparisons.get(key)) is not None]
        less, more = (sum(pair.shown == word for pair in known) for word in ("more", "less"))
        parts.append(f"{NAMES[measure]} {less} less and {more} more")
    return "; ".join(parts)


def frontier_table(edition: Edition, fleet: str, variants: Sequence[str]) -> str:
    """Variants of a fleet, and how much more they leak than networks of equal accuracy."""
    study, curve = edition.fleets[fleet], edition.curve(fleet)
    rows = []
    for variant in variants:
        cells = [variant, show(study.results.variants[variant].accuracy, percent=True)]
        cells += [level(study, variant, measure) for measure in LEVELS]
        cells.append(curve.where(variant))
        for measure in MEASURES:
            left = edition.get(Asked(fleet, "left", variant, measure))
            cells.append("-" if left is None else cell(turned(left), measure))
        rows.append(cells)
    beyond = [f"{NAMES[measure]} beyond it" for measure in MEASURES]
    levels = [NAMES[measure] for measure in LEVELS]
    return table(("variant", "test accuracy", *levels, "as accurate as", *beyond), rows)


def curve_table(curve: KeptCurve) -> str:
    """The curve itself: accuracy and leakage of every snapshot."""
    rows = []
    for variant in curve.variants:
        cells = [variant, show(curve.study.results.variants[variant].accuracy, percent=True)]
        rows.append((*cells, *(level(curve.study, variant, measure) for measure in MEASURES)))
    return table(("network", "test accuracy", *(NAMES[measure] for measure in MEASURES)), rows)


def counts(edition: Edition, fleet: str, variants: Sequence[str]) -> str:
    """How many variants leak less or more than networks of equal accuracy, by each measure."""
    parts = []
    for measure in MEASURES:
        found = {v: edition.get(Asked(fleet, "left", v, measure)) for v in variants}
        known = [turned(pair).shown for pair in found.values() if pair is not None]
        less, more, neither = (known.count(word) for word in ("less", "more", None))
        parts.append(f"{NAMES[measure]} {less}, {more} and {neither}")
    curve = edition.curve(fleet)
    outside = [v for v in variants if curve.place(v).outside]
    beyond = f" Outside the curve: {listed(outside)}." if outside else ""
    return (
        "Shown to leak less, shown to leak more, and neither, beside networks of equal accuracy "
        f"that were stopped early, of {len(variants)} variants: {'; '.join(parts)}.{beyond}"
    )


def controls(edition: Edition) -> str:
    """Whether controls protect as much as quantization at equal accuracy, one line each."""
    base, lines = edition.fleets[BASE], []
    for variant in dict.fromkeys(map(base_of, controls_of(base))):
        if noise := noise_curve(base, variant):
            where = KeptCurve(base, noise).where(variant)
            keys = [Asked(BASE, "like noise", variant, measure) for measure in MEASURES]
            lines.append(
                f"- {variant} beside the same network with Gaussian noise of equal accuracy "
                f"({where}): {_told(edition, keys)}."
            )
    for control in controls_of(base):
        variant = base_of(control)
        keys = [Asked(BASE, "beyond", variant, measure, control) for measure in MEASURES]
        place = edition.curve(BASE).place(control)
        if place.outside:
            lines.append(
                f"- {control} is outside the curve ({edition.curve(BASE).where(control)})."
            )
        else:
            lines.append(
                f"- {variant} and {control}, each beside early stopping of its own accuracy: the "
                f"first has {_told(edition, keys)}."
            )
    return "\n".join(lines)


def is_it_quantization(edition: Edition) -> str:
    """The verdict on "quantization protects more than noise of equal accuracy", and of whom."""
    base, tested = edition.fleets[BASE], dict[str, None]()
    found: dict[str, Status] = {}
    for measure in MEASURES:
        keys = [
            Asked(BASE, "like noise", variant, measure)
            for variant in TERNARY
            if noise_curve(base, variant)
        ]
        pairs = {key.variant: pair for key in keys if (pair := edition.get(key)) is not None}
        if pairs:
            found[measure] = judge([*pairs.values()], "more").status
            tested |= dict.fromkeys(pairs)
    if not found:
        return "Whether quantization protects more than noise of equal accuracy was not tested."
    verdict = overall(found).replace("held", "shown")
    others = "" if len(tested) == len(TERNARY) else " (no other ternary variant was tested)"
    return (
        f"Quantization by {listed([*tested])} protects more than noise of equal accuracy: "
        f"{verdict}{others}."
    )


def _told(edition: Edition, keys: Sequence[Asked]) -> str:
    """What the first leaks less or more than the second, by each measure."""
    parts = []
    for key in keys:
        pair = edition.get(key)
        parts.append(
            f"{NAMES[key.measure]} unknown, outside"
            if pair is None
            else f"{NAMES[key.measure]} {cell(turned(pair), key.measure)}"
        )
    return ", ".join(parts)


def level(study: Study, variant: str, measure: Metric) -> str:
    """What the strongest attack on a variant finds, with its interval."""
    row = study.best(variant, STRONGEST, measure)
    return show(getattr(row.summary, measure), percent=measure != "auc")


def shown_of(fleet: str, study: Study) -> list[str]:
    """The variants of a fleet in its table: no controls, which have a table of their own."""
    controls = controls_of(study)
    return [variant for variant in compared_of(fleet, study) if variant not in controls]


def tail(edition: Edition) -> str:
    """The rates for which the audits recorded what halves of the shadows find."""
    return listed(
        [NAMES[m] for m in dict.fromkeys(s.results.tail for s in edition.fleets.values())]
    )
