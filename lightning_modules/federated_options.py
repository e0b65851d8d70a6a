"""The options of federated learning, as on the command line; imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import ceil, inf
from typing import Literal

UpdateName = Literal[
    "full", "qsgd-w8", "qsgd-w4", "qsgd-w2", "qsgd-w1.58",
    "nearest-w8", "nearest-w4", "nearest-w2", "nearest-w1.58",
]  # fmt: skip
AdversaryName = Literal["isolate", "ascent"]
CosineName = Literal["last", "all"]
RECORDED = 10  # rounds that are recorded by default, if there are as many
MOST_CLIENTS = 2**15 - 1  # holders are int16


@dataclass(frozen=True)
class FederatedOptions:
    """Federated learning (docs/federated_training.md): an epoch of the trainer is a round.

    Args:
        clients: number of clients that a model's training examples are spread over; null trains
            each model in one place.
        local_epochs: passes of a client over its own examples in each round.
        participation: share of the clients that train in each round, drawn anew for each.
        dirichlet: concentration of the classes' split over clients, small for clients with few
            classes; null for random equal parts.
        update: what each tensor of a client's update is rounded to as it travels: `full` for
            nothing, `qsgd-w4` at random without bias, `nearest-w4` to the nearest value.
        error_feedback: add what rounding took from a client's update to its next one.
        record: rounds, counted from 1, whose uploads the attacker sees (default: ten of them evenly
            spaced, the last among them).
        cosine: layers whose gradients are compared with updates: the `last`, or `all`, which takes
            a backward pass per example.
        adversary: who acts maliciously: `isolate`, a server that sends each client its own last
            upload back; `ascent`, client 0, which raises the loss of what it does not hold before
            it uploads; null for attackers that only look.
        strength: how far the adversary goes: share of a client's own upload in what it is sent, or
            step of the ascent along the gradient.

    Raises:
        ValueError: a number is out of range, or nothing reads an option.
    """

    clients: int | None = None
    local_epochs: int = 1
    participation: float = 1.0
    dirichlet: float | None = None
    update: UpdateName = "full"
    error_feedback: bool = False
    record: Sequence[int] = ()
    cosine: CosineName = "last"
    adversary: AdversaryName | None = None
    strength: float = 1.0

    def __post_init__(self) -> None:
        """Refuse numbers out of range, and options that nothing reads."""
        if self.clients is None:
            self._check_unread()
        elif not 1 <= self.clients <= MOST_CLIENTS:
            raise ValueError(
                f"`federated.clients` must be 1 to {MOST_CLIENTS}, got {self.clients}. Leave it "
                "out to train each model in one place."
            )
        if self.local_epochs < 1:
            raise ValueError(
                f"`federated.local_epochs` must be 1 or more, got {self.local_epochs}."
            )
        if not 0 < self.participation <= 1:
            raise ValueError(
                "`federated.participation` must be above 0 and at most 1, the share of the clients "
                f"that train in a round, got {self.participation:g}."
            )
        if self.dirichlet is not None and not 0 < self.dirichlet < inf:
            raise ValueError(
                f"`federated.dirichlet` must be above 0, got {self.dirichlet:g}. Leave it out for "
                "a random split."
            )
        if self.error_feedback and self.update == "full":
            raise ValueError(
                "`federated.error_feedback` needs a rounded update, got `full`, which loses "
                "nothing. Leave it out, or pass for example `--federated.update qsgd-w4`."
            )
        if self.on:
            self._check_adversary()

    @property
    def on(self) -> bool:
        """Whether models are trained over clients."""
        return self.clients is not None

    def rounds(self, total: int) -> list[int]:
        """Rounds whose uploads are recorded, in order; none without clients.

        Args:
            total: rounds of a fit.

        Raises:
            ValueError: a round is out of range, or named twice, or clients are isolated in none.
        """
        if self.adversary == "isolate" and total < 2:
            raise ValueError(
                "`federated.adversary` isolate needs 2 rounds (`--trainer.max_epochs`), got "
                f"{total}: clients are sent their own uploads from the second. Train longer, or "
                "leave it out."
            )
        for number in self.record:
            if not 1 <= number <= total:
                raise ValueError(
                    f"`federated.record` must be rounds from 1 to {total} "
                    f"(`--trainer.max_epochs`), got {number}."
                )
            if self.record.count(number) > 1:
                raise ValueError(
                    f"`federated.record` must name each round once, got {number} twice."
                )
        if not self.on or self.record:
            return sorted(self.record)
        count = min(total, RECORDED)
        return [ceil(number * total / count) for number in range(1, count + 1)]

    def _check_adversary(self) -> None:
        if self.adversary is None:
            if self.strength != 1:
                raise ValueError(
                    f"`federated.strength` needs `--federated.adversary`, got {self.strength:g} "
                    "without one. Leave it out, or pass for example `--federated.adversary ascent`."
                )
            return
        if self.clients == 1:
            raise ValueError(
                f"`federated.adversary` {self.adversary} needs 2 clients or more, got 1: a single "
                "client is isolated anyway, and has nobody to attack. Raise `--federated.clients`."
            )
        most = 1 if self.adversary == "isolate" else inf
        if not 0 < self.strength <= most or self.strength == inf:
            limit = " and at most 1, a share" if self.adversary == "isolate" else ", a step"
            raise ValueError(
                f"`federated.strength` must be above 0{limit}, with `--federated.adversary "
                f"{self.adversary}`, got {self.strength:g}. Leave `--federated.adversary` out for "
                "attackers that only look."
            )

    def _check_unread(self) -> None:
        for name, default in FEDERATED_DEFAULTS.items():
            given = tuple(self.record) if name == "record" else getattr(self, name)
            if given != default:
                raise ValueError(
                    f"`federated.{name}` needs `--federated.clients`, got {given} without clients. "
                    "Leave it out, or pass for example `--federated.clients 10`."
                )


FEDERATED_DEFAULTS = {field.name: field.default for field in fields(FederatedOptions)}
