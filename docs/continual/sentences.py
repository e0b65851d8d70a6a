"""The page's answer: each of its sentences is computed from the comparisons by a written rule."""

from collections.abc import Mapping, Sequence

from docs.continual import ridge
from docs.continual.claims import (
    BESIDE,
    Comparisons,
    beside,
    change,
    protects,
    published,
)
from docs.continual.fleets import Fleet, Fleets
from docs.continual.measures import ACCURACY, MEASURES
from docs.continual.numbers import LOSS, STRONGEST, Asked, Head, Side, can_attack, values
from docs.continual.words import size_of, word_of
from docs.study.null import Null
from docs.study.numbers import GUESSES
from docs.study.verdicts import NAMES as MEASURED
from docs.study.verdicts import Compared, counted
from reporting.text import listed

WORDS = {"more": "rises", "less": "falls", None: ""}
LACKING = "relu", "topk", "sdmlp", "sdmlp-ewc", "ssd", "acil", "dsal", "real"


def answer(comparisons: Comparisons, fleets: Fleets) -> str:
    """The page's answer, one sentence per question."""
    sentences = [
        leakage(comparisons, fleets),
        remembering(comparisons, fleets),
        deception(comparisons, fleets),
        rounding(comparisons, fleets),
        ridge.rounded_alike(fleets),
        ridge.exposure(fleets),
        ridge.equations(fleets),
        ridge.cheapness(comparisons, fleets),
        ridge.mapping(fleets),
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
    groups: dict[str, list[str]] = {"rises": [], "falls": [], "stays": [], "": []}
    for name, compared in found.items():
        word = "stays" if compared.small else WORDS[compared.shown]
        groups[word].append(f"{name} ({compared.estimate.value:+z.3f})")
    texts = {**{word: word for word in groups}, "": "is not shown to change"}
    parts = [f"{texts[word]} under {listed(names)}" for word, names in groups.items() if names]
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


def remembering(comparisons: Comparisons, fleets: Fleets) -> str:
    """Which learners retain more than those that they add to, and which of these leak more."""
    made = [pair for pair in BESIDE if beside(fleets, *pair)]
    kept = {pair: comparisons.of(beside(fleets, *pair)[0], ACCURACY)[0] for pair in made}
    better = [pair for pair in made if kept[pair].shown == "more"]
    if not made:
        return ""
    if not better:
        names = listed(list(dict.fromkeys(first for first, _ in made)))
        return f"None of {names} is shown to forget less than the learner that it adds to."
    leaks = {pair: comparisons.of(beside(fleets, *pair)[1], "auc")[0] for pair in better}
    parts = []
    for word, text in (
        ("more", "more is shown"),
        ("less", "less is shown"),
        (None, "no difference is shown"),
    ):
        own = [pair for pair in better if leaks[pair].shown == word]
        if own:
            sizes = [f"{_named(pair, made)} ({size_of(leaks[pair], 'auc')})" for pair in own]
            parts.append(f"{text}: {listed(sizes)}")
    pairs = listed([f"{first} beside {second}" for first, second in better])
    rest = [_named(pair, made) for pair in made if pair not in better]
    unclear = f" ({listed(rest)} {'is' if len(rest) == 1 else 'are'} not)" if rest else ""
    return (
        f"Shown to forget less than what it adds to is {pairs}{unclear}; in what the strongest "
        f"attack finds of earlier tasks at the end (AUC), {'; '.join(parts)}."
    )


def retention(comparisons: Comparisons, fleets: Fleets) -> str:
    """Whether each learner forgets less than the one that it adds to, and leaks more."""
    lines = []
    for first, second in (pair for pair in BESIDE if beside(fleets, *pair)):
        accurate, leaks = beside(fleets, first, second)
        (kept,) = comparisons.of(accurate, ACCURACY)
        words = {
            "more": "retains more",
            "less": "retains less",
            None: "is not shown to retain more",
        }
        by_measure = [f"{MEASURED[m]} {word_of(comparisons.of(leaks, m)[0], m)}" for m in MEASURES]
        lines.append(
            f"- Beside {second}, {first} {words[kept.shown]} of the accuracy of earlier "
            f"tasks ({size_of(kept, ACCURACY)}); of what leaks of them at the end, "
            f"{listed(by_measure)}."
        )
    return "\n".join(lines)


def deception(comparisons: Comparisons, fleets: Fleets) -> str:
    """Under which learners a loss attack tells of forgetting that is not there, by AUC.

    It misleads where its own fall is shown and not small, a fall of the strongest attack is not
    shown, and the difference of both is.
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
    loss = _of(comparisons, name, LOSS)
    falls = loss.shown == "less" and not loss.small
    return falls and _of(comparisons, name, STRONGEST).shown != "less" and gap.shown == "less"


def rounding(comparisons: Comparisons, fleets: Fleets) -> str:
    """Which quantized networks leak less, and which of these are as accurate."""
    parts = []
    for name in dict.fromkeys(pair[0].fleet for pair in protects(fleets).pairs):
        heads = [pair[0] for pair in protects(fleets).pairs if pair[0].fleet == name]
        safe = [head for head in heads if isinstance(head, Head) and _safe(comparisons, head)]
        equal = [head.variant for head in safe if _accuracy(comparisons, head).small]
        cheap = f"as accurate to a point: {listed(equal)}" if equal else "none as accurate"
        told = f" ({cheap})" if safe else ""
        parts.append(f"{name} in {counted(len(safe), len(heads))} forms{told}")
    if not parts:
        return ""
    return f"Against attacks on phi, quantizing the network protects {listed(parts)}."


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
        lines.append(f"- {first.fleet} beside {second.fleet}: {told} ({size_of(found, ACCURACY)}).")
    return "\n".join(lines)


def nothing_to_find(null: Mapping[str, Null]) -> str:
    """How many attacks' intervals hold guessing where nothing can be found, one line each."""
    lines = []
    for name, (holding, attacks) in null.items():
        named = [f"{MEASURED[m]} of {holding[m]} hold {GUESSES[m]:g}" for m in MEASURES]
        lines.append(f"- {name}, {attacks} attacks on all tasks and stages: {listed(named)}.")
    return "\n".join(lines)


def _named(pair: tuple[str, str], made: Sequence[tuple[str, str]]) -> str:
    """The first of a pair, with the second where several have that first."""
    first, second = pair
    several = sum(other == first for other, _ in made) > 1
    return f"{first} beside {second}" if several else first


def _safe(comparisons: Comparisons, head: Head) -> bool:
    """Whether a variant is shown to leak less by every measure."""
    full = Head(head.fleet, "full")
    return all(comparisons[Asked(head, full, m)].shown == "less" for m in MEASURES)


def _accuracy(comparisons: Comparisons, head: Head) -> Compared:
    return comparisons[Asked(head, Head(head.fleet, "full"), ACCURACY)]


def _of(comparisons: Comparisons, name: str, attack: str) -> Compared:
    return comparisons[Asked(*change(name, attack), "auc")]
