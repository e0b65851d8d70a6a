"""The page's answer: each of its sentences is computed from the comparisons by a written rule."""

from collections.abc import Mapping

from docs.continual.claims import (
    BESIDE,
    Comparisons,
    beside,
    change,
    few_heads,
    protects,
    published,
)
from docs.continual.fleets import Fleet, Fleets
from docs.continual.measures import ACCURACY, MEASURES
from docs.continual.null import Null
from docs.continual.numbers import LOSS, STRONGEST, Asked, Head, Side, can_attack, values
from docs.study.numbers import GUESSES
from docs.study.verdicts import NAMES as MEASURED
from docs.study.verdicts import Compared, counted, tally
from reporting.text import listed, show

LACKING = "relu", "topk", "sdmlp", "sdmlp-ewc", "ssd", "acil", "dsal", "real"


def answer(comparisons: Comparisons, fleets: Fleets) -> str:
    """The page's answer, one sentence per question."""
    sentences = [
        leakage(comparisons, fleets),
        *(retention(comparisons, fleets, first) for first in BESIDE),
        deception(comparisons, fleets),
        rounding(comparisons, fleets),
        exposure(fleets),
        cheapness(comparisons, fleets),
        mapping(fleets),
    ]
    return " ".join(filter(None, sentences))


def leakage(comparisons: Comparisons, fleets: Fleets) -> str:
    """Under which learners the leakage of earlier tasks rises or falls, by AUC."""
    asked = {name: change(name, STRONGEST) for name in fleets}
    found = {
        name: comparisons[Asked(*pair, "auc")]
        for name, pair in asked.items()
        if all(can_attack(fleets, side) for side in pair)
    }
    parts = []
    for word, text in (("more", "rises"), ("less", "falls"), (None, "")):
        names = [name for name, compared in found.items() if compared.shown == word]
        if not names:
            continue
        if word:
            small = ("; small" if found[name].small else "" for name in names)
            sizes = (
                f"{name} ({found[name].estimate.value:+z.3f}{s})"
                for name, s in zip(names, small, strict=True)
            )
            parts.append(f"{text} under {listed([*sizes])}")
        else:
            signed = [f"{name}{' (small)' if found[name].small else ''}" for name in names]
            parts.append(f"is not shown to change under {listed(signed)}")
    left = {name: values(fleets[name], asked[name][0], "auc").mean().item() for name in found}
    ends = (
        f"{left[name]:.3f} ({name})"
        for name in (min(left, key=left.__getitem__), max(left, key=left.__getitem__))
    )
    return (
        "As later tasks come, the leakage of earlier ones (AUC of the strongest attack on the "
        f"network, at the end less right after the task) {'; '.join(parts)}. At the end it is "
        f"{' to '.join(dict.fromkeys(ends))}."
    )


def retention(comparisons: Comparisons, fleets: Fleets, first: str) -> str:
    """Whether a learner forgets less than the one that it adds to, and leaks more."""
    claims = beside(fleets, first)
    if not claims:
        return ""
    accurate, leaks = claims
    (kept,) = comparisons.of(accurate, ACCURACY)
    words = {"more": "retains more", "less": "retains less", None: "is not shown to retain more"}
    by_measure = [f"{MEASURED[m]} {_word(comparisons.of(leaks, m)[0], m)}" for m in MEASURES]
    return (
        f"Beside {BESIDE[first]}, {first} {words[kept.shown]} of the accuracy of earlier tasks "
        f"({_size(kept, ACCURACY)}), and of what leaks of them at the end {listed(by_measure)}."
    )


def deception(comparisons: Comparisons, fleets: Fleets) -> str:
    """Under which learners a loss attack tells of forgetting that is not there, by AUC.

    It misleads where its own fall is shown, a fall of the strongest attack is not, and the
    difference of both is.
    """
    names = [name for name in fleets if can_attack(fleets, Side(name, "end", LOSS))]
    misled = [name for name in names if misleads(comparisons, name)]
    if not names:
        return ""
    if not misled:
        return f"A loss attack is shown to mislead under {counted(0, len(names))} of the learners."
    rising = [n for n in misled if _of(comparisons, n, STRONGEST).shown == "more"]
    rise = f" (and a rise under {listed(rising)})" if rising else ""
    return (
        f"A loss attack misleads under {listed(misled)}: it reports that earlier tasks are "
        f"forgotten, where the strongest attack finds no fall{rise}."
    )


def misleads(comparisons: Comparisons, name: str) -> bool:
    """Whether a loss attack misleads under one learner."""
    gap = comparisons[Asked(Side(name, "change", LOSS), Side(name, "change", STRONGEST), "auc")]
    falls = _of(comparisons, name, LOSS).shown == "less"
    return falls and _of(comparisons, name, STRONGEST).shown != "less" and gap.shown == "less"


def rounding(comparisons: Comparisons, fleets: Fleets) -> str:
    """Which quantized networks leak less, and which of these are as accurate."""
    lines = []
    for name in dict.fromkeys(pair[0].fleet for pair in protects(fleets).pairs):
        heads = [pair[0] for pair in protects(fleets).pairs if pair[0].fleet == name]
        safe = [head for head in heads if isinstance(head, Head) and _safe(comparisons, head)]
        equal = [head.variant for head in safe if _accuracy(comparisons, head).small]
        counts = "; ".join(
            tally(m, [comparisons[Asked(h, Head(name, "full"), m)] for h in heads])
            for m in MEASURES
        )
        cheap = f"as accurate to a point: {listed(equal)}" if equal else "none at equal accuracy"
        verdict = f"protects in {counted(len(safe), len(heads))} forms"
        verdict += f" ({cheap})" if safe else ""
        lines.append(
            f"Quantizing the network of {name} {verdict}; beside full precision: {counts}."
        )
    return " ".join(lines)


