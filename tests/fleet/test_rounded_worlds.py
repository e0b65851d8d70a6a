"""A fleet whose heads are rounded with and without each example, from the command line."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import audit
import train
from datamodules.digits import Digits
from reporting.results_json import read_results
from storage.names import fleet_names
from storage.run_folder import RunFolder
from storage.variant_outputs import SIDES, SavedWorlds, recorded_outputs

WORLDS = "[nearest-w2,obc-w4]"
LEARNER = (
    "--fleet.shadows 4 --fleet.targets 2 --snapshots --quantize nearest-w2 obc-w4 brecq-w4 "
    "--trainer.max_epochs 2 --continual.tasks 2 --continual.learner acil "
    "--continual.analytic.buffer 20 --continual.analytic.gamma 1 --continual.analytic.worlds 2 "
    f"--continual.analytic.quantized_worlds {WORLDS}"
)
NAMES = fleet_names(4, 2)


@pytest.fixture(scope="module")
def learned(toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "rounded"
    train.main(toy(folder, LEARNER))
    return folder


@pytest.fixture
def copied(learned, tmp_path):
    return Path(shutil.copytree(learned, tmp_path / "copied"))


@pytest.mark.fleet
def test_audited_models_leave_both_sides_of_what_was_asked_for(learned):
    run = RunFolder(learned)
    for name in NAMES:
        for variant in ("full", "nearest-w2", "obc-w4", "brecq-w4"):
            signals = load_file(run.signals(name, variant))
            asked = name.role == "target" and variant in ("nearest-w2", "obc-w4")
            assert ({*SIDES} <= signals.keys()) == asked
            if asked:
                inside, outside = (signals[side] for side in SIDES)
                assert inside.shape == outside.shape == (2, 64, 10)
                assert not torch.equal(inside, outside)
                # worlds of halves of the pool, so that either side is a plausible head
                truth = torch.eye(10)[_labels(run)]
                assert (truth - inside).square().mean() < (truth - outside).square().mean()


@pytest.mark.fleet
def test_signals_that_are_lost_come_back_bit_for_bit(toy, learned, copied, no_training, tensors):
    RunFolder(copied).signals(NAMES[4], "obc-w4").unlink()
    train.main(toy(copied, LEARNER))
    assert tensors(copied) == tensors(learned)


@pytest.mark.fleet
def test_an_audit_attacks_by_them(copied):
    audit.main(["--run_dir", str(copied), "--wandb", "disabled"])
    variants = read_results(copied).findings["continual"]["variants"]
    assert {v["variant"]: v["rounded"] is not None for v in variants} == {
        "full": False, "nearest-w2": True, "obc-w4": True, "brecq-w4": False,
    }  # fmt: skip


@pytest.mark.fleet
def test_worlds_that_are_not_finite_are_named(copied, change_signals):
    run = RunFolder(copied)
    audited = run.read().audited
    assert recorded_outputs(run, audited, run.read().quantized, SIDES[0]) == [
        "nearest-w2",
        "obc-w4",
    ]
    change_signals(
        run.signals(NAMES[5], "nearest-w2"), world_inside=torch.full((2, 64, 10), torch.nan)
    )
    saved = SavedWorlds(run, audited, ["nearest-w2"])
    with pytest.raises(ValueError, match=r"`world_inside` in .* must be finite, got 1280 numbers"):
        saved["nearest-w2"]
    with pytest.raises(KeyError, match="obc-w4"):
        saved["obc-w4"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("quantized_worlds [obc-w2]", r"must be names of `--quantize` \(.*\), got obc-w2. Add it"),
        ("quantized_worlds [brecq-w4]", r"takes nearest, adaround, obc, gptq .* got brecq-w4"),
        ("worlds 0", r"needs worlds, got `--continual.analytic.worlds 0`"),
        ("gamma 1 --continual.learner dsal", r"`--continual.learner` acil or real, got `dsal`"),
    ],
)
def test_worlds_that_cannot_be_rounded_are_refused(toy, tmp_path, options, message):
    with pytest.raises(SystemExit, match=message):
        train.main(toy(tmp_path / "run", f"{LEARNER} --continual.analytic.{options}"))
    assert not (tmp_path / "run").exists()


def _labels(run):
    data = Digits(pool_size=64)
    data.setup("fit")
    return data.pool.labels
