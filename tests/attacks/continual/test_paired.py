"""Closed forms of leaving out and adding an example, against solving again."""

import pytest
import torch
from torch.nn.functional import one_hot

from attacks.continual.paired import shadows_paired, worlds_paired
from attacks.continual.pairs import Heads, pair
from attacks.continual.vector_fit import fit_vectors
from benchmarks.synthetic_heads import Options, make_features, solve

CLASSES = [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


@pytest.mark.parametrize("gamma", [0.1, 1e-6])
def test_each_head_gives_what_solving_again_gives(rng, gamma):
    """After both stages, of members and of non-members, whichever task they are of."""
    data = make_features(Options(pool=80, width=40))
    inside = torch.rand(80, generator=rng) < 0.5
    truth = one_hot(data.labels, 10).double()

    def residual(members):
        return truth - data.pool @ solve(data, members, CLASSES, gamma)[1].weight

    inverse = solve(data, inside, CLASSES, gamma)[1].inverse
    leverage = (data.pool @ inverse * data.pool).sum(1)
    pairs = pair(Heads(residual(inside)[None], leverage[None], inside[None]))
    for example in range(0, 80, 7):
        for side, found in zip((True, False), pairs, strict=True):
            members = inside.clone()
            members[example] = side
            expected = residual(members)[example]
            torch.testing.assert_close(found[0, example], expected, rtol=1e-6, atol=1e-8)


def test_a_member_of_leverage_one_has_a_finite_pair():
    heads = Heads(torch.ones(1, 2, 3), torch.tensor([[1.0 + 1e-9, -1e-9]]), torch.ones(1, 2).bool())
    assert all(side.isfinite().all() for side in pair(heads))


def test_scores_are_those_of_the_pairs_densities(learners, cell_of):
    cell = cell_of(learners, 0, 2)
    found, everyone = shadows_paired(cell), torch.ones(8, len(cell.labels)).bool()
    pairs = pair(Heads(cell.residuals[:8], cell.leverage["float64"][:8], cell.members[:8]))
    inside, outside = (fit_vectors(side, everyone, cell.labels) for side in pairs)
    target = cell.residuals[9]
    expected = inside.log_density(target) - outside.log_density(target)
    torch.testing.assert_close(found[1], expected)
    # a target's own heads are asked about it, and no other's
    alone = worlds_paired(cell._replace(cases=cell.cases[1:]))
    torch.testing.assert_close(worlds_paired(cell)[1], alone[0])
    assert not torch.allclose(worlds_paired(cell)[1], expected)
