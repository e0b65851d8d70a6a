import pytest
import torch

from continual.leave_one_out import leverages
from continual.ridge import start_ridge, update_ridge
from continual.state_exposure import as_float16, as_int8, inverse_of, share_outside

GAMMA = 0.1


@pytest.fixture
def states(rows):
    """R before the first task, and after each."""
    ridge = start_ridge(150, GAMMA)
    states = [ridge.inverse]
    for task in range(5):
        chosen = rows.members & (rows.task == task)
        ridge = update_ridge(ridge, rows.features[chosen], rows.targets[chosen])
        states.append(ridge.inverse)
    return states


@pytest.mark.parametrize("task", [0, 2, 4])
def test_only_a_tasks_members_lie_in_what_it_added(rows, states, task):
    members = rows.members & (rows.task == task)
    count = int(members.sum())
    assert count < 150
    shares = share_outside(states[task], states[task + 1], rows.features, count)
    assert shares[members].max() < 1e-12
    assert shares[~members].min() > 1e-5
    span = torch.linalg.svd(rows.features[members], full_matrices=False).Vh
    outside = rows.features - rows.features @ span.T @ span
    expected = outside.square().sum(1) / rows.features.square().sum(1)
    torch.testing.assert_close(shares, expected, rtol=1e-4, atol=1e-12)


def test_a_task_with_as_many_rows_as_columns_hides_them(rows):
    before = start_ridge(150, GAMMA)
    after = update_ridge(before, rows.features, rows.targets)
    shares = share_outside(before.inverse, after.inverse, rows.features, 500)
    assert shares.tolist() == [0] * 500


def test_a_row_of_zeros_lies_in_every_range(states):
    nothing = torch.zeros(1, 150, dtype=torch.float64)
    assert share_outside(states[0], states[1], nothing, 50).tolist() == [0]


def test_members_have_smaller_leverages_even_in_few_bits(rows, states):
    first = rows.task == 0
    inside, outside = first & rows.members, first & ~rows.members
    for rounded in (states[1], as_float16(states[1]), as_int8(states[1])):
        leverage = leverages(rounded, rows.features)
        auc = (leverage[inside][:, None] < leverage[outside][None]).double().mean()
        assert auc > 0.8


def test_float16_keeps_three_digits_and_stays_finite():
    matrix = torch.tensor([[1e6, -1.0006], [-1.0006, 2.0]], dtype=torch.float64)
    assert as_float16(matrix).tolist() == [[65504, -1.0009765625], [-1.0009765625, 2.0]]


def test_int8_rounds_each_row_to_a_127th_of_its_largest():
    matrix = torch.tensor([[127.0, 2.4], [0.1, -0.5]], dtype=torch.float64)
    expected = [[127, 2], [0.5 / 127 * 25, -0.5]]
    torch.testing.assert_close(as_int8(matrix), torch.tensor(expected, dtype=torch.float64))


def test_the_inverse_is_that_of_lapack(states):
    torch.testing.assert_close(inverse_of(states[2]), torch.linalg.inv(states[2]))
