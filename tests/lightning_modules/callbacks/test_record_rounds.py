"""What is recorded of rounds, against gradients of single examples by autograd."""

import copy
import json

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from safetensors.torch import load_file
from torch.nn.functional import cosine_similarity, cross_entropy

from attacks.signals import signals
from datamodules import Arrays, Digits
from datamodules.attributes import read_attribute
from datamodules.clients import Federation, draw_holders
from lightning_modules.architectures import mlp
from lightning_modules.callbacks.record_rounds import RecordRounds, record_round
from lightning_modules.federated import FederatedClassifier, set_tensors
from lightning_modules.federated_options import FederatedOptions
from lightning_modules.options import ModelOptions

MEMBERS = torch.arange(60) < 30
ROUNDS, CLIENTS = 3, 4


class Witness(Callback):
    """Remembers the start, the uploads and the end of each round."""

    def __init__(self):
        self.rounds = []

    def on_train_epoch_end(self, trainer, pl_module):
        end = {key: value.clone() for key, value in pl_module.network.state_dict().items()}
        self.rounds.append((pl_module.start, pl_module.uploads, end))


@pytest.fixture
def fit(tmp_path):
    """Train a small federation that records rounds 1 and 3."""

    def train(network="convnet", **federated):
        data = Digits(pool_size=60, batch_size=4)
        data.setup("fit")
        options = FederatedOptions(CLIENTS, **federated)
        holder = draw_holders(MEMBERS, data.pool.labels, CLIENTS, None, 1)
        federation = Federation(holder, CLIENTS, 1, options.participation)
        data.assign(MEMBERS, 1, federation=federation)
        model, witness = FederatedClassifier(data, 1, ModelOptions(network), options), Witness()
        record = RecordRounds(tmp_path, tmp_path / "full.json", [1, 3], federation.sizes())
        trainer = Trainer(
            max_epochs=ROUNDS,
            accelerator="cpu",
            logger=False,
            callbacks=[record, witness],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            default_root_dir=tmp_path,
        )
        trainer.fit(model, datamodule=data)
        files = {
            number: load_file(tmp_path / f"rounds/{number:02d}.safetensors") for number in (1, 3)
        }
        return model, data, witness.rounds, files, json.loads((tmp_path / "full.json").read_text())

    return train


def last_gradients(network, state, images, labels):
    """Gradients of single examples in the last layer, in one row each, and the logits."""
    network = copy.deepcopy(network).eval()
    set_tensors(network, state)
    network, rows, logits = network.double(), [], []
    for image, label in zip(images.double(), labels, strict=True):
        out = network(image[None])
        loss = cross_entropy(out, label[None])
        parts = torch.autograd.grad(loss, [network.fc.weight, network.fc.bias])
        rows.append(torch.cat([part.flatten() for part in parts]))
        logits.append(out.detach())
    return torch.stack(rows), torch.cat(logits)


def last_layer(state):
    return torch.cat([state["fc.weight"].double().flatten(), state["fc.bias"].double()])


@pytest.mark.parametrize("update", ["full", "qsgd-w4"])
@pytest.mark.parametrize("network", ["convnet", "convnet_gn"])
def test_signals_are_those_of_single_gradients_by_autograd(fit, network, update):
    model, data, rounds, files, _ = fit(network, update=update)
    batches = list(data.pool_batches("identity"))
    images, labels = (torch.cat(parts) for parts in list(zip(*batches, strict=True))[:2])
    assert torch.equal(labels, data.pool.labels)
    for number, file in files.items():
        start, uploads, end = rounds[number - 1]
        assert file["participants"].tolist() == list(uploads) == [0, 1, 2, 3]
        assert file["participants"].dtype == torch.int64
        before, _ = last_gradients(model.network, start, images, labels)
        models = [
            (uploads[k], *(file[s][k] for s in ("phi", "gradient", "cosine"))) for k in range(4)
        ]
        models += [(end, *(file[f"global_{s}"] for s in ("phi", "gradient", "cosine")))]
        for state, phi, norms, angles in models:
            assert phi.dtype == norms.dtype == angles.dtype == torch.float32
            gradients, logits = last_gradients(model.network, state, images, labels)
            torch.testing.assert_close(phi, signals(logits, labels).phi, rtol=1e-4, atol=1e-4)
            expected = gradients.norm(dim=1).log().float()
            torch.testing.assert_close(norms, expected, rtol=1e-4, atol=1e-4)
            direction = last_layer(start) - last_layer(state)
            slow = cosine_similarity(before, direction[None], eps=0).float()
            torch.testing.assert_close(angles, slow, rtol=1e-4, atol=1e-5)
            assert slow.abs().max() > 0.05


