"""Tables that every view shows: cells with a text and a value to sort by."""

from collections.abc import Mapping, Sequence
from math import isnan
from typing import NamedTuple

from jaxtyping import Int64
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table as RichTable
from torch import Tensor

from attacks.evaluate import Row, tail_metric
from attacks.findings import Exposures
from attacks.game import Knowledge
from attacks.metrics.differences import Difference
from attacks.metrics.exposure import most_exposed
from attacks.metrics.intervals import Estimate, Summary
from attacks.metrics.measures import Metric
from reporting.text import (
    AUC_NOTE,
    INTERVAL_NOTE,
    MARK_NOTE,
    NAMES,
    RISK_NOTE,
    SHADOWS,
    TPR_NOTE,
    kinds_of,
    shadows_note,
    show,
    show_difference,
    show_metric,
    show_p,
)
from storage.records import VariantFacts


class Cell(NamedTuple):
    """One cell: its text, and the value to sort by; None for a name or an unknown value."""

    text: str
    value: float | None = None


DASH = Cell("-")
SHOWN = 16  # most exposed examples
BY = "strongest by"


class Table(NamedTuple):
    """A table with its title and a note.

    Attributes:
        key: its name in dashboards and results.json, which outlives a change of title.
        title: its heading.
        columns: headings of the columns.
        rows: cells, one per column.
        note: how to read it.
    """

    key: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str


class Body(NamedTuple):
    """A table without its key and title."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]
    note: str


def number(value: float, text: str) -> Cell:
    """A cell that sorts by its value; NaN is unknown."""
    return Cell(text, None if isnan(value) else value)


def estimate_cell(estimate: Estimate, percent: bool = False, spread: bool = False) -> Cell:
    """An estimate with its interval."""
    return number(estimate.value, show(estimate, percent, spread))


def metric_cell(summary: Summary, metric: Metric) -> Cell:
    """One metric with its interval; a TPR in percent, marked where it proves little."""
    return number(getattr(summary, metric).value, show_metric(summary, metric))


def difference_cells(difference: Difference | None, percent: bool = False) -> tuple[Cell, Cell]:
    """A difference with its interval, and its corrected p-value; dashes without a difference."""
    if difference is None:
        return DASH, DASH
    estimate, p = difference.estimate, difference.p_holm
    return number(estimate.value, show_difference(estimate, percent)), number(p, show_p(p))


def find_strongest(
    rows: Sequence[Row], variant: str, *kinds: Knowledge, metric: Metric = "auc"
) -> Row | None:
    """The strongest attack on a variant with some kinds of knowledge, by one metric.

    Args:
        rows: attacks on any variants.
        variant: what is attacked.
        kinds: kinds of knowledge; all if none is named.
        metric: what the attack is strongest by.
    """
    attacks = [r for r in rows if r.variant == variant and (not kinds or r.knowledge in kinds)]
    return max(attacks, key=lambda row: getattr(row.summary, metric).value, default=None)


def headline(rows: Sequence[Row], variants: Mapping[str, VariantFacts]) -> Table:
    """One line per variant: its risk at both ends, and the AUC with each kind of shadows."""
    tail, kinds = tail_metric(rows[0].summary), kinds_of(rows)
    lines = []
    for variant, facts in variants.items():
        risk = []
        for metric in ("auc", tail):
            best = next(r for r in rows if r.variant == variant and metric in r.strongest)
            risk += [metric_cell(best.summary, metric), Cell(_attacker(best))]
        by_kind = [find_strongest(rows, variant, kind) for kind in kinds]
        lines.append(
            (
                Cell(variant),
                estimate_cell(facts.accuracy, percent=True),
                Cell(f"{facts.bytes:,}", facts.bytes) if facts.bytes else DASH,
                *risk,
                *(metric_cell(row.summary, "auc") if row else DASH for row in by_kind),
            )
        )
    columns = (
        *("variant", "test accuracy", "bytes", "AUC", f"{BY} AUC"),
        *(NAMES[tail], f"{BY} TPR", *(f"AUC, {SHADOWS[kind]}" for kind in kinds)),
    )
    notes = AUC_NOTE, TPR_NOTE, RISK_NOTE, INTERVAL_NOTE, MARK_NOTE, shadows_note(rows)
    return Table("headline", "Leakage and accuracy", columns, lines, " ".join(notes))


def _attacker(row: Row) -> str:
    """An attack and what its shadows went through, as short as a column asks for."""
    shadows = SHADOWS[row.knowledge].removesuffix(" shadows")
    return row.attack if row.knowledge == "none" else f"{row.attack}, {shadows}"


def exposed_table(exposures: Exposures, labels: Int64[Tensor, " examples"]) -> Table:
    """The examples that are most exposed in the reference, with their exposure in each variant."""
    reference = exposures.variants.index(exposures.reference)
    rows = []
    for index in most_exposed(exposures.examples[reference], SHOWN).tolist():
        label = int(labels[index])
        values = exposures.examples[:, index].tolist()
        shares = [number(value, f"{value:.1%}") if value == value else DASH for value in values]
        rows.append((Cell(str(index), index), Cell(str(label), label), *shares))
    return Table(
        "most_exposed",
        "The most exposed examples",
        ("example", "label", *exposures.variants),
        rows,
        f"Most exposed in {exposures.reference}: position in the pool, class, and the share of a "
        "target's non-members that score lower, mean over the targets that trained on the example. "
        f"All by {exposures.attack}. exposure.csv has every example.",
    )


def for_terminal(table: Table, title: str) -> RichTable:
    """A table for the terminal, where an attack stands below the number that it is strongest by."""
    drawn = RichTable(
        title=escape(title),
        caption=escape(table.note),
        caption_justify="left",
        box=SIMPLE,
        padding=(0, 1, 0, 0),
    )
    below = [column.startswith(BY) for column in table.columns]
    for position, column in enumerate(table.columns):
        if not below[position]:
            named = below[position + 1 : position + 2] == [True]
            heading = column.replace(", ", ",\n")  # as narrow as the numbers below it
            heading += " and\nstrongest attack" if named else ""
            drawn.add_column(escape(heading), no_wrap=position == 0, overflow="fold")
    for row in table.rows:
        texts: list[str] = []
        for cell, under in zip(row, below, strict=True):
            if under:
                texts[-1] += f"\n{escape(cell.text)}"
            else:
                texts.append(escape(cell.text))
        drawn.add_row(*texts)
    return drawn
