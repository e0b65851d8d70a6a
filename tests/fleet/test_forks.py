"""Processes forked from this one, without a fleet and with one; they may die."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch

import train
from fleet import forks
from fleet.engine import Outcome, is_first
from fleet.forks import Forks, can_fork
from fleet.interrupt import interruptible
from fleet.options import FleetOptions
from lightning_modules.callbacks.progress import read_progress
from lightning_modules.classifier import Classifier
from storage.names import ModelName
from storage.run_folder import RunFolder

NAMES = [ModelName("shadow", number) for number in range(5)]
TARGET = ModelName("target", 0)
PATIENCE = 1200  # seconds; only a hang takes so long


def children(parent):
    """Processes that a process has started."""
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def have_ended(pids):
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def run_forks(work, workers, threads=1):
    """Outcomes of `NAMES` in their order, and the models that had begun by each."""
    begun, outcomes, counts = [], [], []
    with interruptible(), Forks(work, workers, threads) as do_all:
        for outcome in do_all(NAMES, begun.append):
            outcomes.append(outcome)
            counts.append(len(begun))
    assert begun == NAMES
    return sorted(outcomes), counts


@pytest.mark.parametrize(
    ("options", "kind", "forks"),
    [
        ({"workers": 2}, "CPU", True),
        ({}, "CPU", False),
        ({"workers": 2, "address": "auto"}, "CPU", False),
        ({"workers": 2, "gpus_per_model": 0.5}, "CPU", False),
        ({"workers": 2}, "GPU", False),
    ],
)
def test_forks_are_for_the_cpus_of_one_machine(options, kind, forks, monkeypatch):
    assert can_fork(FleetOptions(**options), kind) == forks
    with monkeypatch.context() as patch:
        patch.setattr("sys.platform", "darwin")
        assert not can_fork(FleetOptions(**options), kind)
    with monkeypatch.context() as patch:
        patch.delattr(os, "fork")  # as on Windows
        assert not can_fork(FleetOptions(**options), kind)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not can_fork(FleetOptions(**options), kind)


def test_processes_take_one_model_after_another():
    def work(name):
        assert is_first()
        time.sleep(0.05)
        return Outcome(name, "finished", float(torch.get_num_threads()), str(os.getpid()))

    outcomes, begun = run_forks(work, workers=2, threads=3)
    assert [outcome[:3] for outcome in outcomes] == [(name, "finished", 3.0) for name in NAMES]
    pids = {outcome.reason for outcome in outcomes}
    assert len(pids) == 2
    assert str(os.getpid()) not in pids
    assert begun[0] == 2  # two at a time
    assert have_ended(pids)


@pytest.mark.parametrize(
    ("end", "cause"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "was killed by SIGKILL. The system kills"),
        (lambda: os._exit(9), "ended with code 9."),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_model_that_kills_its_process_is_tried_again_and_fails_alone(
    end, cause, workers, tmp_path
):
    def work(name):
        (tmp_path / f"{name}-{os.getpid()}").touch()
        if name.number == 1:
            end()
        return Outcome(name, "finished", 1.0)

    outcomes, _ = run_forks(work, workers)
    assert [outcome.state for outcome in outcomes] == ["finished", "failed", *["finished"] * 3]
    assert outcomes[1].reason.startswith(f"given up after 3 retries: its process {cause}")
    assert len(list(tmp_path.glob("shadow-001-*"))) == 1 + forks.RETRIES


def test_a_model_whose_process_died_once_is_finished_by_another(tmp_path):
    def work(name):
        (tmp_path / f"{name}-{os.getpid()}").touch()
        if name.number == 1 and len(list(tmp_path.glob("shadow-001-*"))) == 1:
            os._exit(1)
        return Outcome(name, "finished", 1.0)

    outcomes, _ = run_forks(work, 2)
    assert outcomes == [Outcome(name, "finished", 1.0) for name in NAMES]


def test_a_process_that_dies_idle_costs_nothing():
    with interruptible(), Forks(lambda name: Outcome(name, "finished", 1.0), 2, 1) as do_all:
        for process in do_all.processes.values():
            process.kill()
            process.join()
        assert len(list(do_all(NAMES, lambda _: None))) == 5


def test_processes_at_work_end_with_the_context_and_ignore_ctrl_c(tmp_path):
    def work(name):
        os.kill(os.getpid(), signal.SIGINT)
        (tmp_path / str(os.getpid())).touch()
        if name.number:
            time.sleep(PATIENCE)
        return Outcome(name, "finished", 1.0)

    with interruptible(), Forks(work, 2, 1) as do_all:
        assert next(do_all(NAMES, lambda _: None)).name == NAMES[0]
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.005)
    assert have_ended(path.name for path in tmp_path.iterdir())


@pytest.mark.fleet
def test_forked_models_are_those_of_one_process(toy, toy_run, tmp_path, tensors, capsys):
    folder = tmp_path / "run"
    train.main(toy(folder, "--fleet.workers 2"))
    printed = capsys.readouterr().out
    assert printed.startswith("2 models train at once on the CPU")
    assert "Finished 5 models" in printed
    assert tensors(folder) == tensors(toy_run)
    train.main(["--run_dir", str(folder), "--status"])
    assert re.search("finished │ +5 ", capsys.readouterr().out)


@pytest.mark.fleet
@pytest.mark.slow
def test_forked_models_may_have_several_threads(tmp_path, start_command, tensors):
    """Which would hang them if the driver had computed with several."""
    environment = {"OMP_WAIT_POLICY": "PASSIVE"}  # there may be fewer cores than threads
    for workers in (2, 1):
        options = f"--fleet.workers {workers} --threads 2 --fleet.shadows 2 --trainer.max_epochs 1"
        options += " --snapshots"
        driver = start_command(tmp_path / str(workers), options, environment)
        output, _ = driver.communicate(timeout=PATIENCE)
        assert "Finished 3 models" in output
    assert tensors(tmp_path / "2") == tensors(tmp_path / "1")


@pytest.mark.fleet
def test_an_error_in_a_forked_model_stops_that_model_only(
    toy, toy_run, tmp_path, capsys, monkeypatch, tensors, unwrap
):
    folder, real, members = tmp_path / "run", Classifier.training_step, RunFolder(toy_run).read()
    failing, seeds = members.names[1], []

    def step(self, batch, batch_idx):
        if str(failing) in str(self.trainer.default_root_dir) and self.current_epoch == 1:
            raise RuntimeError("a [red] kernel failed")
        seeds.append(self.seed)
        return real(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", step)
        with pytest.raises(SystemExit) as ended:
            train.main(toy(folder, "--fleet.workers 2"))
    assert not seeds  # nothing was trained in this process
    assert ended.value.code == train.FAILED
    output, error = unwrap(capsys.readouterr().out), RunFolder(folder).error(failing)
    assert f"{failing} failed: RuntimeError: a [red] kernel failed. The same command" in output
    assert "in step\n    raise RuntimeError" in error.read_text()
    train.main(toy(folder, "--fleet.workers 2"))
    assert "Finished 1 model in" in capsys.readouterr().out
    assert tensors(folder) == tensors(toy_run)


@pytest.mark.fleet
@pytest.mark.slow
def test_a_fleet_survives_the_death_of_a_worker_and_of_the_driver(
    toy, toy_run, tmp_path, start_command, tensors, wait_for
):
    folder, run = tmp_path / "run", RunFolder(tmp_path / "run")
    driver = start_command(folder, "--fleet.workers 2 --fleet.models 0-2")
    wait_for(lambda: list(folder.glob("models/*/last.ckpt")), driver)
    os.kill(children(driver.pid)[0], signal.SIGKILL)
    output, _ = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, output
    assert "Finished 3 models" in output

    driver = start_command(folder, "--fleet.workers 2")
    wait_for(run.checkpoint(TARGET).exists, driver)
    orphans = children(driver.pid)
    assert len(orphans) == 2
    driver.kill()
    driver.communicate()
    wait_for(lambda: have_ended(orphans))
    train.main(toy(folder))
    assert tensors(folder) == tensors(toy_run)
    assert not list(folder.rglob("*.partial"))
    assert not list(folder.rglob("error.txt"))
    for name in run.read().names:
        progress = json.loads(run.progress(name).read_text())
        assert (progress["stage"], progress["epoch"]) == ("finished", 3)


@pytest.mark.fleet
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_the_driver_as_they_do_one_process(tmp_path, start_command, wait_for, number):
    folder = tmp_path / "run"
    driver = start_command(folder, "--fleet.workers 2 --trainer.max_epochs 100000")

    def in_training():
        notes = [read_progress(path) for path in folder.glob("models/*/progress.json")]
        return sum(note is not None and note.epoch > 1 for note in notes)

    wait_for(lambda: in_training() == 2, driver)
    begun = children(driver.pid)
    assert len(begun) == 2
    driver.send_signal(number)
    output, _ = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 130, output
    first, _, last = output.splitlines()  # the second line says what was read
    assert first.startswith("2 models train at once on the CPU")
    assert last == "Stopped. The same command goes on from the last checkpoint."
    wait_for(lambda: have_ended(begun))
