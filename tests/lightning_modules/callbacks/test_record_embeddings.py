"""Recorded embeddings, against networks taken apart by hand and scikit-learn's components."""

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import load_file
from sklearn.decomposition import PCA
from torch import nn

from datamodules import Digits
from lightning_modules.callbacks.record_embeddings import RecordEmbeddings, embed, find_layer
from lightning_modules.classifier import Classifier
from lightning_modules.networks import NETWORKS, build_network
from lightning_modules.options import ModelOptions
from storage.files import save_whole

CONVNET = ModelOptions("convnet")
QUIET = {
    "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False,
    "accelerator": "cpu", "logger": False, "log_every_n_steps": 1, "num_sanity_val_steps": 0,
}  # fmt: skip


@pytest.fixture
def data():
    """A pool and a test split of several batches each, and not a whole number of them."""
    data = Digits(pool_size=1100, batch_size=32, flip=True, crop=1)
    data.setup("fit")
    data.assign(torch.ones(1100, dtype=torch.bool), 0)
    return data


def slow_embeddings(inputs, data, query):
    """Components of `inputs(images)`, all images at once, in scikit-learn's float64."""
    splits = data.pool_batches(query), data.test_batches(query)
    with torch.inference_mode():
        pool, test = (
            torch.cat([inputs(batch.images) for batch in batches]).double().numpy()
            for batches in splits
        )
    count = min(32, test.shape[1])
    pca = PCA(count).fit(test)
    signs = np.sign(pca.components_[range(count), np.abs(pca.components_).argmax(1)])
    return [signs * pca.transform(rows) for rows in (pool, test)], pca.singular_values_


def check(record, inputs, data, query, wide):
    """Compare the first `wide` components, whose widths are far enough apart to be unique."""
    expected, widths = slow_embeddings(inputs, data, query)
    gaps = np.diff(-(widths[: wide + 1] ** 2)).min() / widths[0] ** 2
    for name, rows in zip(("embeddings", "population"), expected, strict=True):
        assert record[name].shape == rows.T.shape
        assert record[name].dtype == torch.float32
        # float64 rounds the covariance of 697 rows at 697 x 2^-53 = 1e-13, divided by the gap
        close = {"rtol": 1e-5, "atol": 1e-5 * np.abs(rows).max()}
        assert gaps > 1e-7
        np.testing.assert_allclose(record[name][:wide], rows.T[:wide], **close)


@pytest.mark.parametrize("query", ["identity", "mirror", "shift+1+0", "random-0"])
def test_embeddings_are_components_of_the_input_of_the_last_layer(data, query):
    network = build_network("convnet", 10, 1, {}).eval()
    record = embed(network, data, query)
    check(record, network[:-1], data, query, 8)


def test_a_network_without_linear_layers_gives_the_input_of_its_last_convolution(data):
    body = nn.Sequential(nn.Conv2d(1, 12, 3), nn.ReLU())
    network = nn.Sequential(body, nn.Conv2d(12, 10, 1), nn.AvgPool2d(6), nn.Flatten()).eval()
    record = embed(network, data, "identity")
    check(record, lambda images: body(images).mean((2, 3)), data, "identity", 4)


def test_tokens_are_averaged(data):
    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(8, 6), nn.Linear(6, 10)

        def forward(self, images):
            return self.head(self.first(images[:, 0]).relu()).mean(1)

    network = Mixer().eval()
    record = embed(network, data, "identity")
    tokens = lambda images: network.first(images[:, 0]).relu().mean(1)  # noqa: E731
    check(record, tokens, data, "identity", 3)


@pytest.mark.parametrize("name", NETWORKS)
def test_our_networks_are_embedded_by_the_input_of_their_classifier(name):
    network = build_network(name, 10, 3, {}, (3, 32, 32)).eval()
    classifier = "classifier" if name == "densenet121" else "fc"  # torchvision's name for it
    assert find_layer(network, torch.zeros(2, 3, 32, 32)) == classifier
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_layers_that_are_never_called_do_not_count(own_networks):
    network = build_network("own_networks.Forgetful", 10, 1, {}).eval()
    assert find_layer(network, torch.zeros(2, 1, 8, 8)) == "second"


class Matrix(nn.Module):
    """Linear, but by no layer of its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(64, 10))

    def forward(self, images):
        return images.flatten(1) @ self.weight


class Merged(nn.Module):
    """Merges images and rows into one axis."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 10)

    def forward(self, images):
        return self.head(images.reshape(-1, 8)).reshape(len(images), -1, 10).mean(1)


def test_networks_without_an_embedding_are_refused_with_the_way_out():
    images = torch.zeros(2, 1, 8, 8)
    with pytest.raises(ValueError, match=r"Matrix calls neither as a module\. Leave the option ou"):
        find_layer(Matrix(), images)
    message = r"a row for each of 2 images in the input of `head`.* of Merged, got \(16, 8\)\. Leav"
    with pytest.raises(ValueError, match=message):
        find_layer(Merged(), images)


def test_each_variant_is_recorded_once_and_by_its_own_weights(data, tmp_path, snapshot):
    networks = {name: build_network("convnet", 10, 1, {}).eval() for name in ("full", "a-w2")}
    for name, network in networks.items():
        save_whole(tmp_path / f"{name}.safetensors", network.state_dict())

    def fit():
        callback = RecordEmbeddings(tmp_path, list(networks), "mirror")
        trainer = Trainer(**QUIET, max_epochs=0, callbacks=[callback], default_root_dir=tmp_path)
        trainer.fit(Classifier(10, 1, 0, CONVNET), datamodule=data)

    fit()
    folder = tmp_path / "embeddings"
    assert sorted(path.name for path in folder.iterdir()) == [
        f"{n}.safetensors" for n in ("a-w2", "full")
    ]
    for name, network in networks.items():
        stored = load_file(folder / f"{name}.safetensors")
        assert stored["embeddings"].shape == (32, 1100)
        check(stored, network[:-1], data, "mirror", 8)
    before = snapshot(folder)
    (tmp_path / "full.safetensors").unlink()  # its embeddings exist
    (folder / "a-w2.safetensors").unlink()
    fit()
    after = snapshot(folder)
    assert after["full.safetensors"] == before["full.safetensors"]
    assert {name: content for name, (_, content) in after.items()} == {
        name: content for name, (_, content) in before.items()
    }


def test_a_process_records_its_share_of_the_variants(data, tmp_path, monkeypatch):
    model = Classifier(10, 1, 0, CONVNET)
    for variant in ("full", "nearest-w2"):
        save_whole(tmp_path / f"{variant}.safetensors", model.network.state_dict())
    trainer = Trainer(logger=False, accelerator="cpu")
    trainer.datamodule = data
    monkeypatch.setattr(Trainer, "global_rank", 1)
    monkeypatch.setattr(Trainer, "world_size", 2)
    RecordEmbeddings(tmp_path, ["full", "nearest-w2"], "identity").on_fit_end(trainer, model)
    assert [path.name for path in (tmp_path / "embeddings").iterdir()] == ["nearest-w2.safetensors"]
