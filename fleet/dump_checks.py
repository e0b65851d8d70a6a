"""Whether dumps of other frameworks' federations fit the data, and what can be measured of them."""

from collections.abc import Mapping, Sequence

import torch

from attacks.federated.view import FEWEST_CLIENTS
from datamodules.images import ImageDataModule
from storage.dumps import Dump
from storage.names import ModelName


def count_clients(dumps: Sequence[Dump], given: int | None) -> int:
    """Number of clients of each federation.

    Raises:
        ValueError: holders or uploads name a client beyond it.
    """
    uploading = {c for dump in dumps for by_client in dump.uploads.values() for c in by_client}
    count = max(uploading) + 1 if given is None else given
    if count <= max(uploading):
        raise ValueError(
            f"`--clients` must be {max(uploading) + 1} or more, because client {max(uploading)} "
            f"uploads, got {count}. They are counted from 0."
        )
    for dump in dumps:
        if (last := int(dump.holder.max())) >= count:
            raise ValueError(
                f"The holders in {dump.path} name client {last}, and clients 0 to {count - 1} "
                f"upload. Correct `holder`, or pass `--clients {last + 1}` if this client never "
                "took part in these rounds."
            )
    return count


def check_examples(dump: Dump, data: ImageDataModule) -> None:
    """Raise ValueError if holders are of another number of examples than the data has."""
    if len(dump.holder) != len(data.pool.labels):
        raise ValueError(
            f"`holder` in {dump.path} must name a client for each of the {len(data.pool.labels)} "
            f"examples of the data, in its order, got {len(dump.holder)}. Bring a test split of "
            "its own (`x_test` and `y_test`, or a folder `test`), which is otherwise drawn from "
            "them, and leave `--data.pool_size` out."
        )


def describe(dumps: Mapping[ModelName, Dump], clients: int) -> list[str]:
    """Lines on what was found, and on what cannot be measured."""
    rounds = next(iter(dumps.values())).rounds
    shadows = sum(name.role == "shadow" for name in dumps)
    lines = [
        f"Federations of {clients} clients: {len(dumps) - shadows} to audit, {shadows} shadows. "
        f"Recorded rounds: {', '.join(map(str, rounds))}."
    ]
    for name, dump in dumps.items():
        sizes = torch.bincount(dump.holder[dump.holder >= 0], minlength=clients).tolist()
        if idle := [client for client, size in enumerate(sizes) if not size]:
            lines.append(
                f"{name}: client {', '.join(map(str, idle))} holds no example of this data, and is "
                "only a peer of the others."
            )
    fewest = min(len(by) for dump in dumps.values() for by in dump.uploads.values())
    if fewest < FEWEST_CLIENTS:
        lines.append(
            f"Comparing clients with their peers takes {FEWEST_CLIENTS} uploads in every round, "
            f"and one has {fewest}: these attacks will be left out."
        )
    return lines
