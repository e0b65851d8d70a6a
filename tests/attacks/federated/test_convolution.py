"""Convolutional networks beside each other, against one network of torch.nn for each."""

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from attacks.federated import convolution
from attacks.federated.convolution import score_convolution


def alone(known, members, asked):
    """One network, with torch's own layers, initial weights and order of batches."""
    torch.manual_seed(0)
    layers = []
    for before, after, taps in ((1, 8, 7), (8, 16, 5), (16, 8, 3)):
        layers += [nn.Conv1d(before, after, taps, padding="same", bias=False)]
        layers += [nn.BatchNorm1d(after), nn.ReLU()]
    network, head = nn.Sequential(*layers), nn.Conv1d(8, 1, 1)
    mean, std = known.mean(0), known.std(0, correction=0)
    inputs, labels = ((known - mean) / std).float(), members.float()
    optimizer = torch.optim.Adam([*network.parameters(), *head.parameters()], 1e-3)
    for _ in range(2):
        for batch in torch.split(torch.randperm(len(known)), 128):
            optimizer.zero_grad()
            logits = head(network(inputs[batch, None]).mean(2, keepdim=True)).flatten()
            binary_cross_entropy_with_logits(logits, labels[batch]).backward()
            optimizer.step()
    own = ((asked - mean) / std).float()
    return head(network.eval()(own[:, None]).mean(2, keepdim=True)).flatten().double()


def test_networks_beside_each_other_are_those_of_lone_ones(rng, monkeypatch):
    """The second has other members and other numbers of series to score."""
    monkeypatch.setattr(convolution, "EPOCHS", 2)
    known = torch.randn(2, 300, 6, generator=rng).double() * 3 + 5
    members = torch.rand(2, 300, generator=rng) < 0.5
    known[members] += 2
    asked = [torch.randn(count, 6, generator=rng).double() * 3 + 5 for count in (9, 4)]
    state = torch.get_rng_state()
    found = score_convolution(known, members, asked)
    assert torch.equal(torch.get_rng_state(), state)
    for own, inside, series, scores in zip(known, members, asked, found, strict=True):
        # six steps of float32, whose sums kernels for groups order differently
        torch.testing.assert_close(scores, alone(own, inside, series), rtol=1e-3, atol=1e-3)
