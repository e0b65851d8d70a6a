"""An audit in a table for the terminal, and as the lines of results.csv."""

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from attacks.evaluate import Row, strongest
from reporting.tables import Section
from reporting.text import FEW, MARK, SHADOWS, show
from storage.records import Precision

COLUMNS = (
    *("variant", "test accuracy", "bytes", "strongest attack", "AUC"),
    *("AUC, matched shadows", "AUC, full shadows", "TPR at 1% FPR"),
)
NOTE = (
    "AUC: the chance that a random member gets a higher score than a random non-member; 0.5 is "
    "guessing. The strongest attack's is the variant's risk, and slightly too high, for it is the "
    "largest of several uncertain numbers. TPR at 1% FPR: the share of members found when 1% of "
    "the non-members are accused wrongly. In brackets: 95% intervals; behind ±: the standard "
    f"deviation over targets. {MARK} rests on fewer than {FEW} false positives and proves little. "
    "Shadows: matched are quantized like the target; full are not, as in the paper's code, which "
    "can understate the risk."
)


def summarise_rows(rows: Sequence[Row], precisions: Mapping[str, Precision]) -> Section:
    """A line a variant: what its strongest attack finds, and what each kind of shadows does."""
    lines = []
    for variant, (accuracy, size, *_) in precisions.items():
        best = strongest(rows, variant)
        if best is None:
            continue
        kinds = [
            strongest([row for row in rows if row.knowledge == knowledge], variant)
            for knowledge in ("matched", "full")
        ]
        few = MARK if best.summary.false_positives_1pct < FEW else ""
        lines.append(
            (
                variant,
                show(accuracy, percent=True),
                f"{size:,}" if size else "-",
                f"{best.attack}, {SHADOWS[best.knowledge]}",
                show(best.summary.auc, spread=best.summary.targets > 1),
                *(show(row.summary.auc) if row else "-" for row in kinds),
                show(best.summary.tpr_1pct, percent=True) + few,
            )
        )
    return Section("Leakage and accuracy", COLUMNS, lines, NOTE)


def make_table(section: Section, title: str) -> Table:
    """A section for the terminal."""
    table = Table(title=escape(title), caption=section.note, caption_justify="left", box=SIMPLE)
    for number, column in enumerate(section.columns):
        table.add_column(column, no_wrap=number in (0, 4, 5, 6))
    for line in section.rows:
        table.add_row(*map(escape, line))
    return table
