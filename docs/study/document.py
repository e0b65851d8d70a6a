"""A document from its template: filled, and its lines broken anew."""

import re
import textwrap
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from reporting.charts import Chart
from reporting.matplotlib_charts import draw
from storage.files import write_whole

WIDTH = 100  # of a line of text


class Document(NamedTuple):
    """A page, and what it rests on.

    Attributes:
        page: the file that is written.
        folder: kept results and figures.
        recipe: the fleets' recipe.
    """

    page: Path
    folder: Path
    recipe: str

    @property
    def figures(self) -> str:
        """The folder of its figures, as its links have it."""
        return self.folder.relative_to(self.page.parent).as_posix()


def fill(folder: Path, template: str, **context: object) -> str:
    """Fill a template that lies in a folder with the others that it includes."""
    pages = Environment(
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    pages.filters["demote"] = lambda text: re.sub(r"^##", "###", text, flags=re.MULTILINE)
    text = pages.get_template(template).render(context)
    return "\n\n".join(wrap(block) for block in re.split(r"\n{2,}", text.strip())) + "\n"


def wrap(block: str) -> str:
    """Break the lines of a paragraph or a list anew; tables, titles, pictures and code stay."""
    if block.startswith(("|", "#", "!", "    ")):
        return block
    broken = partial(textwrap.fill, width=WIDTH, break_long_words=False, break_on_hyphens=False)
    first, *items = (" ".join(part.split()) for part in f"\n{block}".split("\n- "))
    if not items:
        return broken(first)
    return "\n".join(broken(f"- {item}", subsequent_indent="  ") for item in items)


def write_figures(folder: Path, charts: Mapping[str, Chart]) -> None:
    """Draw the figures of a page into a folder, each in a file of its name."""
    for name, chart in charts.items():
        figure = draw(chart)
        save = partial(figure.savefig, format="png", dpi=110, bbox_inches="tight")
        write_whole(folder / f"{name}.png", save)
