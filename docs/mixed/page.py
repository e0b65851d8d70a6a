"""Write docs/mixed_precision.md and its figures from the results of an audit.

    python -m docs.mixed --fleet runs/study/mixed_precision   # keeps them beside the document
    python -m docs.mixed                                      # from those that are kept

Every number, verdict and figure in the document is computed here; none is typed.
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from docs.mixed import sentences, tables
from docs.mixed.claims import ALIKE, compare_all, copied_variants, searched_of
from docs.study import provenance
from docs.study.costs import hours
from docs.study.document import fill, write_figures
from docs.study.kept import as_kept
from docs.study.numbers import SMALL, Study
from docs.study.verdicts import LEVEL
from reporting.charts import Chart
from reporting.cost import bits_chart, cost_chart
from reporting.results_json import parse_results, read_results
from storage.files import write_text

HERE = Path(__file__).parent
PAGE = HERE.parent / "mixed_precision.md"
RECIPE = "study/mixed_precision.yaml"
FLEETS = {  # files of kept results, by option
    "fleet": "the fleet whose models choose their own bits",
    "copied": "its audit with `--shadows` that have the bits of one target",
}


def main(arguments: Sequence[str]) -> None:
    """Keep the results of the runs that are named, and write the page and its figures."""
    parser = ArgumentParser(
        "docs.mixed", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    for name, text in FLEETS.items():
        parser.add_argument(f"--{name}", metavar="RUN_DIR", type=Path, help=f"run folder: {text}")
    given = parser.parse_args(arguments)
    try:
        for name in FLEETS:
            if run_dir := getattr(given, name):
                write_text(HERE / f"{name}.json", keep(name, Study(read_results(run_dir))))
        study, copied = read(HERE)
    except (ValueError, OSError) as error:
        parser.exit(1, f"docs.mixed: {error}\n")
    write_figures(HERE, charts(study))
    write_text(PAGE, render(study, copied))


def keep(name: str, study: Study) -> str:
    """What the page rests on, as JSON.

    Raises:
        ValueError: no variant's bits were chosen, or no shadows of another experiment attack.
    """
    if name == "fleet" and not searched_of(study):
        raise ValueError(
            f"`--fleet` needs variants such as adaround-mix3, {study.results.name} has none. Train "
            f"it by recipes/{RECIPE}."
        )
    if name == "copied" and not copied_variants(study):
        raise ValueError(
            f"`--copied` needs an audit with the shadows of another experiment, "
            f"{study.results.name} has none. Run `audit.py` on it with `--shadows`."
        )
    return as_kept(study.results, {})


def read(folder: Path) -> tuple[Study, Study | None]:
    """The kept results; those of copied bits may be missing.

    Raises:
        FileNotFoundError: the fleet's are not there.
        ValueError: a file is damaged, or another version of BitLeak wrote it.
    """
    way_out = "Name the run folder that they come from"
    copied = folder / "copied.json"
    return (
        Study(parse_results(folder / "fleet.json", way_out)),
        Study(parse_results(copied, way_out)) if copied.exists() else None,
    )


def charts(study: Study) -> dict[str, Chart]:
    """Every figure of the page, by name."""
    rows, facts = study.results.rows, study.results.variants
    found = {"cost": cost_chart(rows, facts), "bits": bits_chart(facts)}
    return {name: chart for name, chart in found.items() if chart is not None}


def render(study: Study, copied: Study | None) -> str:
    """Fill the document."""
    return fill(
        HERE,
        "page.md.jinja",
        study=study,
        copied=copied,
        comparisons=compare_all(study, copied),
        hours=hours(study),
        alike=f"{100 * ALIKE:g}",
        small=SMALL,
        level=LEVEL,
        recipe=RECIPE,
        say=sentences,
        tables=tables,
        provenance=provenance,
    )
