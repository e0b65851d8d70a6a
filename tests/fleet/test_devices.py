"""Several processes that train one model together (DDP)."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file

import train
from storage.names import fleet_names
from storage.run_folder import RunFolder

ROOT = Path(train.__file__).parent
NAMES = fleet_names(4, 1)
PATIENCE = 1200  # seconds; only what hangs takes so long


class Trained(NamedTuple):
    """What the processes that trained two models together left."""

    run: RunFolder
    batches: list[list[torch.Tensor]]  # of each process, step by step
    done: subprocess.CompletedProcess | None = None


@pytest.fixture(scope="module")
def trained(toy, own_networks, tmp_path_factory):
    """The same two models trained by one process and by two that share every batch."""
    network = "--model.network own_networks.Perceptron --model.network_args.dropout 0 "
    options = network + "--fleet.shadows 2 --fleet.targets 0"
    folders = [tmp_path_factory.mktemp("run") for _ in range(2)]
    notes = [tmp_path_factory.mktemp("seen") for _ in range(2)]

    def batches(folder):
        processes = {path.name.split("-")[0] for path in folder.iterdir()}
        return [[torch.load(path) for path in sorted(folder.glob(f"{i}-*"))] for i in processes]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEEN", str(notes[0]))
        train.main(toy(folders[0], f"{options} --trainer.devices 1"))
    arguments = toy(folders[1], f"{options} --trainer.devices 2 --trainer.strategy ddp")
    done = subprocess.run(
        [sys.executable, "train.py", *arguments],
        cwd=ROOT,
        env=os.environ | {"SEEN": str(notes[1]), "PYTHONPATH": str(own_networks)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    alone = Trained(RunFolder(folders[0]), batches(notes[0]))
    return alone, Trained(RunFolder(folders[1]), batches(notes[1]), done)


@pytest.mark.fleet
def test_two_processes_print_as_one(trained, unwrap):
    done = trained[1].done
    assert done.returncode == 0, done.stderr
    assert unwrap(done.stdout).count("Finished 2 models") == 1
    assert "Warning" not in done.stderr


@pytest.mark.fleet
def test_each_process_trains_on_half_of_every_batch(trained):
    (alone,), (first, second) = (fleet.batches for fleet in trained)
    assert len(alone) == len(first) == len(second) == 2 * 3 * 2  # models, epochs, steps
    if not torch.equal(torch.cat([first[0], second[0]]), alone[0]):
        first, second = second, first
    for batch, half, rest in zip(alone, first, second, strict=True):
        assert len(half) == len(rest) == 8
        assert torch.equal(torch.cat([half, rest]), batch)


@pytest.mark.fleet
def test_two_processes_train_the_models_of_one(trained, tensors):
    runs = [fleet.run for fleet in trained]
    ours, theirs = (tensors(run.path) for run in runs)
    assert ours.keys() == theirs.keys()
    assert ours["membership.safetensors"] == theirs["membership.safetensors"]
    for name in NAMES[:2]:
        weights = [load_file(run.weights(name, "full")) for run in runs]
        signals = [load_file(run.signals(name, "full")) for run in runs]
        for key in weights[0]:
            torch.testing.assert_close(weights[0][key], weights[1][key], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(signals[0]["phi"], signals[1]["phi"], rtol=1e-3, atol=1e-3)
        assert signals[1]["test_correct"].shape == (1797 - 64,)


def test_only_the_first_process_of_a_model_prints_the_summary(toy, tmp_path, monkeypatch, capsys):
    """While the first process is still quantizing, the others would find no files to report."""
    monkeypatch.setattr(train, "fit", lambda *_: None)
    monkeypatch.setattr("lightning.fabric.utilities.rank_zero.rank_zero_only.rank", 1)
    train.main(toy(tmp_path / "run"))
    assert capsys.readouterr().out == ""
