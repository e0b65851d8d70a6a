"""What is proven of each variant follows from the records of training, and from who saw data."""

import json

import pytest
import torch
from torch import nn

from attacks.game import Proven
from quantization.calibration import Calibration
from quantization.quantize import quantize_network
from quantization.variant import Variant
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


def quantize(run, name, variant):
    """Quantize a small network, and write its record as a fit does."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    images, made = torch.randn(8, 1, 8, 8), Variant.parse(variant)
    drawn = Calibration(images, lambda _: images, torch.arange(8), made.calibration, 0)
    calibration = drawn if made.calibrates else None
    _, record = quantize_network(network.eval(), made, calibration)
    run.record(name, variant).write_text(json.dumps(record.as_json(calibration)))


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
    """By the records that quantization writes."""
    for name in TARGETS:
        quantize(run, name, variant)
    expected = Proven(2.5, 1e-3)
    if seen:
        expected = Proven(None, 1e-3, f"calibrated on {seen}, take `-heldout`")
    assert prove(run, ["full", variant], TARGETS)[variant] == expected


def test_without_a_record_nothing_is_proven(run):
    for name in TARGETS:
        quantize(run, name, "nearest-w2")
    run.record(TARGETS[1], "full").unlink()
    lost = Proven(None, 1e-3, "target-001/full.json is missing")
    assert prove(run, ["full", "nearest-w2", "epoch-02"], TARGETS) == {
        "full": lost,
        "nearest-w2": lost,
        "epoch-02": Proven(1.25, 1e-3),
    }


def test_what_is_not_known_to_have_looked_at_no_image_is_not_proven(run):
    quantize(run, TARGETS[0], "nearest-w2")
    lost = Proven(None, 1e-3, "target-001/nearest-w2.json is missing")
    assert prove(run, ["full", "nearest-w2"], TARGETS)["nearest-w2"] == lost


@pytest.mark.parametrize(
    ("calibration", "reason"),
    [(None, ""), ({"source": "members"}, "calibrated on members, take `-heldout`")],
)
def test_a_quantizer_of_the_users_own_is_not_imported(run, calibration, reason):
    """Its module is not there, as on the machine of who audits another's run folder."""
    for name in TARGETS:
        record = json.dumps({"calibration": calibration})
        run.record(name, "of_somebody.rounding-w2").write_text(record)
    proven = prove(run, ["full", "of_somebody.rounding-w2"], TARGETS)
    expected = Proven(None, 1e-3, reason) if reason else Proven(2.5, 1e-3)
    assert proven["of_somebody.rounding-w2"] == expected


def test_states_of_training_are_known_by_name():
    assert is_trained("full")
    assert is_trained("epoch-05")
    assert not is_trained("nearest-w2")
