"""How members are spread over clients, and which clients take part."""

import numpy as np
import pytest
import torch

from datamodules.clients import NOBODY, Federation, draw_holders

LABELS = torch.arange(400) % 5


def halves(seed=0):
    return torch.rand(400, generator=torch.Generator().manual_seed(seed)) < 0.5


@pytest.mark.parametrize("dirichlet", [None, 0.5, 100.0])
@pytest.mark.parametrize("clients", [1, 2, 7])
def test_every_member_has_one_client_and_nobody_else_has(dirichlet, clients):
    members = halves()
    holder = draw_holders(members, LABELS, clients, dirichlet, seed=3)
    assert holder.dtype == torch.int16
    assert torch.equal(holder != NOBODY, members)
    federation = Federation(holder, clients)
    parts = [federation.examples(client).tolist() for client in range(clients)]
    held = [example for part in parts for example in part]
    assert sorted(held) == members.nonzero().flatten().tolist()
    assert federation.sizes() == [len(part) for part in parts]
    assert min(federation.sizes()) >= 2


def test_equal_parts_differ_by_one_at_most_and_are_of_all_classes():
    federation = Federation(draw_holders(halves(), LABELS, 7, None, seed=3), 7)
    sizes = federation.sizes()
    assert max(sizes) - min(sizes) <= 1
    for client in range(7):
        assert len(LABELS[federation.examples(client)].unique()) == 5


def test_a_split_depends_on_the_seed_alone():
    splits = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(splits))  # must not matter
        np.random.seed(len(splits))  # noqa: NPY002
        splits.append(draw_holders(halves(), LABELS, 4, 0.3, seed))
    assert torch.equal(splits[0], splits[1])
    assert not torch.equal(splits[0], splits[2])


def test_shares_of_a_class_have_the_variance_of_their_dirichlet():
    """Over many seeds: mean 1/K, and variance (1/K)(1 - 1/K) / (K alpha + 1)."""
    members, alpha, clients = torch.ones(400, dtype=torch.bool), 2.0, 4
    shares = []
    for seed in range(300):
        holder = draw_holders(members, LABELS, clients, alpha, seed)
        for label in range(5):
            counts = torch.bincount(holder[label == LABELS].long(), minlength=clients)
            shares.append(counts / counts.sum())
    shares = torch.stack(shares)
    variance = (1 / clients) * (1 - 1 / clients) / (clients * alpha + 1)
    assert torch.allclose(shares.mean(0), torch.full((clients,), 1 / clients), atol=0.02)
    assert shares.var(0).mean().item() == pytest.approx(variance, rel=0.1)


def test_a_small_concentration_gives_clients_few_classes():
    few, many = (
        Federation(draw_holders(halves(), LABELS, 5, alpha, seed=0), 5) for alpha in (0.1, 1000.0)
    )

    def largest(federation):
        """Mean share of a client's most frequent class."""
        counts = [torch.bincount(LABELS[federation.examples(c)], minlength=5) for c in range(5)]
        return np.mean([(count.max() / count.sum()).item() for count in counts])

    assert largest(many) < 0.3 < 0.5 < largest(few)


def test_more_clients_than_members_are_refused():
    members = torch.arange(400) < 20
    assert min(Federation(draw_holders(members, LABELS, 10, None, 0), 10).sizes()) == 2
    with pytest.raises(ValueError, match=r"`federated\.clients` must be at most 10, got 11: a mod"):
        draw_holders(members, LABELS, 11, None, 0)


def test_a_dirichlet_that_leaves_clients_empty_is_refused():
    with pytest.raises(ValueError, match=r"dirichlet` 0\.001 leaves a client without 2 .*Raise it"):
        draw_holders(halves(), LABELS, 40, 0.001, 0)


@pytest.mark.parametrize(
    ("clients", "participation", "count"), [(10, 1.0, 10), (10, 0.5, 5), (10, 0.01, 1), (3, 0.5, 2)]
)
def test_a_round_has_its_share_of_the_clients(clients, participation, count):
    federation = Federation(torch.zeros(1, dtype=torch.int16), clients, 1, participation)
    rounds = [federation.participants(7, number) for number in range(200)]
    assert federation.per_round == count
    for drawn in rounds:
        assert len({*drawn}) == count
        assert drawn == sorted(drawn)
        assert {*drawn} <= {*range(clients)}
    seen = np.bincount(np.concatenate(rounds), minlength=clients) / 200
    assert np.allclose(seen, count / clients, atol=0.13)  # four deviations
    assert rounds == [federation.participants(7, number) for number in range(200)]
    if count < clients:
        assert rounds != [federation.participants(8, number) for number in range(200)]
