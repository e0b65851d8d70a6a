import errno
import threading
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from fleet import interrupt
from fleet.engine import Outcome, Task, check_files, complete, is_running, one_by_one
from storage.experiment import Experiment
from storage.files import save_whole
from storage.names import ModelName
from storage.run_folder import RunFolder

NAMES = [ModelName("shadow", number) for number in range(3)]


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path)


def task(run, processes=1, retry=None):
    config = {"quantize": [], "fleet": {"shadows": 3, "targets": 0}}
    experiment = Experiment(config, {}, {}, {}, {}, "")
    return Task(run, experiment, processes, retry or {})


def make_fit(run):
    """Make a fit that leaves every file of a model."""

    def fit(name):
        for file in (run.weights, run.signals):
            if not file(name, "full").exists():
                save_whole(file(name, "full"), {"attempt": torch.tensor(run.attempt(name))})

    return fit


def test_a_model_is_made_under_its_lock_and_sealed(run):
    def fit(name):
        assert is_running(run, name)
        assert not run.error(name).exists()
        save_whole(run.weights(name, "full"), {})
        save_whole(run.signals(name, "full"), {})

    run.model(NAMES[0]).mkdir(parents=True)
    run.error(NAMES[0]).write_text("of the last time")
    outcome = complete(task(run), fit, NAMES[0])
    assert outcome[:2] == (NAMES[0], "finished")
    assert outcome.seconds > 0
    assert run.is_finished(NAMES[0], ["full"])
    assert not is_running(run, NAMES[0])
    assert not is_running(run, NAMES[1])


def test_a_failure_is_reported_and_its_traceback_kept(run):
    def fit(name):
        raise KeyError("lost")

    outcome = complete(task(run), fit, NAMES[0])
    assert (outcome.state, outcome.reason) == ("failed", "KeyError: 'lost'")
    assert "in fit\n    raise KeyError" in run.error(NAMES[0]).read_text()
    assert not is_running(run, NAMES[0])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_or_read_only_disk_stops_the_fleet(run, number):
    def fit(name):
        raise OSError(number, "is full")

    outcome = complete(task(run), fit, NAMES[0])
    assert outcome.state == "stopped"
    assert outcome.reason.startswith(f"[Errno {number}] is full. Free some space, or make the fold")
    assert not run.error(NAMES[0]).exists()


def test_a_lost_gpu_stops_the_fleet_and_leaves_the_traceback(run):
    def fit(name):
        raise RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be")

    outcome = complete(task(run), fit, NAMES[0])
    assert outcome.state == "stopped"
    assert outcome.reason.startswith("CUDA error: device-side assert triggered. This process can")
    assert "in fit\n    raise RuntimeError" in run.error(NAMES[0]).read_text()


def test_files_of_another_machine_are_waited_for(run, monkeypatch):
    """A network file system shows them late."""
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            make_fit(run)(NAMES[0])

    monkeypatch.setattr("fleet.engine.time.sleep", sleep)
    assert complete(task(run, 2), lambda name: None, NAMES[0]).state == "finished"
    assert len(waits) == 3
    assert run.is_finished(NAMES[0], ["full"])


def test_one_of_several_processes_never_goes_on_alone(run):
    def fit(name):
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        complete(task(run, 2), fit, NAMES[0])
    with (
        FileLock(run.lock(NAMES[0])),
        pytest.raises(RuntimeError, match=r"shadow-000: another process .*`--fleet.models`"),
    ):
        complete(task(run, 2), fit, NAMES[0])


def test_a_model_of_another_process_is_passed_over(run):
    def fit(name):
        raise AssertionError

    run.model(NAMES[0]).mkdir(parents=True)
    with FileLock(run.lock(NAMES[0])):
        outcome = complete(task(run), fit, NAMES[0])
    assert (outcome.state, outcome.reason) == ("busy", f"its lock is {run.lock(NAMES[0])}")


def test_a_short_look_at_a_lock_is_waited_for(run):
    run.model(NAMES[0]).mkdir(parents=True)
    lock, outcomes = FileLock(run.lock(NAMES[0]), thread_local=False), []
    lock.acquire()
    threading.Timer(0.2, lock.release).start()
    outcomes.append(complete(task(run), make_fit(run), NAMES[0]))
    assert outcomes[0].state == "finished"


