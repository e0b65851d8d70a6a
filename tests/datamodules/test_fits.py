"""The batches that a real Trainer is served."""

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from datamodules.membership import membership
from datamodules.views import normalise


class Recorder(LightningModule):
    """A network that records the batches it is shown."""

    def __init__(self):
        super().__init__()
        self.network = torch.nn.Linear(3 * 64, 3)
        self.served, self.validated = [], []

    def training_step(self, batch, batch_idx):
        self.served.append((self.current_epoch, batch))
        return torch.nn.functional.cross_entropy(
            self.network(batch.images.flatten(1)), batch.labels
        )

    def validation_step(self, batch, batch_idx):
        self.validated.append(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def epoch(self, number):
        return [batch for epoch, batch in self.served if epoch == number]

    def since(self, first):
        return [batch for epoch, batch in self.served if epoch >= first]


def fit(data, tmp_path, epochs=4, callbacks=(), ckpt_path=None):
    model = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=list(callbacks),
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
    )
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
    return model


def indices(batches):
    return torch.cat([batch.indices for batch in batches])


def assert_same(batches, expected):
    for batch, whole in zip(batches, expected, strict=True):
        assert batch.weight == whole.weight
        for tensor, reference in zip(batch[:3], whole[:3], strict=True):
            assert torch.equal(tensor, reference)


def test_a_fit_serves_its_members_once_per_epoch(data, tmp_path):
    row = membership(3, 2, 0, 100)[1]
    data.assign(row, seed=5)
    model = fit(data, tmp_path)
    orders = [indices(model.epoch(epoch)) for epoch in range(4)]
    for epoch, order in enumerate(orders):
        assert order.sort().values.tolist() == row.nonzero().flatten().tolist()
        assert all(not torch.equal(order, earlier) for earlier in orders[:epoch])
    for _, batch in model.served:
        assert torch.equal(batch.labels, batch.indices % 3)


def test_every_epoch_of_a_fit_has_new_augmentations(data, tmp_path):
    data.assign(membership(3, 2, 0, 100)[0], seed=5)
    model = fit(data, tmp_path, epochs=3)
    example = int(model.served[0][1].indices[0])
    shown = [
        batch.images[batch.indices == example]
        for _, batch in model.served
        if example in batch.indices
    ]
    assert len(shown) == 3
    assert not torch.equal(shown[0], shown[1])
    assert not torch.equal(shown[1], shown[2])


def saving(tmp_path, after="training"):
    return ModelCheckpoint(tmp_path, save_last=True, save_on_train_epoch_end=after == "training")


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty")  # on purpose
@pytest.mark.parametrize("after", ["training", "validation"])
def test_a_resumed_fit_is_served_the_batches_of_an_uninterrupted_one(data, tmp_path, after):
    data.assign(membership(3, 2, 0, 100)[0], seed=5)
    whole = fit(data, tmp_path)
    fit(data, tmp_path, 2, [saving(tmp_path, after)])
    resumed = fit(data, tmp_path, 4, [saving(tmp_path, after)], tmp_path / "last.ckpt")
    assert_same(whole.since(2), resumed.since(0))


class Kill(Callback):
    """Raise in the middle of the third epoch, as if the process ended."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (2, 1):
            raise RuntimeError("killed")


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty")  # on purpose
def test_a_fit_killed_within_an_epoch_restarts_that_epoch(data, tmp_path):
    data.assign(membership(3, 2, 0, 100)[0], seed=5)
    whole = fit(data, tmp_path)
    with pytest.raises(RuntimeError, match="killed"):
        fit(data, tmp_path, 4, [saving(tmp_path), Kill()])
    resumed = fit(data, tmp_path, 4, [saving(tmp_path)], tmp_path / "last.ckpt")
    assert_same(whole.since(2), resumed.since(0))


def test_batches_depend_on_the_seed_alone(data, tmp_path):
    row = membership(3, 2, 0, 100)[0]
    runs = []
    for seed in (5, 6, 5):
        torch.manual_seed(len(runs))  # global state must not matter
        data.assign(row, seed)
        runs.append(fit(data, tmp_path, epochs=1).epoch(0))
    assert_same(runs[0], runs[2])
    assert not torch.equal(indices(runs[0]), indices(runs[1]))


def test_validation_serves_the_test_split_once_without_augmentation(data, tmp_path):
    data.assign(torch.arange(100) < 20, seed=0)
    model = fit(data, tmp_path, epochs=1)
    assert indices(model.validated).tolist() == list(range(1030))
    assert max(len(batch.labels) for batch in model.validated) <= 128
    images = torch.cat([batch.images for batch in model.validated])
    assert torch.equal(images, normalise(data.test.images, data.mean, data.std))


def test_training_needs_a_split_and_a_trainer(data, tmp_path, noise):
    with pytest.raises(RuntimeError, match="Call `assign` first"):
        fit(data, tmp_path)
    data = noise()
    data.setup("fit")
    data.assign(torch.arange(100) < 50, seed=0)
    with pytest.raises(RuntimeError, match=r"hand this to `Trainer\.fit`"):
        data.train_dataloader()
