import json
from unittest.mock import Mock

import pytest
from lightning.pytorch import LightningModule, Trainer

from lightning_modules.callbacks.progress import Progress, SaveProgress, read_progress

MODULE = Mock(LightningModule)


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests set."""
    now = Mock(return_value=100.0)
    monkeypatch.setattr("lightning_modules.callbacks.progress.time.monotonic", now)
    return now


def test_every_stage_is_noted_with_its_time(tmp_path, clock):
    path = tmp_path / "progress.json"
    callback = SaveProgress(path)
    assert not path.exists()
    callback.on_train_start(Mock(Trainer, current_epoch=0), MODULE)
    assert read_progress(path) == Progress("training", 0, 0.0)
    clock.return_value = 103.5
    callback.on_train_epoch_end(Mock(Trainer, current_epoch=0), MODULE)
    assert read_progress(path) == Progress("training", 1, 3.5)
    clock.return_value = 105.0
    callback.note("adaround-w2")
    expected = {"stage": "adaround-w2", "epoch": 1, "seconds": 5.0}
    assert json.loads(path.read_text()) == expected
    clock.return_value = 106.23456
    callback.note("finished")
    assert read_progress(path) == Progress("finished", 1, 6.235)


def test_a_resumed_model_keeps_its_time_except_for_the_lost_epoch(tmp_path, clock):
    path = tmp_path / "progress.json"
    first = SaveProgress(path)
    clock.return_value = 110.0
    first.on_train_epoch_end(Mock(Trainer, current_epoch=4), MODULE)
    clock.return_value = 200.0  # killed before the next epoch ended
    second = SaveProgress(path)
    second.on_train_start(Mock(Trainer, current_epoch=5), MODULE)
    clock.return_value = 202.0
    second.note("finished")
    assert read_progress(path) == Progress("finished", 5, 12.0)


def test_a_finished_model_keeps_its_epochs(tmp_path, clock):
    """A fit of no epoch adds another variant."""
    path = tmp_path / "progress.json"
    SaveProgress(path).on_train_epoch_end(Mock(Trainer, current_epoch=2), MODULE)
    SaveProgress(path).note("nearest-w8")
    assert read_progress(path) == Progress("nearest-w8", 3, 0.0)


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"stage": "training"}', "\0"])
def test_a_file_that_cannot_be_read_tells_nothing(tmp_path, content):
    path = tmp_path / "progress.json"
    if content is not None:
        path.write_text(content)
    assert read_progress(path) is None
    SaveProgress(path).note("training")
    assert read_progress(path).epoch == 0


def test_progress_is_described_in_words():
    assert Progress("training", 3, 1.0).describe(30) == "epoch 3 of 30"
    assert Progress("obc-w2", 30, 1.0).describe(30) == "obc-w2"
