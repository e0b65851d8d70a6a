"""Write docs/pruning.md and its figures from the results of audits.

    python -m docs.pruning --dense runs/pruning/dense --ocs runs/pruning/ocs   # keeps them
    python -m docs.pruning                                                     # from what is kept

Every number, verdict and figure in the document is computed here; none is typed. A method that is
not run yet is left out, and named under "What this does not show".
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from docs.pruning import sentences, tables
from docs.pruning.charts import all_of
from docs.pruning.claims import compare_all
from docs.pruning.fleets import (
    BORROWED,
    DENSE,
    METHODS,
    RECIPE,
    Fleets,
    keep,
    keep_borrowed,
    kept_at,
    read,
)
from docs.study import beside, provenance
from docs.study.costs import hours
from docs.study.document import fill, write_figures
from docs.study.fleets import curve_of
from docs.study.frontier import KeptCurve
from docs.study.numbers import SMALL
from docs.study.verdicts import LEVEL
from reporting.results_json import read_results
from storage.borrowed import FACT
from storage.files import write_text

HERE = Path(__file__).parent
PAGE = HERE.parent / "pruning.md"


def main(arguments: Sequence[str]) -> None:
    """Keep the results of the runs that are named, and write the page and its figures."""
    parser = ArgumentParser(
        "docs.pruning", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    for name in (DENSE, *METHODS):
        text = "run folder: networks that are not pruned, with snapshots"
        text = text if name == DENSE else f"run folder: networks pruned by {name}"
        parser.add_argument(f"--{name}", metavar="RUN_DIR", type=Path, help=text)
    parser.add_argument(
        f"--{BORROWED}",
        metavar="RUN_DIR",
        type=Path,
        action="append",
        default=[],
        help="run folder of a pruned fleet, audited with `--shadows` of the dense one; repeatable",
    )
    given = parser.parse_args(arguments)
    try:
        for name in (DENSE, *METHODS):
            if run_dir := getattr(given, name):
                write_text(kept_at(HERE, name), keep(name, read_results(run_dir)))
        for run_dir in given.borrowed:
            method, text = keep_borrowed(read_results(run_dir))
            write_text(kept_at(HERE, f"{BORROWED}-{method}"), text)
        fleets = read(HERE)
    except (ValueError, OSError) as error:
        parser.exit(1, f"docs.pruning: {error}\n")
    write_figures(HERE, all_of(fleets))
    write_text(PAGE, render(fleets))


def render(fleets: Fleets) -> str:
    """Fill the document."""
    points = curve_of(fleets.dense)
    return fill(
        HERE,
        "page.md.jinja",
        fleets=fleets,
        dense=fleets.dense,
        first=next(iter(fleets.pruned.values())),
        comparisons=compare_all(fleets),
        early=KeptCurve(fleets.dense, points) if points else None,
        lent={m: study.results.basis[FACT] for m, study in fleets.borrowed.items()},
        commands=commands(fleets),
        small=SMALL,
        level=LEVEL,
        recipe=RECIPE,
        say=sentences,
        tables=tables,
        beside=beside,
        hours=hours,
        provenance=provenance,
    )


def commands(fleets: Fleets) -> str:
    """The commands that make every fleet, its audit and the page."""
    folders = {name: provenance.run_dir(fleets.of(name), RECIPE) for name in fleets.names}
    lines, options = [], [f"--{name} {folder}" for name, folder in folders.items()]
    for name in fleets.names:
        lines.append(provenance.training(fleets.of(name), RECIPE))
        lines.append(provenance.auditing(fleets.of(name), RECIPE))
        if name in fleets.borrowed:
            lines[-1] += f" --shadows {folders[DENSE]}"
            options.append(f"--{BORROWED} {folders[name]}")
    lines.append(" \\\n      ".join(["python -m docs.pruning", *options]))
    return "\n    ".join(lines)
