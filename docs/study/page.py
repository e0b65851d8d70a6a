"""Write docs/study.md and its figures from the results of audits.

    python -m docs.study --frontier runs/study/cifar10_small   # keeps them beside the document
    python -m docs.study                                       # from those that are kept

Every number, verdict and figure in the document is computed here; none is typed. The second edition
leads as soon as its frontier is kept; each other fleet of it has its section when it is there, and
is named in "What this does not show" before. The first edition stays below, as it was published.
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from docs.study import (
    answer,
    beside,
    costs,
    elsewhere,
    figures,
    fleets,
    provenance,
    second_figure,
    sentences,
    shares,
    tables,
)
from docs.study import control as controls
from docs.study.claims import CALIBRATION, CLAIMS, Comparisons, compare_all
from docs.study.document import fill, write_figures
from docs.study.edition import Edition
from docs.study.fleets import FLEETS, kept_at, read_fleets
from docs.study.kept import keep, keep_control, keep_fleet
from docs.study.numbers import LIRA, SMALL, STRONGEST, Study
from docs.study.verdicts import LEVEL
from reporting.charts import Chart
from reporting.results_json import parse_results, read_results
from storage.files import write_text

HERE = Path(__file__).parent
KEPT = "results.json"
CONTROL = "control.json"
PAGE = HERE.parent / "study.md"
WHERE = HERE  # of kept results and figures
SECOND = (answer, beside, costs, elsewhere, fleets, shares)  # of the second edition


class Page(NamedTuple):
    """All that the page is made of.

    Attributes:
        comparisons: those of the first edition.
        edition: the second edition; None before its frontier is kept.
    """

    comparisons: Comparisons
    edition: Edition | None

    @property
    def charts(self) -> dict[str, Chart]:
        """Every figure, by name."""
        second = second_figure.all_of(self.edition) if self.edition else {}
        return figures.all_of(self.comparisons.study) | second


def make(folder: Path) -> Page:
    """Every comparison of the page, from the results that are kept in a folder.

    Raises:
        ValueError: a file is damaged, or another version of BitLeak wrote it.
    """
    way_out = "Name the run folder that they come from"
    study = Study(parse_results(folder / KEPT, way_out))
    control = None
    if (folder / CONTROL).exists():
        control = Study(parse_results(folder / CONTROL, way_out))
    others = controls.uncorrected(control) if control else {}
    fleets = read_fleets(folder)
    return Page(compare_all(study, others, control), Edition(fleets) if fleets else None)


def render(page: Page) -> str:
    """Fill the document."""
    study = page.comparisons.study
    return fill(
        HERE,
        "study.md.jinja",
        comparisons=page.comparisons,
        edition=page.edition,
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
        **{module.__name__.rpartition(".")[2]: module for module in SECOND},
    )


def main(arguments: Sequence[str]) -> None:
    """Keep the results of the runs that are named, and write the page and its figures."""
    parser = ArgumentParser(
        "docs.study", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("run_dir", nargs="?", type=Path, help="run folder of the first edition")
    parser.add_argument("--control", metavar="RUN_DIR", type=Path, help="run folder of its control")
    for name, fleet in FLEETS.items():
        text = f"run folder of the second edition: {fleet.purpose}"
        parser.add_argument(f"--{name}", metavar="RUN_DIR", type=Path, help=text)
    given = parser.parse_args(arguments)
    try:
        if given.run_dir:
            write_text(WHERE / KEPT, keep(read_results(given.run_dir)))
        if given.control:
            write_text(WHERE / CONTROL, keep_control(read_results(given.control)))
        for name in FLEETS:
            if run_dir := getattr(given, name):
                write_text(kept_at(WHERE, name), keep_fleet(name, read_results(run_dir)))
        page = make(WHERE)
    except (ValueError, OSError) as error:
        parser.exit(1, f"docs.study: {error}\n")
    write_figures(WHERE, page.charts)
    write_text(PAGE, render(page))
