"""Several experiments beside each other: lines of their results in, a table out."""

from collections.abc import Iterable, Mapping, Sequence
from math import isnan, nan
from typing import Any, NamedTuple

from attacks.metrics.differences import Difference, Sample, holm, welch
from attacks.metrics.intervals import Estimate
from reporting.tables import Section
from reporting.text import BEST, FEW, MARK, show, show_difference, show_p

Line = Mapping[str, Any]  # a row of results.json, as `table.flatten` makes it
ESTIMATES = ("accuracy", "auc", "tpr_1pct")
NEEDED = (
    *("variant", "knowledge", "attack", "targets", "false_positives_1pct", "auc_spread"),
    *(f"{key}{end}" for key in ESTIMATES for end in ("", "_low", "_high")),
)
NOTE = (
    "In brackets: 95% intervals. The strongest attack with each kind of shadows; one that uses "
    "none is open to both. {best} is the stronger of the two, by AUC, whose TPR at 1% FPR is "
    "shown; {mark} rests on fewer than {few} false positives and proves little. AUC beyond "
    "{first}'s: of the strongest attack on each, by Welch's t over the targets, which speaks of "
    "more targets of these pools; p is corrected for the number of comparisons in its column "
    "(Holm). The targets are different models, so nothing that they share cancels: a difference "
    "may come of all that differs between the experiments, or of the draw of their pools. It is "
    "unknown with a single target, or where the targets do not differ."
)


class Entry(NamedTuple):
    """One variant in one experiment.

    Attributes:
        variant: its name.
        experiment: its name.
        accuracy: on the test split.
        matched: the strongest attack with matched shadows, or without any.
        full: the same with full-precision shadows; None where both kinds are one.
        best: the stronger of the two.
    """

    variant: str
    experiment: str
    accuracy: Estimate
    matched: Line
    full: Line | None
    best: Line


def estimate(line: Line, key: str) -> Estimate:
    """One number of a line with its interval; NaN where it is unknown."""
    fields = (line.get(f"{key}{end}") for end in ("", "_low", "_high", "_spread"))
    return Estimate(*(nan if field is None else float(field) for field in fields))


def enter(results: Mapping[str, Sequence[Line]]) -> list[Entry]:
    """An entry a variant and experiment, those of one variant together.

    Args:
        results: rows of results.json with at least the fields `NEEDED`, by experiment.
    """
    variants = dict.fromkeys(line["variant"] for lines in results.values() for line in lines)
    entries = []
    for variant in variants:
        for experiment, lines in results.items():
            some = [line for line in lines if line["variant"] == variant]
            if some:
                kinds = {line["knowledge"] for line in some}
                matched = _strongest(some, "matched")
                full = _strongest(some, "full") if "full" in kinds else None
                best = _strongest(some, *kinds)
                accuracy = estimate(best, "accuracy")
                entries.append(Entry(variant, experiment, accuracy, matched, full, best))
    return entries


def _strongest(lines: Iterable[Line], *kinds: str) -> Line:
    able = [line for line in lines if line["knowledge"] in ("none", *kinds)]
    return max(able, key=lambda line: line["auc"])


def against_first(entries: Sequence[Entry]) -> list[Difference | None]:
    """How much more the strongest attack finds than in the first experiment, for each entry.

    None for the first experiment itself and for variants that it lacks; NaN where it is unknown.
    """
    first = {e.variant: e for e in entries if e.experiment == entries[0].experiment}
    found: list[tuple[Estimate, float] | None] = [
        None
        if (reference := first.get(entry.variant)) in (None, entry)
        else welch(_sample(entry.best), _sample(reference.best))
        for entry in entries
    ]
    known = [p for _, p in filter(None, found) if not isnan(p)]
    corrected = iter(holm(known))
    return [
        one
        and Difference(
            entry.experiment,
            entries[0].experiment,
            *one,
            nan if isnan(one[1]) else next(corrected),
        )
        for entry, one in zip(entries, found, strict=True)
    ]


