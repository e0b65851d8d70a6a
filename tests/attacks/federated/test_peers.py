"""Peers: a slow loop, a value worked by hand, and the misalignment of published code."""

import math

import pytest
import torch

from attacks.federated import ATTACKS
from attacks.federated.measures import measure_clients
from attacks.federated.peers import contrast, fedmia, standardise
from attacks.federated.view import mean_over_rounds
from attacks.metrics.intervals import tail_interval
from attacks.rounds import NOBODY

ROUNDS, CLIENTS, EXAMPLES = 3, 6, 7


@pytest.fixture
def signal(rng):
    """Large values with small spreads; clients miss rounds, and one takes part in none."""
    signal = 80 + 3 * torch.randn(ROUNDS, 1, EXAMPLES, generator=rng).double()
    signal = signal + 0.01 * torch.randn(ROUNDS, CLIENTS, EXAMPLES, generator=rng).double()
    signal[0, 2] = signal[1, 0] = torch.nan
    signal[:, 5] = torch.nan
    signal[2, :, 3] = 4.0  # all tie
    return signal


def others_of(signal, round_, client, example):
    column = signal[round_, :, example].tolist()
    return [v for j, v in enumerate(column) if j != client and not math.isnan(v)]


def test_contrast_and_fedmia_are_those_of_a_slow_loop(signal):
    differences, scores = contrast(signal), fedmia(signal)
    for client in range(CLIENTS):
        for example in range(EXAMPLES):
            ranks = []
            for round_ in range(ROUNDS):
                own = signal[round_, client, example].item()
                found = differences[round_, client, example].item()
                if math.isnan(own):
                    assert math.isnan(found)
                    continue
                others = others_of(signal, round_, client, example)
                mean = sum(others) / len(others)
                variance = sum((v - mean) ** 2 for v in others) / len(others)
                assert found == pytest.approx(own - mean, abs=1e-12)
                z = (own - mean) / math.sqrt(variance + 1e-8)
                ranks.append(0.5 * math.erfc(-z / math.sqrt(2)))
            if not ranks:
                assert math.isnan(scores[client, example])
            else:
                expected = sum(ranks) / len(ranks)
                # of variances, 80^2 leaves about 1e-12 in float64 where the mean is not taken first
                assert scores[client, example].item() == pytest.approx(expected, abs=1e-9)


def test_a_value_worked_by_hand():
    """Peers at 0 and 2: mean 1, variance 1, so that 3 stands 2 standard deviations above."""
    signal = torch.tensor([[[3.0], [0.0], [2.0]]]).double()
    assert contrast(signal)[0, 0, 0].item() == 2.0
    assert fedmia(signal)[0].item() == pytest.approx(0.9772498, abs=1e-6)


def test_standardised_signals_do_not_depend_on_their_scale(signal):
    scaled = standardise(0.2 * signal)
    known = ~scaled.isnan()
    assert torch.allclose(scaled[known], standardise(signal)[known], atol=1e-9)
    assert scaled.square().nanmean((1, 2)) == pytest.approx(1, abs=1e-9)


def test_a_round_with_a_single_client_is_refused(signal):
    signal[1, 1:] = torch.nan
    signal[1, 0] = 1.0
    with pytest.raises(ValueError, match=r"got a round with 1 client\. Train with more clients"):
        contrast(signal)


def scores_of(draw_rounds, permute, reduce):
    """Scores of federations without a leak, where each round permutes examples as asked."""
    rounds = draw_rounds(federations=4, clients=10, examples=4000, rounds=10, common=0)
    generator = torch.Generator().manual_seed(1)
    found = []
    for own, holder in zip(rounds.uploads["cosine"].double(), rounds.holder, strict=True):
        outside = (holder == NOBODY).nonzero().flatten()
        series = own.clone()
        if permute:  # the published code draws non-members anew in every round
            for round_ in series:
                drawn = outside[torch.randperm(len(outside), generator=generator)]
                round_[:, outside] = round_[:, drawn]
        found.append(reduce(series))
    return torch.stack(found), rounds.holder


@pytest.mark.parametrize("reduce", [mean_over_rounds, fedmia], ids=["mean", "fedmia"])
def test_records_are_aligned_or_nothing_looks_like_a_leak(draw_rounds, reduce):
    """Aligned, TPR is FPR; the misalignment of FedMIA's published code is caught by the same limit.

    Members keep their order there and non-members do not, so that averages of what lasts spread
    further for members.
    """
    at_level = {}
    for permute in (False, True):
        scores, holder = scores_of(draw_rounds, permute, reduce)
        held = holder[:, None] == torch.arange(10)[:, None]
        outside = (holder == NOBODY)[:, None].expand_as(held)
        # every non-member once, as clients' scores of an example are correlated
        once = outside & (torch.arange(4000) % 10 == torch.arange(10)[:, None])
        low, _ = tail_interval(scores[held], scores[once], 0.01, 0.999)
        at_level[permute] = low <= 0.01
        rate = measure_clients(scores, holder)["tpr_1pct"].values.mean().item()
        assert (rate < 0.02) is not permute
    assert at_level == {False: True, True: False}


def test_every_attack_that_uses_peers_says_so():
    assert {name for name, attack in ATTACKS.items() if attack.uses_peers} == {
        *("contrast_phi", "contrast_gradient", "contrast_cosine", "fedmia_loss", "fedmia_cosine"),
        *("lda_standardised", "lda_contrast"),
    }