def exposure(fleets: Fleets) -> str:
    """Whether what a learner keeps beside its weights tells members, by the best attack on each.

    It does where the whole interval of an AUC lies above guessing.
    """
    lines = []
    for name, fleet in fleets.items():
        known = [leak for leak in fleet.leak.state if leak.auc is not None and leak.auc.low > 0.5]
        if not known:
            continue
        best = max(known, key=lambda leak: leak.auc.value if leak.auc else 0.0)
        forms = [leak for leak in known if leak.attack in ("leverage_float16", "leverage_int8")]
        stored = [
            f"{show(leak.auc)} as {leak.attack.removeprefix('leverage_')}"
            for leak in forms
            if leak.auc
        ]
        more = (
            f"; leverages alone, of a matrix R that is stored rounded, {listed(stored)}"
            if stored
            else ""
        )
        what = "R" if fleet.solves else "the exemplars"
        lines.append(
            f"Do not ship {what} of {name}: right after a task, `{best.attack}` finds its members "
            f"with AUC {show(best.auc)}{more}."
            if best.auc
            else ""
        )
    return " ".join(lines)


def cheapness(comparisons: Comparisons, fleets: Fleets) -> str:
    """Whether a few heads find what LiRA finds with shadows, by AUC."""
    claim, lines = few_heads(fleets), []
    for pair in claim.pairs:
        name, compared = pair[0].fleet, comparisons[Asked(*pair, "auc")]
        leak = fleets[name].leak
        if compared.small:
            word = "as much as"
        else:
            words = {
                "more": "more than",
                "less": "less than",
                None: "not shown to differ from what",
            }
            word = words[compared.shown]
        end = "" if word.endswith("what") else "what "
        lines.append(
            f"Under {name}, {leak.worlds} heads over the target's own features, of "
            f"{leak.world_seconds:.2g} seconds each, find {word} {end}{leak.shadows} shadows find "
            f"by LiRA ({_size(compared, 'auc')} in AUC)."
        )
    return " ".join(lines)


def mapping(fleets: Fleets) -> str:
    """Whether leverages rank who is exposed: where the interval of the correlation is above 0."""
    lines = []
    for name, fleet in fleets.items():
        risk = fleet.leak.risk_map
        if risk is None:
            continue
        word = "rank" if risk.correlation.low > 0 else "are not shown to rank"
        lines.append(
            f"Leverages alone {word} who is exposed under {name} (rank correlation over "
            f"{len(risk.groups)} groups {show(risk.correlation)})."
        )
    return " ".join(lines)


def not_run(fleets: Fleets, null: Mapping[str, Null]) -> str:
    """What the page still lacks, one line each."""
    lines = [] if null else ["a null, which members drawn anew give (`--null`)"]
    if missing := [name for name in LACKING if name not in fleets]:
        lines.append(f"learners {listed([f'`{name}`' for name in missing])}")
    if not any(name.endswith("-ewc") and name.startswith("ssd") for name in fleets):
        lines.append("EWC beside SSD, the best published of these learners")
    lines.append("features of a large pre-trained network, and ImageNet")
    return "\n".join(f"- **Not run yet:** {line}." for line in lines)


def size(fleet: Fleet) -> str:
    """How many models the numbers rest on, and what they learn."""
    leak = fleet.leak
    groups = "; ".join(", ".join(map(str, group)) for group in leak.classes)
    return (
        f"{leak.targets} networks are attacked, each by {leak.shadows} shadows. Each sees "
        f"{len(leak.classes)} tasks one after another (classes {groups}), without labels of tasks"
    )


def order_of(fleets: Fleets, comparisons: Comparisons) -> str:
    """How the published order fares, one line per pair."""
    lines = []
    for first, second in published(fleets).pairs:
        found = comparisons[Asked(first, second, ACCURACY)]
        words = {"more": "as published", "less": "the opposite of what was published"}
        told = words.get(found.shown or "", "no difference shown")
        lines.append(f"- {first.fleet} beside {second.fleet}: {told} ({_size(found, ACCURACY)}).")
    return "\n".join(lines)


def nothing_to_find(null: Mapping[str, Null]) -> str:
    """How many attacks' intervals hold guessing where nothing can be found, one line each."""
    lines = []
    for name, (holding, attacks) in null.items():
        named = [f"{MEASURED[m]} of {holding[m]} hold {GUESSES[m]:g}" for m in MEASURES]
        lines.append(f"- {name}, {attacks} attacks on all tasks and stages: {listed(named)}.")
    return "\n".join(lines)


def _safe(comparisons: Comparisons, head: Head) -> bool:
    """Whether a variant is shown to leak less by every measure."""
    full = Head(head.fleet, "full")
    return all(comparisons[Asked(head, full, m)].shown == "less" for m in MEASURES)


def _accuracy(comparisons: Comparisons, head: Head) -> Compared:
    return comparisons[Asked(head, Head(head.fleet, "full"), ACCURACY)]


def _of(comparisons: Comparisons, name: str, attack: str) -> Compared:
    return comparisons[Asked(*change(name, attack), "auc")]


def _word(compared: Compared, measure: str) -> str:
    words = {"more": "is more", "less": "is less", None: "is not shown to differ"}
    small = ", and is small" if compared.small else ""
    return f"{words[compared.shown]} ({_size(compared, measure)}{small})"


def _size(compared: Compared, measure: str) -> str:
    if measure == "auc":
        return f"{compared.estimate.value:+z.3f}"
    return f"{100 * compared.estimate.value:+z.1f} points"
