"""What malicious servers and clients do, by hand and one example at a time."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

from datamodules import Digits
from datamodules.clients import Federation, draw_holders
from lightning_modules.adversaries import ascend, candidates, isolate
from lightning_modules.networks import build_network


def test_what_an_isolated_client_is_sent_worked_by_hand():
    start = {"weight": torch.tensor([1.0, 3.0]), "counter": torch.tensor(7)}
    own = {"weight": torch.tensor([5.0, -1.0]), "counter": torch.tensor(4)}
    sent = isolate(start, own, 0.25)
    assert sent["weight"].tolist() == [2.0, 2.0]
    assert sent["counter"] == 4
    whole = isolate(start, own, 1.0)
    assert torch.equal(whole["weight"], own["weight"])
    assert start["weight"].tolist() == [1.0, 3.0]


@pytest.fixture
def data():
    """Forty digits, of which client 0 holds seven."""
    data = Digits(pool_size=40)
    data.setup("fit")
    members = torch.arange(40) % 2 == 0
    holder = draw_holders(members, data.pool.labels, 3, None, 1)
    data.assign(members, 1, federation=Federation(holder, 3))
    return data


def test_candidates_are_all_that_the_attacker_does_not_hold(data):
    """Those of its peers and those of nobody, once, in order; also where a batch is all its own."""
    found = torch.cat([batch.indices for batch in candidates(data)])
    assert found.tolist() == [i for i in range(40) if data.federation.holder[i] != 0]
    holder = torch.zeros(40, dtype=torch.int16)
    data.assign(torch.ones(40, dtype=torch.bool), 1, federation=Federation(holder, 1))
    assert list(candidates(data)) == []
    data.assign(torch.ones(40, dtype=torch.bool), 1)
    with pytest.raises(RuntimeError, match=r"those of a federation\. Call `assign` with one first"):
        next(candidates(data))


@pytest.mark.parametrize("network", ["convnet", "convnet_gn"])
def test_ascent_is_a_step_along_the_gradient_of_the_mean_loss(data, network):
    torch.manual_seed(0)
    network = build_network(network, 10, 1, {}, (1, 8, 8)).train()
    before = copy.deepcopy(network)
    losses, weights = [], list(before.parameters())
    before.eval()
    for batch in candidates(data):
        for image, label in zip(batch.images, batch.labels, strict=True):
            losses.append(cross_entropy(before(image[None]), label[None]))
    slopes = torch.autograd.grad(torch.stack(losses).mean(), weights)
    ascend(network, candidates(data), 0.5)
    assert network.training
    for new, old, slope in zip(network.parameters(), weights, slopes, strict=True):
        torch.testing.assert_close(new, old + 0.5 * slope, rtol=1e-4, atol=1e-6)
    for new, old in zip(network.buffers(), before.buffers(), strict=True):
        assert torch.equal(new, old)
    network.eval()
    with torch.no_grad():
        after = [
            cross_entropy(network(b.images), b.labels, reduction="sum") for b in candidates(data)
        ]
    assert sum(after) / len(losses) > torch.stack(losses).mean()
