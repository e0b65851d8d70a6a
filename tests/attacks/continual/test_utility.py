"""Accuracy by task and stage, worked by hand."""

import math

import pytest
import torch

from attacks.continual.utility import sum_up

# two targets, two tasks; task 2 is not learned in stage 1, and does not count there
ACCURACY = torch.tensor([[[0.9, 0.0], [0.7, 0.8]], [[1.0, 0.3], [0.6, 0.6]]])


def test_figures_worked_by_hand():
    """Task 1 has three classes, task 2 has one."""
    utility = sum_up(ACCURACY, [[0, 1, 2], [3]])
    assert [[e.value for e in row] for row in utility.matrix] == [
        [pytest.approx(0.95)],
        [pytest.approx(0.65), pytest.approx(0.7)],
    ]
    last = (0.75 * 0.7 + 0.25 * 0.8 + 0.75 * 0.6 + 0.25 * 0.6) / 2
    assert utility.last.value == pytest.approx(last)
    assert utility.average.value == pytest.approx((0.95 + last) / 2)
    assert utility.backward.value == pytest.approx(-0.3)
    # Student's t with one degree of freedom: -0.2 and -0.4
    assert utility.backward.high == pytest.approx(-0.3 + 12.7062 * 0.1, abs=1e-4)
    assert utility.backward.low == -1
    assert utility.last.high == 1


def test_a_single_task_forgets_nothing_and_a_single_target_has_no_interval():
    utility = sum_up(ACCURACY[:1, :1, :1], [[0, 1, 2]])
    assert utility.backward is None
    assert utility.last.value == pytest.approx(0.9)
    assert math.isnan(utility.last.low)
