"""Tables that every view shows: cells with a text and a value to sort by."""

from collections.abc import Mapping, Sequence
from math import isnan
from typing import NamedTuple

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table as RichTable

from attacks.evaluate import Row
from attacks.game import Knowledge
from attacks.metrics.differences import Difference
from attacks.metrics.intervals import Estimate
from reporting.text import (
    AUC_NOTE,
    INTERVAL_NOTE,
    MARK_NOTE,
    RISK_NOTE,
    SHADOWS,
    SHADOWS_NOTE,
    TPR_NOTE,
    dagger,
    show,
    show_difference,
    show_p,
)
from storage.records import VariantFacts


class Cell(NamedTuple):
    """One cell: its text, and the value to sort by; None for a name or an unknown value."""

    text: str
    value: float | None = None


DASH = Cell("-")


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


def number(value: float, text: str) -> Cell:
    """A cell that sorts by its value; NaN is unknown."""
    return Cell(text, None if isnan(value) else value)


def estimate_cell(
    estimate: Estimate, percent: bool = False, spread: bool = False, mark: str = ""
) -> Cell:
    """An estimate with its interval."""
    return number(estimate.value, show(estimate, percent, spread) + mark)


def difference_cells(difference: Difference | None, percent: bool = False) -> tuple[Cell, Cell]:
    """A difference with its interval, and its corrected p-value; dashes without a difference."""
    if difference is None:
        return DASH, DASH
    estimate, p = difference.estimate, difference.p_holm
    return number(estimate.value, show_difference(estimate, percent)), number(p, show_p(p))


def find_strongest(
    rows: Sequence[Row], variant: str, *kinds: Knowledge, metric: str = "auc"
) -> Row | None:
    """The strongest attack on a variant with some kinds of knowledge, by one metric.

    Args:
        rows: attacks on any variants.
        variant: what is attacked.
        kinds: kinds of knowledge; all if none is named.
        metric: a field of `Summary`.
    """
    attacks = [r for r in rows if r.variant == variant and (not kinds or r.knowledge in kinds)]
    return max(attacks, key=lambda row: getattr(row.summary, metric).value, default=None)


def headline(rows: Sequence[Row], variants: Mapping[str, VariantFacts]) -> Table:
    """One line per variant: its strongest attack, and the AUC with each kind of shadows."""
    lines = []
    for variant, facts in variants.items():
        best = next(row for row in rows if row.variant == variant and row.strongest)
        matched, unquantized = (
            find_strongest(rows, variant, kind) for kind in ("matched", "unquantized")
        )
        summary = best.summary
        mark = dagger(summary.false_positives_1pct)
        lines.append(
            (
                Cell(variant),
                estimate_cell(facts.accuracy, percent=True),
                Cell(f"{facts.bytes:,}", facts.bytes) if facts.bytes else DASH,
                Cell(f"{best.attack}, {SHADOWS[best.knowledge]}"),
                estimate_cell(summary.auc, spread=summary.targets > 1),
                estimate_cell(matched.summary.auc) if matched else DASH,
                estimate_cell(unquantized.summary.auc) if unquantized else DASH,
                estimate_cell(summary.tpr_1pct, percent=True, mark=mark),
            )
        )
    columns = (
        *("variant", "test accuracy", "bytes", "strongest attack", "AUC"),
        *("AUC, matched shadows", "AUC, full-precision shadows", "TPR at 1% FPR"),
    )
    notes = AUC_NOTE, RISK_NOTE, TPR_NOTE, INTERVAL_NOTE, MARK_NOTE, SHADOWS_NOTE
    return Table("headline", "Leakage and accuracy", columns, lines, " ".join(notes))


def for_terminal(table: Table, title: str) -> RichTable:
    """A table for the terminal."""
    drawn = RichTable(
        title=escape(title),
        caption=table.note,
        caption_justify="left",
        box=SIMPLE,
        padding=(0, 1, 0, 0),
    )
    for position, column in enumerate(table.columns):
        heading = column.replace(", ", ",\n")  # as narrow as the numbers below it
        drawn.add_column(heading, no_wrap=position in (0, 4, 5, 6), overflow="fold")
    for row in table.rows:
        drawn.add_row(*(escape(cell.text) for cell in row))
    return drawn
