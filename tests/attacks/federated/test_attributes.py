"""Attribute inference on made-up federations: a leak of members, correlations, and nothing."""

import pytest
import torch

from attacks.federated import series_network, shadow_attacks
from attacks.federated.attributes import BASELINES, GUESSES, find_attribute_leak, measure_sides
from attacks.rounds import NOBODY, SIGNALS, Candidates

VALUES = 3


@pytest.fixture(autouse=True)
def short_training(monkeypatch):
    """Train the network of `gradient_series` for less than a second."""
    monkeypatch.setattr(series_network, "EPOCHS", 1)
    monkeypatch.setattr(shadow_attacks, "CELLS", 500)


@pytest.fixture
def attributed(draw_rounds, game_of):
    """A game whose attribute shows in the signals: by `leak` under the holder, by `known` to all.

    An example with another value than its own looks as much less likely a member.
    """

    def make(leak=0.0, known=0.0, targets=4, **options):
        rounds = draw_rounds(federations=12, persistent=0.0, **options)
        rng = torch.Generator().manual_seed(3)
        federations, done, clients, examples = rounds.uploads["phi"].shape
        truth = torch.randint(VALUES, (examples,), generator=rng)
        held = (rounds.holder[:, None] == torch.arange(clients)[:, None]).float()[:, None]
        by_value = []
        for value in range(VALUES):
            own = (truth == value).float()
            uploads, aggregates = {}, {}
            for name in SIGNALS:
                sign = -1 if name == "gradient" else 1
                noise = torch.randn(federations, done, clients, examples, generator=rng)
                shown = own * (leak * held + known)
                uploads[name] = rounds.uploads[name] + sign * (shown + noise)
                uploads[name] = uploads[name].where(rounds.uploads[name].isfinite(), torch.nan)
                whole = torch.randn(federations, done, examples, generator=rng)
                aggregates[name] = rounds.aggregates[name] + sign * (own * known + whole)
            by_value.append(rounds._replace(uploads=uploads, aggregates=aggregates))
        others, labels = torch.randn(examples, 2, generator=rng), torch.arange(examples) % 2
        candidates = Candidates(1, [0.0, 1.0, 2.0], truth, others, labels, by_value)
        return game_of(rounds, targets)._replace(attribute=candidates)

    return make


def test_without_an_attribute_there_is_no_finding(draw_rounds, game_of):
    assert find_attribute_leak(game_of(draw_rounds()), "server") is None


def test_what_leaks_of_members_alone_is_an_excess(attributed):
    leak = find_attribute_leak(attributed(leak=1.5), "server")
    assert [row.guess for row in leak.rows] == [*GUESSES, *BASELINES]
    assert leak.strongest.excess.estimate.low > 0.1
    assert leak.strongest.excess.p_holm < 0.01
    assert leak.strongest.beyond.estimate.value > 0.1
    for row in leak.rows:
        if row.knowledge == "public":  # nothing correlates
            assert abs(row.excess.estimate.value) < 0.1
        else:
            assert row.non_members.value == pytest.approx(1 / VALUES, abs=0.05)
    public = [row for row in leak.rows if row.knowledge == "public"]
    assert leak.public == max(public, key=lambda row: row.non_members.value)
    assert [row.beyond is None for row in public] == [row == leak.public for row in public]
    unseen = find_attribute_leak(attributed(leak=1.5), "client")  # the global model tells nothing
    assert {row.guess for row in unseen.rows} == {
        name for name in (*GUESSES, *BASELINES) if not name.startswith("contrast")
    }
    assert unseen.strongest.excess.p_holm > 0.05


def test_what_a_network_tells_of_everybody_is_no_leak(attributed):
    leak = find_attribute_leak(attributed(known=1.5), "server")
    (mean,) = (row for row in leak.rows if row.guess == "mean_phi")
    assert mean.non_members.low > 0.6
    assert min(row.excess.p_holm for row in leak.rows) > 0.05
    # compared with peers, and with shadows, what all know cancels
    cancelled = [row for row in leak.rows if row.guess in ("contrast_phi", "z_phi")]
    assert all(abs(row.members.value - 1 / VALUES) < 0.06 for row in cancelled)


def test_few_clients_and_shadows_leave_attacks_out(attributed):
    leak = find_attribute_leak(attributed(clients=3), "server")
    assert not any(row.guess.startswith("contrast") for row in leak.rows)
    assert any("5 clients" in sentence for sentence in leak.left_out)


@pytest.mark.parametrize("participation", [1.0, 0.6])
def test_shares_are_those_of_a_slow_loop(rng, participation):
    holder = torch.randint(-1, 4, (3, 50), generator=rng)
    correct = (torch.rand(3, 4, 50, generator=rng) < 0.6).double()
    present = torch.rand(3, 4, generator=rng) < participation
    present[:, 0] = True
    inside, outside = measure_sides(correct, holder, present)
    for federation in range(3):
        own, others = [], []
        for example, client in enumerate(holder[federation].tolist()):
            if client == NOBODY:
                seen = [
                    correct[federation, k, example].item()
                    for k in range(4)
                    if present[federation, k]
                ]
                others.append(sum(seen) / len(seen))
            elif present[federation, client]:
                own.append(correct[federation, client, example].item())
        assert inside.values[federation].item() == pytest.approx(sum(own) / len(own))
        assert outside.values[federation].item() == pytest.approx(sum(others) / len(others))
        # the variance of a mean of independent examples
        variance = torch.tensor(own).double().var().item() / len(own)
        square = inside.influence[federation].square().sum().item()
        assert square == pytest.approx(variance)
        assert inside.influence[federation].sum().item() == pytest.approx(0, abs=1e-9)


def test_a_federation_without_members_is_refused():
    holder, present = torch.full((1, 6), NOBODY), torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="got a federation without either"):
        measure_sides(torch.zeros(1, 2, 6).double(), holder, present)
