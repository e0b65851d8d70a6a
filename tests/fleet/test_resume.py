"""A fleet that was killed or interrupted ends as if it had not been."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

import train
from lightning_modules.classifier import Classifier
from storage.names import fleet_names
from storage.run_folder import RunFolder

ROOT = Path(train.__file__).parent
NAMES = fleet_names(4, 1)
PATIENCE = 1200  # seconds; only what hangs takes so long


def count_files(folder):
    """Number of files that a fit leaves, whole ones only."""
    return sum(1 for path in folder.glob("models/**/*") if path.suffix in (".safetensors", ".ckpt"))


@pytest.mark.fleet
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_fleet_killed_eight_times_ends_bit_for_bit_the_same(
    toy, toy_run, start, tmp_path, seed, last_epochs, records, tensors
):
    rng, folder = random.Random(seed), tmp_path / "run"
    last: dict[str, int] = {}
    kills = [signal.SIGKILL] * 6 + [signal.SIGINT, signal.SIGTERM]
    for goal in sorted(rng.sample(range(count_files(toy_run)), len(kills))):
        process = start(toy(folder))
        while process.is_alive() and count_files(folder) < goal:
            time.sleep(0.001)
        time.sleep(0.05 * rng.random())
        number = kills.pop(rng.randrange(len(kills)))
        with suppress(ProcessLookupError):  # it may just have ended
            os.kill(process.pid, number)
        process.join(PATIENCE)
        assert process.exitcode in (-number, 130, 1, 0)  # 1: before `main` got anywhere
        now = last_epochs(folder)
        assert all(now[name] >= epoch for name, epoch in last.items())
        last = now
    process = start(toy(folder))
    process.join(PATIENCE)
    assert process.exitcode == 0
    assert tensors(folder) == tensors(toy_run)
    assert records(folder) == records(toy_run)
    assert last_epochs(folder) == last_epochs(toy_run)
    names = {path.relative_to(folder) for path in folder.rglob("*")}
    assert names == {path.relative_to(toy_run) for path in toy_run.rglob("*")}


@pytest.mark.fleet
def test_ctrl_c_says_how_to_resume(toy, toy_run, tmp_path, tensors, unwrap):
    """In a process started as users start it, where nothing is imported yet."""
    folder = tmp_path / "run"
    command = [sys.executable, "train.py", *toy(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while process.poll() is None and count_files(folder) < 8:
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=PATIENCE)[0].decode()
    assert process.returncode == 130
    assert "Stopped. The same command goes on from the last checkpoint." in unwrap(output)
    assert "Traceback" not in output
    assert "Warning" not in output
    assert not list(folder.rglob("*.partial"))
    train.main(toy(folder))
    assert tensors(folder) == tensors(toy_run)


def test_ctrl_c_inside_a_library_stops_as_well(toy, tmp_path, monkeypatch, capsys, unwrap):
    def step(self, batch, batch_idx):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise ValueError("as safetensors has it") from error

    monkeypatch.setattr(Classifier, "training_step", step)
    with pytest.raises(SystemExit) as stopped:
        train.main(toy(tmp_path / "run"))
    assert stopped.value.code == 130
    assert "The same command goes on" in unwrap(capsys.readouterr().out)


@pytest.mark.fleet
def test_only_the_interrupted_epoch_is_trained_again(
    toy, toy_run, tmp_path, served, monkeypatch, tensors
):
    folder = tmp_path / "run"
    real = Classifier.training_step

    def step(self, batch, batch_idx):
        if len(served) == 6 + 3:  # the second model, in the middle of its second epoch
            raise SystemExit("killed")
        return real(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", step)
        with pytest.raises(SystemExit, match="killed"):
            train.main(toy(folder))
    before = list(served)
    served.clear()
    train.main(toy(folder))
    assert before[8] == served[0]  # the step that was lost
    assert before[8][1] == 1
    whole = before[:8] + served
    assert len(whole) == 5 * 6
    assert [epoch for _, epoch, _ in whole] == [0, 0, 1, 1, 2, 2] * 5
    assert tensors(folder) == tensors(toy_run)


@pytest.mark.parametrize("left", [2, 5, 6, 10])
def test_files_missing_after_a_kill_are_completed_without_training(
    toy, toy_run, finished, left, no_training, tensors, variants
):
    """The last model keeps its first `left` files; the others are half written."""
    name = NAMES[-1]
    run = RunFolder(finished)
    made = [variant for variant in variants if variant != "epoch-01"]
    order = [run.weights(name, "epoch-01"), run.checkpoint(name)]
    order += [run.weights(name, variant) for variant in made]
    order += [run.signals(name, variant) for variant in variants]
    for path in order[left:]:
        path.with_name(f"{path.name}.partial").write_bytes(path.read_bytes()[:100])
        path.unlink()
    run.path.joinpath("experiment.yaml.partial").write_text("config:")
    train.main(toy(finished))
    assert tensors(finished) == tensors(toy_run)
    assert not list(finished.rglob("*.partial"))
