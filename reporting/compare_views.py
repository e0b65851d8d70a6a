"""The views of a comparison: two tables, and lines of a CSV file."""

from collections.abc import Mapping, Sequence
from math import isnan, nan
from typing import Any

from attacks.frontier import Frontier
from attacks.metrics.differences import Difference
from attacks.metrics.intervals import Estimate
from attacks.metrics.measures import Metric
from reporting.compare import Differences, Entry
from reporting.compare_frontier import full_name
from reporting.frontier import as_accurate_as
from reporting.pairing import Pairing
from reporting.results import Results
from reporting.tables import DASH, Cell, Table, estimate_cell, metric_cell, number
from reporting.text import MARK_NOTE, NAMES, false_positives, show_change, show_p
from storage.names import is_snapshot
from storage.same_experiment import differing

NOTE = (
    "In brackets: 95% intervals. {ends} are those of the attack that is strongest by each, with "
    "any shadows or none; {mark} Beyond {first}'s: difference between the strongest attacks, each "
    "chosen on one half of the targets for the other half, in points for a TPR, {tests}. It may "
    "come from anything that differs between the experiments. p is corrected for the number of "
    "comparisons in both columns together (Holm){apart}. {noise} A difference is unknown with a "
    "single target, or where the targets do not differ."
)
PAIRED = (
    "target by target where experiments are paired (Student's t over targets that trained on the "
    "same examples, which generalises to more targets of that pool)"
)
WELCH = (
    "by Welch's t over the targets{where}, where nothing that targets share cancels, and which "
    "knows nothing of the draw of the pools"
)


def make_differences(results: Mapping[str, Results], pairings: Mapping[str, Pairing]) -> Table:
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
    first, *others = results
    tests = [
        f"paired over {len(targets)} targets" if (targets := pairings[name].own) else "Welch's t"
        for name in others
    ]
    lines.append([Cell(text) for text in (f"compared with {first}", "-", *tests)])
    return Table("options", "What differs between the experiments", ("", *results), lines, note)


def make_comparison(
    entries: Sequence[Entry],
    differences: Sequence[Differences],
    pairings: Mapping[str, Pairing],
) -> Table:
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
    note = _describe_tests(entries, pairings)
    return Table("comparison", "Leakage and accuracy", tuple(columns), lines, note)


def _describe_tests(entries: Sequence[Entry], pairings: Mapping[str, Pairing]) -> str:
    """How the differences were tested, and what is not known of their variance."""
    matched = {name: bool(pairing.own) for name, pairing in pairings.items()}
    tests = [PAIRED] if any(matched.values()) else []
    if not all(matched.values()):
        tests.append(WELCH.format(where=" otherwise" if tests else ""))
    apart = any(is_snapshot(entry.variant) for entry in entries)
    names = dict.fromkeys(
        entry.experiment
        for entry in entries
        if any(entry.outcome(end).halves is None for end in entry.risk)
    )
    noise = "Its variance counts what either draw of shadows adds."
    if names:
        noise = (
            "Its variance counts what either draw of shadows adds, which is not known of all "
            f"variants of {', '.join(names)} and is then missing."
        )
    return NOTE.format(
        ends=" and ".join(NAMES[end] for end in entries[0].risk),
        mark=MARK_NOTE,
        first=entries[0].experiment,
        tests="; ".join(tests),
        apart=", of snapshots apart from other variants" if apart else "",
        noise=noise,
    )


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
    entries: Sequence[Entry],
    differences: Sequence[Differences],
    pairings: Mapping[str, Pairing],
    frontier: Frontier | None = None,
) -> list[dict[str, Any]]:
    """Lines of comparison.csv: risk at both ends, by kind of shadows, and the differences.

    Columns on networks that were stopped early are there if anything is compared with them.
    """
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
            line |= _test_numbers(end, "beyond", by_end[end])
        if frontier is not None and frontier.beside:
            place = frontier.beside.get(full_name(entry))
            line["as_accurate_as"] = place and as_accurate_as(frontier, place)
            for end in entry.risk:
                difference = place.differences.get(end) if place else None
                line |= _test_numbers(f"{end}_stopped_early", "less", difference)
        line["targets"] = entry.risk["auc"].summary.targets
        pairing = pairings.get(entry.experiment)  # not of the first experiment
        lines.append(line | {"paired_targets": pairing and len(pairing.own)})
    return lines


def _test_numbers(key: str, name: str, difference: Difference | None) -> dict[str, float | None]:
    line = _numbers(f"{key}_{name}", difference and difference.estimate)
    for p in ("p", "p_holm"):
        value = nan if difference is None else getattr(difference, p)
        line[f"{key}_{p}"] = None if isnan(value) else value
    return line


def _numbers(key: str, estimate: Estimate | None) -> dict[str, float | None]:
    value, low, high, _ = estimate or (nan, nan, nan, nan)
    ends = zip(("", "_low", "_high"), (value, low, high), strict=True)
    return {f"{key}{end}": None if isnan(bound) else bound for end, bound in ends}
