"""Rounds of federations that were trained elsewhere, beside the arrays of `audit.py --signals`.

`python -m fleet.dumps` writes them: `federations/rounds.json`, and a folder per federation with the
files that `train.py` records of a model's clients and rounds.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Bool
from torch import Tensor

from attacks.rounds import Rounds
from storage.federation import name_left_out
from storage.files import write_text
from storage.names import CLIENTS_FILE, ModelName, fleet_names, round_file
from storage.rounds import WAY_OUT, join_rounds

FOLDER, FILE = "federations", "rounds.json"


class Recorded(NamedTuple):
    """What was recorded of all federations.

    Attributes:
        clients: number of clients of each.
        rounds: the rounds, ascending.
        left_out: by federation, round -> clients whose uploads are not finite.
    """

    clients: int
    rounds: list[int]
    left_out: Mapping[str, Mapping[int, list[int]]]

    def write(self, path: Path) -> None:
        """Write the file that says so."""
        write_text(path / FOLDER / FILE, json.dumps(self._asdict()))

    @property
    def facts(self) -> dict[str, str]:
        """What an audit says of it, by label."""
        rounds = ", ".join(map(str, self.rounds))
        return {"clients": f"{self.clients} of each model; recorded rounds: {rounds}"}

    @property
    def sentences(self) -> list[str]:
        """A sentence per federation that left out uploads."""
        way_out = "Lower the clients' learning rate if there are many."
        return [
            sentence
            for name, left_out in self.left_out.items()
            for sentence in name_left_out(name, left_out, way_out)  # type: ignore[arg-type]
        ]


def federation_folder(path: Path, name: ModelName) -> Path:
    """The folder of one federation's clients and rounds."""
    return path / FOLDER / str(name)


def read_recorded(path: Path) -> Recorded | None:
    """Read what was recorded of federations; None where that is nothing.

    Raises:
        ValueError: the file is damaged.
    """
    file = path / FOLDER / FILE
    if not file.is_file():
        return None
    try:
        return Recorded(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}). {WAY_OUT}") from error


def read_external_rounds(
    path: Path,
    recorded: Recorded,
    members: Bool[Tensor, "models examples"],
    shadows: int,
    used: Iterable[int],
) -> Rounds:
    """Read the rounds of federations that are audited or attack.

    Args:
        path: the folder of the arrays.
        recorded: what was recorded of them.
        members: which federation trained on which example, shadows first.
        shadows: number of shadows.
        used: their rows.

    Raises:
        FileNotFoundError, ValueError: a file is missing, damaged, or of other examples.
    """
    names = fleet_names(shadows, len(members) - shadows)
    files = {}
    for row in sorted(set(used)):
        folder = federation_folder(path, names[row])
        rounds = [folder / round_file(number) for number in recorded.rounds]
        files[row] = [folder / CLIENTS_FILE, *rounds]
    return join_rounds(files, members, recorded.rounds, recorded.clients)
