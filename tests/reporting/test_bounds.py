"""Audited lower bounds beside proven upper bounds; members that give themselves away are caught."""

import pytest
import torch

from attacks.evaluate import evaluate
from attacks.findings import Bounds, find_bounds
from attacks.game import Game, Proven, make_cases
from attacks.metrics.epsilon import EpsilonBound, epsilon_bound, one_run_epsilon
from attacks.strongest import Strongest
from reporting.bounds import show_bounds, warn

DELTA = 1e-4


def bounds(tested, one_run, proven):
    return Bounds(EpsilonBound(tested, 0.5, 0.25, 0.05, 80, 80), one_run, 16, proven)


VALUE = {
    "full": bounds(1.0, 0.5, Proven(4.0, DELTA)),
    "w8": bounds(0.25, 2.5, Proven(2.0, DELTA)),
    "w4": bounds(3.0, 0.0, Proven(None, DELTA, "calibrated on members, take `-heldout`")),
    "epoch-00": bounds(0.0, 0.0, Proven(0.0, DELTA)),
}


def test_the_table_has_proofs_and_ratios_by_hand():
    columns, rows, note = show_bounds(VALUE)
    assert columns[3:] == ("proven upper bound", "lower / upper")
    assert [row[3:] for row in rows] == [
        (("4.00", 4.0), ("0.25", 0.25)),
        (("2.00", 2.0), ("1.25", 1.25)),  # of the larger lower bound
        (("not proven: calibrated on members, take `-heldout`", None), ("-", None)),
        (("0.00", 0.0), ("-", None)),
    ]
    assert "with delta = 0.0001" in note
    assert "for one example more or less" in note


def test_the_table_of_ordinary_training_says_nothing_of_proofs():
    columns, rows, note = show_bounds({"full": bounds(1.0, 0.5, None)})
    assert columns == ("variant", "from TPR and FPR", "one-run audit")
    assert [cell.value for cell in rows[0]] == [None, 1.0, 0.5]
    assert "with delta = 0:" in note
    assert "proven" not in note.replace("0 proves nothing", "")


def test_only_a_lower_bound_above_a_proof_is_a_warning():
    assert warn(VALUE) == [
        "The audit of w8 found more than the proof allows: epsilon is at least 2.50 at 95% "
        "confidence, and at most 2.00 is proven (delta 0.0001). Either the training is not as "
        "private as it says, or the auditor is wrong, or it is chance: each lower bound by itself "
        "fails in up to 5% of audits."
    ]
    assert warn({"full": bounds(2.0, 1.0, Proven(2.0, DELTA))}) == []
    assert warn({"full": bounds(2.0, 1.0, None)}) == []


@pytest.fixture
def audited(observe):
    """Bounds on a game whose members' phi is higher by `leak` nats, and what proofs say of it."""

    def make(leak, epsilon, targets=4, examples=400):
        rng = torch.Generator().manual_seed(3)
        models = 4 + targets
        half = torch.rand(models, examples, generator=rng).argsort(1) < examples // 2
        members = torch.stack([half[0], ~half[0], half[1], ~half[1], *half[4:]])
        phi = torch.randn(models, 1, examples, generator=rng) + leak * members[:, None]
        proven = {} if epsilon is None else {"full": Proven(epsilon, DELTA)}
        game = Game({"full": observe(phi)}, members, make_cases(4, targets), proven=proven)
        best = Strongest(game)
        best.add(evaluate(game, "full", ["global_threshold"]))
        return find_bounds(game, best)["full"], best.variants["full"].tested

    return make


def test_members_that_give_themselves_away_are_caught(audited):
    """No mechanism of epsilon 1 lets scores part members from non-members."""
    found, _ = audited(leak=20.0, epsilon=1.0)
    assert found.tested.epsilon > 3
    assert found.one_run > 3
    assert len(warn({"full": found})) == 1


def test_scores_without_a_leak_are_not(audited):
    found, _ = audited(leak=0.0, epsilon=0.1)
    assert warn({"full": found}) == []


def test_lower_bounds_are_at_the_delta_of_the_proof(audited):
    with_proof, (scores, members) = audited(leak=1.5, epsilon=1.0)
    without, _ = audited(leak=1.5, epsilon=None)
    assert with_proof.tested == epsilon_bound(scores, members, DELTA)
    half = len(members) // 2
    guesses = with_proof.guesses // (len(members) - half)
    assert with_proof.one_run == one_run_epsilon(scores[half:], members[half:], guesses, DELTA)
    assert without.tested == epsilon_bound(scores, members)
    assert 0 < with_proof.one_run < without.one_run
    assert with_proof.tested.epsilon < without.tested.epsilon
    assert without.upper is None
