import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from continual.subnetwork import (
    distillation,
    distilled_loss,
    most_frequent,
    selection_entropy,
    share_on,
)


@pytest.mark.parametrize(
    ("counts", "units", "expected"),
    [
        ([3, 9, 1, 9, 4], 2, [1, 3]),
        ([3, 9, 1, 4, 9], 3, [1, 3, 4]),
        ([5, 5, 5, 5], 2, [0, 1]),
        ([0, 0, 7], 3, [0, 1, 2]),
        ([2, 7, 7, 7], 2, [1, 2]),
    ],
)
def test_the_most_frequent_worked_by_hand(counts, units, expected):
    assert most_frequent(torch.tensor(counts), units).tolist() == expected


def test_equal_counts_of_a_wide_layer_go_to_the_lower_index(rng):
    counts = torch.randint(0, 4, (1000,), generator=rng)
    order = sorted(range(1000), key=lambda i: (-int(counts[i]), i))
    assert most_frequent(counts, 300).tolist() == sorted(order[:300])


@pytest.mark.parametrize("temperature", [1.0, 8.0])
@pytest.mark.parametrize("forward", [True, False])
def test_distillation_matches_scipy(rng, temperature, forward):
    student = 5 * torch.randn(7, 6, generator=rng, dtype=torch.float64)
    teacher = 5 * torch.randn(7, 6, generator=rng, dtype=torch.float64)
    soft = [softmax(logits.numpy() / temperature, axis=1) for logits in (teacher, student)]
    first, second = soft if forward else soft[::-1]
    expected = temperature**2 * entropy(first, second, axis=1).mean()
    value = distillation(student, teacher, temperature, forward)
    assert value.item() == pytest.approx(expected, rel=1e-10)


def test_the_gradient_at_a_high_temperature_is_that_of_squared_logits(rng):
    """Hinton et al. 2015, section 2.1: (z - v) / n for logits of zero mean, because of T^2."""
    student = torch.randn(1, 5, generator=rng, dtype=torch.float64)
    teacher = torch.randn(1, 5, generator=rng, dtype=torch.float64)
    student -= student.mean()
    teacher -= teacher.mean()
    for forward in (True, False):
        leaf = student.clone().requires_grad_()
        distillation(leaf, teacher, 1e4, forward).backward()
        torch.testing.assert_close(leaf.grad, (student - teacher) / 5, rtol=1e-3, atol=1e-4)


def test_the_teacher_gets_no_gradient_and_equal_networks_none(rng):
    teacher = torch.randn(3, 4, generator=rng).requires_grad_()
    student = teacher.detach().clone().requires_grad_()
    distillation(student, teacher, 8.0).backward()
    assert teacher.grad is None
    torch.testing.assert_close(student.grad, torch.zeros(3, 4))


@pytest.mark.parametrize("forward", [True, False])
def test_a_single_unit_distils_nothing(rng, forward):
    student = torch.randn(5, 1, generator=rng).requires_grad_()
    loss = distillation(student, torch.randn(5, 1, generator=rng), 8.0, forward)
    loss.backward()
    assert loss.item() == 0
    assert not student.grad.any()


def test_the_loss_worked_by_hand():
    loss, hidden, logits = (torch.tensor(value) for value in (2.0, 10.0, 5.0))
    value = distilled_loss(loss, hidden, logits, 0.7, 0.1)
    assert value.item() == pytest.approx(0.7 * 2 + 0.3 * (0.1 * 10 + 0.9 * 5))


def test_shares_worked_by_hand():
    active = torch.tensor([[1.0, 3.0, 0.0, 4.0], [0.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]])
    assert share_on(active, torch.tensor([1, 2])).tolist() == [3 / 8, 0, 1]


def test_entropies_match_scipy():
    counts = torch.tensor([0, 10, 5, 1])
    expected = [entropy([count / 10, 1 - count / 10], base=2) for count in counts.tolist()]
    assert selection_entropy(counts, 10).tolist() == pytest.approx(expected)


def test_more_units_than_neurons_are_refused():
    with pytest.raises(ValueError, match=r"`units` must be 1 to 3, .* got 4"):
        most_frequent(torch.ones(3, dtype=torch.long), 4)
