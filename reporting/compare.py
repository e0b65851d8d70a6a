"""Several experiments compared: their results in, a table and lines of a CSV file out."""

from collections.abc import Mapping, Sequence
from itertools import count
from math import isnan, nan
from pathlib import Path
from typing import Any, NamedTuple

from attacks.evaluate import Row
from attacks.game import Knowledge
from attacks.metrics.differences import Difference, Sample, holm, welch
from attacks.metrics.intervals import Estimate
from attacks.metrics.measures import Metric
from reporting.results import Results
from reporting.tables import DASH, Cell, Table, estimate_cell, metric_cell, number
from reporting.text import MARK_NOTE, NAMES, false_positives, kinds_of, show_change, show_p
from storage.experiment import differing
from storage.files import as_unicode
from storage.records import VariantFacts

NOTE = (
    "In brackets: 95% intervals. {ends} are those of the attack that is strongest by each, with "
    "any shadows or none; {mark} Beyond {first}'s: difference between the strongest attacks, by "
    "Welch's t over the targets, which generalises to more targets of these pools, in points for "
    "a TPR; p is corrected for the number of comparisons in both columns together (Holm). The "
    "targets are different models, so nothing that they share cancels: a difference may come from "
    "anything that differs between the experiments, or from the draw of their pools. It is unknown "
    "with a single target, or where the targets do not differ."
)
Differences = Mapping[Metric, Difference | None]  # of one entry, by end of the risk


class Entry(NamedTuple):
    """One variant in one experiment.

    Attributes:
        variant: name of the variant.
        experiment: name of the experiment.
        facts: facts about the variant beside its leakage.
        risk: by metric, AUC and tail: the attack that is strongest by it.
        by_kind: the same by kind of shadows, where attacks without shadows count for each kind;
            a kind that the variant was not attacked with is missing.
    """

    variant: str
    experiment: str
    facts: VariantFacts
    risk: dict[Metric, Row]
    by_kind: dict[Metric, dict[Knowledge, Row]]


