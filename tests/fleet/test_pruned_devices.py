"""Models whose channels are cut while two processes train them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import train
from storage.names import fleet_names
from storage.run_folder import RunFolder

ROOT = Path(train.__file__).parent
PATIENCE = 1200  # seconds; only what hangs takes so long
FIRST = fleet_names(2, 0)[0]
NOTED = """
import hashlib, json, os, sys
from pathlib import Path
from lightning_modules.callbacks.prune import Prune
import train

real = Prune.on_fit_end

def noted(self, trainer, pl_module):
    weights = pl_module.network.state_dict()
    digest = hashlib.sha256(b"".join(w.numpy().tobytes() for w in weights.values())).hexdigest()
    shapes = {key: list(weight.shape) for key, weight in weights.items()}
    note = {"cut_after": self.cut_after, "kept": self.kept, "shapes": shapes, "digest": digest}
    Path(os.environ["NOTES"], f"{trainer.global_rank}.json").write_text(json.dumps(note))
    real(self, trainer, pl_module)

Prune.on_fit_end = noted
train.main(sys.argv[1:])
"""
METHODS = {
    "ocs": "--prune ocs --prune.start 0.2 --prune.cut 0.5",
    "random": "--prune random --prune.cut 0.5",
    "init": "--prune init",
}


def record_of(folder):
    return json.loads(RunFolder(folder).record(FIRST, "full").read_text())


def weights_of(folder):
    return load_file(RunFolder(folder).weights(FIRST, "full"))


@pytest.mark.fleet
def test_two_processes_cut_the_channels_of_one(toy, own_networks, tmp_path):
    """A perceptron without BatchNorm, whose gradients do not depend on the number of processes."""
    options = (
        "--model.network own_networks.Perceptron --model.network_args.dropout 0 --quantize "
        "--trainer.sync_batchnorm true --trainer.max_epochs 5 --fleet.models 0 --snapshots "
        "--prune ocs --prune.start 0.2 --prune.cut 0.6"
    )
    train.main(toy(tmp_path / "one", f"{options} --trainer.devices 1"))
    arguments = toy(tmp_path / "two", f"{options} --trainer.devices 2 --trainer.strategy ddp")
    done = subprocess.run(
        [sys.executable, "train.py", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(own_networks)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    one, two = (record_of(tmp_path / name) for name in ("one", "two"))
    assert one["kept"] == two["kept"]
    assert one["macs"] == two["macs"]
    weights = [weights_of(tmp_path / name) for name in ("one", "two")]
    for key in weights[0]:
        torch.testing.assert_close(weights[0][key], weights[1][key], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.fleet
@pytest.mark.parametrize("method", METHODS)
def test_all_processes_keep_the_same_channels_to_the_end(toy, tmp_path, method):
    """With GroupNorm, because SyncBatchNorm needs GPUs; weights are equal bit for bit."""
    script = tmp_path / "noted.py"
    script.write_text(NOTED)
    options = (
        "--model.network convnet_gn --trainer.max_epochs 6 --snapshots 1 3 5 --quantize nearest-w2 "
        f"--fleet.models 0 --trainer.devices 2 --trainer.strategy ddp {METHODS[method]}"
    )
    done = subprocess.run(
        [sys.executable, str(script), *toy(tmp_path / "run", options)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "NOTES": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    record = record_of(tmp_path / "run")
    assert record["kept"] == first["kept"]
    assert record["cut_after"] == first["cut_after"] == (0 if method == "init" else 3)
    weights = weights_of(tmp_path / "run")
    assert {key: list(weight.shape) for key, weight in weights.items()} == first["shapes"]
    assert record["macs"][1] <= 0.5 * record["macs"][0]
