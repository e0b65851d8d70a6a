"""The files of an audit, each written whole."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from attacks.findings import Exposures
from reporting.compare import Entry
from reporting.compare_figure import comparison_chart
from reporting.illustrate import CAPTIONS, Drawing
from reporting.matplotlib_charts import draw, save
from reporting.report import render
from reporting.results import Results, flatten
from reporting.results_json import RESULTS, as_json
from reporting.tables import for_terminal, headline
from storage.files import write_csv, write_text


def write(
    folder: Path,
    results: Results,
    exposures: Exposures,
    examples: Mapping[str, Sequence[int | str]],
    drawings: Mapping[str, Drawing],
    width: int,
) -> None:
    """Write every file of an audit; results.json comes last, so where it exists all others do.

    Args:
        folder: the folder that gets the files.
        results: results of the audit.
        exposures: exposure of every example, for exposure.csv.
        examples: facts about every example of the pool, by column of exposure.csv.
        drawings: figures by name.
        width: width of table.txt in characters.
    """
    write_text(folder / "table.txt", headline_text(results, width))
    for name in CAPTIONS.keys() - drawings.keys():
        (folder / f"{name}.png").unlink(missing_ok=True)  # from an earlier audit
    for name, drawing in drawings.items():
        save(drawing.figure, folder / f"{name}.png")
    lines = [flatten(row, results.variants[row.variant]) for row in results.rows]
    write_csv(folder / "results.csv", lines)
    write_csv(folder / "exposure.csv", exposure_lines(exposures, examples))
    write_text(folder / "report.html", render(results, list(drawings.values())))
    write_text(folder / RESULTS, as_json(results))


def write_comparison(
    folder: Path, lines: Sequence[Mapping[str, Any]], entries: Sequence[Entry]
) -> None:
    """Write comparison.csv and comparison.png."""
    write_csv(folder / "comparison.csv", lines)
    save(draw(comparison_chart(entries)), folder / "comparison.png")


def headline_text(results: Results, width: int) -> str:
    """The headline table, warnings, what was left out, and the answer, as plain text."""
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(for_terminal(headline(results.rows, results.variants), results.name))
    for sentence in (*results.warnings, *results.left_out, *results.answer):
        console.print(escape(sentence))
    return console.export_text()


def exposure_lines(
    exposures: Exposures, examples: Mapping[str, Sequence[int | str]]
) -> list[dict[str, Any]]:
    """One line per example: position in the pool, facts about it, and exposures.

    An exposure is NaN where no target trained on the example, and None where it was left out; both
    are empty in the file.
    """
    kept = exposures.kept.tolist()
    by_variant = {
        variant: [value if known else None for value, known in zip(values, kept, strict=True)]
        for variant, values in zip(exposures.variants, exposures.examples.tolist(), strict=True)
    }
    columns: dict[str, Sequence[int | str | float | None]] = {**examples, **by_variant}
    lines = zip(*columns.values(), strict=True)
    return [
        {"example": index} | dict(zip(columns, line, strict=True))
        for index, line in enumerate(lines)
    ]
