"""What another experiment's shadows find, on signals whose answers are worked out by hand."""

from math import atan, pi

import pytest
import torch

from attacks.cases import make_cases
from attacks.evaluate import evaluate
from attacks.game import OTHER, Game, ModelSignals
from attacks.other_shadows import find_other_shadows
from attacks.strongest import Strongest

# Confidence that each example has without training on it: four are easy, four are hard
DIFFICULTY = torch.tensor([2.0, 2, -2, -2, 2, 2, -2, -2])
# Targets: one trained on as many easy as hard examples, one on three easy ones and a hard one
TARGETS = torch.tensor([[1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 1, 0, 0, 0]]).bool()
HALF = torch.tensor([1, 0, 1, 0, 1, 0, 1, 0]).bool()
OTHER_HALF = torch.tensor([1, 1, 0, 0, 0, 0, 1, 1]).bool()
SHADOWS = torch.stack([HALF, ~HALF, OTHER_HALF, ~OTHER_HALF])


def signals(phi):
    return ModelSignals(phi[:, None], phi[:, None])


@pytest.fixture(scope="module")
def found():
    """The finding with attack R, which ranks a target's confidence among that of its out shadows.

    Members are 1 above their difficulty and others 1 below it. Matched shadows are at it, so that
    every member is above both of its out shadows and every other example below them: AUC 1. Those
    of the other experiment are at 0 on every example, and rank by the target's confidence alone.
    """
    members = torch.cat([SHADOWS, TARGETS])
    phi = DIFFICULTY.expand(6, -1) + torch.cat([torch.zeros(4, 8), 2.0 * TARGETS - 1])
    full, lent = signals(phi), signals(torch.zeros(4, 8))
    game = Game(
        {"full": full, "w2": full, "w4": full},
        members,
        make_cases(4, 2),
        others={f"{OTHER}full": lent, f"{OTHER}w2": lent},
    )
    best = Strongest(game)
    for variant in game.variants:
        best.add(evaluate(game, variant, ["attack_r"]))
    return find_other_shadows(game, best)


def test_the_gain_is_what_matched_shadows_find_beyond_the_others(found):
    """By hand, of the 16 pairs of a member and another example.

    First target: members at 3, 3, -1 and -1 win 4, 4, 2 and 2 pairs with others at 1, 1, -3 and -3.
    Second: members at 3, 3, 3 and -1 win 4, 4, 4 and 3 with others at 1, -3, -3 and -3.
    """
    both = found["auc"]["full"]
    assert both.matched.value == 1
    assert both.other.value == pytest.approx((12 / 16 + 15 / 16) / 2)
    assert both.gain.estimate.value == pytest.approx((4 / 16 + 1 / 16) / 2)


def test_the_gain_is_tested_over_the_targets(found):
    """Student's t of 2 targets, whose density is Cauchy's: t = (5/32) / (3/32).

    Each half of the shadows finds the same, so that their draw adds nothing.
    """
    gain = found["auc"]["full"].gain
    assert gain.p == pytest.approx(1 - 2 * atan(5 / 3) / pi)
    assert gain.estimate[1:3] == (-1, 1)  # 12.7 standard errors go beyond what an AUC can differ
    assert gain.second == "full, another experiment's shadows"


def test_variants_that_the_others_do_not_attack_are_left_out(found):
    """And p is corrected over both variants and both metrics."""
    assert all(list(by_variant) == ["full", "w2"] for by_variant in found.values())
    gains = [own.gain for by_variant in found.values() for own in by_variant.values()]
    assert len(gains) == 4
    assert found["auc"]["full"].gain.p_holm >= found["auc"]["full"].gain.p