def name_apart(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the folders' paths that tell them apart, of equally many parts.

    Raises:
        ValueError: fewer than two folders, or the same folder twice.
    """
    whole = [folder.resolve() for folder in folders]
    if len(whole) < 2:
        raise ValueError(
            f"A comparison needs two run folders or more, got {len(whole)}. Name another."
        )
    twice = [folder for folder in whole if whole.count(folder) > 1]
    if twice:
        raise ValueError(f"{twice[0]} is named twice. Name each run folder once.")
    names = ([as_unicode("/".join(path.parts[-parts:])) for path in whole] for parts in count(1))
    return next(ends for ends in names if len(set(ends)) == len(ends))


def ends_of(results: Mapping[str, Results]) -> tuple[Metric, Metric]:
    """AUC, and the coarser of the audits' tails, at which all of them can be compared."""
    tails = {audit.tail for audit in results.values()}
    return "auc", "tpr_1pct" if "tpr_1pct" in tails else "tpr_01pct"


def enter(results: Mapping[str, Results]) -> list[Entry]:
    """Entries of all variants and experiments, grouped by variant."""
    ends = ends_of(results)
    variants = dict.fromkeys(name for audit in results.values() for name in audit.variants)
    entries = []
    for variant in variants:
        for experiment, audit in results.items():
            rows = [row for row in audit.rows if row.variant == variant]
            if rows:
                risk, by_kind = {}, {}
                kinds: list[Knowledge] = kinds_of(rows) or ["none"]
                for end in ends:
                    risk[end] = _strongest(rows, end)
                    by_kind[end] = {
                        kind: _strongest([r for r in rows if r.knowledge in (kind, "none")], end)
                        for kind in kinds
                    }
                facts = audit.variants[variant]
                entries.append(Entry(variant, experiment, facts, risk, by_kind))
    return entries


def _strongest(rows: Sequence[Row], metric: Metric) -> Row:
    return max(rows, key=lambda row: getattr(row.summary, metric).value)


def against_first(entries: Sequence[Entry]) -> list[Differences]:
    """How much the strongest attack differs from that in the first experiment, per entry and end.

    None for the first experiment itself and for variants that it lacks; NaN where unknown.
    """
    first = {e.variant: e for e in entries if e.experiment == entries[0].experiment}
    compared: dict[tuple[int, Metric], tuple[Estimate, float]] = {}
    for position, entry in enumerate(entries):
        reference = first.get(entry.variant)
        if reference is not None and reference is not entry:
            for end, row in entry.risk.items():
                samples = _sample(row, end), _sample(reference.risk[end], end)
                compared[position, end] = welch(*samples)
    known = {key: p for key, (_, p) in compared.items() if not isnan(p)}
    corrected = dict(zip(known, holm(list(known.values())), strict=True))
    return [
        {
            end: Difference(
                entry.experiment,
                entries[0].experiment,
                *compared[position, end],
                corrected.get((position, end), nan),
            )
            if (position, end) in compared
            else None
            for end in entry.risk
        }
        for position, entry in enumerate(entries)
    ]


def _sample(row: Row, metric: Metric) -> Sample:
    estimate = getattr(row.summary, metric)
    return Sample(estimate.value, estimate.spread, row.summary.targets)


def make_differences(results: Mapping[str, Results]) -> Table:
    """Options and facts that differ between the experiments, one column per experiment."""
    options = differing({name: audit.experiment for name, audit in results.items()})
    rows = {key: values for key, values in options.items() if not key.startswith("fleet.")}
    for key in ("audited models", "shadow models", "RMIA"):  # outcomes of options
        rows[key] = [audit.basis.get(key, "-") for audit in results.values()]
    rows["left out"] = [" ".join(audit.left_out) or "none" for audit in results.values()]
    attacks = [{row.attack for row in audit.rows} for audit in results.values()]
    shared = set.intersection(*attacks)
    rows["attacks beside the shared ones"] = [", ".join(sorted(own - shared)) for own in attacks]
    lines = [
        [Cell(text) for text in (key, *values)]
        for key, values in rows.items()
        if len(set(values)) > 1
    ]
    note = "Any of these lines may be the cause of a difference in leakage below."
    if not lines:
        note = "Only the variants: the options and versions are the same."
    return Table("options", "What differs between the experiments", ("", *results), lines, note)


def make_comparison(entries: Sequence[Entry], differences: Sequence[Differences]) -> Table:
    """The table of leakage and accuracy: one line per variant and experiment."""
    first, ends = entries[0].experiment, list(entries[0].risk)
    columns = ["variant", "experiment", "test accuracy", *(NAMES[end] for end in ends)]
    for end in ends:
        columns += [f"{NAMES[end]} beyond {first}'s", "p"]
    lines = []
    for entry, by_end in zip(entries, differences, strict=True):
        cells = [cell for end in ends for cell in _difference_cells(by_end[end], end)]
        lines.append(
            (
                Cell(entry.variant),
                Cell(entry.experiment),
                estimate_cell(entry.facts.accuracy, percent=True),
                *(metric_cell(row.summary, end) for end, row in entry.risk.items()),
                *cells,
            )
        )
    names = " and ".join(NAMES[end] for end in ends)
    note = NOTE.format(ends=names, mark=MARK_NOTE, first=first)
    return Table("comparison", "Leakage and accuracy", tuple(columns), lines, note)


def _difference_cells(difference: Difference | None, metric: Metric) -> tuple[Cell, Cell]:
    if difference is None:
        return DASH, DASH
    estimate = difference.estimate
    if isnan(difference.p):
        shown = f"{show_change(estimate, metric).split(' (')[0]} (unknown)"
        return number(estimate.value, shown), Cell("unknown")
    p = number(difference.p_holm, show_p(difference.p_holm))
    return number(estimate.value, show_change(estimate, metric)), p


def comparison_lines(
    entries: Sequence[Entry], differences: Sequence[Differences]
) -> list[dict[str, Any]]:
    """Lines of comparison.csv: risk at both ends, by kind of shadows, and the differences."""
    kinds = dict.fromkeys(kind for entry in entries for kind in entry.by_kind["auc"])
    lines = []
    for entry, by_end in zip(entries, differences, strict=True):
        line: dict[str, Any] = {"variant": entry.variant, "experiment": entry.experiment}
        line |= _numbers("accuracy", entry.facts.accuracy)
        for end, row in entry.risk.items():
            line |= {f"{end}_attack": row.attack, f"{end}_knowledge": row.knowledge}
            line |= _numbers(end, getattr(row.summary, end))
            if (count := false_positives(row.summary, end)) is not None:
                line[f"{end}_false_positives"] = count
            for kind in kinds:
                own = entry.by_kind[end].get(kind)
                line[f"{end}_{kind}_attack"] = own and own.attack
                line |= _numbers(f"{end}_{kind}", own and getattr(own.summary, end))
            difference = by_end[end]
            line |= _numbers(f"{end}_beyond", difference and difference.estimate)
            for key in ("p", "p_holm"):
                value = nan if difference is None else getattr(difference, key)
                line[f"{end}_{key}"] = None if isnan(value) else value
        lines.append(line | {"targets": entry.risk["auc"].summary.targets})
    return lines


def _numbers(key: str, estimate: Estimate | None) -> dict[str, float | None]:
    value, low, high, _ = estimate or (nan, nan, nan, nan)
    ends = zip(("", "_low", "_high"), (value, low, high), strict=True)
    return {f"{key}{end}": None if isnan(bound) else bound for end, bound in ends}
