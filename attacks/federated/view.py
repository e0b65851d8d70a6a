"""What one kind of attacker sees of federations."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from attacks.rounds import ATTACKER, NOBODY, Rounds, RoundSignal

Threat = Literal["server", "client", "subtracting"]
THREATS: tuple[Threat, ...] = ("server", "client", "subtracting")
_MEMBER, _KNOWN = 0, 1  # holders where a single series is seen; the attacker asks for no example
# of the other clients, to know where a client stands among them
FEWEST_CLIENTS = 5


class View(NamedTuple):
    """Series of signals, each larger where an example is likelier a member.

    Attributes:
        signals: by name; NaN where a client did not take part in a round. A client, or the server
            under secure aggregation, sees a single series: that of the global model.
        holder: whose member each example is, or `NOBODY`.
    """

    signals: Mapping[RoundSignal, Float[Tensor, "federations rounds clients examples"]]
    holder: Int64[Tensor, "federations examples"]

    def first(self, rounds: int) -> "View":
        """The first recorded rounds."""
        return self._replace(signals={n: s[:, :rounds] for n, s in self.signals.items()})

    def of(self, federation: int) -> dict[RoundSignal, Float[Tensor, "rounds clients examples"]]:
        """The signals of one federation, in float64."""
        return {name: signal[federation].double() for name, signal in self.signals.items()}

    def took_part(self, federation: int) -> Bool[Tensor, "rounds clients"]:
        """Which client took part in which recorded round."""
        return took_part(self.signals["phi"][federation])


def make_view(rounds: Rounds, threat: Threat) -> View:
    """What an attacker sees of the recorded rounds.

    The gradient's norm changes its sign: it is small where a network knows an example.

    Args:
        rounds: all that was recorded.
        threat: a `server` sees each upload, and asks whose member an example is; a `client`, or a
            server under secure aggregation, sees the global model, and asks if it is anybody's; a
            client that is `subtracting` takes its own upload out of that. A client that attacks by
            name, this one or a malicious one, does not ask for its own examples.

    Raises:
        ValueError: no such attacker sees these federations.
    """
    if threat not in threats_to(rounds):
        raise ValueError(
            f"`threat` must be {' or '.join(threats_to(rounds))} for these federations, got "
            f"{threat}."
        )
    if threat == "server":
        signals, holder = dict(rounds.uploads), rounds.holder
    else:
        seen = rounds.others if threat == "subtracting" and rounds.others else rounds.aggregates
        signals = {name: signal[:, :, None] for name, signal in seen.items()}
        holder = rounds.holder.where(rounds.holder == NOBODY, _MEMBER)
        if threat == "subtracting" or rounds.adversary is not None:
            holder = holder.where(rounds.holder != ATTACKER, _KNOWN)
    return View(signals | {"gradient": -signals["gradient"]}, holder)


def threats_to(rounds: Rounds) -> list[Threat]:
    """Who attacks federations: with a malicious server or client, that one alone."""
    if rounds.adversary == "isolate":  # clients see no global model
        return ["server"]
    clients: list[Threat] = ["client"]
    if rounds.others is not None and rounds.uploads["phi"].shape[2] > 1:
        clients.append("subtracting")
    return clients if rounds.adversary == "ascent" else ["server", *clients]


def took_part(
    signal: Float[Tensor, "*federations rounds clients examples"],
) -> Bool[Tensor, "*federations rounds clients"]:
    """Which client took part in which round: the others' signals are NaN on all examples."""
    return ~signal[..., 0].isnan()


def mean_over_rounds(
    signal: Float[Tensor, "rounds clients examples"],
) -> Float[Tensor, "clients examples"]:
    """Mean over the rounds in which a client took part; NaN for one that never did."""
    return torch.nanmean(signal, 0)


def last_round(
    signal: Float[Tensor, "rounds clients examples"],
) -> Float[Tensor, "clients examples"]:
    """The signal in the last round in which each client took part; NaN for one that never did."""
    present = took_part(signal)
    rounds = torch.arange(len(signal))[:, None].where(present, 0).amax(0)
    return signal[rounds, torch.arange(signal.shape[1])]
