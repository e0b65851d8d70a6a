"""Several processes that train one model together (DDP)."""

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
NAMES = fleet_names(4, 1)
PATIENCE = 1200  # seconds; only what hangs takes so long


@pytest.mark.fleet
def test_two_processes_train_one_model_together(
    toy, tmp_path, own_networks, monkeypatch, tensors, unwrap
):
    network = "--model.network own_networks.Perceptron --model.network_args.dropout 0 "
    options = network + "--fleet.shadows 2 --fleet.targets 0"
    seen = {}
    for processes, devices in ((1, "--trainer.devices 1"), (2, "--trainer.devices 2")):
        (notes := tmp_path / f"seen-{processes}").mkdir()
        arguments = toy(tmp_path / str(processes), f"{options} {devices}")
        if processes == 1:
            with monkeypatch.context() as patch:
                patch.setenv("SEEN", str(notes))
                train.main(arguments)
        else:
            done = subprocess.run(
                [sys.executable, "train.py", *arguments, "--trainer.strategy", "ddp"],
                cwd=ROOT,
                env=os.environ | {"SEEN": str(notes), "PYTHONPATH": str(own_networks)},
                capture_output=True,
                text=True,
                timeout=PATIENCE,
            )
            assert done.returncode == 0, done.stderr
            assert unwrap(done.stdout).count("Finished 2 models") == 1
            assert "Warning" not in done.stderr
        ranks = {path.name.split("-")[0] for path in notes.iterdir()}
        seen[processes] = [
            [torch.load(path) for path in sorted(notes.glob(f"{rank}-*"))] for rank in ranks
        ]
    ((alone,), (one, other)) = seen[1], seen[2]
    assert len(alone) == len(one) == len(other) == 2 * 3 * 2  # models, epochs, steps
    if not torch.equal(torch.cat([one[0], other[0]]), alone[0]):
        one, other = other, one
    for whole, first, second in zip(alone, one, other, strict=True):
        assert len(first) == len(second) == 8
        assert torch.equal(torch.cat([first, second]), whole)
    ours, theirs = (tensors(tmp_path / str(processes)) for processes in (1, 2))
    assert ours.keys() == theirs.keys()
    assert ours["membership.safetensors"] == theirs["membership.safetensors"]
    runs = [RunFolder(tmp_path / str(processes)) for processes in (1, 2)]
    for name in NAMES[:2]:
        weights = [load_file(run.weights(name, "full")) for run in runs]
        signals = [load_file(run.signals(name, "full")) for run in runs]
        for key in weights[0]:
            torch.testing.assert_close(weights[0][key], weights[1][key], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(signals[0]["phi"], signals[1]["phi"], rtol=1e-3, atol=1e-3)
        assert signals[1]["test_correct"].shape == (1797 - 64,)


def test_only_the_first_process_of_a_model_prints_the_summary(toy, tmp_path, monkeypatch, capsys):
    """Which may be quantizing still, so that there are no files to speak of."""
    monkeypatch.setattr(train, "fit", lambda *_: None)
    monkeypatch.setattr("lightning.fabric.utilities.rank_zero.rank_zero_only.rank", 1)
    train.main(toy(tmp_path / "run"))
    assert capsys.readouterr().out == ""
