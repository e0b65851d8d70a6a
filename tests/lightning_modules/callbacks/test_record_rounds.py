"""What is recorded of rounds, against gradients of single examples by autograd."""

import copy
import json

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from safetensors.torch import load_file
from torch.nn.functional import cosine_similarity, cross_entropy

from attacks.signals import signals
from datamodules import Digits
from datamodules.clients import Federation, draw_holders
from lightning_modules.callbacks.record_rounds import RecordRounds
from lightning_modules.federated import FederatedClassifier, set_tensors
from lightning_modules.federated_options import FederatedOptions
from lightning_modules.observe import Seen, leave_out
from lightning_modules.options import ModelOptions

MEMBERS = torch.arange(60) < 30
ROUNDS, CLIENTS = 3, 4


class Witness(Callback):
    """Remembers the start, the uploads and the end of each round."""

    def __init__(self):
        self.rounds, self.sent = [], []

    def on_train_epoch_end(self, trainer, pl_module):
        end = {key: value.clone() for key, value in pl_module.network.state_dict().items()}
        self.rounds.append((pl_module.start, pl_module.uploads, end))
        self.sent.append(pl_module.sent)


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
        path, sizes = tmp_path / "full.json", federation.sizes()
        record = RecordRounds(tmp_path, path, [1, 3], sizes, options.cosine)
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
        model.seen = witness.sent
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


@pytest.mark.parametrize("participation", [1.0, 0.5])
def test_what_a_client_sees_without_its_own_upload(fit, participation):
    """The signals of the mean of the others, with the whole round's model where it was absent."""
    model, data, rounds, files, facts = fit("convnet", participation=participation)
    batches = list(data.pool_batches("identity"))
    images, labels = (torch.cat(parts) for parts in list(zip(*batches, strict=True))[:2])
    for number, file in files.items():
        start, uploads, _ = rounds[number - 1]
        sizes = {client: facts["sizes"][client] for client in uploads if client != 0}
        total = sum(sizes.values())
        others = {
            key: sum(n * uploads[k][key].double() for k, n in sizes.items()) / total
            for key in start
        }
        gradients, logits = last_gradients(model.network, others, images, labels)
        torch.testing.assert_close(
            file["others_phi"], signals(logits, labels).phi, rtol=1e-3, atol=1e-3
        )
        expected = gradients.norm(dim=1).log().float()
        torch.testing.assert_close(file["others_gradient"], expected, rtol=1e-3, atol=1e-3)
        before, _ = last_gradients(model.network, start, images, labels)
        direction = last_layer(start) - last_layer(others)
        slow = cosine_similarity(before, direction[None], eps=0).float()
        torch.testing.assert_close(file["others_cosine"], slow, rtol=1e-3, atol=1e-4)
        same = torch.equal(file["others_phi"], file["global_phi"])
        assert same == (0 not in uploads)


def test_a_client_that_is_alone_in_a_round_sees_what_was_sent():
    start, upload = {"w": torch.tensor(1.0)}, {"w": torch.tensor(3.0)}
    seen = Seen(start, {0: start}, {0: upload}, upload)
    assert leave_out(seen, 0, [5, 9]) is start
    both = seen._replace(
        uploads={0: upload, 1: {"w": torch.tensor(7.0)}}, end={"w": torch.tensor(6.0)}
    )
    assert leave_out(both, 0, [1, 3])["w"] == 7
    assert leave_out(seen._replace(uploads={}), 0, [5, 9]) is upload


def test_an_isolated_client_is_compared_with_what_it_was_sent(fit):
    model, data, rounds, files, _ = fit("convnet", adversary="isolate", strength=0.7)
    batches = list(data.pool_batches("identity"))
    images, labels = (torch.cat(parts) for parts in list(zip(*batches, strict=True))[:2])
    _, uploads, _ = rounds[2]
    sent = model.seen[2]
    assert not torch.equal(sent[1]["fc.weight"], sent[2]["fc.weight"])
    for client in range(CLIENTS):
        before, _ = last_gradients(model.network, sent[client], images, labels)
        direction = last_layer(sent[client]) - last_layer(uploads[client])
        slow = cosine_similarity(before, direction[None], eps=0).float()
        torch.testing.assert_close(files[3]["cosine"][client], slow, rtol=1e-4, atol=1e-5)
    assert not any(key.startswith("others") for key in files[3])


def test_cosines_on_all_layers_are_those_of_autograd(fit, tmp_path):
    """BatchNorm's parameters left out; the other signals are as before."""
    model, data, rounds, files, _ = fit("convnet", cosine="all")
    for path in tmp_path.glob("rounds/*"):
        path.unlink()
    plain = fit("convnet")[3]
    start, uploads, _ = rounds[2]
    network = copy.deepcopy(model.network).eval()
    set_tensors(network, start)
    names = [n for n, w in network.named_parameters() if w.ndim > 1 or n.startswith("fc.")]
    weights = [dict(network.named_parameters())[name] for name in names]
    for batch in data.pool_batches("identity"):
        image, label, index = batch.images[:1], batch.labels[:1], batch.indices[0]
        parts = torch.autograd.grad(cross_entropy(network(image), label), weights)
        slope = torch.cat([part.flatten() for part in parts]).double()
        for client, upload in uploads.items():
            way = torch.cat([(start[n].double() - upload[n].double()).flatten() for n in names])
            expected = cosine_similarity(slope, way, dim=0).item()
            assert files[3]["cosine"][client, index].item() == pytest.approx(expected, abs=1e-4)
    assert torch.equal(files[3]["phi"], plain[3]["phi"])
    assert not torch.allclose(files[3]["cosine"], plain[3]["cosine"], atol=1e-2)


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
