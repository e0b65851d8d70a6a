"""A null: what attacks find in recorded rounds whose clients' examples are drawn anew afterwards.

Nothing can be found of holders that are drawn after training, so an interval that lies off guessing
shows an attack, or an interval, that is wrong. Signals are those of the real federations.
"""

import json
from pathlib import Path

import torch

from attacks.federated.leaks import FederatedLeak, find_federated_leak
from attacks.federated.view import Threat
from docs.federated.fleets import RECIPE, THREATS
from docs.federated.numbers import MEASURES
from docs.study.null import Null, count_holding, read_nulls
from storage.evidence import gather
from storage.run_folder import RunFolder


def find_null(run_dir: Path) -> str:
    """Attack federations whose holders are drawn anew, and count intervals, as JSON.

    One permutation of the examples serves all federations, so that pairs of shadows stay
    complementary and clients as large as they are.

    Raises:
        FileNotFoundError: there is no experiment in the folder.
        ValueError: its models were not trained by clients.
    """
    game = gather(RunFolder(run_dir), allow_partial=True).game
    if game.rounds is None:
        raise ValueError(
            f"`--null` needs federations, and the models of {run_dir} were not trained by clients. "
            f"Train them by recipes/{RECIPE}."
        )
    holder = game.rounds.holder
    order = torch.randperm(holder.shape[1], generator=torch.Generator().manual_seed(0))
    drawn = game._replace(rounds=game.rounds._replace(holder=holder[:, order]))
    leaks = {threat: find_federated_leak(drawn, threat) for threat in THREATS}
    counts = {threat: count(leak)._asdict() for threat, leak in leaks.items() if leak}
    return json.dumps({"name": run_dir.resolve().name, **counts})


def count(leak: FederatedLeak) -> Null:
    """Count the intervals that hold what guessing finds."""
    return count_holding(leak.rows, MEASURES)


def read_null(folder: Path) -> dict[Threat, Null]:
    """What is kept of a null; empty if nothing is.

    Raises:
        ValueError: the file is damaged.
    """
    kept = read_nulls(folder, THREATS)
    return {threat: kept[threat] for threat in THREATS if threat in kept}
