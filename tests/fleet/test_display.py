import io
import re

import pytest
from rich.console import Console

from fleet.display import FleetProgress
from fleet.engine import Outcome
from lightning_modules.callbacks.progress import SaveProgress
from storage.names import ModelName
from storage.run_folder import RunFolder

NAMES = [ModelName("shadow", 0), ModelName("target", 1)]


@pytest.fixture
def make(tmp_path):
    def make(terminal, num_models=2):
        file = io.StringIO()
        console = Console(file=file, force_terminal=terminal, width=120, highlight=False)
        return FleetProgress(RunFolder(tmp_path), num_models, 4, console), file

    return make


@pytest.fixture
def at(tmp_path):
    """Note the stage of a model, as its own process does."""

    def at(name, stage, epoch):
        progress = SaveProgress(RunFolder(tmp_path).progress(name))
        progress.epoch = epoch
        progress.note(stage)

    return at


def test_the_bar_counts_the_epochs_of_all_models(make, at):
    progress, _ = make(terminal=True)
    (task,) = progress.bar.tasks
    assert task.total == 8
    for position, name in enumerate(NAMES):
        progress.begin(name)
        progress.refresh()
        assert task.completed == 4 * position
        assert task.description == f"{position} of 2 models, {name} begins"
        for epoch in (1, 3):  # resumed, or the display was slow
            at(name, "training", epoch)
            progress.refresh()
            assert task.completed == 4 * position + epoch
            assert task.description == f"{position} of 2 models, {name} epoch {epoch} of 4"
        at(name, "adaround-w2", 4)
        progress.refresh()
        assert task.completed == 4 * position + 4
        assert task.description == f"{position} of 2 models, {name} adaround-w2"
        progress.end(Outcome(name, "finished", 1.0))
    assert task.completed == 8


def test_all_models_in_training_are_named(make, at):
    progress, _ = make(terminal=True)
    for name in NAMES:
        progress.begin(name)
    at(NAMES[0], "training", 1)
    at(NAMES[1], "training", 2)
    progress.refresh()
    (task,) = progress.bar.tasks
    assert task.completed == 3
    assert task.description == ("0 of 2 models, shadow-000 epoch 1 of 4, target-001 epoch 2 of 4")
    progress.end(Outcome(NAMES[1], "failed", 1.0, "why"))
    assert task.completed == 5
    assert task.description == "1 of 2 models, shadow-000 epoch 1 of 4"


def test_on_a_terminal_the_bar_is_drawn_and_erased(make, at, monkeypatch):
    monkeypatch.setattr("fleet.display.REFRESH", 0.01)
    progress, file = make(terminal=True)
    with progress:
        progress.begin(NAMES[0])
        at(NAMES[0], "training", 2)
        while "epoch 2 of 4" not in file.getvalue():
            progress.bar.refresh()
        progress.end(Outcome(NAMES[0], "finished", 1.26))
    text = file.getvalue()
    assert "0 of 2 models, shadow-000 epoch 2 of 4" in text
    assert "1 of 2: shadow-000 finished in 1.3 s" in text
    assert "\x1b[2K" in text.rsplit("models", 1)[1]  # the last line drawn is erased
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h")  # the cursor is back


def test_elsewhere_there_is_one_line_per_model(make):
    progress, file = make(terminal=False, num_models=4)
    with progress:
        for number, state in enumerate(("finished", "failed", "busy", "stopped")):
            progress.begin(ModelName("shadow", number))
            progress.end(Outcome(ModelName("shadow", number), state, 2.04, "said elsewhere"))
    assert file.getvalue().splitlines() == [
        "1 of 4: shadow-000 finished in 2.0 s",
        "2 of 4: shadow-001 failed after 2.0 s",
        "3 of 4: shadow-002 passed over, another process works on it (said elsewhere)",
        "4 of 4: shadow-003 stopped after 2.0 s",
    ]


def test_a_call_without_models_draws_nothing(make):
    progress, file = make(terminal=False, num_models=0)
    with progress:
        pass
    assert file.getvalue() == ""


def test_an_error_erases_the_bar_too(make):
    progress, file = make(terminal=True)
    with pytest.raises(KeyError), progress:
        raise KeyError
    assert file.getvalue().count("\x1b[?25h") == 1
    assert not re.search("Traceback", file.getvalue())
