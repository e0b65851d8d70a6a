"""Clients of a federation: which of them holds which example, and which are served in a round."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int16, Int64
from torch import Tensor

from datamodules.batches import Batch
from datamodules.seeds import derive_seed

NOBODY = -1  # holder of an example that no client trains on
LEAST = 2  # examples of a client, because BatchNorm needs as many in a batch
DRAWS = 100  # of a Dirichlet split, until every client has its least


class Federation(NamedTuple):
    """How the members of one model are spread over clients, and how they are served.

    Attributes:
        holder: the client that holds each example of the pool, or `NOBODY`.
        clients: number of clients.
        local_epochs: passes of a client over its own examples in each round.
        participation: share of the clients that train in each round.
    """

    holder: Int16[Tensor, " examples"]
    clients: int
    local_epochs: int = 1
    participation: float = 1.0

    @property
    def per_round(self) -> int:
        """Number of clients that train in a round."""
        return count_participants(self.clients, self.participation)

    def participants(self, seed: int, round_number: int) -> list[int]:
        """The clients of a round in ascending order, drawn without replacement.

        Args:
            seed: the model's seed.
            round_number: rounds before this one.
        """
        generator = torch.Generator().manual_seed(derive_seed(seed, "clients", round_number))
        drawn = torch.randperm(self.clients, generator=generator)[: self.per_round]
        return sorted(drawn.tolist())

    def examples(self, client: int) -> Int64[Tensor, " held"]:
        """Positions in the pool of the examples of a client."""
        return (self.holder == client).nonzero().flatten()

    def sizes(self) -> list[int]:
        """Number of examples of each client."""
        return torch.bincount(self.holder[self.holder >= 0].long(), minlength=self.clients).tolist()


def count_participants(clients: int, participation: float) -> int:
    """Number of clients that are their share, at least 1."""
    return max(1, round(participation * clients))


class Visit(NamedTuple):
    """One client's training in one round.

    Attributes:
        client: its number, from 0.
        examples: number of examples that it holds, each of which comes once per local epoch.
        last: whether it is the last client of the round.
        batches: its batches, made as they are asked for.
    """

    client: int
    examples: int
    last: bool
    batches: Iterator[Batch]


def draw_holders(
    members: Bool[Tensor, " examples"],
    labels: Int64[Tensor, " examples"],
    clients: int,
    dirichlet: float | None,
    seed: int,
) -> Int16[Tensor, " examples"]:
    """Spread the members of a model over clients; every member goes to exactly one.

    Args:
        members: which examples of the pool the model trains on.
        labels: classes of the examples.
        clients: number of clients.
        dirichlet: concentration of the split of each class over the clients, which is drawn again
            until each client has two examples; None for a random split into equal parts.
        seed: the model's seed.

    Returns:
        The client that holds each example; `NOBODY` for those that are no members.

    Raises:
        ValueError: some client would have fewer than two examples.

    Source: the split of labels is that of Hsu et al. 2019, arXiv:1909.06335, with the shares drawn
        per class as in Li et al. 2021, arXiv:2102.02079, who also draw again.
    """
    positions = members.nonzero().flatten().cpu().numpy()
    if len(positions) < LEAST * clients:
        raise ValueError(
            f"`federated.clients` must be at most {len(positions) // LEAST}, got {clients}: a "
            f"model trains on {len(positions)} examples, and each client needs {LEAST}, because "
            "BatchNorm does. Take fewer clients, or enlarge the pool."
        )
    rng = np.random.default_rng(derive_seed(seed, "holders"))
    holder = np.full(len(members), NOBODY, dtype=np.int16)
    if dirichlet is None:
        for client, part in enumerate(np.array_split(rng.permutation(positions), clients)):
            holder[part] = client
        return torch.from_numpy(holder)
    classes = labels.cpu().numpy()
    for _ in range(DRAWS):
        for label in np.unique(classes[positions]):
            own = rng.permutation(positions[classes[positions] == label])
            shares = rng.dirichlet(np.full(clients, dirichlet))
            cuts = (shares.cumsum()[:-1] * len(own)).round().astype(int)
            for client, part in enumerate(np.split(own, cuts)):
                holder[part] = client
        sizes = np.bincount(holder[positions], minlength=clients)
        if sizes.min() >= LEAST:
            return torch.from_numpy(holder)
    few = f"client {sizes.argmin()} has {sizes.min()}"
    raise ValueError(
        f"`federated.dirichlet` {dirichlet:g} leaves a client without {LEAST} examples in each of "
        f"{DRAWS} draws: of {len(positions)} examples, {few} in the last. Raise it, take fewer "
        "`--federated.clients`, or enlarge the pool."
    )
