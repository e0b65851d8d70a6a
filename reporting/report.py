"""The report as a single HTML page that needs no network."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml
from jinja2 import Environment, FileSystemLoader
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure
from plotly.offline import get_plotlyjs

from attacks.evaluate import Row
from attacks.game import Knowledge
from attacks.metrics.measures import Metric
from reporting.answer import QUESTIONS
from reporting.illustrate import Drawing
from reporting.plotly_charts import outlines, to_page
from reporting.results import METRICS, Results
from reporting.styles import styles_of
from reporting.tables import Cell, estimate_cell, headline, metric_cell, number
from reporting.text import (
    AUC_NOTE,
    BEST,
    INTERVAL_NOTE,
    MARK_NOTE,
    RISK_NOTE,
    SHADOWS,
    TPR_NOTE,
    shadows_note,
)
from storage.experiment import Experiment
from storage.records import VariantFacts, count_units

COLUMNS = (
    *("variant", "shadows", "attack"),
    *("AUC", "balanced acc.", "TPR at 1% FPR", "TPR at 0.1% FPR"),
)
MANY = 6  # longer lists are folded up
HERE = Path(__file__).parent
NOTES = (
    f"{AUC_NOTE} {TPR_NOTE}",
    f"{INTERVAL_NOTE} After ±: the standard deviation over targets. {BEST} is a variant's risk: "
    "the attack that is strongest by the column. "
    f"{RISK_NOTE} {MARK_NOTE}",
    "Balanced accuracy: the mean of TPR and 1 - FPR at the threshold that is best on the other "
    "half of the targets, or of a single target's examples; 0.5 is guessing.",
)


class Line(NamedTuple):
    """One line of the table of every attack, with the labels that the page selects by."""

    variant: str
    knowledge: Knowledge
    attack: str
    best: bool
    cells: Sequence[Cell]


def make_lines(rows: Sequence[Row]) -> list[Line]:
    """The table of every attack, in the order of the rows; the strongest are marked."""
    lines = []
    for row in rows:
        names = row.variant, "-" if row.knowledge == "none" else row.knowledge, row.attack
        cells = [*map(Cell, names), *(_metric(row, metric) for metric in METRICS)]
        lines.append(Line(row.variant, row.knowledge, row.attack, bool(row.strongest), cells))
    return lines


def _metric(row: Row, metric: Metric) -> Cell:
    """One metric of an attack, marked where the attack is the strongest by it."""
    summary = row.summary
    cell = metric_cell(summary, metric)
    if metric == "auc":
        cell = estimate_cell(summary.auc, spread=summary.targets > 1)
    return cell._replace(text=f"{cell.text} {BEST}") if metric in row.strongest else cell


def as_svg(figure: Figure, caption: str) -> Markup:
    """A figure to embed in a page; `caption` keeps its ids apart from those of other figures."""
    buffer = io.StringIO()
    with rc_context(
        {"svg.hashsalt": caption}
    ):  # otherwise random, and the page would never be the same
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return Markup(svg[svg.index("<svg") :])


class QuantizationLine(NamedTuple):
    """One line of the table of how each variant was quantized."""

    variant: str
    objective: str
    calibration: str
    kinds: str
    units: list[str]
    seconds: Cell


def quantization_lines(variants: Mapping[str, VariantFacts]) -> list[QuantizationLine]:
    """How each variant was quantized, where there is a record."""
    lines = []
    for variant, facts in variants.items():
        if (made := facts.quantization) is not None:
            seconds = f"{made.seconds:.1f}" if made.seconds >= 1 else f"{made.seconds:.2g}"
            calibration, kinds = made.calibration or "-", count_units(made)
            cell = number(made.seconds, seconds)
            lines.append(
                QuantizationLine(variant, made.objective, calibration, kinds, made.units, cell)
            )
    return lines


def choices(variants: Sequence[str]) -> dict[str, dict[str, str]]:
    """The variants that the page offers, by method, with the rest of each name."""
    by_method: dict[str, dict[str, str]] = {}
    for variant, style in styles_of(variants).items():
        rest = variant.removeprefix(f"{style.method}-")
        by_method.setdefault(style.method, {})[variant] = rest
    return by_method


def make_recipe(experiment: Experiment | None) -> str:
    """The options that make the same models again, as YAML; empty for models trained elsewhere."""
    if experiment is None:
        return ""
    options = {"threads": experiment.versions["threads"], **experiment.config}
    return yaml.safe_dump(options, sort_keys=False)


def data_places(experiment: Experiment | None) -> list[str]:
    """The options of the data set that only a user knows, and that the recipe lacks."""
    return [place for place in experiment.places if place != "cache"] if experiment else []


def render(results: Results, drawings: Sequence[Drawing]) -> str:
    """Fill the page.

    Args:
        results: results of the audit.
        drawings: figures in their order on the page.
    """
    charts = [to_page(drawing.chart) for drawing in drawings if drawing.chart is not None]
    data = {"symbols": outlines(), "charts": charts}
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    rows = results.rows
    return environment.get_template("report.html").render(
        title=results.name,
        columns=COLUMNS,
        notes=(*NOTES, shadows_note(rows)),
        lines=make_lines(rows),
        methods=choices(list(results.variants)),
        attacks=list(dict.fromkeys(row.attack for row in rows)),
        kinds={kind: SHADOWS[kind] for kind in dict.fromkeys(row.knowledge for row in rows)},
        drawings=[
            {
                "caption": drawing.caption,
                "image": as_svg(drawing.figure, drawing.caption) if drawing.chart is None else None,
            }
            for drawing in drawings
        ],
        basis=results.basis,
        recipe=make_recipe(results.experiment),
        places=data_places(results.experiment),
        quantizations=quantization_lines(results.variants),
        answer=list(zip(QUESTIONS, results.answer, strict=True)),
        comparisons=results.sentences,
        left_out=results.left_out,
        warnings=results.warnings,
        many=MANY,
        summary=headline(rows, results.variants),
        tables=results.tables,
        charts=htmlsafe_json_dumps(data, allow_nan=False, separators=(",", ":")),
        style=Markup((HERE / "report.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "report.js").read_text(encoding="utf-8")),
        plotly=Markup(get_plotlyjs()) if charts else "",
    )