def test_ctrl_c_is_never_a_failed_model(run, monkeypatch):
    def fit(name):
        raise ValueError("a library's own")

    monkeypatch.setattr(interrupt.asked, "is_set", lambda: True)
    with pytest.raises(ValueError, match="a library's own"):
        complete(task(run), fit, NAMES[0])
    assert not run.error(NAMES[0]).exists()


def test_a_model_begins_when_the_one_before_has_ended(run):
    events = []

    def work(name):
        events.append(("work", name))
        return Outcome(name, "finished", 0.0)

    for outcome in one_by_one(work, NAMES, lambda name: events.append(("begin", name))):
        events.append(("end", outcome.name))
    assert events == [(what, name) for name in NAMES for what in ("begin", "work", "end")]


def test_a_lock_that_cannot_be_opened_is_held_by_nobody(run, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError

    run.model(NAMES[0]).mkdir(parents=True)
    Path(run.lock(NAMES[0])).touch()
    monkeypatch.setattr("fleet.engine.FileLock", refuse)
    assert not is_running(run, NAMES[0])


def test_a_model_without_its_files_has_failed(run):
    outcome = complete(task(run), lambda name: None, NAMES[0])
    assert (outcome.state, outcome.reason) == ("failed", "RuntimeError: it was left without full.")


def test_a_model_that_another_process_finished_meanwhile_is_not_made_again(run):
    assert complete(task(run), make_fit(run), NAMES[0]).state == "finished"

    def fit(name):
        raise AssertionError

    (run.model(NAMES[0]) / "SHA256SUMS").unlink()  # as after a kill
    assert complete(task(run), fit, NAMES[0]).state == "finished"
    assert run.is_finished(NAMES[0], ["full"])


def test_variants_of_lost_weights_are_deleted(run):
    complete(task(run), make_fit(run), NAMES[0])
    save_whole(run.weights(NAMES[0], "nearest-w2"), {})
    run.record(NAMES[0], "nearest-w2").write_text("{}")
    run.weights(NAMES[0], "full").unlink()
    run.checkpoint(NAMES[0]).touch()
    complete(task(run), lambda name: None, NAMES[0])  # a fit can go on from a checkpoint
    assert run.record(NAMES[0], "nearest-w2").exists()
    run.checkpoint(NAMES[0]).unlink()
    complete(task(run), make_fit(run), NAMES[0])
    files = {path.name for path in run.model(NAMES[0]).iterdir() if not path.name.startswith(".")}
    assert files == {"full.safetensors", "signals", "SHA256SUMS"}


def test_a_failed_model_is_set_aside_once_and_under_its_lock(run):
    complete(task(run), make_fit(run), NAMES[0])
    again = task(run, retry={NAMES[0]: 0})
    with FileLock(run.lock(NAMES[0])):
        assert complete(again, make_fit(run), NAMES[0]).state == "busy"
    assert run.attempt(NAMES[0]) == 0
    for _ in range(2):  # the second process decided before the first was done
        assert complete(again, make_fit(run), NAMES[0]).state == "finished"
        assert run.attempt(NAMES[0]) == 1
        assert load_file(run.weights(NAMES[0], "full"))["attempt"] == 1


def test_damaged_files_are_named_and_removed_under_the_lock(run):
    complete(task(run), make_fit(run), NAMES[0])
    complete(task(run), make_fit(run), NAMES[1])
    paths = [run.weights(name, "full") for name in NAMES[:2]]
    for path in paths:
        path.write_bytes(path.read_bytes()[:-1])
    message = rf"(?s)Damaged since they were written:\n  {paths[0]}\n  {paths[1]}\nPass `--repair`"
    with pytest.raises(ValueError, match=message):
        check_files(run, NAMES, False)
    with FileLock(run.lock(NAMES[1])):
        assert check_files(run, NAMES, True) == paths[:1]
    assert [path.exists() for path in paths] == [False, True]
    assert check_files(run, NAMES, True) == paths[1:]
    assert check_files(run, NAMES, False) == []


def test_an_error_that_cannot_be_noted_fails_one_model_only(run, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "a colleague's")

    monkeypatch.setattr(Path, "write_text", refuse)
    outcome = complete(task(run), refuse, NAMES[0])
    assert outcome.state == "failed"
    assert "a colleague's" in outcome.reason
