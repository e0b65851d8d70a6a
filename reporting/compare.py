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
from reporting.results import Results
from reporting.tables import (
    DASH,
    Cell,
    Table,
    difference_cells,
    estimate_cell,
    find_strongest,
    number,
)
from reporting.text import BEST, MARK_NOTE, dagger
from storage.experiment import differing
from storage.records import VariantFacts

KINDS: tuple[Knowledge, ...] = "unquantized", "recalibrated"  # beside `matched`
NOTE = (
    "In brackets: 95% intervals. The strongest attack with each kind of shadows; every attacker "
    "may use an attack without shadows. {best} marks the strongest of these by AUC, whose TPR at "
    "1% FPR is shown; {mark} AUC beyond {first}'s: difference between the strongest attacks, by "
    "Welch's t over the targets, which generalises to more targets of these pools; p is corrected "
    "for the number of comparisons in its column (Holm). The targets are different models, so "
    "nothing that they share cancels: a difference may come from anything that differs between "
    "the experiments, or from the draw of their pools. It is unknown with a single target, or "
    "where the targets do not differ."
)


class Entry(NamedTuple):
    """One variant in one experiment.

    Attributes:
        variant: name of the variant.
        experiment: name of the experiment.
        facts: facts about the variant beside its leakage.
        matched: the strongest attack with matched shadows, or without shadows.
        unquantized: the same with full-precision shadows; None where both kinds are the same.
        best: the strongest of all.
        recalibrated: as `unquantized`, with recalibrated shadows.
    """

    variant: str
    experiment: str
    facts: VariantFacts
    matched: Row
    unquantized: Row | None
    best: Row
    recalibrated: Row | None = None


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
    names = (["/".join(path.parts[-parts:]) for path in whole] for parts in count(1))
    return next(ends for ends in names if len(set(ends)) == len(ends))


def enter(results: Mapping[str, Results]) -> list[Entry]:
    """Entries of all variants and experiments, grouped by variant."""
    variants = dict.fromkeys(name for audit in results.values() for name in audit.variants)
    entries = []
    for variant in variants:
        for experiment, audit in results.items():
            if (best := find_strongest(audit.rows, variant)) is not None:
                matched = find_strongest(audit.rows, variant, "none", "matched")
                others: dict[str, Row | None] = {
                    kind: find_strongest(audit.rows, variant, "none", kind)
                    for kind in KINDS
                    if find_strongest(audit.rows, variant, kind)
                }
                facts = audit.variants[variant]
                entries.append(
                    Entry(
                        variant,
                        experiment,
                        facts,
                        matched or best,
                        others.get("unquantized"),
                        best,
                        others.get("recalibrated"),
                    )
                )
    return entries


def against_first(entries: Sequence[Entry]) -> list[Difference | None]:
    """How much the strongest attack differs from that in the first experiment, per entry.

    None for the first experiment itself and for variants that it lacks; NaN where unknown.
    """
    first = {e.variant: e for e in entries if e.experiment == entries[0].experiment}
    compared: list[tuple[Estimate, float] | None] = [
        None
        if (reference := first.get(entry.variant)) in (None, entry)
        else welch(_sample(entry.best), _sample(reference.best))
        for entry in entries
    ]
    known = [p for _, p in filter(None, compared) if not isnan(p)]
    corrected = iter(holm(known))
    return [
        pair
        and Difference(
            entry.experiment,
            entries[0].experiment,
            *pair,
            nan if isnan(pair[1]) else next(corrected),
        )
        for entry, pair in zip(entries, compared, strict=True)
    ]


def _sample(row: Row) -> Sample:
    auc = row.summary.auc
    return Sample(auc.value, auc.spread, row.summary.targets)


def make_differences(results: Mapping[str, Results]) -> Table:
    """Options and facts that differ between the experiments, one column per experiment."""
    options = differing({name: audit.experiment for name, audit in results.items()})
    rows = {key: values for key, values in options.items() if not key.startswith("fleet.")}
    for key in (
        "audited models",
        "shadow models",
        "excluded",
        "RMIA",
    ):  # the outcome of the fleet's and the audit's options
        rows[key] = [audit.basis.get(key, "-") for audit in results.values()]
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


def make_comparison(entries: Sequence[Entry], differences: Sequence[Difference | None]) -> Table:
    """The table of leakage and accuracy: one line per variant and experiment."""
    first, kinds = entries[0].experiment, ["matched", "unquantized"]
    if any(entry.recalibrated for entry in entries):
        kinds.append("recalibrated")
    headings = {"unquantized": "full-precision"}
    columns = (
        *("variant", "experiment", "test accuracy"),
        *(f"AUC, {headings.get(kind, kind)} shadows" for kind in kinds),
        *("TPR at 1% FPR", f"AUC beyond {first}'s", "p"),
    )
    lines = []
    for entry, difference in zip(entries, differences, strict=True):
        mark = dagger(entry.best.summary.false_positives_1pct)
        lines.append(
            (
                Cell(entry.variant),
                Cell(entry.experiment),
                estimate_cell(entry.facts.accuracy, percent=True),
                *(_auc_cell(getattr(entry, kind), entry.best) for kind in kinds),
                estimate_cell(entry.best.summary.tpr_1pct, percent=True, mark=mark),
                *_difference_cells(difference),
            )
        )
    note = NOTE.format(best=BEST, mark=MARK_NOTE, first=first)
    return Table("comparison", "Leakage and accuracy", columns, lines, note)


def _auc_cell(row: Row | None, best: Row) -> Cell:
    if row is None:
        return DASH
    return estimate_cell(row.summary.auc, mark=f" {BEST}" if row is best else "")


def _difference_cells(difference: Difference | None) -> tuple[Cell, Cell]:
    if difference is not None and isnan(difference.p):
        value = difference.estimate.value
        return number(value, f"{value:+z.3f} (unknown)"), Cell("unknown")
    return difference_cells(difference)


def comparison_lines(
    entries: Sequence[Entry], differences: Sequence[Difference | None]
) -> list[dict[str, Any]]:
    """Lines of comparison.csv: the strongest attack of each kind, and the difference."""
    lines = []
    for entry, difference in zip(entries, differences, strict=True):
        line: dict[str, Any] = {"variant": entry.variant, "experiment": entry.experiment}
        line |= _numbers("accuracy", entry.facts.accuracy)
        for kind in ("matched", *KINDS):
            row = getattr(entry, kind)
            line |= {f"{kind}_attack": row and row.attack}
            line |= _numbers(f"{kind}_auc", row and row.summary.auc)
        summary = entry.best.summary
        line |= {"strongest": entry.best.attack, "knowledge": entry.best.knowledge}
        line |= _numbers("tpr_1pct", summary.tpr_1pct)
        line |= {key: getattr(summary, key) for key in ("false_positives_1pct", "targets")}
        line |= _numbers("beyond", difference and difference.estimate)
        for key in ("p", "p_holm"):
            value = nan if difference is None else getattr(difference, key)
            line[key] = None if isnan(value) else value
        lines.append(line)
    return lines


def _numbers(key: str, estimate: Estimate | None) -> dict[str, float | None]:
    value, low, high, _ = estimate or (nan, nan, nan, nan)
    ends = zip(("", "_low", "_high"), (value, low, high), strict=True)
    return {f"{key}{end}": None if isnan(bound) else bound for end, bound in ends}
