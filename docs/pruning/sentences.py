"""The page's sentences on results: each is computed from the comparisons by a written rule."""

from attacks.game import FULL
from docs.pruning.claims import (
    LESS,
    MORE,
    PEERS,
    SHADOWS,
    Widths,
    early_stopping,
    find_claims,
    named,
    parts_of,
    pruned_networks,
    widths_of,
)
from docs.pruning.fleets import DENSE, METHODS, OCS, Fleets
from docs.study.beside import left_counts
from docs.study.claims import Comparisons
from docs.study.numbers import MEASURES, STRONGEST, accuracy, leak
from docs.study.tables import points
from docs.study.verdicts import Compared, counted, ends
from reporting.text import listed

STRONG = "the strongest attack"
PUBLISHED = {  # claims, with those who made them of networks that were pruned otherwise
    MORE: "that pruning makes members stand out (SAMIA)",
    LESS: "that pruning reduces leakage (Wang et al. 2020)",
}


def answer(comparisons: Comparisons, fleets: Fleets) -> str:
    """The page's answer: each method beside the dense networks, and what follows from it."""
    sentences = [beside_dense(comparisons, fleets), published(comparisons, fleets)]
    if _has_curve(fleets):
        sentences.append(_beside_early(comparisons, fleets))
    if OCS in fleets.pruned:
        sentences.append(f"{cost_of_ocs(comparisons)}.")
    if fleets.borrowed:
        sentences.append(understated(comparisons, fleets))
    sentences.append(widths(comparisons, fleets))
    return " ".join(filter(None, sentences))


def beside_dense(comparisons: Comparisons, fleets: Fleets) -> str:
    """Whether pruned or dense networks leak more; methods of which the same is shown together."""
    groups: dict[str, list[str]] = {}
    for method in fleets.pruned:
        found = _leaks(comparisons, named(method, FULL), named(DENSE, FULL))
        text = ends("networks pruned by {}", "dense ones", found).replace(" leaks ", " leak ")
        if not any(pair.shown for pair in found.values()):
            text = "no difference is shown between networks pruned by {} and dense ones"
        groups.setdefault(text, []).append(f"`{method}`")
    parts = [text.format(listed(methods)) for text, methods in groups.items()]
    return f"By {STRONG} at full precision, {'; '.join(parts)}."


def published(comparisons: Comparisons, fleets: Fleets) -> str:
    """The verdicts on both published claims, and which of them what is shown speaks for.

    It speaks for a claim if some difference of a method from the dense networks is shown in its
    direction and none in the other.
    """
    claims = find_claims(fleets)
    verdicts = [
        f"{text} is {comparisons.overall(claims[key], STRONG)}" for key, text in PUBLISHED.items()
    ]
    shown = {
        pair.shown
        for own, dense in claims[MORE].pairs
        for pair in _leaks(comparisons, own, dense).values()
    } - {None}
    if len(shown) == 2:
        holds = "Differences are shown in both directions, so neither holds throughout."
    elif shown:
        holds = f"All that is shown speaks for the {'first' if 'more' in shown else 'second'}."
    else:
        holds = "No difference is shown, which speaks for neither and does not show likeness."
    return f"Of two published claims, the one {', and the one '.join(verdicts)}. {holds}"


def cost_of_ocs(comparisons: Comparisons) -> str:
    """The accuracy of `ocs` beside that of the dense networks."""
    found = comparisons[accuracy(named(OCS, FULL), named(DENSE, FULL))]
    return (
        f"The accuracy of `{OCS}` minus that of dense networks is {points(found.estimate)} points"
        f"{_unshown(found)}"
    )


def understated(comparisons: Comparisons, fleets: Fleets) -> str:
    """The verdict on "dense shadows understate", and over how many networks."""
    claim = find_claims(fleets)[SHADOWS]
    return (
        "That shadows of dense networks understate what pruned ones leak is "
        f"{comparisons.overall(claim, STRONG)} (over {len(claim.pairs)} pruned networks)."
    )


def widths(comparisons: Comparisons, fleets: Fleets) -> str:
    """In how many tests a network's widths alone are shown to tell of its members."""
    keys = [Widths(m, scored) for m in fleets.pruned for scored in widths_of(fleets, m)]
    if not keys:
        return ""
    shown = counted(sum(comparisons[key].shown == "more" for key in keys), len(keys))
    return (
        "An attacker who sees nothing but how many channels each layer kept is shown to find "
        f"members in {shown} tests (by example and by class, per method)."
    )


def peers(comparisons: Comparisons, fleets: Fleets) -> str:
    """How `ocs` stands to each other method, one line each."""
    claim, lines = find_claims(fleets).get(PEERS), []
    for pair in claim.pairs if claim else []:
        other = f"`{parts_of(pair[1])[0]}`"
        found, accurate = _leaks(comparisons, *pair), comparisons[accuracy(*pair)]
        lines.append(
            f"- Leakage: {ends(f'`{OCS}`', other, found)}. Accuracy of `{OCS}` beyond that of "
            f"{other}: {points(accurate.estimate)} points{_unshown(accurate)}."
        )
    return "\n".join(lines)


def not_run(fleets: Fleets) -> str:
    """What the page still lacks, one line each."""
    missing = [method for method in METHODS if method not in fleets.pruned]
    lines = [f"networks pruned by `{method}`: {METHODS[method]}" for method in missing]
    if lacking := [f"`{method}`" for method in fleets.pruned if method not in fleets.borrowed]:
        lines.append(f"shadows of dense networks against {listed(lacking)}")
    if not _has_curve(fleets):
        lines.append("dense networks that were stopped early (`--snapshots`)")
    return "\n".join(f"- **Not run yet:** {line}." for line in lines)


def _beside_early(comparisons: Comparisons, fleets: Fleets) -> str:
    """How many pruned networks leak less or more than early stopping, and which are outside it."""
    names, outside = pruned_networks(fleets), []
    for name in names:
        method, variant = parts_of(name)
        curve = early_stopping(fleets, method)
        if curve is None or curve.place(variant).outside:
            outside.append(name)
    rest = f" Outside that curve: {listed(outside)}." if outside else ""
    return (
        f"Beside dense networks of equal accuracy that were stopped early, of {len(names)} pruned "
        f"networks, quantized or not, are shown to leak: {left_counts(comparisons, names)}.{rest}"
    )


def _has_curve(fleets: Fleets) -> bool:
    return any(early_stopping(fleets, method) for method in fleets.pruned)


def _leaks(comparisons: Comparisons, first: str, second: str) -> dict[str, Compared]:
    """How much more one network leaks than another to the strongest attack, by each measure."""
    return {m: comparisons[leak(first, second, STRONGEST, m)] for m in MEASURES}


def _unshown(compared: Compared) -> str:
    return "" if compared.shown else " (not shown to differ)"
