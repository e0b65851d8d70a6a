"""Attacks with shadow federations: slow loops, other people's discriminant, lone networks."""

import math

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import nn

from attacks.cases import Case, make_cases
from attacks.federated.discriminant import discriminate
from attacks.federated.reference import Reference
from attacks.federated.series_network import EPOCHS, score_series
from attacks.federated.shadow_attacks import keep, lda, series, sum_z
from attacks.federated.view import make_view
from attacks.rounds import NOBODY, SIGNALS


@pytest.fixture(scope="module")
def small(draw_rounds):
    """Clients miss rounds, and the holder of an example may have taken part in none."""
    return draw_rounds(federations=10, clients=4, examples=30, rounds=3, participation=0.6, leak=2)


def z_by_loop(signal, holder, own, left_out=None):
    """(own - mean of the clients of shadows where nobody holds the example) / pooled spread."""
    shadows, rounds, clients, examples = signal.shape
    z = torch.full(own.shape, math.nan, dtype=torch.float64)
    for r in range(rounds):
        means, residuals, freedom = {}, 0.0, 0
        for e in range(examples):
            known = [
                signal[s, r, k, e].item()
                for s in range(shadows)
                for k in range(clients)
                if s != left_out and holder[s, e] == NOBODY and not signal[s, r, k, e].isnan()
            ]
            means[e] = sum(known) / len(known)
            residuals += sum((v - means[e]) ** 2 for v in known)
            freedom += len(known) - 1
        spread = math.sqrt(residuals / freedom)
        for k in range(clients):
            for e in range(examples):
                z[r, k, e] = (own[r, k, e].item() - means[e]) / spread
    return z


def test_z_is_that_of_a_slow_loop(small):
    signal, holder = small.uploads["phi"][:8], small.holder[:8]
    own = small.uploads["phi"][8].double()
    reference = Reference(signal, holder)
    expected = z_by_loop(signal.double(), holder, own)
    assert torch.allclose(reference.z(own), expected, atol=1e-9, equal_nan=True)
    expected = z_by_loop(signal.double(), holder, signal[2].double(), left_out=2)
    assert torch.allclose(reference.z_of_shadow(2), expected, atol=1e-9, equal_nan=True)


def test_a_z_worked_by_hand():
    """Three shadows with 0, 1 and 5 where nobody holds it: mean 2, variance 7."""
    signal = torch.tensor([0.0, 1.0, 5.0])[:, None, None, None]
    reference = Reference(signal, torch.full((3, 1), NOBODY))
    assert reference.z(torch.tensor([[[4.0]]]).double()).item() == pytest.approx(2 / 7**0.5)


def test_a_signal_that_never_varies_tells_nothing():
    reference = Reference(torch.ones(3, 1, 2, 4), torch.full((3, 4), NOBODY))
    assert not reference.z(torch.full((1, 2, 4), 3.0).double()).any()


def test_a_reference_needs_three_shadows_without_each_example():
    holder = torch.tensor([[0], [NOBODY], [NOBODY]])
    with pytest.raises(ValueError, match=r"needs 3 shadow federations .* got 2\. Raise"):
        Reference(torch.zeros(3, 1, 1, 1), holder)


def awkward_cells(seed):
    """Few members among many; rounds that nearly repeat one another, at very different scales."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(600, 3))
    features = np.hstack([base, base + 0.05 * rng.normal(size=(600, 3)), 50 * base[:, :1] + 7])
    members = rng.random(600) < 0.07
    features[members] += rng.normal(size=7)
    return torch.from_numpy(features), torch.from_numpy(members)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_discriminant_is_that_of_sklearn(seed):
    """Without ridge; its conditioning, 1e7 and more, costs half of float64's digits."""
    features, members = awkward_cells(seed)
    features[:, -1] += torch.randn(600, generator=torch.Generator().manual_seed(seed))
    oracle = LinearDiscriminantAnalysis(solver="lsqr").fit(features.numpy(), members.numpy())
    parts = [(features[i : i + 97], members[i : i + 97]) for i in range(0, 600, 97)]
    weights = discriminate(parts, ridge=0.0)
    assert np.allclose(weights, oracle.coef_[0], rtol=1e-5, atol=1e-6)


def test_a_discriminant_worked_by_hand():
    """Covariance within classes 1 and no correlation: weights are the difference of the means."""
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).double()
    features = torch.cat([corners, corners + torch.tensor([3.0, -1.0])])
    members = torch.arange(8) >= 4
    weights = discriminate([(features, members)], ridge=1.0)
    assert weights.tolist() == pytest.approx([1.5, -0.5])  # the ridge doubles the variance


def test_a_discriminant_needs_both_sides():
    with pytest.raises(ValueError, match="got 0 and 3 cells"):
        discriminate([(torch.zeros(3, 2).double(), torch.zeros(3, dtype=torch.bool))])


