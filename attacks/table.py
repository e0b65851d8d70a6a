"""The table of an audit: for the terminal, and as the lines of results.csv."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from attacks.evaluate import Row
from attacks.intervals import Estimate
from attacks.making import Precision
from attacks.report import BEST, COLUMNS, NOTES, sections
from attacks.show import show


def make_table(rows: Sequence[Row], precisions: Mapping[str, Precision], title: str) -> Table:
    """The table for the terminal."""
    table = Table(title=escape(title), caption="\n".join(NOTES), caption_justify="left", box=SIMPLE)
    for column in ("variant", *COLUMNS):
        table.add_column(column, no_wrap=column in ("variant", "shadows", "attack"))
    for variant, lines in sections(rows).items():
        table.add_section()
        accuracy, size, _ = precisions[variant]
        heads = (variant, f"{show(accuracy, percent=True)} acc.", f"{size:,} bytes" if size else "")
        for head, line in zip_longest(heads, lines, fillvalue=""):
            best = bool(line) and BEST in line[1]
            table.add_row(head, *line, style="bold red" if best else None)
    return table


def flatten(row: Row, precision: Precision, best: bool) -> dict[str, Any]:
    """One line of results.csv."""
    summary = row.summary._asdict()
    estimates = {"accuracy": precision.accuracy}
    estimates |= {key: value for key, value in summary.items() if isinstance(value, Estimate)}
    numbers = {
        f"{key}{'' if field == 'value' else f'_{field}'}": number
        for key, estimate in estimates.items()
        for field, number in estimate._asdict().items()
    }
    counts = {key: value for key, value in summary.items() if key not in estimates}
    names = {"variant": row.variant, "knowledge": row.knowledge, "attack": row.attack}
    made = precision.made
    cost = {"bytes": precision.bytes, "seconds": made.seconds if made else None}
    return names | {"strongest": best} | numbers | counts | {"shadows": row.shadows} | cost
