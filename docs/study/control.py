"""What recalibration repairs: the mismatch of full-precision shadows, split into three parts."""

from collections.abc import Hashable, Iterator

from attacks.metrics.differences import ratio_of_means
from attacks.metrics.measures import Metric
from docs.study.claims import TERNARY, Comparisons
from docs.study.numbers import LIRA, MEASURES, Attacker, Contrast, Study
from docs.study.tables import cell, share, table
from docs.study.verdicts import NAMES, Uncorrected, counted

RECALIBRATED = "recalibrated"
UNQUANTIZED_BEST, MATCHED_BEST = Attacker(("unquantized",)), Attacker(("matched",))
EITHER_BEST = Attacker(("unquantized", RECALIBRATED))  # whatever is had without quantizing shadows
TOTAL = "found by matched shadows in addition"
PARTS = {  # by what repairs them
    "recalibrating": "recalibrating the shadows",
    "attack": "another attack",
    "quantizing": "only quantizing the shadows",
}


def chain(attack: str | None) -> dict[str, tuple[Attacker, Attacker]]:
    """The steps from full-precision shadows to the strongest matched ones, and both ends as total.

    The steps add up to the total. From a fixed attack: recalibrate its shadows, then take the
    strongest attack with shadows of either kind, then quantize them. From the strongest attack
    there is no other attack to take.
    """
    first = Attacker(("unquantized",), attack)
    if attack is None:
        steps = [first, EITHER_BEST, MATCHED_BEST]
        names = ["recalibrating", "quantizing"]
    else:
        steps = [first, Attacker((RECALIBRATED,), attack), EITHER_BEST, MATCHED_BEST]
        names = list(PARTS)
    parts = zip(names, steps[1:], steps, strict=False)
    return {"total": (MATCHED_BEST, first)} | {name: (more, less) for name, more, less in parts}


def contrasts(control: Study) -> Iterator[Contrast]:
    """Every contrast of the control that the page shows."""
    for attack in (LIRA, None):
        for variant in variants_of(control):
            for more, less in chain(attack).values():
                yield from (Contrast((variant, more), (variant, less), m) for m in MEASURES)


def variants_of(control: Study) -> list[str]:
    """The ternary variants of the control."""
    return [variant for variant in TERNARY if variant in control.variants]


def uncorrected(control: Study) -> dict[Hashable, Uncorrected]:
    """Comparisons of the control, for the page's correction."""
    return {("control", contrast): control.compare(contrast) for contrast in contrasts(control)}


def split(comparisons: Comparisons, control: Study) -> str:
    """What each step finds more than the one before, with its share of the total."""
    rows = []
    for attack, name in ((LIRA, f"`{LIRA}`"), (None, "the strongest")):
        for measure in MEASURES:
            for variant in variants_of(control):
                cells = _cells(comparisons, control, variant, attack, measure)
                rows.append((name, NAMES[measure], variant, *cells))
    columns = "attack", "measure", "variant", TOTAL, *(f"by {name}" for name in PARTS.values())
    return table(columns, rows)


def _cells(
    comparisons: Comparisons, control: Study, variant: str, attack: str | None, measure: Metric
) -> list[str]:
    """The total, then each part with its share."""
    steps = chain(attack)
    made = {
        k: Contrast((variant, more), (variant, less), measure) for k, (more, less) in steps.items()
    }
    total = control.difference(made["total"])
    cells = [cell(comparisons["control", made["total"]], measure)]
    for part in PARTS:
        if part not in made:
            cells.append("")
            continue
        found = ratio_of_means(control.difference(made[part]), total) if total.mean() > 0 else None
        text = "share unknown" if found is None else share(found)
        cells.append(f"{cell(comparisons['control', made[part]], measure)}; {text}")
    return cells


def counts(comparisons: Comparisons, control: Study) -> str:
    """For how many variants each part is shown, by attack and measure."""
    lines = []
    variants = variants_of(control)
    for attack, name in ((LIRA, f"`{LIRA}`"), (None, "the strongest attack")):
        for part, (more, less) in chain(attack).items():
            found = []
            for measure in MEASURES:
                pairs = [
                    comparisons["control", Contrast((v, more), (v, less), measure)]
                    for v in variants
                ]
                shown = counted(sum(pair.shown == "more" for pair in pairs), len(pairs))
                found.append(f"{NAMES[measure]} {shown}")
            what = PARTS.get(part, "all three" if attack else "both")
            lines.append(f"- From {name}, a gain by {what} is shown for: {', '.join(found)}.")
    return "\n".join(lines)
