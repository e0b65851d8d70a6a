"""A null: how many intervals hold guessing where nothing can be found, and its file."""

import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from docs.study.numbers import GUESSES

FILE = "null.json"


class Null(NamedTuple):
    """How many attacks' intervals hold guessing, by measure, and how many attacks there are."""

    holding: dict[str, int]
    attacks: int


def count_holding(rows: Sequence[object], measures: Iterable[str]) -> Null:
    """Count the attacks whose intervals hold what guessing finds.

    Args:
        rows: one per attack, with an estimate of each measure.
        measures: names of the measures.
    """
    holding = dict[str, int]()
    for measure in measures:
        estimates = (getattr(row, measure) for row in rows)
        holding[measure] = sum(e.low <= GUESSES[measure] <= e.high for e in estimates)
    return Null(holding, len(rows))


def read_nulls(folder: Path, names: Collection[str] = ()) -> dict[str, Null]:
    """What is kept of nulls, by name; empty if nothing is.

    Args:
        folder: where the file lies.
        names: nulls that it must have, and that are read; by default all that it has.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: Null(**content[name]) for name in names or content}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is damaged: {error!r}. Delete it, and name a run folder by `--null`."
        ) from error
