"""What is said of learning in tasks, each sentence by a written rule."""

from collections.abc import Sequence
from math import isnan

from attacks.continual.comparisons import ENDS, Transfer
from attacks.continual.leaks import ContinualLeak
from attacks.metrics.differences import Difference
from attacks.metrics.intervals import Estimate
from attacks.metrics.measures import Metric
from reporting.text import LEVEL, NAMES, extent, listed, show

HOLDERS = {
    "snapshot": "the last snapshot alone",
    "snapshots": "all snapshots",
    "state": "all snapshots and the learner's state",
}


def sentences(leak: ContinualLeak | None) -> list[str]:
    """What is said of learning in tasks, by written rules.

    Leakage is said to rise or fall if the corrected p of the strongest attack's privacy backward
    transfer is below 5%, by AUC and by TPR apart. A loss attack is said to mislead if its own
    transfer is shown to have the opposite sign, and to overstate a change if its interval lies
    beyond the strongest attack's. An attack is said to find members if the interval
    of its AUC lies above 0.5.
    """
    if leak is None:
        return []
    told = []
    if leak.transfers:
        told += [_rises(leak.transfers[0]), *_misleads(leak.transfers)]
    told += [_gain(leak)] if len(leak.attackers) > 1 else []
    return told + _solves(leak) + _ships(leak) + _consolidates(leak) + _holds(leak) + _keeps(leak)


def understated(leak: ContinualLeak | None, headline: Estimate) -> list[str]:
    """A warning where the headline's AUC lies below what the last network tells, task by task.

    It is given if the intervals of the two do not overlap.

    Args:
        leak: what learning in tasks leaks.
        headline: AUC of the attack that is strongest on `full`, over all tasks.
    """
    if leak is None or not leak.attackers:
        return []
    alone = leak.attackers[0].auc
    if alone.low <= headline.high:
        return []
    return [
        "The headline understates what full leaks: its attacks look at the scaled logit alone. "
        f"Task by task, one who holds the last snapshot alone reaches AUC {show(alone)}."
    ]


def _rises(strongest: Transfer) -> str:
    auc, rate = (strongest.by_metric[metric] for metric in ENDS)
    ways = {metric: direction(d) for metric, d in zip(ENDS, (auc, rate), strict=True)}
    extents = {m: extent(m, strongest.by_metric[m].estimate) for m in ENDS}
    verbs = {1: "rises", -1: "falls"}
    shown = {metric: way for metric, way in ways.items() if way}
    if not shown:
        return (
            "Leakage of earlier tasks is not shown to change as later tasks come "
            f"({_unshown(auc, 'auc')}; {_unshown(rate, 'tpr_1pct')})."
        )
    if len(set(shown.values())) > 1:
        return (
            f"As later tasks come, leakage of earlier tasks {verbs[ways['auc']]} on average "
            f"({extents['auc']}) and {verbs[ways['tpr_1pct']]} in the tail ({extents['tpr_1pct']})."
        )
    found = listed([extents[metric] for metric in shown])
    where = "" if len(shown) == 2 else " on average" if "auc" in shown else " in the tail"
    verb = verbs[next(iter(shown.values()))]
    return f"Leakage of earlier tasks {verb}{where} as later tasks come: {found} at the end."


def _misleads(transfers: Sequence[Transfer]) -> list[str]:
    strongest = transfers[0].by_metric["auc"]
    loss = next((t.by_metric["auc"] for t in transfers if t.attack == "loss"), None)
    if loss is None or not direction(loss):
        return []
    change = extent("auc", loss.estimate)
    if direction(loss) == -direction(strongest):
        return [f"A loss attack misleads: it would say {change} at the end."]
    if direction(loss) == direction(strongest):
        nearest = min(map(abs, loss.estimate[1:3]))
        if nearest > max(map(abs, strongest.estimate[1:3])):
            return [f"A loss attack overstates this: it would say {change} at the end."]
        return [f"A loss attack says the same: {change} at the end."]
    return [
        f"A loss attack would say {change} at the end, where the strongest attack is not shown to "
        "change."
    ]


def _gain(leak: ContinualLeak) -> str:
    alone, *more = leak.attackers
    told = []
    for attacker in more:
        if attacker.gain is None:
            continue
        if direction(attacker.gain) > 0:
            told.append(f"{HOLDERS[attacker.holds]}: {extent('auc', attacker.gain.estimate)}")
        else:
            told.append(f"{HOLDERS[attacker.holds]}: no more is shown")
    return (
        f"At the end, one who holds {HOLDERS[alone.holds]} reaches AUC {show(alone.auc)}, mean "
        f"over tasks. Who holds more, step by step: {'; '.join(told)}."
    )


