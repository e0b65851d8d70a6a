"""Federations whose signals are made up: what is known of them is known exactly."""

import pytest
import torch

from attacks.cases import make_cases
from attacks.federated.view import make_view
from attacks.game import Game, ModelSignals
from attacks.rounds import ATTACKER, NOBODY, SIGNALS, Rounds


@pytest.fixture(scope="session")
def draw_rounds():
    """Draw signals of federations: an example's difficulty, what lasts, what does not, and a leak.

    Federations 2k and 2k + 1 are complementary. What a client's `persistent` effect on an example
    is does not change between rounds, as in training. The leak is spread over all members of a
    federation by `common`, the rest is that of the holder alone.
    """

    def draw(
        federations=12, clients=6, examples=240, rounds=4, leak=0.0, common=0.3, persistent=0.5,
        participation=1.0, scale=1.0, seed=0,
    ):  # fmt: skip
        rng = torch.Generator().manual_seed(seed)
        half = torch.rand((federations + 1) // 2, examples, generator=rng).argsort(1)
        half = half < examples // 2
        members = torch.stack([half, ~half], 1).flatten(0, 1)[:federations]
        places = torch.rand(federations, examples, generator=rng).argsort(1) % clients
        holder = places.where(members, NOBODY)
        held = (holder[:, None] == torch.arange(clients)[:, None]).float()
        shape = federations, rounds, clients, examples
        inside = leak * ((1 - common) * held + common * members[:, None].float())[:, None]
        uploads, aggregates, others = {}, {}, {}
        for name in SIGNALS:
            difficulty = 2 * torch.randn(examples, generator=rng)
            lasting = persistent * torch.randn(federations, 1, clients, examples, generator=rng)
            level = torch.arange(rounds).float()[:, None, None]
            signal = inside + lasting + torch.randn(shape, generator=rng)
            sign = -1 if name == "gradient" else 1  # a norm is small where an example is known
            uploads[name] = difficulty + level + sign * scale * signal
            noise = torch.randn(federations, rounds, examples, generator=rng)
            for seen, known in ((aggregates, members), (others, members & (holder != ATTACKER))):
                whole = leak * common * known[:, None] + noise
                seen[name] = difficulty + level[:, 0] + sign * whole
        if participation < 1:
            absent = torch.rand(shape[:3], generator=rng) >= participation
            absent[:, :, 0] &= absent[:, :, 1:].all(2).logical_not()  # at least one took part
            for signal in uploads.values():
                signal[absent] = torch.nan
        done = [5 * (place + 1) for place in range(rounds)]
        return Rounds(done, uploads, aggregates, holder, others)

    return draw


@pytest.fixture(scope="session")
def game_of():
    """The game of federations, each of which is attacked by the others but its partner."""

    def make(rounds, targets=0, other=None):
        members = rounds.holder != NOBODY
        models, examples = members.shape
        cases = make_cases(models - targets, targets)
        signals = {"full": ModelSignals(torch.zeros(models, 1, examples))}
        return Game(signals, members, cases, rounds=rounds, other_rounds=other)

    return make


@pytest.fixture(scope="session")
def views():
    """What each kind of attacker sees, by its name."""
    return lambda rounds: {threat: make_view(rounds, threat) for threat in ("server", "client")}
