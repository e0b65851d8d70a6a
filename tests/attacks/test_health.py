"""Models that failed, worked by hand."""

import pytest
import torch

from attacks.health import FEWEST_PEERS, failures, find_failures, unjudged


def fleet(accuracies, examples=1000):
    """Make models that classify this share of their members correctly, and no non-member."""
    models = len(accuracies)
    members = (torch.arange(models)[:, None] + torch.arange(examples)) % 2 == 0
    correct = torch.zeros(models, 2, examples, dtype=torch.bool)
    for model, accuracy in enumerate(accuracies):
        own = members[model].nonzero().flatten()
        correct[model, 0, own[: round(accuracy * len(own))]] = True
    return torch.zeros(models, 2, examples), correct, members


@pytest.fixture
def few_peers(monkeypatch):
    """Judge by few peers, so that a fleet can be worked by hand."""
    monkeypatch.setattr("attacks.health.FEWEST_PEERS", 1)


def test_no_model_of_a_healthy_fleet_is_named():
    assert failures(*fleet([0.99, 0.998, 1.0, 0.996, 0.95])) == {}
    assert failures(*fleet([0.1])) == {}  # without peers


def test_models_with_non_finite_signals_are_named():
    phi, correct, members = fleet([0.99, 0.998, 1.0, 0.996])
    phi[1, 0, :12] = torch.nan
    phi[3, 1, 7] = -torch.inf
    assert failures(phi, correct, members) == {
        1: "12 of 2000 signals are not finite",
        3: "1 of 2000 signals are not finite",
    }


@pytest.mark.parametrize("models", [1, 2, 3, FEWEST_PEERS, FEWEST_PEERS + 1])
def test_too_few_peers_prove_nothing(models):
    found = failures(*(signals := fleet([0.1] + [1.0] * (models - 1))))
    enough = models == FEWEST_PEERS + 1
    assert list(found) == [0] * enough
    assert unjudged(signals[0]) == (
        []
        if enough
        else [
            "Training accuracy was not judged, so a model that diverged with finite signals is not "
            f"noticed: that takes 8 other models to compare with, got {models - 1}."
        ]
    )


def test_models_without_finite_signals_are_no_peers_that_count():
    phi, correct, members = fleet([0.1] + [1.0] * FEWEST_PEERS)
    assert list(failures(phi, correct, members)) == [0]
    phi[3, 1, 2] = torch.nan
    assert list(failures(phi, correct, members)) == [3]
    assert f"got {FEWEST_PEERS - 1}." in unjudged(phi)[0]


def test_a_healthy_fleet_of_the_fewest_peers_is_seldom_accused(rng):
    """The share in the comment beside the constant, 0.5% of the models, in 200 fleets."""
    accuracies = (0.6 + 0.15 * torch.randn(200, FEWEST_PEERS + 1, generator=rng)).clamp(0, 1)
    accused = sum(len(failures(*fleet(row.tolist(), 200))) for row in accuracies)
    assert accused <= 0.01 * accuracies.numel()  # 9 are expected


@pytest.mark.usefixtures("few_peers")
def test_models_with_training_accuracy_far_below_their_peers_are_named():
    expected = {2: "training accuracy 0.112, its peers' median 0.998"}
    assert failures(*fleet([0.998, 0.998, 0.112, 1.0, 0.99])) == expected
    assert list(failures(*fleet([0.2, 1.0]))) == [0]
    assert list(failures(*fleet([1.0, 0.2, 1.0, 0.2]))) == [1, 3]


@pytest.mark.usefixtures("few_peers")
def test_far_below_is_6_robust_deviations_and_at_least_a_tenth():
    """Peers .80 to .88: median .84, MAD .02, so the limit is .84 - 6 x 1.4826 x .02 = .662."""
    peers = [0.80, 0.82, 0.84, 0.86, 0.88]
    assert failures(*fleet([*peers, 0.67])) == {}
    assert list(failures(*fleet([*peers, 0.65]))) == [5]
    assert failures(*fleet([0.9] * 5 + [0.81])) == {}  # peers agree, yet 0.09 is not far
    assert list(failures(*fleet([0.9] * 5 + [0.79]))) == [5]


@pytest.mark.usefixtures("few_peers")
def test_a_model_with_non_finite_signals_is_no_peer():
    phi, correct, members = fleet([0.1, 0.1, 0.1, 0.99, 0.98])
    phi[:3] = torch.nan
    assert list(failures(phi, correct, members)) == [0, 1, 2]


def test_only_members_under_the_identity_view_count():
    phi, correct, members = fleet([1.0, 1.0, 1.0])
    correct[0, 1] = False
    correct[1] |= ~members[1]
    assert failures(phi, correct, members) == {}


@pytest.mark.usefixtures("few_peers")
def test_a_model_that_only_quantization_broke_is_named_too():
    phi, correct, members = fleet([0.99, 0.2, 1.0, 0.98])
    broken = phi.clone()
    broken[3, 0, 1] = torch.nan
    assert find_failures({"full": phi, "nearest-w2": broken}, correct, members) == {
        1: "training accuracy 0.200, its peers' median 0.990",
        3: "signals of nearest-w2 are not finite",
    }
