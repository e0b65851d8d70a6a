"""Where members stand among shadows, against a loop over examples and signals worked by hand."""

import numpy as np
import pytest
import torch

from attacks.game import Case, Observed, make_cases
from attacks.z_scores import BINS, stand, stand_all


def by_hand(targets, shadows, members, cases):
    """z of every audited model, example by example: members, others."""
    found = {True: [], False: []}
    for target, rows in cases:
        outs = [[s for s in rows if not members[s, e]] for e in range(members.shape[1])]
        means = [np.mean([shadows[s, e] for s in out]) for e, out in enumerate(outs)]
        squares = [(shadows[s, e] - means[e]) ** 2 for e, out in enumerate(outs) for s in out]
        spread = np.mean(squares) ** 0.5
        for e, mean in enumerate(means):
            found[bool(members[target, e])].append((targets[target, e] - mean) / spread)
    return found[True], found[False]


@pytest.mark.parametrize("targets", [0, 3], ids=["leave-one-out", "targets"])
def test_every_example_is_measured_by_the_shadows_without_it(synthetic_fleet, observe, targets):
    phi, members = synthetic_fleet(shadows=8, targets=targets, examples=40)
    quantized = 0.5 * phi - 1
    cases = make_cases(8, targets)
    found = stand(observe(quantized), observe(phi), members, cases)
    wanted = by_hand(quantized[:, 0].double().numpy(), phi[:, 0].double().numpy(), members, cases)
    for density, z in zip((found.members, found.others), wanted, strict=True):
        assert density.mean == pytest.approx(np.mean(z), abs=1e-5)
        assert density.std == pytest.approx(np.std(z), abs=1e-5)
        heights, _ = np.histogram(z, found.edges)
        widths = np.diff(found.edges)
        np.testing.assert_allclose(density.heights, heights / len(z) / widths, atol=2e-2)


def test_shadows_are_measured_by_themselves():
    """Two shadows a side, at 0 and 2 without the example, at 5 and 7 with it: spread 1 about 1."""
    members = torch.tensor([[1], [1], [0], [0], [1]], dtype=torch.bool)
    phi = torch.tensor([5.0, 7.0, 0.0, 2.0, 4.0])[:, None, None]
    edges, inside, others, shadows_in, shadows_out = stand(
        Observed(phi), Observed(phi), members, [Case(4, [0, 1, 2, 3])]
    )
    assert inside[:2] == (3, 0)  # (4 - 1) / 1
    assert np.isnan(others.mean)  # of none
    assert shadows_in[:2] == (5, 1)
    assert shadows_out[:2] == (0, 1)
    assert len(edges) == BINS + 1
    assert (edges[0], edges[-1]) == (-1, 6)


def test_matched_shadows_expect_what_there_is(synthetic_fleet, observe):
    """A shift of all signals moves others off the full-precision shadows, not off matched ones."""
    phi, members = synthetic_fleet(shadows=32, targets=4, examples=400)
    seen = {"full": observe(phi), "nearest-w2": observe(phi, lambda x: x - 3)}
    found = stand_all(seen, members, make_cases(32, 4))
    assert found["full"].keys() == {"matched"}
    matched, full = (found["nearest-w2"][kind] for kind in ("matched", "full"))
    assert matched.others.mean == pytest.approx(matched.shadows_out.mean, abs=0.1)
    assert full.shadows_out[:2] == found["full"]["matched"].shadows_out[:2]
    spread = (full.others.mean - matched.others.mean) / -3
    assert spread > 0
    assert full.members.mean - matched.members.mean == pytest.approx(-3 * spread, abs=1e-4)


def test_shadows_that_are_all_alike():
    members = torch.tensor([[1, 0], [0, 1]] * 3, dtype=torch.bool)
    found = stand(
        Observed(torch.ones(6, 1, 2)),
        Observed(torch.ones(6, 1, 2)),
        members,
        [Case(5, [0, 1, 2, 3])],
    )
    assert found.members[:2] == found.others[:2] == (0, 0)
