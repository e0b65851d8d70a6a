"""The report as one HTML page that needs no network: rows and figures in, text out."""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure
from plotly.offline import get_plotlyjs

from attacks.evaluate import Row, strongest
from attacks.game import Knowledge
from reporting.illustrate import Drawing
from reporting.plotly_charts import outlines, to_page
from reporting.styles import looks
from reporting.tables import Section
from reporting.text import BEST, FEW, MARK, SHADOWS, show
from storage.records import Precision, count_units

COLUMNS = (
    *("variant", "shadows", "attack"),
    *("AUC", "balanced acc.", "TPR at 1% FPR", "TPR at 0.1% FPR"),
)
HERE = Path(__file__).parent
NUMBER = re.compile(rf"(?:< )?([+-]?[\d,]*\.?\d+)%?(?:±[\d.]+)?(?: \(.*\))?{MARK}?")
NOTES = (
    "AUC: the chance that a random member gets a higher score than a random non-member; 0.5 is "
    "guessing. TPR at 1% FPR: the share of members found when 1% of the non-members are accused "
    "wrongly.",
    f"In brackets: 95% intervals; behind ±: the standard deviation over targets. {BEST} is the "
    "strongest attack on a variant, by AUC: the variant's risk, and slightly too high, for it is "
    f"the largest of several uncertain numbers. {MARK} rests on fewer than {FEW} false positives "
    "and proves little.",
    "Shadows: matched are quantized like the target; full are not quantized, as in the paper's "
    "code, which can understate the risk. Balanced accuracy is the best over all thresholds, so "
    "that guessing exceeds 0.5 by 0.43 sqrt(1 / members + 1 / non-members).",
)


class Line(NamedTuple):
    """One row of the table; what is shown under `COLUMNS`, and the value that it sorts by."""

    variant: str
    knowledge: Knowledge
    attack: str
    best: bool
    cells: tuple[tuple[str, float | None], ...]


def make_lines(rows: Sequence[Row]) -> list[Line]:
    """The table of every attack, in the order of the rows; each variant's strongest is marked."""
    best = {row.variant: strongest(rows, row.variant) for row in rows}
    return [_line(row, row is best[row.variant]) for row in rows]


def _line(row: Row, best: bool) -> Line:
    summary = row.summary
    mark_1pct = MARK if summary.false_positives_1pct < FEW else ""
    mark_01pct = MARK if summary.false_positives_01pct < FEW else ""
    cells = (
        (row.variant, None),
        ("-" if row.knowledge == "none" else row.knowledge, None),
        (f"{row.attack} {BEST}" if best else row.attack, None),
        (show(summary.auc, spread=summary.targets > 1), summary.auc.value),
        (show(summary.balanced_accuracy), summary.balanced_accuracy.value),
        (show(summary.tpr_1pct, percent=True) + mark_1pct, summary.tpr_1pct.value),
        (show(summary.tpr_01pct, percent=True) + mark_01pct, summary.tpr_01pct.value),
    )
    return Line(row.variant, row.knowledge, row.attack, best, cells)


def read_number(text: str) -> float | None:
    """The value that a cell of a table shows, to sort by; None for a name, `-` or `unknown`."""
    found = NUMBER.fullmatch(text)
    return float(found[1].replace(",", "")) if found else None


def as_svg(figure: Figure, caption: str) -> Markup:
    """A figure to put straight into a page; `caption` keeps its ids apart from other figures'."""
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": caption}):  # random otherwise: a new file every time
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return Markup(svg[svg.index("<svg") :])


class MakingCells(NamedTuple):
    """One row of the table of how each precision was made."""

    variant: str
    objective: str
    calibration: str
    kinds: str
    units: list[str]
    seconds: str


def makings(precisions: Mapping[str, Precision]) -> list[MakingCells]:
    """How each precision was made, of those that left it on record."""
    return [
        MakingCells(
            variant,
            made.objective,
            made.calibration or "-",
            count_units(made),
            made.units,
            f"{made.seconds:.1f}" if made.seconds >= 1 else f"{made.seconds:.2g}",
        )
        for variant, known in precisions.items()
        if (made := known.made) is not None
    ]


def choices(variants: Sequence[str]) -> dict[str, dict[str, str]]:
    """What the page offers to select: by method, each variant and the rest of its name."""
    found: dict[str, dict[str, str]] = {}
    for variant, look in looks(variants).items():
        rest = variant.removeprefix(f"{look.method}-")
        found.setdefault(look.method, {})[variant] = rest
    return found


def render(
    title: str,
    rows: Sequence[Row],
    precisions: Mapping[str, Precision],
    drawings: Sequence[Drawing],
    basis: Mapping[str, str],
    recipe: str,
    comparisons: Sequence[str],
    summary: Section,
    tables: Sequence[Section],
) -> str:
    """Fill the page.

    Args:
        title: the experiment's name.
        rows: of the table.
        precisions: what else is known, by variant.
        drawings: in the order in which they are shown.
        basis: what the numbers rest on, by label.
        recipe: the options that make them again, as YAML; empty where nothing can.
        comparisons: the differences between precisions, in sentences.
        summary: a line a variant.
        tables: of the findings.
    """
    charts = [to_page(drawing.chart) for drawing in drawings if drawing.chart is not None]
    data = {"symbols": outlines(), "charts": charts}
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = read_number
    return environment.get_template("report.html").render(
        title=title,
        columns=COLUMNS,
        notes=NOTES,
        lines=make_lines(rows),
        methods=choices(list(dict.fromkeys(row.variant for row in rows))),
        attacks=list(dict.fromkeys(row.attack for row in rows)),
        kinds={kind: SHADOWS[kind] for kind in dict.fromkeys(row.knowledge for row in rows)},
        drawings=[
            {
                "caption": drawing.caption,
                "image": as_svg(drawing.figure, drawing.caption) if drawing.chart is None else None,
            }
            for drawing in drawings
        ],
        basis=basis,
        recipe=recipe,
        makings=makings(precisions),
        comparisons=comparisons,
        summary=summary,
        tables=tables,
        charts=htmlsafe_json_dumps(data, allow_nan=False, separators=(",", ":")),
        style=Markup((HERE / "report.css").read_text()),
        script=Markup((HERE / "report.js").read_text()),
        plotly=Markup(get_plotlyjs()) if charts else "",
    )
