"""What is proven of each variant follows from the records of training, and from who saw data."""

import json

import pytest

from attacks.game import Proven
from storage.names import ModelName
from storage.privacy import is_trained, prove
from storage.run_folder import RunFolder

TARGETS = [ModelName("target", 0), ModelName("target", 1)]


@pytest.fixture
def run(tmp_path):
    """Two targets that took 100 and 90 steps, and a snapshot of fewer."""
    run = RunFolder(tmp_path / "private")
    for name, epsilon in zip(TARGETS, (2.5, 2.25), strict=True):
        run.model(name).mkdir(parents=True)
        for variant, share in (("full", 1), ("epoch-02", 0.5)):
            record = {"epsilon": share * epsilon, "delta": 1e-3, "steps": 100 * share}
            run.record(name, variant).write_text(json.dumps(record))
    return run


def test_a_state_of_training_has_the_largest_bound_of_its_models(run):
    assert prove(run, ["full", "epoch-02"], TARGETS) == {
        "full": Proven(2.5, 1e-3),
        "epoch-02": Proven(1.25, 1e-3),
    }
    assert prove(run, ["full"], TARGETS[1:]) == {"full": Proven(2.25, 1e-3)}


@pytest.mark.parametrize(
    ("variant", "seen"),
    [
        ("nearest-w2", None),
        ("nearest-w1.58-last8", None),
        ("obc-w2-heldout", None),
        ("adaround-w2-last8-heldout", None),
        ("adaround-w4", "members"),
        ("gptq-w2", "members"),
        ("nearest-w2-bn", "members"),
        ("brecq-w2-nonmembers", "non-members"),
    ],
)
def test_what_looked_at_no_image_of_the_pool_is_as_private_as_full(run, variant, seen):
    expected = Proven(2.5, 1e-3)
    if seen:
        expected = Proven(None, 1e-3, f"calibrated on {seen}, take `-heldout`")
    assert prove(run, ["full", variant], TARGETS)[variant] == expected


def test_without_a_record_nothing_is_proven(run):
    run.record(TARGETS[1], "full").unlink()
    lost = Proven(None, 1e-3, "target-001/full.json is missing")
    assert prove(run, ["full", "nearest-w2", "epoch-02"], TARGETS) == {
        "full": lost,
        "nearest-w2": lost,
        "epoch-02": Proven(1.25, 1e-3),
    }


def test_states_of_training_are_known_by_name():
    assert is_trained("full")
    assert is_trained("epoch-05")
    assert not is_trained("nearest-w2")
