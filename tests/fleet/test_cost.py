from types import SimpleNamespace

import pytest
import torch
from torch import nn

from datamodules.digits import Digits
from fleet import cost, trials
from fleet.cost import Costs, Counts, say, show_cost
from fleet.trials import Flops, Quantization, Seen, Training, count_flops, try_training
from lightning_modules.classifier import Classifier
from storage.names import fleet_names
from storage.run_folder import RunFolder

OPTIONS = {"max_epochs": 30, "accelerator": "cpu", "devices": 1}


def test_operations_by_hand(rng):
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Flatten())
    network.append(nn.Linear(4 * 64, 10, bias=False))
    images = torch.randn(5, 3, 8, 8, generator=rng)
    convolution, linear = 2 * 64 * 4 * 27, 2 * 256 * 10
    # backward: both weights' gradients, and the linear layer's input's; images need none
    expected = Flops(convolution + linear, 2 * convolution + 3 * linear)
    assert count_flops(network, images, torch.arange(5)) == expected


class Slow(nn.Module):
    """A step takes 2 on a clock of its own, the first ones take 100."""

    now, passes, first = 0.0, 0, 0

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(64, num_classes)

    def forward(self, images):
        Slow.passes += 1
        Slow.now += 2 if Slow.passes > Slow.first else 100
        return self.fc(images.flatten(1))


@pytest.mark.parametrize(("batch", "first", "expected"), [(50, 4, (2, 7)), (300, 1, (9, 0))])
def test_steps_and_epochs_are_told_apart(batch, first, expected, tmp_path, monkeypatch):
    """An epoch of one step is not: all that it takes counts as the step."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Slow, "now", 0.0)
    monkeypatch.setattr(Slow, "passes", 0)
    monkeypatch.setattr(Slow, "first", first)
    monkeypatch.setattr(trials, "time", SimpleNamespace(perf_counter=lambda: Slow.now))
    save = trials.SaveCheckpoint.on_train_epoch_end

    def save_slowly(self, *args):
        save(self, *args)
        Slow.now += 7

    monkeypatch.setattr(trials.SaveCheckpoint, "on_train_epoch_end", save_slowly)
    data = Digits(pool_size=600, batch_size=batch)
    data.setup("fit")
    data.assign(torch.arange(600) < 300, 0)
    classifier = Classifier(10, 1, 0, network=f"{__name__}.Slow")
    training = try_training(classifier, data, OPTIONS, [])
    assert (training.step, training.epoch) == expected
    assert 2 * 650 * 4 < training.checkpoint < 2 * 650 * 4 + 20_000  # weights and momentum
    assert training.memory > 1e8
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def costs():
    quantizations = {"nearest-w2": Quantization(5.0, "trial", 300, 0)}
    quantizations["adaround-w2-paper"] = Quantization(7200.0, "trial", 200, 1000)
    training, seen = Training(0.5, 2.0, 4000, 10**9), Seen(0.001, 13)
    return Costs(training, seen, Flops(10**9, 3 * 10**9), nn.Linear(8, 2), quantizations)


@pytest.fixture
def counts(tmp_path):
    run, names = RunFolder(tmp_path), fleet_names(2, 1)
    for file in (run.weights(names[0], "full"), run.signals(names[0], "full")):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    variants = ["full", "nearest-w2", "adaround-w2-paper"]
    return Counts(run, names, 4, 10, 500, 50, 5, 1000, 100, ["mirror", "shift+1+0"], variants, 2)


def test_the_plan_by_hand(costs, counts):
    table, *lines = show_cost(counts, costs)
    columns = [[*column.cells] for column in table.columns]
    training = 10 * (50 * 0.5 + 2) + 5 * 100 * 0.001  # 270.5 s
    signals = (1000 * 2 + 100 * 3) * 0.001  # the test split in the view of accuracy too
    total = 2 * training + 8 * signals + 3 * 5 + 3 * 7200
    assert columns[0] == [
        "training, 10 epochs", "signals of a variant", "nearest-w2", "adaround-w2-paper", "all"
    ]  # fmt: skip
    assert columns[1] == ["4.5 min", "2.30 s", "5.00 s", "2.0 h", ""]
    assert columns[2] == ["2", "8", "3", "3", ""]
    assert columns[3] == ["9.0 min", "18.40 s", "15.00 s", "6.0 h", say(total)]
    text = " ".join(lines)
    assert "3 to be made, 4 finished" in text
    assert f"Time: {say(total / 2)} with 2 at once" in text
    kept = 3 * (512 + 1000 * 2 * 13 + 100 * (2 * 8 + 1))
    full = len(cost.serialise(nn.Linear(8, 2).state_dict()))
    assert f"{full + 500:,} of weights, {full} of them full; {kept:,} of signals; 4,000" in text
    # 3e9 x 500 x 10, 1e9 x 2300 x 3 and 3e9 x 1000
    assert "0.015 training, 0.0069 signals, at most 0.003 published loops" in text
    hours = 3 * (15e12 + 6.9e12 + 3e12) / 31.2e12 / 3600
    assert f"3 models take {hours:.3g} GPU hours" in text


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.004, "0.00 s"), (59.9, "59.90 s"), (90.0, "1.5 min"), (36e6, "10,000.0 h")],
)
def test_durations(seconds, said):
    assert say(seconds) == said