def _sample(line: Line) -> Sample:
    auc = estimate(line, "auc")
    return Sample(auc.value, auc.spread, line["targets"])


def make_differences(
    results: Mapping[str, Mapping[str, Any]], options: Mapping[str, Sequence[str]]
) -> Section:
    """What is not the same in all experiments, a column each.

    Args:
        results: what results.json holds, by experiment.
        options: those that differ: their values, in the order of the experiments.
    """
    rows = {key: values for key, values in options.items() if not key.startswith("fleet.")}
    for key in ("audited models", "shadow models", "left out"):  # what came of fleet's options
        rows[key] = [some["basis"].get(key, "-") for some in results.values()]
    attacks = [{line["attack"] for line in some["rows"]} for some in results.values()]
    shared = set.intersection(*attacks)
    rows["attacks but the shared ones"] = [", ".join(sorted(some - shared)) for some in attacks]
    lines = [(key, *values) for key, values in rows.items() if len(set(values)) > 1]
    note = "A difference in leakage below may come of any of these lines."
    if not lines:
        note = "Nothing but what was quantized: the options and versions are the same."
    return Section("What differs between the experiments", ("", *results), lines, note)


def make_comparison(entries: Sequence[Entry], differences: Sequence[Difference | None]) -> Section:
    """The table: a line a variant and experiment."""
    first = entries[0].experiment
    columns = (
        *("variant", "experiment", "test accuracy", "AUC, matched shadows", "AUC, full shadows"),
        *("TPR at 1% FPR", f"AUC beyond {first}'s", "p"),
    )
    lines = []
    for entry, difference in zip(entries, differences, strict=True):
        few = MARK if entry.best["false_positives_1pct"] < FEW else ""
        lines.append(
            (
                entry.variant,
                entry.experiment,
                show(entry.accuracy, percent=True),
                *(_show_auc(line, entry.best) for line in (entry.matched, entry.full)),
                show(estimate(entry.best, "tpr_1pct"), percent=True) + few,
                *_show_difference(difference),
            )
        )
    note = NOTE.format(best=BEST, mark=MARK, few=FEW, first=first)
    return Section("Leakage and accuracy", columns, lines, note)


def _show_auc(line: Line | None, best: Line) -> str:
    if line is None:
        return "-"
    return show(estimate(line, "auc")) + (f" {BEST}" if line is best else "")


def _show_difference(difference: Difference | None) -> tuple[str, str]:
    if difference is None:
        return "-", "-"
    if isnan(difference.p):
        return f"{difference.estimate.value:+z.3f} (unknown)", "unknown"
    return show_difference(difference.estimate), show_p(difference.p_holm)


def comparison_lines(
    entries: Sequence[Entry], differences: Sequence[Difference | None]
) -> list[dict[str, Any]]:
    """Lines of comparison.csv: the strongest attack of each kind, and the difference."""
    lines = []
    for entry, difference in zip(entries, differences, strict=True):
        line: dict[str, Any] = {"variant": entry.variant, "experiment": entry.experiment}
        line |= _numbers("accuracy", entry.accuracy)
        for kind, some in (("matched", entry.matched), ("full", entry.full)):
            line |= {f"{kind}_attack": some and some["attack"]}
            line |= _numbers(f"{kind}_auc", estimate(some or {}, "auc"))
        line |= {"strongest": entry.best["attack"], "knowledge": entry.best["knowledge"]}
        line |= _numbers("tpr_1pct", estimate(entry.best, "tpr_1pct"))
        line |= {key: entry.best[key] for key in ("false_positives_1pct", "targets")}
        _, _, beyond, *p = difference or ("", "", Estimate(nan, nan, nan), nan, nan)
        line |= _numbers("beyond", beyond)
        line |= {k: None if isnan(v) else v for k, v in zip(("p", "p_holm"), p, strict=True)}
        lines.append(line)
    return lines


def _numbers(key: str, estimate: Estimate) -> dict[str, float | None]:
    ends = zip(("", "_low", "_high"), estimate, strict=False)
    return {f"{key}{end}": None if isnan(number) else number for end, number in ends}
