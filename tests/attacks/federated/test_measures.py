"""One value per federation: a slow loop over clients, and exact levels where nothing leaks."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

from attacks.federated.measures import (
    estimate_tail,
    measure_against_peers,
    measure_auc,
    measure_clients,
    score_classes,
)
from attacks.metrics.intervals import tail_interval
from attacks.metrics.measures import tail_rate
from attacks.rounds import NOBODY


@pytest.fixture
def scored(rng):
    """Two federations of 4 clients, of which one never took part; many ties."""
    holder = torch.randint(-4, 4, (2, 400), generator=rng).clamp_min(NOBODY)
    scores = torch.randn(2, 4, 400, generator=rng).double()
    scores += 0.8 * (holder[:, None] == torch.arange(4)[:, None])
    scores = scores.round(decimals=1)
    scores[0, 2] = torch.nan
    return scores, holder


def test_auc_is_the_mean_over_clients_by_sklearn(scored):
    scores, holder = scored
    measured = measure_clients(scores, holder)["auc"]
    peers = measure_against_peers(scores, holder)
    for federation in range(2):
        for found, others in ((measured, holder == NOBODY), (peers, holder != NOBODY)):
            areas = []
            for client in range(4):
                own = holder[federation] == client
                kept = own | others[federation]
                values = scores[federation, client, kept]
                if not values.isnan().any():
                    areas.append(roc_auc_score(own[kept], values))
            assert len(areas) == (3 if federation == 0 else 4)
            expected = sum(areas) / len(areas)
            assert found.values[federation].item() == pytest.approx(expected, abs=1e-12)


def test_a_threshold_is_the_clients_own_where_two_non_members_lie_above(scored):
    """About 200 non-members: 2 lie above 1% of each client, and 0.2 above 0.1%."""
    scores, holder = scored
    holder = holder.where(torch.arange(400) >= 110, NOBODY)
    measured = measure_clients(scores, holder)
    own, outside = holder[1], holder[1] == NOBODY
    assert 0.01 * outside.sum() >= 2
    rates = []
    for client in range(4):
        kept = (own == client) | outside
        rates.append(tail_rate(scores[1, client, kept][None], (own == client)[kept][None], 0.01))
    expected = sum(float(rate.values) for rate in rates) / 4
    assert measured["tpr_1pct"].values[1].item() == pytest.approx(expected, abs=1e-12)
    inside = own == torch.arange(4)[:, None]
    kept = inside | outside
    together = tail_rate(scores[1][kept][None], inside[kept][None], 0.001)
    assert measured["tpr_01pct"].values[1].item() == pytest.approx(float(together.values))


def test_influences_give_the_variance_over_examples(rng):
    """By simulation: clients see the same examples, so that theirs is not that of a single row."""
    holder = torch.randint(-3, 3, (1, 300), generator=rng).clamp_min(NOBODY)
    values, variances = [], []
    for _ in range(300):
        shared = torch.randn(1, 1, 300, generator=rng).double()
        scores = shared + 0.3 * torch.randn(1, 3, 300, generator=rng).double()
        scores += 0.5 * (holder[:, None] == torch.arange(3)[:, None])
        measured = measure_clients(scores, holder)["auc"]
        values.append(float(measured.values))
        variances.append(float(measured.influence.square().sum()))
    found = torch.tensor(values).var().item()
    # the standard error of a variance of 300 is 8%
    assert sum(variances) / 300 == pytest.approx(found, rel=0.25)


def test_an_interval_of_a_tail_is_no_narrower_than_that_of_independent_examples(scored):
    scores, holder = scored
    measured = measure_clients(scores, holder)["tpr_01pct"]
    estimate = estimate_tail("tpr_01pct", measured, scores, holder)
    inside = torch.cat(
        [scores[f, holder[f, e], e][None] for f in range(2) for e in range(400)
         if holder[f, e] != NOBODY and not scores[f, holder[f, e], e].isnan()]
    )  # fmt: skip
    outside = []
    for federation, clients in enumerate(([0, 1, 3], [0, 1, 2, 3])):
        others = (holder[federation] == NOBODY).nonzero().flatten().tolist()
        outside += [
            scores[federation, clients[place % len(clients)], e][None]
            for place, e in enumerate(others)
        ]
    low, high = tail_interval(inside, torch.cat(outside), 0.001)
    assert estimate.low <= low
    assert estimate.high >= high
    assert estimate.value == pytest.approx(measured.values.mean().item())


def test_clients_without_members_are_left_out_and_a_federation_needs_some(scored):
    scores, holder = scored
    with pytest.raises(ValueError, match="got a federation without either"):
        measure_clients(scores, torch.full_like(holder, NOBODY))
    holder = holder.where(holder != 3, NOBODY)
    known = measure_clients(scores, holder)["auc"].values
    fewer = measure_clients(scores[:, :3], holder)["auc"].values
    assert torch.equal(known, fewer)


def test_scores_of_classes_worked_by_hand():
    """Nobody holds examples 2 to 4; the mean of class 0 is 3, that of class 1 is 8."""
    scores = torch.tensor([[[9.0, 1.0, 2.0, 4.0, 8.0]]]).double()
    holder = torch.tensor([[0, 0, NOBODY, NOBODY, NOBODY]])
    labels = torch.tensor([0, 1, 0, 0, 1])
    assert score_classes(scores, holder, labels).flatten().tolist() == [3, 8, 3, 3, 8]


def test_classes_tell_where_clients_hold_different_ones_and_nothing_else_does(rng):
    """Clients k hold class k alone, and score its examples higher, whoever holds them."""
    labels = torch.arange(900) % 3
    nobody = torch.rand(1, 900, generator=rng) < 0.5
    scores = torch.randn(1, 3, 900, generator=rng).double()
    scores += 2 * (labels == torch.arange(3)[:, None])
    apart = labels.expand(1, -1).where(~nobody, NOBODY)
    # a third of the non-members is of the client's class, and ties; the others score lower
    found = measure_auc(score_classes(scores, apart, labels), apart).values.item()
    assert found == pytest.approx(5 / 6, abs=0.02)
    drawn = torch.randint(3, (1, 900), generator=rng).where(~nobody, NOBODY)
    # the standard error of three AUCs on 150 and 450 examples is 0.016
    found = measure_auc(score_classes(scores, drawn, labels), drawn).values.item()
    assert found == pytest.approx(0.5, abs=0.07)
