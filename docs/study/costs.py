"""What the second edition cost, and what surprised in it, by written rules."""

from collections.abc import Iterator

from docs.study.beside import turned
from docs.study.comparisons import Asked, claims_of
from docs.study.edition import Edition, OneFleet
from docs.study.fleets import BASE, FLEETS, base_of, controls_of, quantized_of
from docs.study.numbers import ATTACKERS, MATCHED_LIRA, MEASURES, Study
from docs.study.provenance import finished
from docs.study.tables import table
from docs.study.verdicts import NAMES
from reporting.text import listed


def fleets_table(edition: Edition) -> str:
    """Every fleet of the edition: what it is for, its size, and the hours that it took."""
    rows = []
    for name, study in edition.fleets.items():
        config = study.config
        rows.append(
            (
                FLEETS[name].purpose,
                f"`{config['model']['network']}`",
                f"{config['data']['init_args']['pool_size']:,}",
                finished(study),
                str(len(study.variants)),
                hours(study),
            )
        )
    return table(("fleet", "network", "pool", "models", "variants", "hours"), rows)


def hours(study: Study) -> str:
    """Wall time of all models together, as their records add up."""
    seconds = study.results.seconds.values()
    return f"{sum(seconds) / 3600:.1f}" if seconds else "unknown"


def reproduced(edition: Edition, first: Study) -> str:
    """How far the same experiment, trained again, is from the first edition."""
    base = edition.fleets[BASE]
    common = [v for v in first.variants if v in base.variants]
    gaps = {
        v: base.each(v, MATCHED_LIRA, "auc").mean() - first.each(v, MATCHED_LIRA, "auc").mean()
        for v in common
    }
    largest = max(gaps, key=lambda variant: abs(gaps[variant]))
    return (
        f"The first edition's experiment was trained again: of the {len(common)} variants of both, "
        f"the mean AUC by `{MATCHED_LIRA.attack}` differs by at most {abs(gaps[largest]):.3f} "
        f"({largest})."
    )


def surprises(edition: Edition) -> str:
    """What surprised, one line each; a rule that finds nothing has no line."""
    found = [*_beside(edition), *_controls(edition), *_claims(edition)]
    return "\n".join(f"- {line}" for line in found or ["Nothing, by the rules of this page."])


def _beside(edition: Edition) -> Iterator[str]:
    """Quantized variants that stopping early beats, and those where measures disagree."""
    worse, both = [], []
    for variant in quantized_of(edition.fleets[BASE]):
        pairs = [edition.get(Asked(BASE, "left", variant, measure)) for measure in MEASURES]
        shown = {turned(pair).shown for pair in pairs if pair is not None} - {None}
        if shown == {"more"}:
            worse.append(variant)
        elif len(shown) == 2:
            both.append(variant)
    if worse:
        yield (
            f"Quantizing is worse than stopping early for {listed(worse)}: each is shown to leak "
            "more than a network of equal accuracy by one measure at least, and shown to leak less "
            "by none."
        )
    if both:
        yield (
            f"Measures disagree on {listed(both)}: each leaks less than early stopping of equal "
            "accuracy by one measure and more by another."
        )


def _controls(edition: Edition) -> Iterator[str]:
    """Controls that protect more than the quantization that they are controls of."""
    base = edition.fleets[BASE]
    for variant in dict.fromkeys(map(base_of, controls_of(base))):
        pairs = {m: edition.get(Asked(BASE, "like noise", variant, m)) for m in MEASURES}
        names = [NAMES[m] for m, pair in pairs.items() if pair and pair.shown == "less"]
        if names:
            yield f"Noise of equal accuracy protects more than {variant} in {listed(names)}."


def _claims(edition: Edition) -> Iterator[str]:
    """The paper's claims that a fleet shows to be wrong in some measure."""
    for fleet, claim in claims_of(edition.fleets):
        for attacker in ATTACKERS:
            verdicts = OneFleet(edition, fleet).judge(claim, attacker).items()
            wrong = [NAMES[m] for m, v in verdicts if v.status in ("refuted", "mixed")]
            if wrong:
                network = edition.fleets[fleet].config["model"]["network"]
                yield (
                    f'With {FLEETS[fleet].purpose} (`{network}`), "{claim.text}" fails in '
                    f"{listed(wrong)} by {attacker}."
                )