def _solves(leak: ContinualLeak) -> list[str]:
    """One line if members are found from a head's normal equations."""
    found = next((f for f in leak.state if f.attack == "normal_equations"), None)
    if found is None or found.auc is None or found.auc.low <= 0.5:
        return []
    late = f", and AUC {show(found.auc_at_end)} at the end" if found.auc_at_end else ""
    return [
        "A head alone tells who was learnt: one whose candidates hold every training example "
        f"solves the normal equations of its weight, by AUC {show(found.auc)} right after each "
        f"task{late}."
    ]


def _ships(leak: ContinualLeak) -> list[str]:
    """One line if the range test or a leverage test finds members."""
    tests = [found for found in leak.state if found.attack.startswith(("range", "leverage"))]
    after = [f for f in tests if f.auc is not None and f.auc.low > 0.5]
    late = [f for f in tests if f.auc_at_end is not None and f.auc_at_end.low > 0.5]
    if not after and not late:
        return []
    told = []
    if after:
        best = max(after, key=lambda f: f.auc.value if f.auc else 0)
        told.append(
            f"{best.attack} finds members of a task right after it by AUC {_known(best.auc)}"
        )
    if late:
        best = max(late, key=lambda f: f.auc_at_end.value if f.auc_at_end else 0)
        found = "those" if told else "finds members"
        told.append(
            f"{best.attack} {found} of earlier tasks at the end by AUC {_known(best.auc_at_end)}"
        )
    return [f"Do not ship R: {', and '.join(told)}."]


def _consolidates(leak: ContinualLeak) -> list[str]:
    """One line if an attack on EWC's Fisher finds members."""
    tests = [found for found in leak.state if found.attack.startswith("fisher")]
    after = {f.attack: f.auc for f in tests if f.auc is not None and f.auc.low > 0.5}
    if not after:
        return []
    ways = {
        "fisher_equations": ", by one whose candidates hold every member of the task",
        "fisher_lira": ", beside shadows",
        "fisher_bound": "",
    }
    best = max(after, key=lambda attack: after[attack].value)
    return [
        f"Do not ship EWC's Fisher: {best} finds members of a task right after it by AUC "
        f"{show(after[best])}{ways[best]}."
    ]


def _holds(leak: ContinualLeak) -> list[str]:
    """One line if the neurons that SSD holds tell members."""
    tests = [found for found in leak.state if found.attack.startswith("subnetwork")]
    after = {f.attack: f.auc for f in tests if f.auc is not None and f.auc.low > 0.5}
    if not after:
        return []
    best = max(after, key=lambda attack: after[attack].value)
    return [
        f"Do not ship which neurons SSD holds: {best} finds members of a task right after it by "
        f"AUC {show(after[best])}."
    ]


def _keeps(leak: ContinualLeak) -> list[str]:
    if leak.exemplars is None:
        return []
    return [
        "Exemplars for replay are members for certain: who sees the memory knows "
        f"{show_mean(leak.exemplars, percent=True)} of the members of earlier tasks."
    ]


def direction(difference: Difference) -> int:
    """1 if a difference is shown to be above 0, -1 if below, 0 if neither."""
    if difference.p_holm >= LEVEL or difference.estimate.value == 0:
        return 0
    return 1 if difference.estimate.value > 0 else -1


def _unshown(difference: Difference, metric: Metric) -> str:
    low, high = (100 * end if metric != "auc" else end for end in difference.estimate[1:3])
    unit, digits = (" points", 1) if metric != "auc" else ("", 3)
    alone = "" if low <= 0 <= high else " before correction for the number of comparisons"
    return f"{NAMES[metric]} {low:+z.{digits}f} to {high:+z.{digits}f}{unit}{alone}"


def _known(estimate: Estimate | None) -> str:
    return "unknown" if estimate is None else show(estimate)


def show_mean(estimate: Estimate, percent: bool = False) -> str:
    """An estimate, without an interval where a single target has none."""
    if isnan(estimate.low) and not isnan(estimate.value):
        return f"{estimate.value:.1%}" if percent else f"{estimate.value:.3f}"
    return show(estimate, percent)
