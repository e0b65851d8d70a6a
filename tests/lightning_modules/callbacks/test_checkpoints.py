from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from safetensors.torch import load_file

from datamodules import Digits
from lightning_modules.callbacks.checkpoints import SaveCheckpoint, SaveWeights, WholeCheckpointIO
from lightning_modules.classifier import Classifier
from lightning_modules.options import ModelOptions


class Witness(Callback):
    """Remembers the checkpoint on disk when an epoch starts, and the weights when it ends."""

    def __init__(self, path):
        self.path, self.checkpoints, self.weights = path, [], []

    def on_train_epoch_start(self, trainer, pl_module):
        exists = self.path.exists()
        self.checkpoints.append(torch.load(self.path, weights_only=True) if exists else None)

    def on_train_epoch_end(self, trainer, pl_module):
        self.weights.append({key: value.clone() for key, value in pl_module.state_dict().items()})


def fit(folder, epochs, *callbacks, resume=None, every=0.0):
    data = Digits(pool_size=60, batch_size=16)
    data.setup("fit")
    data.assign(torch.arange(60) < 30, seed=1)
    model = Classifier(10, 1, 1, ModelOptions("convnet"))
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=[SaveCheckpoint(folder / "last.ckpt", every), *callbacks],
        plugins=[WholeCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )
    trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
    return model


def test_every_epoch_ends_with_its_checkpoint_on_disk(tmp_path):
    witness = Witness(tmp_path / "last.ckpt")
    fit(tmp_path, 3, witness)
    assert witness.checkpoints[0] is None
    for epoch, checkpoint in enumerate(witness.checkpoints[1:]):
        assert checkpoint["epoch"] == epoch
        assert checkpoint["global_step"] == 2 * (epoch + 1)
        state = checkpoint["state_dict"]
        assert all(torch.equal(state[key], witness.weights[epoch][key]) for key in state)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_failed_checkpoint_keeps_the_last_one(tmp_path, monkeypatch):
    fit(tmp_path, 1)
    before = (tmp_path / "last.ckpt").read_bytes()

    real = Path.write_bytes

    def full(path, content):
        real(path, content[:100])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="disk full"):
        fit(tmp_path, 2)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"last.ckpt": before}


def test_weights_have_the_networks_own_keys_and_are_written_once(tmp_path):
    path = tmp_path / "models" / "full.safetensors"
    model = fit(tmp_path, 2, SaveWeights(path))
    saved, expected = load_file(path), model.network.state_dict()
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[key], expected[key]) for key in saved)
    path.write_bytes(b"as it was")
    fit(tmp_path, 2, SaveWeights(path), resume=tmp_path / "last.ckpt")
    assert path.read_bytes() == b"as it was"


def test_a_fit_that_had_ended_writes_its_weights_without_a_step(tmp_path, monkeypatch):
    model = fit(tmp_path, 2)
    monkeypatch.setattr(Classifier, "training_step", lambda *_: pytest.fail("trained again"))
    path = tmp_path / "full.safetensors"
    fit(tmp_path, 2, SaveWeights(path), resume=tmp_path / "last.ckpt")
    saved, expected = load_file(path), model.network.state_dict()
    assert all(torch.equal(saved[key], expected[key]) for key in expected)


@pytest.mark.parametrize(
    ("every", "kept"),
    [(0.0, [0, 1, 2, 3]), (60.0, [None, 1, 1, 3]), (100.0, [None, None, 2, 2]), (1e9, [None] * 4)],
)
def test_checkpoints_are_no_closer_than_asked_and_the_last_epoch_has_one(
    tmp_path, monkeypatch, every, kept
):
    """Epochs of 40 s by a clock that only an epoch moves."""
    seconds = [0.0]

    class Clock(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            seconds[0] += 40.0

    monkeypatch.setattr(
        "lightning_modules.callbacks.checkpoints.time.monotonic", lambda: seconds[0]
    )
    witness = Witness(tmp_path / "last.ckpt")
    fit(tmp_path, 5, Clock(), witness, every=every)
    assert [c and c["epoch"] for c in witness.checkpoints[1:]] == kept
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 4


def test_a_fit_that_ends_early_has_a_checkpoint_of_its_last_epoch(tmp_path):
    class Stop(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = trainer.current_epoch == 1

    fit(tmp_path, 5, Stop(), every=1e9)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 1


def test_only_the_first_process_writes_weights_and_the_others_are_given_them(tmp_path):
    models = [Classifier(10, 1, seed, ModelOptions("convnet")) for seed in (1, 2)]
    first, second = (model.network.state_dict() for model in models)
    assert not torch.equal(first["fc.weight"], second["fc.weight"])
    trainer = Mock(Trainer, is_global_zero=False, world_size=2)
    trainer.strategy.broadcast.return_value = first
    SaveWeights(tmp_path / "x").on_fit_end(trainer, models[1])
    assert list(tmp_path.iterdir()) == []
    given = models[1].network.state_dict()
    assert all(torch.equal(given[key], first[key]) for key in first)


def test_a_checkpoint_that_could_run_code_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (print, ("code ran",))

    torch.save({"state_dict": Trap()}, tmp_path / "last.ckpt")
    with pytest.raises(Exception, match=r"(?s)Weights only load failed|weights_only"):
        fit(tmp_path, 2, resume=tmp_path / "last.ckpt")
