import errno
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from lightning_modules import interrupt
from lightning_modules.engine import Outcome, complete, is_running, one_by_one
from lightning_modules.fleet import ModelName
from lightning_modules.run_folder import RunFolder
from lightning_modules.whole import save_whole

NAMES = [ModelName("shadow", number) for number in range(3)]


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path)


def test_a_model_is_made_under_its_lock_and_sealed(run):
    def fit(name):
        assert is_running(run, name)
        assert not run.error(name).exists()
        save_whole(run.weights(name, "full"), {})
        save_whole(run.signals(name, "full"), {})

    run.model(NAMES[0]).mkdir(parents=True)
    run.error(NAMES[0]).write_text("of the last time")
    outcome = complete(run, fit, 1, NAMES[0])
    assert outcome[:2] == (NAMES[0], "finished")
    assert outcome.seconds > 0
    assert run.is_finished(NAMES[0], ["full"])
    assert not is_running(run, NAMES[0])
    assert not is_running(run, NAMES[1])


def test_a_failure_is_told_and_its_traceback_kept(run):
    def fit(name):
        raise KeyError("lost")

    outcome = complete(run, fit, 1, NAMES[0])
    assert (outcome.state, outcome.reason) == ("failed", "KeyError: 'lost'")
    assert "in fit\n    raise KeyError" in run.error(NAMES[0]).read_text()
    assert not is_running(run, NAMES[0])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_where_no_model_can_be_written_all_stop(run, number):
    def fit(name):
        raise OSError(number, "is full")

    outcome = complete(run, fit, 1, NAMES[0])
    assert (outcome.state, outcome.reason) == ("stopped", f"[Errno {number}] is full")
    assert not run.error(NAMES[0]).exists()


def test_one_of_several_processes_never_goes_on_alone(run):
    def fit(name):
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        complete(run, fit, 2, NAMES[0])
    with (
        FileLock(run.lock(NAMES[0])),
        pytest.raises(RuntimeError, match=r"shadow-000: another process .*`--fleet.models`"),
    ):
        complete(run, fit, 2, NAMES[0])


def test_a_model_in_another_hand_is_passed_over(run):
    def fit(name):
        raise AssertionError

    run.model(NAMES[0]).mkdir(parents=True)
    with FileLock(run.lock(NAMES[0])):
        assert complete(run, fit, 1, NAMES[0]).state == "busy"


def test_looking_whether_a_model_runs_does_not_drive_others_away(run):
    run.model(NAMES[0]).mkdir(parents=True)
    lock, outcomes = FileLock(run.lock(NAMES[0]), thread_local=False), []
    lock.acquire()
    threading.Timer(0.2, lock.release).start()
    outcomes.append(complete(run, lambda name: None, 1, NAMES[0]))
    assert outcomes[0].state == "finished"


def test_ctrl_c_is_no_failure_whatever_it_became(run, monkeypatch):
    def fit(name):
        raise ValueError("a library's own")

    monkeypatch.setattr(interrupt.asked, "is_set", lambda: True)
    with pytest.raises(ValueError, match="a library's own"):
        complete(run, fit, 1, NAMES[0])
    assert not run.error(NAMES[0]).exists()


def test_one_begins_when_the_last_has_ended(run):
    events = []

    def work(name):
        events.append(("work", name))
        return Outcome(name, "finished", 0.0)

    for outcome in one_by_one(NAMES, work, lambda name: events.append(("begin", name))):
        events.append(("end", outcome.name))
    assert events == [(what, name) for name in NAMES for what in ("begin", "work", "end")]


def test_a_lock_that_cannot_be_opened_is_nobodys(run, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError

    run.model(NAMES[0]).mkdir(parents=True)
    Path(run.lock(NAMES[0])).touch()
    monkeypatch.setattr("lightning_modules.engine.FileLock", refuse)
    assert not is_running(run, NAMES[0])
