"""Write docs/federated.md and its figures from the results of audits.

    python -m docs.federated runs/federated/full runs/federated/qsgd-w4   # keeps them
    python -m docs.federated                                              # from what is kept
    python -m docs.federated --data photographs   # docs/federated_photographs.md, likewise

What a fleet's updates were rounded to is read from its options. An audit that was made with
`--shadows` of the full-precision fleet also says what its shadows find. Every number, verdict and
figure in the document is computed here; none is typed.
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from pathlib import Path

from attacks.federated.view import Threat
from attacks.game import FULL
from docs.federated import sentences, tables
from docs.federated.charts import all_of
from docs.federated.claims import Comparisons
from docs.federated.fleets import RECIPE, THREATS, Fleets, keep, read
from docs.federated.null import find_null, read_null
from docs.study import provenance
from docs.study.costs import hours
from docs.study.document import Document, fill, write_figures
from docs.study.null import FILE, Null
from docs.study.numbers import SMALL
from docs.study.verdicts import LEVEL
from storage.borrowed import FACT
from storage.files import write_text

HERE = Path(__file__).parent
DOCUMENTS = {  # by the data of its fleets
    "digits": Document(HERE.parent / "federated.md", HERE, RECIPE),
    "photographs": Document(
        HERE.parent / "federated_photographs.md", HERE / "photographs", "federated/cifar10.yaml"
    ),
}


def main(arguments: Sequence[str]) -> None:
    """Keep the results of the runs that are named, and write the page and its figures."""
    parser = ArgumentParser(
        "docs.federated", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", metavar="RUN_DIR", type=Path, nargs="*", help="run folders of audited federations"
    )
    parser.add_argument(
        "--null",
        metavar="RUN_DIR",
        type=Path,
        help="run folder of federations, whose holders are drawn anew as a check of the attacks",
    )
    parser.add_argument(
        "--data", choices=DOCUMENTS, default="digits", help="whose page (default: digits)"
    )
    given = parser.parse_args(arguments)
    document = DOCUMENTS[given.data]
    folder = document.folder
    try:
        kept: dict[str, str] = {}
        for run_dir in given.runs:
            update, text = keep(run_dir)
            if update in kept:
                raise ValueError(f"Two of the folders have updates `{update}`. Name one of them.")
            kept[update] = text
        for update, text in kept.items():
            write_text(folder / f"{update}.json", text)
        if given.null:
            write_text(folder / FILE, find_null(given.null))
        fleets, null = read(folder), read_null(folder)
    except (ValueError, OSError) as error:
        parser.exit(1, f"docs.federated: {error}\n")
    write_figures(folder, all_of(fleets))
    write_text(document.page, render(document, fleets, null))


def render(document: Document, fleets: Fleets, null: Mapping[Threat, Null]) -> str:
    """Fill the document.

    Args:
        document: where it and its figures lie.
        fleets: the kept results.
        null: how many intervals hold guessing where nothing can be found; empty before it is run.
    """
    return fill(
        HERE,
        "page.md.jinja",
        fleets=fleets,
        full=fleets.full.study,
        options=fleets.full.study.config,
        threats=THREATS,
        null=null,
        comparisons=Comparisons(fleets),
        lent={u: fleets.quantized[u].study.results.basis[FACT] for u in fleets.borrowing},
        commands=commands(document, fleets, bool(null)),
        figures=document.figures,
        small=SMALL,
        level=LEVEL,
        recipe=document.recipe,
        say=sentences,
        tables=tables,
        hours=hours,
        provenance=provenance,
    )


def commands(document: Document, fleets: Fleets, null: bool) -> str:
    """The commands that make every fleet, its audit and the page, and the null if there is one."""
    lines, recipe = [], document.recipe
    folders = {u: provenance.run_dir(fleet.study, recipe) for u, fleet in fleets.all.items()}
    for fleet in fleets.all.values():
        lines.append(provenance.training(fleet.study, recipe))
        lines.append(provenance.auditing(fleet.study, recipe))
        if fleet.lender:
            lines[-1] += f" --shadows {folders[FULL]}"
    options = [f"--null {folders[FULL]}"] if null else []
    if document != DOCUMENTS["digits"]:
        options.append(f"--data {document.folder.name}")
    lines.append(" \\\n      ".join(["python -m docs.federated", *folders.values(), *options]))
    return "\n    ".join(lines)
