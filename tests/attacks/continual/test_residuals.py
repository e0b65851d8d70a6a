"""Attacks on output vectors, against losses of torch and a slow loop."""

import torch
from torch.nn.functional import cross_entropy

from attacks.continual.residuals import loss, residual_lira
from attacks.continual.vector_fit import fit_vectors


def test_a_ridge_heads_loss_is_its_squared_error(learners, cell_of):
    cell = cell_of(learners, 1, 2)
    outputs = learners.tasks.stages[2].outputs[8][learners.tasks.task == 1]
    expected = -(cell.truth - outputs).double().square().sum(1)
    torch.testing.assert_close(loss(cell)[0], expected)


def test_any_other_networks_loss_is_its_cross_entropy(learners, cell_of):
    cell = cell_of(learners, 1, 2)._replace(leverage={})
    outputs = learners.tasks.stages[2].outputs[8][learners.tasks.task == 1]
    expected = -cross_entropy(outputs.double(), cell.labels, reduction="none")
    torch.testing.assert_close(loss(cell)[0], expected, atol=1e-6, rtol=0)


def test_each_target_is_compared_with_its_own_shadows(learners, cell_of):
    """Two targets with other shadows, by columns of all classes and by the task's own."""
    cell = cell_of(learners, 0, 2)
    first, second = cell.cases
    cell = cell._replace(cases=[first, second._replace(shadows=[0, 1, 2, 3, 4, 5])])
    for own_columns, columns in ((False, slice(0, 10)), (True, slice(0, 4))):
        found = residual_lira(cell, own_columns)
        for row, case in enumerate(cell.cases):
            shadows, inside = cell.residuals[case.shadows][..., columns], cell.members[case.shadows]
            target = cell.residuals[case.target][..., columns]
            sides = (fit_vectors(shadows, side, cell.labels) for side in (inside, ~inside))
            density_in, density_out = (side.log_density(target) for side in sides)
            torch.testing.assert_close(found[row], density_in - density_out)
