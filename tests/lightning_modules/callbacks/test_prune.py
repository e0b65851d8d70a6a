import json

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers.logger import DummyLogger

import lightning_modules.callbacks.prune as module
from datamodules import Digits
from lightning_modules.callbacks.prune import Prune
from lightning_modules.classifier import Classifier
from lightning_modules.options import ModelOptions, PruneOptions

EPOCHS, STEPS = 10, 2


class Witness(DummyLogger):
    """Remembers what it is given."""

    def __init__(self):
        super().__init__()
        self.metrics = []

    def log_metrics(self, metrics, step=None):
        self.metrics.append(metrics)


class Rates(Callback):
    """Remembers the learning rate and the number of parameters of each step."""

    def __init__(self):
        self.rates, self.parameters = [], []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])
        self.parameters.append(sum(w.numel() for g in optimizer.param_groups for w in g["params"]))


@pytest.fixture
def fit(tmp_path):
    """Train a small model; returns it, what its steps were like, and the record of its pruning."""

    def train(options=None, logger=False):
        data = Digits(pool_size=60, batch_size=16)
        data.setup("fit")
        data.assign(torch.arange(60) < 30, seed=1)
        model, rates = Classifier(10, 1, 1, ModelOptions("convnet")), Rates()
        prune = [Prune(tmp_path / "full.json", options, EPOCHS, seed=1)] if options else []
        trainer = Trainer(
            max_epochs=EPOCHS,
            accelerator="cpu",
            logger=logger,
            log_every_n_steps=1,
            callbacks=[*prune, rates],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
        )
        trainer.fit(model, datamodule=data)
        record = json.loads((tmp_path / "full.json").read_text()) if options else None
        return model, rates, record

    return train


def test_the_learning_rate_goes_on_over_the_cut(fit):
    _, dense, _ = fit()
    _, pruned, record = fit(PruneOptions("magnitude", cut=0.5))
    assert pruned.rates == dense.rates
    cut = record["cut_after"] * STEPS
    assert pruned.parameters == [record["parameters"][0]] * cut + [record["parameters"][1]] * (
        EPOCHS * STEPS - cut
    )


def test_the_penalty_has_the_rate_of_its_step_and_grows(fit, monkeypatch):
    amounts = []
    monkeypatch.setattr(module, "shrink", lambda *arguments: amounts.append(arguments[-1]))
    monkeypatch.setattr(module, "is_stable", lambda curve: False)
    _, steps, record = fit(PruneOptions("ocs", start=0.2, cut=0.6, strength=0.5))
    assert (record["first"], record["cut_after"]) == (2, 6)
    growth = [epoch / 4 for epoch in (1, 2, 3, 4) for _ in range(STEPS)]
    expected = [
        0.5 * share * rate
        for share, rate in zip(growth, steps.rates[2 * STEPS : 6 * STEPS], strict=True)
    ]
    assert amounts == pytest.approx(expected)


def test_a_strong_penalty_makes_channels_stable_before_the_latest_epoch(fit):
    _, _, record = fit(PruneOptions("ocs", start=0.1, cut=0.8, strength=20.0))
    assert record["cut_after"] == 1 + len(record["stability"]) < record["last"]
    assert record["stability"][-3:] == [1.0, 1.0, 1.0]
    assert record["stable"] is True
    before, after, _ = record["accuracy"]
    assert before == after  # nothing but zeros was cut


def test_a_stability_that_never_comes_is_recorded(fit, monkeypatch):
    monkeypatch.setattr(module, "jaccard", lambda before, after: 0.5)
    _, _, record = fit(PruneOptions("ocs", cut=0.6))
    assert record["cut_after"] == 6
    assert record["stability"] == [0.5] * 5
    assert record["stable"] is False


@pytest.mark.parametrize("method", ["ocs", "magnitude", "init"])
def test_test_images_select_nothing(fit, monkeypatch, method):
    _, _, record = fit(PruneOptions(method))
    monkeypatch.setattr(module, "_accuracy", lambda *_: 0.0)
    monkeypatch.setattr(Digits, "test_batches", lambda *_: pytest.fail("looked at test images"))
    _, _, blind = fit(PruneOptions(method))
    assert blind["kept"] == record["kept"]


def test_init_is_cut_before_the_first_step(fit):
    model, steps, record = fit(PruneOptions("init"))
    assert set(steps.parameters) == {record["parameters"][1]}
    assert record["widths"]["layer3.0"] == [64, len(record["kept"]["layer3.0"])]
    assert model.network.layer3[0].out_channels == record["widths"]["layer3.0"][1]
    assert model.kept == record["kept"]
    assert record["macs"][1] <= 0.5 * record["macs"][0]
    assert record["sizes"] == {"layer1.0": 16, "layer2.0": 32, "layer3.0": 64}


def test_loggers_are_told_of_stability_and_of_the_cut(fit):
    logger = Witness()
    _, _, record = fit(PruneOptions("ocs", cut=0.4), logger)
    told = [metrics for metrics in logger.metrics if any("prune/" in key for key in metrics)]
    before, after, _ = record["accuracy"]
    assert told == [
        *({"prune/stability": value} for value in record["stability"]),
        {"prune/cut_before": before, "prune/cut_after": after, "prune/cut_epoch": 4},
    ]
