"""Guesses from public correlations: what they learn from, and that members tell them nothing."""

import pytest
import torch

from attacks.federated.correlations import _divide, guess_by_correlations, guess_by_label

EXAMPLES = 300


@pytest.fixture
def made_up(rng):
    """Other features, labels, non-members, and an attribute that depends on both."""
    others = torch.randn(EXAMPLES, 3, generator=rng)
    others[:, 2] = 1  # constant
    labels = torch.randint(3, (EXAMPLES,), generator=rng)
    known = torch.rand(EXAMPLES, generator=rng) < 0.5
    truth = (labels + (others[:, 0] > 0)).clamp_max(2)
    return others, labels, known, truth


def test_nobody_is_guessed_by_a_rule_that_has_seen_it(made_up):
    known, seen = made_up[2], torch.zeros(EXAMPLES)
    for part, learned in _divide(known):
        assert known[learned].all()
        assert not set(part.tolist()) & set(learned.tolist())
        assert len(learned) >= int(0.79 * known.sum())
        seen[part] += 1
    assert (seen == 1).all()


def test_the_label_guess_is_that_of_counting(made_up):
    others, labels, known, truth = made_up
    guesses = guess_by_label(others, labels, known, truth)
    for part, learned in _divide(known):
        for example in part.tolist():
            alike = [truth[j].item() for j in learned.tolist() if labels[j] == labels[example]]
            counts = [alike.count(value) for value in range(3)]
            assert guesses[example] == counts.index(max(counts))


def test_correlations_are_learned(made_up):
    others, labels, known, truth = made_up
    right = guess_by_correlations(others, labels, known, truth) == truth
    assert right[known].double().mean() > 0.8
    assert right[~known].double().mean() > 0.8
    noise = torch.randint(3, (EXAMPLES,), generator=torch.Generator().manual_seed(5))
    right = guess_by_correlations(others, labels, known, noise) == noise
    assert right.double().mean() == pytest.approx(1 / 3, abs=0.1)


@pytest.mark.parametrize("guess", [guess_by_label, guess_by_correlations])
def test_the_members_own_values_are_never_used(made_up, guess):
    others, labels, known, truth = made_up
    hidden = torch.where(known, truth, 0)
    hidden[(~known).nonzero()[0]] = 2  # the number of values stays
    assert torch.equal(guess(others, labels, known, truth), guess(others, labels, known, hidden))


def test_an_attribute_of_one_value_among_non_members(made_up):
    others, labels, known, truth = made_up
    same = torch.where(known, 1, truth)
    assert (guess_by_correlations(others, labels, known, same) == 1).all()
