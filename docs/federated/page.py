"""Write docs/federated.md and its figures from the results of audits.

    python -m docs.federated runs/federated/full runs/federated/qsgd-w4   # keeps them
    python -m docs.federated                                              # from what is kept

What a fleet's updates were rounded to is read from its options. An audit that was made with
`--shadows` of the full-precision fleet also says what its shadows find. Every number, verdict and
figure in the document is computed here; none is typed.
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from attacks.game import FULL
from docs.federated import sentences, tables
from docs.federated.charts import all_of
from docs.federated.claims import Comparisons
from docs.federated.fleets import RECIPE, THREATS, Fleets, keep, read
from docs.study import provenance
from docs.study.companions import FACT
from docs.study.costs import hours
from docs.study.document import fill, write_figures
from docs.study.numbers import SMALL
from docs.study.verdicts import LEVEL
from storage.files import write_text

HERE = Path(__file__).parent
PAGE = HERE.parent / "federated.md"


def main(arguments: Sequence[str]) -> None:
    """Keep the results of the runs that are named, and write the page and its figures."""
    parser = ArgumentParser(
        "docs.federated", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", metavar="RUN_DIR", type=Path, nargs="*", help="run folders of audited federations"
    )
    given = parser.parse_args(arguments)
    try:
        kept: dict[str, str] = {}
        for run_dir in given.runs:
            update, text = keep(run_dir)
            if update in kept:
                raise ValueError(f"Two of the folders have updates `{update}`. Name one of them.")
            kept[update] = text
        for update, text in kept.items():
            write_text(HERE / f"{update}.json", text)
        fleets = read(HERE)
    except (ValueError, OSError) as error:
        parser.exit(1, f"docs.federated: {error}\n")
    write_figures(HERE, all_of(fleets))
    write_text(PAGE, render(fleets))


def render(fleets: Fleets) -> str:
    """Fill the document."""
    return fill(
        HERE,
        "page.md.jinja",
        fleets=fleets,
        full=fleets.full.study,
        options=fleets.full.study.config,
        threats=THREATS,
        comparisons=Comparisons(fleets),
        lent={u: fleets.quantized[u].study.results.basis[FACT] for u in fleets.borrowing},
        commands=commands(fleets),
        small=SMALL,
        level=LEVEL,
        recipe=RECIPE,
        say=sentences,
        tables=tables,
        hours=hours,
        provenance=provenance,
    )


def commands(fleets: Fleets) -> str:
    """The commands that make every fleet, its audit and the page."""
    lines = []
    folders = {u: provenance.run_dir(fleet.study, RECIPE) for u, fleet in fleets.all.items()}
    for update, fleet in fleets.all.items():
        lines.append(provenance.training(fleet.study, RECIPE))
        lines.append(provenance.auditing(fleet.study, RECIPE))
        if update in fleets.borrowing:
            lines[-1] += f" --shadows {folders[FULL]}"
    lines.append(" \\\n      ".join(["python -m docs.federated", *folders.values()]))
    return "\n    ".join(lines)
