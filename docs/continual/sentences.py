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
from docs.study.verdicts import Compared, counted
from reporting.text import listed

WORDS = {"more": "rises", "less": "falls", None: ""}
EQUATIONS = "normal_equations"  # of who holds all candidates, and no state
SUMMED = "all_snapshots"  # in the names of attacks that hold more than the state of one moment
LACKING = "relu", "topk", "sdmlp", "sdmlp-ewc", "ssd", "acil", "dsal", "real"


def answer(comparisons: Comparisons, fleets: Fleets) -> str:
    """The page's answer, one sentence per question."""
    sentences = [
        leakage(comparisons, fleets),
        remembering(comparisons, fleets),
        deception(comparisons, fleets),
        rounding(comparisons, fleets),
        exposure(fleets),
        equations(fleets),
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
    names = [name for name in BESIDE if beside(fleets, name)]
    kept = {name: comparisons.of(beside(fleets, name)[0], ACCURACY)[0] for name in names}
    better = [name for name in names if kept[name].shown == "more"]
    if not names:
        return ""
    if not better:
        return f"None of {listed(names)} is shown to forget less than the learner that it adds to."
    leaks = {name: comparisons.of(beside(fleets, name)[1], "auc")[0] for name in better}
    parts = []
    for word, text in (
        ("more", "more is shown"),
        ("less", "less is shown"),
        (None, "no difference is shown"),
    ):
        own = [n for n in better if leaks[n].shown == word]
        if own:
            sizes = [f"{name} ({_size(leaks[name], 'auc')})" for name in own]
            parts.append(f"{text}: {listed(sizes)}")
    pairs = listed([f"{name} beside {BESIDE[name]}" for name in better])
    rest = [name for name in names if name not in better]
    unclear = f" ({listed(rest)} {'is' if len(rest) == 1 else 'are'} not)" if rest else ""
    return (
        f"Shown to forget less than what it adds to is {pairs}{unclear}; in what the strongest "
        f"attack finds of earlier tasks at the end (AUC), {'; '.join(parts)}."
    )


def retention(comparisons: Comparisons, fleets: Fleets) -> str:
    """Whether each learner forgets less than the one that it adds to, and leaks more."""
    lines = []
    for first in (name for name in BESIDE if beside(fleets, name)):
        accurate, leaks = beside(fleets, first)
        (kept,) = comparisons.of(accurate, ACCURACY)
        words = {
            "more": "retains more",
            "less": "retains less",
            None: "is not shown to retain more",
        }
        by_measure = [f"{MEASURED[m]} {_word(comparisons.of(leaks, m)[0], m)}" for m in MEASURES]
        lines.append(
            f"- Beside {BESIDE[first]}, {first} {words[kept.shown]} of the accuracy of earlier "
            f"tasks ({_size(kept, ACCURACY)}); of what leaks of them at the end, "
            f"{listed(by_measure)}."
        )
    return "\n".join(lines)


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


def exposure(fleets: Fleets) -> str:
    """Whether what a learner keeps beside its weights tells members, right after a task.

    It does where the whole interval of an AUC lies above guessing; told of the best attack.
    """
    matrices, exemplars = list[str](), list[str]()
    for name, fleet in fleets.items():
        known = {
            leak.attack: leak.auc
            for leak in fleet.leak.state
            if SUMMED not in leak.attack and leak.attack != EQUATIONS
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
        (matrices if fleet.solves else exemplars).append(text)
    named = (("the matrix R", matrices), ("the memory of exemplars", exemplars))
    return " ".join(
        f"Do not ship {what}, which tells members right after a task (AUC, {'; '.join(texts)})."
        for what, texts in named
        if texts
    )


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
    """Whether a few heads find more than LiRA with shadows, by AUC."""
    parts = []
    for pair in few_heads(fleets).pairs:
        found, name = comparisons[Asked(*pair, "auc")], pair[0].fleet
        seconds = f"{fleets[name].leak.world_seconds:.2g} s each"
        parts.append(f"{_word(found, 'auc')} under {name} ({seconds})")
    if not parts:
        return ""
    leak = fleets[few_heads(fleets).pairs[0][0].fleet].leak
    return (
        f"{leak.worlds} heads that an attacker solves over the target's own features find, beside "
        f"LiRA with {leak.shadows} shadows, in AUC {listed(parts)}."
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
    words = {"more": "more", "less": "less", None: "not shown to differ"}
    small = ", small" if compared.small else ""
    return f"{words[compared.shown]} ({_size(compared, measure)}{small})"


def _size(compared: Compared, measure: str) -> str:
    if measure == "auc":
        return f"{compared.estimate.value:+z.3f}"
    return f"{100 * compared.estimate.value:+z.1f} points"
