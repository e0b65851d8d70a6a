"""Batches, views, calibration images and logs on a GPU that is emulated; see conftest.py."""

from functools import partial
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger

import fleet.fit as fit_module
from datamodules import Digits
from lightning_modules.classifier import Classifier
from lightning_modules.options import ModelOptions


def serve(device):
    """Every kind of batch, as a data set on `device` makes it; and the data set."""
    data = Digits(pool_size=64, batch_size=16, flip=True, crop=1)
    data.setup("fit")
    data.assign(torch.arange(64) < 32, 1)
    data.trainer = Mock(
        Trainer, strategy=Mock(root_device=device), global_rank=0, world_size=1, current_epoch=0
    )
    batches = [*data.train_dataloader(), *data.val_dataloader()]
    for query in ("identity", "mirror", "shift+1-1", "random-0"):
        batches += [*data.pool_batches(query), *data.test_batches(query)]
    tensors = [tensor for batch in batches for tensor in batch[:3]]
    for augment_seed in (None, 0):
        tensors.append(data.calibration_images("members", torch.arange(8), augment_seed))
    return data, tensors


@pytest.mark.parametrize("fits", [True, False], ids=["pool-there", "pool-here"])
def test_batches_on_a_gpu_are_those_of_a_cpu(request, monkeypatch, fits):
    here, expected = serve(torch.device("cpu"))
    gpu = request.getfixturevalue("emulated")
    monkeypatch.setattr("datamodules.images.fits", lambda images, device: fits)
    there, tensors = serve(gpu.device)
    assert (there.pool.images.device == gpu.device) == fits
    for tensor, reference in zip(tensors, expected, strict=True):
        assert tensor.device == gpu.device
        assert torch.equal(tensor.cpu(), reference)
    assert there.fingerprint() == here.fingerprint()


def fit_logged(trainer, folder, waited):
    """Waits so far at each step of an epoch with a logger, and what was logged of the epoch."""
    data = Digits(pool_size=64, batch_size=16, flip=True, crop=1)
    data.setup("fit")
    data.assign(torch.arange(64) < 48, 1)
    seen = []

    class Note(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append(waited())

    made = trainer(
        max_epochs=1,
        log_every_n_steps=3,
        logger=CSVLogger(folder),
        callbacks=[Note()],
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    made.fit(Classifier(10, 1, 0, ModelOptions("own_networks.Small")), datamodule=data)
    logged = {key: made.logged_metrics[key].item() for key in ("train/loss", "train/accuracy")}
    return seen, logged


def test_a_step_that_is_logged_waits_for_nothing(request, own_networks, tmp_path):
    on_cpu = partial(Trainer, accelerator="cpu", devices=1)
    expected = fit_logged(on_cpu, tmp_path / "cpu", int)[1]
    gpu = request.getfixturevalue("emulated")
    seen, logged = fit_logged(fit_module.Trainer, tmp_path / "gpu", gpu.counts.waited)
    assert seen == [seen[0]] * 3
    assert logged == expected