def test_lda_is_that_of_a_slow_loop(small):
    """Cells one by one: rounds without the client are 0, examples of peers are left out."""
    view, case = make_view(small, "server"), Case(9, [0, 1, 2, 3, 4, 5, 6, 7])
    found = lda(view, view, [case], dict.fromkeys(SIGNALS, keep))[0]
    holder = small.holder
    signals = {name: view.signals[name].double() for name in SIGNALS}
    features, members = [], []
    for s in case.shadows:
        z = torch.cat([z_by_loop(x[:8], holder[:8], x[s], left_out=s) for x in signals.values()])
        for k in range(4):
            if signals["phi"][s, :, k, 0].isnan().all():
                continue
            for e in range(30):
                if holder[s, e] in (NOBODY, k):
                    features.append([0.0 if v != v else v for v in z[:, k, e].tolist()])
                    members.append(bool(holder[s, e] == k))
    features, members = np.array(features), np.array(members)
    means = [features[members == side].mean(0) for side in (False, True)]
    within = sum(
        np.outer(row - means[side], row - means[side])
        for row, side in zip(features, members.astype(int), strict=True)
    )
    weights = np.linalg.solve(within / len(features) + 1e-2 * np.eye(9), means[1] - means[0])
    z = torch.cat([z_by_loop(x[:8], holder[:8], x[9]) for x in signals.values()])
    for k in range(4):
        if signals["phi"][9, :, k, 0].isnan().all():
            assert found[k].isnan().all()
        else:
            expected = np.nan_to_num(z[:, k].numpy().T) @ weights
            assert found[k].numpy() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("threat", ["server", "client"])
def test_cases_that_share_no_shadows_are_scored_as_if_each_were_alone(draw_rounds, threat):
    rounds = draw_rounds(federations=8, clients=3, examples=40, rounds=2, leak=1)
    view, cases = make_view(rounds, threat), make_cases(8, 0)
    together = sum_z(view, view, cases, "phi")
    alone = torch.cat([sum_z(view, view, [case], "phi") for case in cases])
    assert torch.equal(together, alone)


def test_networks_beside_each_other_are_those_of_a_plain_loop(rng):
    """torch.nn and one Adam for each network, with the same initial weights and batches."""
    known = torch.randn(2, 300, 4, generator=rng).double() * 3 + 5
    known[0, 7, 2] = torch.nan  # a client that missed a round
    members = (torch.arange(300) >= 150).expand(2, -1)
    known[1, 150:] += 1
    asked = [torch.randn(9, 4, generator=rng).double() for _ in range(2)]
    found = score_series(known, members, asked, seed=3)
    for network in range(2):
        generator = torch.Generator().manual_seed(3)
        layers = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 1))
        for layer, bound in ((layers[0], (6 / 68) ** 0.5), (layers[2], (6 / 65) ** 0.5)):
            drawn = (2 * torch.rand(layer.weight.shape[::-1], generator=generator) - 1) * bound
            layer.weight.data, layer.bias.data = drawn.T.clone(), torch.zeros_like(layer.bias)
        mean, std = known[network].nanmean(0), np.nanstd(known[network].numpy(), 0)
        inputs = ((known[network] - mean) / torch.from_numpy(std)).nan_to_num(0).float()
        labels = members[network].float()
        optimizer = torch.optim.Adam(layers.parameters(), 1e-3, weight_decay=5e-4)
        for _ in range(EPOCHS):
            for batch in torch.split(torch.randperm(300, generator=generator), 128):
                optimizer.zero_grad()
                logits = layers(inputs[batch])[:, 0]
                nn.functional.binary_cross_entropy_with_logits(logits, labels[batch]).backward()
                optimizer.step()
        own = ((asked[network] - mean) / torch.from_numpy(std)).float()
        expected = layers(own)[:, 0].double()
        # 150 steps of float32, whose sums two kernels order differently
        assert torch.allclose(found[network], expected, atol=1e-3)


@pytest.mark.parametrize("threat", ["server", "client"])
def test_a_network_finds_members_and_is_the_same_again(draw_rounds, threat):
    rounds = draw_rounds(federations=8, clients=3, examples=120, leak=4, common=0.6, scale=1.0)
    view, cases = make_view(rounds, threat), make_cases(8, 0)
    scores = series(view, view, cases[:2], {"gradient": keep})
    again = series(view, view, cases[:2], {"gradient": keep})
    assert torch.equal(scores, again)
    for found, case in zip(scores, cases[:2], strict=True):
        holder = view.holder[case.target]
        held = holder == torch.arange(len(found))[:, None]
        outside = (holder == NOBODY).expand_as(held)
        assert found[held].mean() > found[outside].mean() + 0.3
