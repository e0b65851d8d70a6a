"""Audited lower bounds beside proven upper bounds; members that give themselves away are caught."""

import math

import pytest
import torch

from attacks.bounds import Bounds, find_bounds
from attacks.cases import make_cases
from attacks.evaluate import evaluate
from attacks.game import Game, Proven
from attacks.metrics.epsilon import EpsilonBound, epsilon_bound, one_run_epsilon
from attacks.strongest import Strongest
from reporting.bounds import compare_with_proofs, read_bounds, show_bounds, warn
from reporting.results import plain

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


def test_the_note_says_which_proofs_this_audit_could_refute():
    """By hand: Clopper and Pearson leave 1 - 0.025^(1/80) where 0 of 80 were missed."""
    missed = 0.025 ** (1 / 80)
    reach = math.log((missed - DELTA) / (1 - missed))
    value = VALUE | {"w3": bounds(1.0, 0.0, Proven(32.7, DELTA))}
    value["w2"] = value["w3"]
    text = compare_with_proofs(value)
    assert text == (
        "The largest lower bound that a perfect attack could reach in this audit (delta 0.0001) is "
        f"{reach:.2f}: all of 80 members found, none of 80 non-members accused. The audited lower "
        "bound of w8 exceeds the proven upper bound: the training is not as private as it says, or "
        "the auditor is wrong, or it is chance. The proven bounds of full, w3 and w2 (4.00 to "
        "32.70) are not below that, and cannot be refuted by this audit: that the audited bound is "
        "smaller proves nothing. The proven bound of epoch-00 (0.00) is below that, and not "
        "refuted: the audited bound is at most 0.00 of the proven one."
    )
    assert reach < 4
    assert show_bounds(value).note.endswith(text)


def test_a_proof_below_what_the_audit_can_find_is_compared():
    text = compare_with_proofs({"full": bounds(1.0, 0.5, Proven(3.0, DELTA))})
    assert text.endswith(
        "The proven bound of full (3.00) is below that, and not refuted: the audited bound is at "
        "most 0.33 of the proven one."
    )
    assert compare_with_proofs({"full": bounds(1.0, 0.5, None)}) == ""


def test_bounds_are_read_as_they_were_written():
    """JSON has no infinite threshold, which accuses nobody."""
    nobody = VALUE["full"].tested._replace(threshold=math.inf)
    value = VALUE | {"full": VALUE["full"]._replace(tested=nobody), "w3": bounds(1.0, 0.5, None)}
    assert read_bounds(plain(value)) == value


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
