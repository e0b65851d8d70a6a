import io
import re
from unittest.mock import Mock

import pytest
from lightning.pytorch import LightningModule, Trainer
from rich.console import Console

from lightning_modules.fleet import ModelName
from lightning_modules.progress import FleetProgress

MODULE = Mock(LightningModule)
NAMES = [ModelName("shadow", 0), ModelName("target", 1)]


@pytest.fixture
def make():
    def make(terminal):
        file = io.StringIO()
        console = Console(file=file, force_terminal=terminal, width=120)
        return FleetProgress(2, 4, console), file

    return make


def drive(progress, first_epoch=0):
    """What a fleet of two models does; yields after each event."""
    with progress.bar:
        for name in NAMES:
            progress.begin(name)
            yield name, first_epoch if name == NAMES[0] else 0
            for epoch in range(first_epoch if name == NAMES[0] else 0, 4):
                progress.on_train_epoch_start(Mock(Trainer, current_epoch=epoch), MODULE)
                yield name, epoch
            progress.on_fit_end(Mock(Trainer), MODULE)
            yield name, 4
            progress.end()


@pytest.mark.parametrize("resumed_at", [0, 3])
def test_the_bar_counts_the_epochs_of_all_models(make, resumed_at):
    progress, _ = make(terminal=True)
    (task,) = progress.bar.tasks
    assert task.total == 8
    seen = []
    for name, epoch in drive(progress, resumed_at):
        if resumed_at and not seen:  # `begin` does not know of a checkpoint yet
            epoch = 0
        position = NAMES.index(name)
        assert task.completed == 4 * position + epoch
        assert task.description == f"{name}, model {position + 1} of 2, epoch {epoch} of 4"
        seen.append(task.completed)
    assert seen == sorted(seen)
    assert seen[-1] == 8


def test_on_a_terminal_the_bar_is_drawn_and_taken_away(make):
    progress, file = make(terminal=True)
    for _ in drive(progress):
        progress.bar.refresh()
    text = file.getvalue()
    assert "shadow-000, model 1 of 2, epoch 2 of 4" in text
    assert "target-001, model 2 of 2, epoch 4 of 4" in text
    assert "done in" not in text
    assert "\x1b[2K" in text.rsplit("epoch", 1)[1]  # the last line drawn is erased
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h")  # the cursor is back


def test_elsewhere_there_is_a_line_a_finished_model(make):
    progress, file = make(terminal=False)
    for _ in drive(progress):
        pass
    lines = file.getvalue().splitlines()
    assert [re.sub(r"[\d.]+ s$", "T s", line) for line in lines] == [
        "shadow-000, model 1 of 2: done in T s",
        "target-001, model 2 of 2: done in T s",
    ]


def test_nothing_to_do_draws_nothing(make):
    _, file = make(terminal=False)
    progress = FleetProgress(0, 4, Console(file=file, force_terminal=False))
    with progress.bar:
        pass
    assert file.getvalue() == ""


def test_a_note_says_what_is_made_of_the_model(make):
    progress, _ = make(terminal=True)
    (task,) = progress.bar.tasks
    progress.begin(NAMES[1])
    done = task.completed
    progress.note("adaround-w2")
    assert task.description == "target-001, model 1 of 2, adaround-w2"
    assert task.completed == done