def test_members_of_a_client_stand_out_in_its_own_upload(fit):
    """Their gradients point along the update that they made; a sign error would reverse it."""
    _, data, _, files, _ = fit("convnet_gn")
    cosine, holder = files[1]["cosine"], data.federation.holder
    own = torch.stack([cosine[client][holder == client].mean() for client in range(CLIENTS)])
    nobody = cosine[:, holder < 0].mean(1)
    assert (own > nobody).all()


def test_recording_changes_nothing_of_the_training(fit, monkeypatch):
    recorded, _, rounds, *_ = fit("convnet", update="qsgd-w4")
    monkeypatch.setattr("lightning_modules.callbacks.record_rounds.record_round", lambda *_: {})
    plain, *_ = fit("convnet", update="qsgd-w4")
    for key, value in recorded.network.state_dict().items():
        assert torch.equal(value, plain.network.state_dict()[key])
        assert torch.equal(value, rounds[-1][2][key])


def test_only_those_who_took_part_are_in_the_file(fit):
    _, data, _, files, facts = fit("convnet_gn", participation=0.5)
    for number, file in files.items():
        assert file["participants"].tolist() == data.federation.participants(1, number - 1)
        assert file["phi"].shape == file["cosine"].shape == file["gradient"].shape == (2, 60)
        assert file["global_phi"].shape == (60,)
    assert facts["recorded"] == [1, 3]
    assert facts["sizes"] == [8, 8, 7, 7]
    assert facts["unchanged"] == []


def test_bytes_of_each_round_are_recorded(fit):
    model, *_, facts = fit("convnet", participation=0.5, update="nearest-w2")
    assert facts["bytes"] == [2 * model.upload_bytes] * ROUNDS


def test_a_client_whose_upload_is_not_finite_is_named_once_and_recorded(fit, monkeypatch):
    real = FederatedClassifier._take

    def spoil(self, visit):
        if self.current_epoch > 0 and visit.client == 2:
            with torch.no_grad():
                self.network.fc.bias[3] = torch.nan
        return real(self, visit)

    monkeypatch.setattr(FederatedClassifier, "_take", spoil)
    with pytest.warns(
        UserWarning, match=r"client 2 uploaded weights that are not finite in round 2"
    ) as told:
        _, _, _, files, facts = fit("convnet_gn")
    assert sum("not finite" in str(warning.message) for warning in told) == 1
    assert facts["left_out"] == {"2": [2], "3": [2]}
    assert facts["unchanged"] == []
    assert files[3]["participants"].tolist() == [0, 1, 3]
    assert all(value.isfinite().all() for value in files[3].values())


def test_a_round_that_nobody_is_left_of_is_recorded_as_such(fit, monkeypatch):
    monkeypatch.setattr(FederatedClassifier, "_take", lambda self, visit: False)
    with pytest.warns(UserWarning, match="client [0-3] uploaded") as told:
        _, _, _, files, facts = fit("convnet_gn")
    assert sum("not finite" in str(warning.message) for warning in told) == CLIENTS
    assert facts["unchanged"] == [1, 2, 3]
    assert files[3]["participants"].shape == (0,)
    assert files[3]["phi"].shape == (0, 60)
    assert torch.equal(files[3]["global_phi"], files[1]["global_phi"])
    assert not files[3]["global_cosine"].any()


def test_candidates_are_recorded_as_if_they_were_the_pool(tmp_path, rng):
    """Every value in turn: to the bit what a table with that column would give."""
    features = torch.randn(24, 3, generator=rng)
    features[:, 1] = torch.arange(24) % 3
    splits = {
        "x": features,
        "y": torch.arange(24) % 2,
        "x_test": features[:4],
        "y_test": [0, 1] * 2,
    }
    np.savez(tmp_path / "table.npz", **splits)
    data = Arrays(tmp_path / "table.npz")
    data.setup("fit")
    network = mlp(2, (3,), [4])
    states = [mlp(2, (3,), [4]).state_dict() for _ in range(4)]
    start, *uploads, end = states
    attribute = read_attribute(data, 1)
    arguments = start, dict(enumerate(uploads)), end, data
    seen = record_round(copy.deepcopy(network), *arguments, attribute)
    plain = record_round(copy.deepcopy(network), *arguments)
    assert all(torch.equal(seen[key], value) for key, value in plain.items())
    pool = data.pool.images
    for place, value in enumerate(attribute.values):
        pool[:, 1] = value
        expected = record_round(copy.deepcopy(network), *arguments)
        for key in expected.keys() - {"participants"}:
            recorded = seen[f"attribute_{key}"]
            assert recorded.shape == (3, *expected[key].shape)
            assert torch.equal(recorded[place], expected[key])
