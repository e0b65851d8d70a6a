"""Write docs/study.md and its figures from an audit's results.

    python -m docs.study runs/study/cifar10_small        # keeps the results beside the document
    python -m docs.study --control runs/study/control    # keeps a control's beside them
    python -m docs.study                                 # from those that are kept

Every number, verdict and figure in the document is computed here; none is typed. A control is an
audit of the same variants with recalibrated shadows; without one the page has no section on it.
"""

import json
import re
import textwrap
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from docs.study import control as controls
from docs.study import figures, provenance, sentences, tables
from docs.study.claims import CALIBRATION, CLAIMS, TERNARY, Comparisons, compare_all
from docs.study.numbers import LIRA, SMALL, STRONGEST, Study
from docs.study.verdicts import LEVEL
from reporting.matplotlib_charts import draw
from reporting.results import Results, as_json, parse_results, read_results
from storage.files import write_text, write_whole

HERE = Path(__file__).parent
KEPT = HERE / "results.json"
CONTROL = HERE / "control.json"
PAGE = HERE.parent / "study.md"
PICTURES = HERE
DIGITS = 5  # of what is kept
WIDTH = 100  # of a line of text


def keep(results: Results) -> str:
    """What the page rests on, as JSON, rounded: no curves, and only the pictures that it draws."""
    scores = results.findings["z_scores"]
    findings = {"z_scores": {variant: scores[variant] for variant in figures.STANDING}}
    findings |= {key: results.findings[key] for key in ("joint_lira", "calibration")}
    return _as_kept(results, findings)


def keep_control(results: Results) -> str:
    """What the page rests on of a control: its rows.

    Raises:
        ValueError: it has no attack with recalibrated shadows, or no ternary variant of the study.
    """
    if not any(row.knowledge == controls.RECALIBRATED for row in results.rows):
        raise ValueError(
            f"A control needs attacks with {controls.RECALIBRATED} shadows, {results.name} has "
            f"none. Run `python audit.py` on its run folder again, and then this command."
        )
    if not controls.variants_of(Study(results)):
        raise ValueError(
            f"A control needs {' or '.join(TERNARY)}, {results.name} has none. Train it with "
            "`--quantize` for them."
        )
    return _as_kept(results, {})


def _as_kept(results: Results, findings: dict[str, Any]) -> str:
    variants = {v: facts._replace(quantization=None) for v, facts in results.variants.items()}
    rows = [row._replace(tpr=[]) for row in results.rows]
    kept = results._replace(
        variants=variants,
        rows=rows,
        findings=findings,
        tables=[],
        sentences=[],
        answer=[],
        figures=(),
    )
    text = json.dumps(_rounded(json.loads(as_json(kept))), separators=(",", ":"))
    return text.replace('{"variant"', '\n{"variant"')  # one line per row, to compare versions by


def _rounded(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def make(kept: Path, control: Path) -> Comparisons:
    """Every comparison of the page, from kept results and from a control's if its file exists.

    Raises:
        ValueError: a file is damaged, or another version of BitLeak wrote it.
    """
    study = Study(parse_results(kept, "Name the run folder that they come from"))
    if not control.exists():
        return compare_all(study, {})
    second = Study(parse_results(control, "Name the run folder that they come from"))
    return compare_all(study, controls.uncorrected(second), second)


def render(comparisons: Comparisons) -> str:
    """Fill the document."""
    pages = Environment(
        loader=FileSystemLoader(HERE),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    page = pages.get_template("study.md.jinja")
    study = comparisons.study
    text = page.render(
        comparisons=comparisons,
        study=study,
        config=study.config,
        summary=study.results.rows[0].summary,
        claims=CLAIMS,
        calibration=CALIBRATION,
        strongest=STRONGEST,
        lira=LIRA,
        small=SMALL,
        level=LEVEL,
        tables=tables,
        say=sentences,
        provenance=provenance,
        controls=controls,
    )
    return "\n\n".join(wrap(block) for block in re.split(r"\n{2,}", text.strip())) + "\n"


def wrap(block: str) -> str:
    """Break the lines of a paragraph or a list anew; tables, titles, pictures and code stay."""
    if block.startswith(("|", "#", "!", "    ")):
        return block
    fill = partial(textwrap.fill, width=WIDTH, break_long_words=False, break_on_hyphens=False)
    first, *items = (" ".join(part.split()) for part in f"\n{block}".split("\n- "))
    if not items:
        return fill(first)
    return "\n".join(fill(f"- {item}", subsequent_indent="  ") for item in items)


def main(arguments: Sequence[str]) -> None:
    """Keep the results of the runs that are named, and write the page and its figures."""
    parser = ArgumentParser(
        "docs.study", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", nargs="?", type=Path, help="run folder of the study")
    parser.add_argument("--control", metavar="RUN_DIR", type=Path, help="run folder of a control")
    given = parser.parse_args(arguments)
    try:
        if given.run_dir:
            write_text(KEPT, keep(read_results(given.run_dir)))
        if given.control:
            write_text(CONTROL, keep_control(read_results(given.control)))
        comparisons = make(KEPT, CONTROL)
    except (ValueError, OSError) as error:
        parser.exit(1, f"docs.study: {error}\n")
    for name, chart in figures.all_of(comparisons.study).items():
        figure = draw(chart)
        path = PICTURES / f"{name}.png"
        write_whole(path, partial(figure.savefig, format="png", dpi=110))
    write_text(PAGE, render(comparisons))
