"""Write docs/continual.md and its figures from the results of audits.

    python -m docs.continual runs/continual/acil runs/continual/ssd   # keeps them
    python -m docs.continual                                          # from what is kept
    python -m docs.continual --data photographs   # docs/continual_photographs.md, likewise

What learns the tasks is read from each fleet's options. Every number, verdict and figure in the
document is computed here; none is typed, but for those of `published.py`.
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from docs.continual import claims, ridge, sentences, tables
from docs.continual.charts import all_of
from docs.continual.claims import Comparisons
from docs.continual.fleets import RECIPE, Fleets, keep, read
from docs.continual.null import find_null, write_null
from docs.continual.numbers import POINT
from docs.study import provenance
from docs.study.document import Document, fill, write_figures
from docs.study.null import FILE, Null, read_nulls
from docs.study.numbers import SMALL, Study
from docs.study.verdicts import LEVEL
from storage.files import write_text

HERE = Path(__file__).parent
DOCUMENTS = {  # by the data of its fleets
    "digits": Document(HERE.parent / "continual.md", HERE, RECIPE),
    "photographs": Document(
        HERE.parent / "continual_photographs.md", HERE / "photographs", "continual/cifar10.yaml"
    ),
}


def main(arguments: Sequence[str]) -> None:
    """Keep the results of the runs that are named, and write the page and its figures."""
    parser = ArgumentParser(
        "docs.continual", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", metavar="RUN_DIR", type=Path, nargs="*", help="run folders of audited fleets"
    )
    parser.add_argument(
        "--data", choices=DOCUMENTS, default="digits", help="whose page (default: digits)"
    )
    parser.add_argument(
        "--null",
        metavar="RUN_DIR",
        type=Path,
        nargs="+",
        default=[],
        help="run folders of fleets, whose members are drawn anew as a check of the attacks",
    )
    given = parser.parse_args(arguments)
    document = DOCUMENTS[given.data]
    try:
        kept: dict[str, str] = {}
        for run_dir in given.runs:
            name, text = keep(run_dir)
            if name in kept:
                raise ValueError(f"Two of the folders learn by `{name}`. Name one of them.")
            kept[name] = text
        for name, text in kept.items():
            write_text(document.folder / f"{name}.json", text)
        if given.null:
            nulls = dict(find_null(run_dir) for run_dir in given.null)
            write_text(document.folder / FILE, write_null(nulls))
        fleets, null = read(document.folder), read_nulls(document.folder)
    except (ValueError, OSError) as error:
        parser.exit(1, f"docs.continual: {error}\n")
    write_figures(document.folder, all_of(fleets))
    write_text(document.page, render(document, fleets, null))


def render(document: Document, fleets: Fleets, null: Mapping[str, Null]) -> str:
    """Fill the document.

    Args:
        document: where it and its figures lie.
        fleets: the kept results.
        null: how many intervals hold guessing where nothing can be found, by fleet.
    """
    first = next(iter(fleets.values()))
    comparisons = Comparisons(fleets)
    return fill(
        HERE,
        "page.md.jinja",
        fleets=fleets,
        first=first,
        options=first.study.config,
        comparisons=comparisons,
        claims=claims,
        null=null,
        commands=commands(document, fleets, null),
        figures=document.figures,
        photographs=document == DOCUMENTS["photographs"],
        small=SMALL,
        point=POINT,
        level=LEVEL,
        recipe=document.recipe,
        say=sentences,
        ridge=ridge,
        tables=tables,
        minutes=minutes,
        provenance=provenance,
    )


def minutes(study: Study) -> str:
    """Wall time of all models together, as their records add up."""
    return f"{sum(study.results.seconds.values()) / 60:.0f}"


def commands(document: Document, fleets: Fleets, null: Collection[str]) -> str:
    """The commands that make every fleet, its audit and the page, and nulls of some fleets."""
    lines, recipe = [], document.recipe
    for fleet in fleets.values():
        lines.append(provenance.training(fleet.study, recipe))
        lines.append(provenance.auditing(fleet.study, recipe))
    folders = {name: provenance.run_dir(fleet.study, recipe) for name, fleet in fleets.items()}
    options = [] if document == DOCUMENTS["digits"] else [f"--data {document.folder.name}"]
    if checked := [folders[name] for name in fleets if name in null]:
        options.append(f"--null {' '.join(checked)}")
    lines.append(" \\\n      ".join(["python -m docs.continual", *folders.values(), *options]))
    return "\n    ".join(lines)
