"""The page's sentences on ridge heads and memories: what they give away, to whom, how cheaply."""

from itertools import product

from attacks.game import FULL
from docs.continual.claims import Comparisons, few_heads
from docs.continual.fleets import Fleets
from docs.continual.numbers import Asked
from docs.continual.words import word_of
from docs.study.numbers import GUESSES
from docs.study.verdicts import counted
from reporting.continual_sentences import direction
from reporting.text import listed

EQUATIONS = "normal_equations"  # of who holds all candidates, and no state
KEPT = {  # what a learner keeps beside its weights, by how its attacks' names begin
    "the matrix R": ("range", "leverage"),
    "the memory of exemplars": ("exemplars",),
    "EWC's Fisher": ("fisher",),
    "SSD's subnetwork": ("subnetwork",),
}
SUMMED = "all_snapshots"  # in the names of attacks that hold more than the state of one moment


def exposure(fleets: Fleets) -> str:
    """Whether what a learner keeps beside its weights tells members, right after a task.

    It does where the whole interval of an AUC lies above guessing; told of the best attack.
    """
    texts: dict[str, list[str]] = {kept: [] for kept in KEPT}
    for (name, fleet), kept in product(fleets.items(), KEPT):
        known = {
            leak.attack: leak.auc
            for leak in fleet.leak.state
            if SUMMED not in leak.attack and leak.attack.startswith(KEPT[kept])
        }
        found = {a: auc for a, auc in known.items() if auc and auc.low > GUESSES["auc"]}
        if not found:
            continue
        best = max(found, key=lambda attack: found[attack].value)
        text = f"{name}: {found[best].value:.3f} by `{best}`"
        if "leverage_int8" in found:
            text += f", {found['leverage_int8'].value:.3f} by leverages alone in int8"
        if "range_test" in known and "range_test" not in found:
            text += ", and nothing by the range test"
        texts[kept].append(text)
    return " ".join(
        f"Do not ship {kept}, which tells members right after a task (AUC, {'; '.join(told)})."
        for kept, told in texts.items()
        if told
    )


def has_fisher(fleets: Fleets) -> bool:
    """Whether any learner was attacked by the Fisher that it keeps."""
    known = (leak for fleet in fleets.values() for leak in fleet.leak.state)
    return any(leak.attack.startswith(KEPT["EWC's Fisher"]) for leak in known)


def equations(fleets: Fleets) -> str:
    """Whether the normal equations of heads tell who was learnt, to one with all candidates.

    They do where the whole interval of the AUC lies above guessing, right after a task.
    """
    told = [
        f"{name}: {leak.auc.value:.3f}"
        for name, fleet in fleets.items()
        for leak in fleet.leak.state
        if leak.attack == EQUATIONS and leak.auc and leak.auc.low > GUESSES["auc"]
    ]
    if not told:
        return ""
    return (
        "One whose candidates hold every training example needs neither R nor shadows: the normal "
        f"equations of the head's weight tell who was learnt (AUC right after a task, "
        f"{'; '.join(told)})."
    )


def cheapness(comparisons: Comparisons, fleets: Fleets) -> str:
    """What a few heads find beside LiRA with shadows, by AUC."""
    parts = []
    for pair in few_heads(fleets).pairs:
        found, name = comparisons[Asked(*pair, "auc")], pair[0].fleet
        seconds = f"{fleets[name].leak.world_seconds:.2g} s each"
        parts.append(f"{word_of(found, 'auc')} under {name} ({seconds})")
    if not parts:
        return ""
    leak = fleets[few_heads(fleets).pairs[0][0].fleet].leak
    return (
        f"{leak.worlds} heads that an attacker solves over the target's own features find, beside "
        f"LiRA with {leak.shadows} shadows, in AUC {listed(parts)}."
    )


def rounded_alike(fleets: Fleets) -> str:
    """Whether quantizing protects from the strongest attack, and what rounded heads add.

    Less is found of a variant, or more from rounded heads than from shadows, where p is below 5%,
    corrected for the variants of its fleet.
    """
    parts = []
    for name, fleet in fleets.items():
        variants = [leak for leak in fleet.leak.variants if leak.rounded and leak.beyond]
        if not variants:
            continue
        less = sum(direction(leak.beyond) < 0 for leak in variants if leak.beyond)
        more = sum(direction(leak.rounded.gain) > 0 for leak in variants if leak.rounded)
        full = next(leak.auc.value for leak in fleet.leak.variants if leak.variant == FULL)
        levels = sorted(leak.auc.value for leak in variants)
        parts.append(
            f"{name}: {full:.3f} at full precision, {levels[0]:.3f} to {levels[-1]:.3f} quantized, "
            f"less in {counted(less, len(variants))} forms; such heads find more than LiRA with "
            f"shadows in {counted(more, len(variants))}"
        )
    if not parts:
        return ""
    return (
        "With heads over the target's own features that are rounded with and without each example "
        f"as its own was, the strongest attack has AUC, task by task ({'; '.join(parts)})."
    )


def shipping(fleets: Fleets) -> str:
    """How often one who holds quantized networks alone finds less of earlier tasks.

    Less where p is below 5%, corrected for all precisions and holders of a fleet.
    """
    told = []
    for name, fleet in fleets.items():
        known = [leak for leak in fleet.leak.precisions if leak.precision != FULL]
        held = [[leak.holders[place] for leak in known] for place in range(2)] if known else []
        less = (
            counted(sum(h.beyond is not None and direction(h.beyond) < 0 for h in row), len(row))
            for row in held
        )
        if held:
            told.append("{}: {} and {}".format(name, *less))
    if not told:
        return ""
    return (
        "One who holds the last network alone, and one who holds all, find less in so many of the "
        f"precisions ({'; '.join(told)})."
    )


def mapping(fleets: Fleets) -> str:
    """Whether leverages rank who is exposed: where the interval of the correlation is above 0."""
    ranked, unclear, beyond, total = list[str](), list[str](), 0, 0
    for name, fleet in fleets.items():
        risk = fleet.leak.risk_map
        if risk is not None:
            text = f"{name} ({risk.correlation.value:.2f}, from {risk.correlation.low:.2f})"
            (ranked if risk.correlation.low > 0 else unclear).append(text)
            beyond += sum(group.found.low > group.expected for group in risk.groups)
            total += len(risk.groups)
    if not total:
        return ""
    parts = [f"rank who is exposed under {listed(ranked)}"] if ranked else []
    parts += [f"are not shown to under {listed(unclear)}"] if unclear else []
    return (
        f"Leverages alone {' and '.join(parts)} by rank correlation over groups; what is found "
        f"lies above what they let expect in {counted(beyond, total)} groups."
    )
