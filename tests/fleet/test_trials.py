from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from datamodules.digits import Digits
from fleet import trials
from fleet.trials import Training, count_operations, try_training
from lightning_modules.callbacks import checkpoints
from lightning_modules.classifier import Classifier
from lightning_modules.options import ModelOptions

OPTIONS = {"max_epochs": 30, "accelerator": "cpu", "devices": 1}


def test_operations_are_counted_as_by_hand(rng):
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Flatten())
    network.append(nn.Linear(4 * 64, 10, bias=False))
    images = torch.randn(5, 3, 8, 8, generator=rng)
    convolution, linear = 2 * 64 * 4 * 27, 2 * 256 * 10
    # backward: both weights' gradients, and the linear layer's input's; images need none
    # kernels: convolution, product, log-softmax and loss, and at least as many backward
    counted = count_operations(network, images, torch.arange(5))
    assert counted[:2] == (convolution + linear, 2 * convolution + 3 * linear)
    assert counted.forward_launches == 4
    assert counted.training_launches > 2 * counted.forward_launches


class Slow(nn.Module):
    """A network whose steps take 2 on a clock of its own, except for the first ones: 100."""

    now, passes, first = 0.0, 0, 0

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(64, num_classes)

    def forward(self, images):
        Slow.passes += 1
        Slow.now += 2 if Slow.passes > Slow.first else 100
        return self.fc(images.flatten(1))


@pytest.mark.parametrize(("batch", "first", "expected"), [(50, 4, (2, 3)), (300, 1, (5, 0))])
def test_steps_and_epochs_are_told_apart(batch, first, expected, tmp_path, monkeypatch):
    """In an epoch of one step, all of its time but the checkpoint's counts as the step's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Slow, "now", 0.0)
    monkeypatch.setattr(Slow, "passes", 0)
    monkeypatch.setattr(Slow, "first", first)
    monkeypatch.setattr(trials, "time", SimpleNamespace(perf_counter=lambda: Slow.now))
    save = trials.SaveCheckpoint.on_train_epoch_end

    def save_slowly(self, *args):
        save(self, *args)
        Slow.now += 7

    def end_slowly(self):
        Slow.now += 3

    monkeypatch.setattr(trials.SaveCheckpoint, "on_train_epoch_end", save_slowly)
    monkeypatch.setattr(Classifier, "on_train_epoch_end", end_slowly)
    data = Digits(pool_size=600, batch_size=batch)
    data.setup("fit")
    data.assign(torch.arange(600) < 300, 0)
    classifier = Classifier(10, 1, 0, ModelOptions(network=f"{__name__}.Slow"))
    training = try_training(classifier, data, OPTIONS, [])
    assert (training.step, training.epoch) == expected
    assert training.saving == 7
    assert 2 * 650 * 4 < training.checkpoint < 2 * 650 * 4 + 20_000  # weights and momentum
    assert training.memory > 1e8
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("every", [0.0, 1.0, 10.0, 19.0, 20.0, 21.0, 60.0, 1000.0])
@pytest.mark.parametrize(("epochs", "epoch"), [(1, 10.0), (7, 10.0), (10, 4.0), (30, 1.0)])
def test_checkpoints_are_counted_as_they_are_written(epochs, epoch, every, monkeypatch, tmp_path):
    """The oracle is the callback itself, on a clock of its own."""
    clock = SimpleNamespace(monotonic=lambda: clock.now, now=0.0)
    monkeypatch.setattr(checkpoints, "time", clock)
    written, module = [], Mock(spec=LightningModule)
    strategy = SimpleNamespace(broadcast=lambda due: due)
    trainer = Mock(spec=Trainer, max_epochs=epochs, should_stop=False, strategy=strategy)
    trainer.save_checkpoint = written.append
    callback = checkpoints.SaveCheckpoint(tmp_path, every)
    callback.on_train_start(trainer, module)
    for trainer.current_epoch in range(epochs):
        clock.now += epoch
        callback.on_train_epoch_end(trainer, module)
    assert Training(0.0, 0.0, 0, 0, 0.0).checkpoints(epochs, epoch, every) == len(written)
