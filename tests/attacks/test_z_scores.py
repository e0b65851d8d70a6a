"""Z-scores of members and non-members, against a loop over examples and by hand."""

import numpy as np
import pytest
import torch

from attacks.cases import Case, make_cases
from attacks.game import Game, ModelSignals
from attacks.z_scores import BINS, z_scores

W2 = "nearest-w2"


def by_hand(targets, shadows, members, cases):
    """z of every audited model, example by example: members, non-members."""
    z = {True: [], False: []}
    for target, rows in cases:
        outs = [[s for s in rows if not members[s, e]] for e in range(members.shape[1])]
        means = [np.mean([shadows[s, e] for s in out]) for e, out in enumerate(outs)]
        squares = [(shadows[s, e] - means[e]) ** 2 for e, out in enumerate(outs) for s in out]
        spread = np.mean(squares) ** 0.5
        for e, mean in enumerate(means):
            z[bool(members[target, e])].append((targets[target, e] - mean) / spread)
    return z[True], z[False]


@pytest.mark.parametrize("targets", [0, 3], ids=["leave-one-out", "targets"])
def test_every_example_is_measured_by_the_shadows_without_it(synthetic_fleet, observe, targets):
    phi, members = synthetic_fleet(shadows=8, targets=targets, examples=40)
    quantized = 0.5 * phi - 1
    cases = make_cases(8, targets)
    signals = {"full": observe(phi), W2: observe(quantized)}
    scores = z_scores(Game(signals, members, cases))[W2]["unquantized"]
    wanted = by_hand(quantized[:, 0].double().numpy(), phi[:, 0].double().numpy(), members, cases)
    for density, z in zip((scores.members, scores.non_members), wanted, strict=True):
        assert density.mean == pytest.approx(np.mean(z), abs=1e-5)
        assert density.std == pytest.approx(np.std(z), abs=1e-5)
        heights, _ = np.histogram(z, scores.edges)
        widths = np.diff(scores.edges)
        np.testing.assert_allclose(density.heights, heights / len(z) / widths, atol=2e-2)


def test_shadows_are_measured_by_themselves():
    """Shadows at 0 and 2 without the example, at 5 and 7 with it: mean 1 and spread 1."""
    members = torch.tensor([[1], [1], [0], [0], [1]], dtype=torch.bool)
    phi = torch.tensor([5.0, 7.0, 0.0, 2.0, 4.0])[:, None, None]
    game = Game({"full": ModelSignals(phi)}, members, [Case(4, [0, 1, 2, 3])])
    edges, inside, outside, shadows_in, shadows_out = z_scores(game)["full"]["matched"]
    assert inside[:2] == (3, 0)  # (4 - 1) / 1
    assert np.isnan(outside.mean)  # no example of that kind
    assert shadows_in[:2] == (5, 1)
    assert shadows_out[:2] == (0, 1)
    assert len(edges) == BINS + 1
    assert (edges[0], edges[-1]) == (-1, 6)


def test_matched_shadows_expect_what_the_targets_show(synthetic_fleet, observe):
    """A shift of all signals is a mismatch with full-precision shadows only."""
    phi, members = synthetic_fleet(shadows=32, targets=4, examples=400)
    signals = {"full": observe(phi), W2: observe(phi, lambda x: x - 3)}
    scores = z_scores(Game(signals, members, make_cases(32, 4)))
    assert scores["full"].keys() == {"matched"}
    matched, unquantized = (scores[W2][kind] for kind in ("matched", "unquantized"))
    assert matched.non_members.mean == pytest.approx(matched.shadows_out.mean, abs=0.1)
    assert unquantized.shadows_out[:2] == scores["full"]["matched"].shadows_out[:2]
    spread = (unquantized.non_members.mean - matched.non_members.mean) / -3
    assert spread > 0
    assert unquantized.members.mean - matched.members.mean == pytest.approx(-3 * spread, abs=1e-4)
    # 100 examples of the population locate each target's non-members to 0.1: 4 targets to 0.05
    recalibrated = scores[W2]["recalibrated"]
    assert recalibrated.shadows_out[:2] == unquantized.shadows_out[:2]
    assert recalibrated.non_members.mean == pytest.approx(matched.non_members.mean, abs=0.15)
    assert recalibrated.members.mean == pytest.approx(matched.members.mean, abs=0.15)


def test_shadows_that_are_all_alike():
    members = torch.tensor([[1, 0], [0, 1]] * 3, dtype=torch.bool)
    game = Game({"full": ModelSignals(torch.ones(6, 1, 2))}, members, [Case(5, [0, 1, 2, 3])])
    scores = z_scores(game)["full"]["matched"]
    assert scores.members[:2] == scores.non_members[:2] == (0, 0)
