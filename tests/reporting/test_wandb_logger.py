"""Training curves in an offline W&B run, against the losses that were computed."""

import os
import subprocess
import sys
from math import cos, pi
from pathlib import Path

import pytest
import wandb
from safetensors.torch import load_file

import train
from lightning_modules.classifier import Classifier
from storage.names import ModelName
from storage.run_folder import RunFolder

ACCURACY = {  # keys by variant
    "full": "test_accuracy/full",
    "nearest-w2": "test_accuracy/nearest_w2",
    "nearest-w1.58-last8": "test_accuracy/nearest_w1_58_last8",
}


@pytest.fixture(autouse=True)
def own_wandb(tmp_path, monkeypatch):
    """No key, no settings and no caches but those of this test."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture
def steps(monkeypatch):
    """Loss and size of every batch trained on, by the model's seed."""
    steps = {}
    real = Classifier.training_step

    def step(self, batch, batch_idx):
        loss = real(self, batch, batch_idx)
        steps.setdefault(self.seed, []).append((loss.item(), len(batch.labels)))
        return loss

    monkeypatch.setattr(Classifier, "training_step", step)
    return steps


def read_all(read_wandb, folder):
    runs = [read_wandb(path) for path in sorted(folder.glob("wandb/offline-run-*"))]
    return {run.run.display_name: run for run in runs}


def check_weights(folder, other, names):
    for name in names:
        for variant in ACCURACY:
            path = RunFolder(folder).weights(name, variant)
            assert path.read_bytes() == RunFolder(other).weights(name, variant).read_bytes()


def test_an_offline_run_holds_the_training(toy, toy_run, tmp_path, read_wandb, steps):
    folder = tmp_path / "experiment"
    train.main(toy(folder, "--wandb offline --fleet.models 1,4"))
    runs = read_all(read_wandb, folder)
    assert runs.keys() == {"shadow-001", "target-000"}
    experiment = RunFolder(folder).read()
    for (label, run), losses in zip(sorted(runs.items()), steps.values(), strict=True):
        role, number = label.split("-")
        name = ModelName(role, int(number))
        assert (run.run.run_group, run.run.job_type) == ("experiment", role)
        assert (run.run.project, run.run.run_id) == ("bitleak", f"{experiment.id}-{label}")
        assert run.config["fingerprints"] == experiment.fingerprints
        assert run.config["config"] == experiment.config
        by_key = {
            key: [row[key] for row in run.history if key in row]
            for row in run.history
            for key in row
        }
        epochs = [losses[2 * epoch : 2 * epoch + 2] for epoch in range(3)]
        means = [sum(loss * n for loss, n in e) / sum(n for _, n in e) for e in epochs]
        assert by_key["train/loss"] == pytest.approx(means, rel=1e-5)
        assert len(by_key["train/accuracy"]) == len(by_key["val/accuracy"]) == 3
        rates = [0.1 * (1 + cos(pi * 2 * epoch / 6)) / 2 for epoch in range(3)]
        assert by_key["train/learning_rate"] == pytest.approx(rates)
        for variant, key in ACCURACY.items():
            correct = load_file(RunFolder(folder).signals(name, variant))["test_correct"]
            accuracy = correct.double().mean().item()
            assert by_key[key] == [pytest.approx(accuracy)]
            assert run.summary[key] == pytest.approx(accuracy)
        full = run.summary["test_accuracy/full"]
        assert by_key["val/accuracy"][-1] == pytest.approx(full, abs=1e-3)
    check_weights(folder, toy_run, [ModelName("shadow", 1), ModelName("target", 0)])


def test_a_failure_in_the_middle_warns_and_costs_the_curves_of_one_model(
    toy, toy_run, tmp_path, read_wandb, monkeypatch
):
    real, calls = wandb.Run.log, []

    def log(self, *args, **kwargs):
        calls.append(self.name)
        if self.name == "shadow-000" and len(calls) > 3:
            raise ConnectionError("the network is down")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(wandb.Run, "log", log)
    folder = tmp_path / "experiment"
    with pytest.warns(UserWarning, match="W&B failed, training goes on .*network is down") as seen:
        train.main(toy(folder, "--wandb offline --fleet.models 0,1"))
    assert len(seen) == 1
    assert calls.count("shadow-000") == 4
    runs = read_all(read_wandb, folder)
    assert len(runs["shadow-000"].history) == 3
    assert "test_accuracy/full" not in runs["shadow-000"].summary
    assert "test_accuracy/full" in runs["shadow-001"].summary
    check_weights(folder, toy_run, [ModelName("shadow", 0), ModelName("shadow", 1)])


@pytest.mark.parametrize("part", ["init", "finish"])
def test_a_run_that_cannot_start_or_end_costs_no_model(toy, toy_run, tmp_path, monkeypatch, part):
    def fail(*args, **kwargs):
        if kwargs.get("mode") != "disabled":
            raise wandb.errors.CommError("timed out")
        return real(*args, **kwargs)

    owner = wandb if part == "init" else wandb.Run
    real = getattr(owner, part)
    folder = tmp_path / "experiment"
    with monkeypatch.context() as patch:
        patch.setattr(owner, part, fail)
        with pytest.warns(UserWarning, match="W&B failed, training goes on .*timed out") as seen:
            train.main(toy(folder, "--wandb offline --fleet.models 0,1"))
    assert len(seen) == 2  # one per model
    wandb.teardown()
    check_weights(folder, toy_run, [ModelName("shadow", 0), ModelName("shadow", 1)])


def test_online_without_a_key_stops_before_anything(toy, tmp_path):
    with pytest.raises(SystemExit, match=r"needs an API key and found none.*`wandb login`"):
        train.main(toy(tmp_path / "run", "--wandb online"))
    assert not (tmp_path / "run").exists()


def test_disabled_leaves_no_trace(toy_run):
    assert not list(toy_run.rglob("*wandb*"))


def test_w_and_b_is_silent_where_home_cannot_be_written(toy, toy_run, tmp_path):
    (tmp_path / "file").write_text("")  # not even root creates a folder in a file
    environment = {key: value for key, value in os.environ.items() if "WANDB" not in key}
    environment |= {"HOME": str(tmp_path / "file"), "MPLCONFIGDIR": str(tmp_path)}
    environment.pop("XDG_CACHE_HOME", None)
    folder = tmp_path / "experiment"
    done = subprocess.run(
        [sys.executable, "train.py", *toy(folder, "--wandb offline --fleet.models 1")],
        cwd=Path(train.__file__).parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "1 of 1: shadow-001 finished" in done.stdout
    assert "server" not in done.stdout
    assert "logger" not in done.stdout
    assert list(folder.glob("wandb/home/wandb/logs/*.log"))
    assert list(folder.glob("wandb/offline-run-*"))
    check_weights(folder, toy_run, [ModelName("shadow", 1)])
