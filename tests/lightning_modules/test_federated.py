"""Federated averaging against a plain loop, against training in one place, and by hand."""

import copy
from math import cos, pi

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from datamodules import Digits
from datamodules.clients import Federation, Visit, draw_holders
from datamodules.seeds import derive_seed
from lightning_modules.callbacks.checkpoints import SaveCheckpoint
from lightning_modules.classifier import Classifier
from lightning_modules.federated import FederatedClassifier, set_tensors
from lightning_modules.federated_options import FederatedOptions
from lightning_modules.options import ModelOptions
from quantization.updates import parse_update, round_tensor, update_bytes

SEED, ROUNDS = 3, 4
MEMBERS = torch.arange(80) % 2 == 0


class Witness(Callback):
    """Remembers what clients were served, and every round's start, uploads and end."""

    def __init__(self):
        self.batches, self.rounds = [], []

    def on_train_epoch_end(self, trainer, pl_module):
        end = {key: value.clone() for key, value in pl_module.network.state_dict().items()}
        self.rounds.append((pl_module.start, pl_module.uploads, end, pl_module.left_out))


@pytest.fixture
def served(monkeypatch):
    """Batches trained on: round and batch, step by step."""
    batches, real = [], Classifier.training_step

    def step(self, batch, batch_idx):
        batches.append((self.current_epoch, batch))
        return real(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", step)
    return batches


@pytest.fixture
def fit(fit_model):
    def train(federated, network="convnet_gn", rounds=ROUNDS, holder=None, resume=None, **further):
        options, federated = further.pop("options", {}), FederatedOptions(**federated)
        data = Digits(pool_size=80, batch_size=8)
        data.setup("fit")
        labels, clients = data.pool.labels, federated.clients
        if holder is None:
            holder = draw_holders(MEMBERS, labels, clients, federated.dirichlet, SEED)
        shape = federated.local_epochs, federated.participation
        data.assign(MEMBERS, SEED, federation=Federation(holder, clients, *shape))
        witness, saving = Witness(), further.pop("callbacks", [])
        model = FederatedClassifier(data, SEED, ModelOptions(network, **options), federated)
        first = copy.deepcopy(model.network)
        fit_model(model, data, rounds, resume, [*saving, witness], **further)
        return model, first, data, witness

    return train


def plain_fedavg(network, data, federated, lr, momentum=0.9, decay=5e-4, rounds=ROUNDS):
    """FedAvg as a plain loop over rounds, clients, passes and batches; in place."""
    federation, rounding = data.federation, parse_update(federated.update)
    residuals, last, strength = {}, {}, federated.strength
    for number in range(rounds):
        start = copy.deepcopy(network.state_dict())
        names = [name for name, _ in network.named_parameters()]
        sums, total, largest = {}, 0, 0
        for client in federation.participants(SEED, number):
            begun = start
            if federated.adversary == "isolate" and client in last:
                begun = dict(last[client])  # counters are the client's own
                for name, value in start.items():
                    if value.is_floating_point():
                        own = strength * last[client][name].double()
                        begun[name] = ((1 - strength) * value.double() + own).float()
            network.load_state_dict(begun)
            rate = lr * (1 + cos(pi * number / rounds)) / 2
            optimizer = SGD(network.parameters(), rate, momentum, weight_decay=decay)
            own = federation.examples(client)
            for again in range(federation.local_epochs):
                seed = derive_seed(derive_seed(SEED, "visit", number, client), "pass", again)
                order = torch.randperm(len(own), generator=torch.Generator().manual_seed(seed))
                for part in own[order].tensor_split(-(-len(own) // data.batch_size)):
                    batch = data._batch(data.pool, part, lambda images: images)
                    optimizer.zero_grad()
                    cross_entropy(network.train()(batch.images), batch.labels).backward()
                    optimizer.step()
            if federated.adversary == "ascent" and client == 0:
                climb(network, data, (federation.holder != 0).nonzero()[:, 0], strength)
            draws = torch.Generator().manual_seed(derive_seed(SEED, "upload", number, client))
            for name, value in network.state_dict().items():
                if name in names:
                    update = value.double() - begun[name].double()
                    update += residuals.get((client, name), 0)
                    sent = update
                    if federated.update != "full":
                        sent = round_tensor(update, rounding, draws).double()
                    if federated.error_feedback:
                        residuals[client, name] = (update - sent).float()
                    sums[name] = sums.get(name, 0) + len(own) * sent
                    last.setdefault(client, {})[name] = (begun[name].double() + sent).float()
                elif value.is_floating_point():
                    sums[name] = sums.get(name, 0) + len(own) * value.double()
                elif len(own) > largest:
                    sums[name] = value.clone()
                if name not in names:
                    last.setdefault(client, {})[name] = value.clone()
            total, largest = total + len(own), max(largest, len(own))
        new = {}
        for name, value in start.items():
            new[name] = sums[name] if name not in names else start[name].double()
            if name in names:
                new[name] = (new[name] + sums[name] / total).float()
            elif value.is_floating_point():
                new[name] = (sums[name] / total).float()
        network.load_state_dict(new)
    return network.state_dict()


def climb(network, data, candidates, strength):
    """One step up the loss of examples, one by one in float64 sums, in evaluation mode."""
    weights, size = list(network.parameters()), data._evaluation_batch
    sums = [torch.zeros_like(weight, dtype=torch.float64) for weight in weights]
    for begin in range(0, len(data.pool.labels), size):
        part = candidates[(candidates >= begin) & (candidates < begin + size)]
        batch = data._batch(data.pool, part, lambda images: images)
        loss = cross_entropy(network.eval()(batch.images), batch.labels, reduction="sum")
        for total, slope in zip(sums, torch.autograd.grad(loss, weights), strict=True):
            total += slope
    with torch.no_grad():
        for weight, total in zip(weights, sums, strict=True):
            weight += (strength / len(candidates) * total).float()


CASES = {
    "five clients": {"clients": 5},
    "two passes": {"clients": 3, "local_epochs": 2},
    "half of them": {"clients": 6, "participation": 0.5},
    "unequal": {"clients": 4, "dirichlet": 0.5},
    "qsgd": {"clients": 4, "update": "qsgd-w4"},
    "nearest": {"clients": 4, "update": "nearest-w1.58", "error_feedback": True},
    "all at once": {
        "clients": 6, "participation": 0.5, "dirichlet": 1.0, "update": "qsgd-w2",
        "error_feedback": True, "local_epochs": 2,
    },
    "isolated": {"clients": 4, "adversary": "isolate"},
    "isolated in part": {
        "clients": 6, "participation": 0.5, "adversary": "isolate", "strength": 0.3,
        "update": "nearest-w4", "error_feedback": True,
    },
    "ascent": {"clients": 4, "adversary": "ascent", "strength": 2.0, "update": "qsgd-w8"},
}  # fmt: skip


@pytest.mark.parametrize("network", ["convnet", "convnet_gn"])
@pytest.mark.parametrize("case", CASES)
def test_weights_are_bit_for_bit_those_of_a_plain_loop(fit, case, network):
    """BatchNorm's statistics and counters among them; kernels and their order are the same."""
    federated = CASES[case]
    model, first, data, _ = fit(federated, network, options={"lr": 0.05})
    plain = plain_fedavg(first, data, FederatedOptions(**federated), 0.05)
    state = model.network.state_dict()
    assert state.keys() == plain.keys()
    for key, value in state.items():
        assert torch.equal(value, plain[key]), key


def test_an_isolated_client_is_trained_as_if_alone(fit):
    """Its uploads are those of a federation of its own, whatever the others hold."""
    federated = {"clients": 4, "adversary": "isolate"}
    model, _, data, witness = fit(federated, "convnet", options={"lr": 0.05})
    holder = data.federation.holder
    others = torch.where(holder > 0, 4 - holder, holder)  # clients 1 and 3 change places
    again = fit(federated, "convnet", holder=others, options={"lr": 0.05})[3]
    for (_, uploads, *_), (_, changed, *_) in zip(witness.rounds, again.rounds, strict=True):
        for key, value in uploads[0].items():
            assert torch.equal(value, changed[0][key])
    assert not torch.equal(uploads[1]["fc.weight"], changed[1]["fc.weight"])
    assert not torch.equal(model.network.fc.weight, uploads[0]["fc.weight"])


def test_one_client_is_ordinary_training_on_the_same_batches(fit, served):
    """Without momentum, which clients forget; rounds of one pass are epochs. Bit for bit."""
    options = {"lr": 0.05, "momentum": 0.0}
    model, network, *_ = fit({"clients": 1}, "convnet", options=options)
    optimizer = SGD(network.parameters(), 0.05, weight_decay=5e-4)
    for number, batch in served:
        optimizer.param_groups[0]["lr"] = 0.05 * (1 + cos(pi * number / ROUNDS)) / 2
        optimizer.zero_grad()
        cross_entropy(network.train()(batch.images), batch.labels).backward()
        optimizer.step()
    assert len(served) == ROUNDS * 5
    for key, value in model.network.state_dict().items():
        assert torch.equal(value, network.state_dict()[key]), key


@pytest.mark.parametrize(
    "federated",
    [
        {"clients": 5},
        {"clients": 6, "participation": 0.5, "local_epochs": 3},
        {"clients": 4, "dirichlet": 0.5},
    ],
)
def test_what_clients_are_served_is_what_they_hold(fit, served, federated):
    """Each client by itself, in ascending order, each pass its own examples once and anew."""
    _, _, data, witness = fit(federated)
    federation, passes = data.federation, federated.get("local_epochs", 1)
    orders = []
    for number in range(ROUNDS):
        batches = iter([batch.indices for at, batch in served if at == number])
        uploads = list(witness.rounds[number][1])
        assert uploads == federation.participants(SEED, number)
        assert uploads == sorted(uploads)
        for client in uploads:
            held = (federation.holder == client).nonzero().flatten().tolist()
            for _ in range(passes):
                order = []
                while len(order) < len(held):
                    order += next(batches).tolist()
                assert sorted(order) == held
                orders.append(tuple(order))
        assert next(batches, None) is None
    assert len({*orders}) == len(orders)
    assert torch.equal(federation.holder >= 0, MEMBERS)


def test_error_feedback_worked_by_hand():
    """Ternary: one number of two is sent, and the other waits until it is the larger."""
    data = Digits(pool_size=20)
    data.setup("fit")
    federated = FederatedOptions(1, update="nearest-w1.58", error_feedback=True)
    model = FederatedClassifier(data, SEED, ModelOptions("convnet_gn"), federated)
    model.network = nn.Linear(2, 1, bias=False)
    trained = [[1.0, 0.4], [0.1, 0.4], [0.0, 0.0], [0.0, 0.0]]
    sent = [[1.0, 0.0], [0.0, 0.8], [0.1, 0.0], [0.0, 0.0]]
    kept = [[0.0, 0.4], [0.1, 0.0], [0.0, 0.0], [0.0, 0.0]]
    for weights, upload, residual in zip(trained, sent, kept, strict=True):
        set_tensors(model.network, {"weight": torch.zeros(1, 2)})
        model.on_train_epoch_start()
        visit = Visit(0, 5, True, iter([]))
        model.on_train_batch_start(visit, 0)
        set_tensors(model.network, {"weight": torch.tensor([weights])})
        assert model._take(visit)
        assert model.uploads[0]["weight"].tolist() == [pytest.approx(upload, abs=1e-7)]
        assert model.residuals[0]["weight"].tolist() == [pytest.approx(residual, abs=1e-7)]


def test_rounding_without_bias_and_with_feedback_forgets_nothing(fit):
    """Sum of what a client sent, and its residual, is the sum of what it wanted to send."""
    wanted, real = {}, FederatedClassifier._take

    def take(self, visit):
        for key, value in self.network.named_parameters():
            difference = value.detach().double() - self.start[key].double()
            total = wanted.setdefault((visit.client, key), torch.zeros_like(difference))
            total += difference
        return real(self, visit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FederatedClassifier, "_take", take)
        federated = {"clients": 3, "update": "nearest-w1.58", "error_feedback": True}
        model, _, _, witness = fit(federated)
    for (client, key), total in wanted.items():
        sent = sum(uploads[client][key].double() - start[key].double()
                   for start, uploads, _, _ in witness.rounds)  # fmt: skip
        kept = model.residuals[client][key].double()
        torch.testing.assert_close(sent + kept, total, rtol=0, atol=1e-6)  # float32, four rounds


def test_absent_clients_keep_their_residuals(fit):
    federated = {"clients": 4, "participation": 0.25, "update": "qsgd-w2", "error_feedback": True}
    model, _, _, witness = fit(federated, rounds=3)
    seen = {client for _, uploads, _, _ in witness.rounds for client in uploads}
    assert model.residuals.keys() == seen
    assert len(seen) < 4


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("update", ["full", "nearest-w4"])
def test_an_upload_that_is_not_finite_is_left_out_and_weighs_nothing(fit, monkeypatch, update, bad):
    real = FederatedClassifier._take

    def spoil(self, visit):
        if (self.current_epoch, visit.client) == (1, 2):
            with torch.no_grad():
                self.network.fc.bias[3] = bad
        return real(self, visit)

    monkeypatch.setattr(FederatedClassifier, "_take", spoil)
    _, _, data, witness = fit({"clients": 4, "update": update})
    assert [left_out for *_, left_out in witness.rounds] == [[], [2], [], []]
    start, uploads, end, _ = witness.rounds[1]
    assert list(uploads) == [0, 1, 3]
    sizes = data.federation.sizes()
    for key, value in start.items():
        updates = [sizes[c] * (uploads[c][key].double() - value.double()) for c in uploads]
        mean = value.double() + sum(updates) / sum(sizes[c] for c in uploads)
        torch.testing.assert_close(end[key], mean.float(), rtol=1e-6, atol=1e-7)


def test_a_round_without_any_upload_leaves_the_weights(fit, monkeypatch):
    monkeypatch.setattr(FederatedClassifier, "_take", lambda self, visit: False)
    model, first, _, witness = fit({"clients": 3}, "convnet")
    assert [left_out for *_, left_out in witness.rounds] == [[0, 1, 2]] * ROUNDS
    for key, value in model.network.state_dict().items():
        assert torch.equal(value, first.state_dict()[key])


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_every_precision_steps_from_the_newest_weights(fit, served, precision):
    """Within one client's training, too, where a cast of older weights would still be kept."""
    dtype = {"bf16-mixed": torch.float32, "64-true": torch.float64}.get(precision, torch.bfloat16)
    options = {"lr": 0.05, "momentum": 0.0}
    model, network, *_ = fit({"clients": 1}, options=options, precision=precision, rounds=2)
    network = network.to(dtype)
    optimizer = SGD(network.parameters(), 0.05, weight_decay=5e-4)
    for number, batch in served:
        optimizer.param_groups[0]["lr"] = 0.05 * (1 + cos(pi * number / 2)) / 2
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            images = batch.images if precision == "bf16-mixed" else batch.images.to(dtype)
            loss = cross_entropy(network.train()(images), batch.labels)
        loss.backward()
        optimizer.step()
    for key, value in model.network.state_dict().items():
        torch.testing.assert_close(value, network.state_dict()[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", ["all at once", "isolated in part"])
def test_a_resumed_federation_ends_as_it_would_have(fit, tmp_path, case):
    """With residuals, their rounding's draws, and branches; killed after the second round."""
    federated = CASES[case]
    whole, *_ = fit(federated, "convnet")

    class Kill(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if (trainer.current_epoch, batch_idx) == (2, 1):
                raise RuntimeError("killed")

    path = tmp_path / "last.ckpt"
    with pytest.raises(RuntimeError, match="killed"):
        fit(federated, "convnet", callbacks=[SaveCheckpoint(path, 0.0), Kill()])
    resumed, *_ = fit(federated, "convnet", resume=path)
    for key, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[key]), key
    assert whole.residuals.keys() == resumed.residuals.keys()
    for client, residual in whole.residuals.items():
        for key, value in residual.items():
            assert torch.equal(value, resumed.residuals[client][key])


def test_bytes_count_rounded_updates_and_buffers_as_they_are(fit):
    federated = {"clients": 4, "update": "nearest-w4"}
    model, *_ = fit(federated, "convnet", rounds=1)
    sizes = [weight.numel() for weight in model.network.parameters()]
    statistics = sum(4 * 2 * width + 8 for width in (16, 32, 64))  # means, variances, a counter
    assert model.upload_bytes == update_bytes(sizes, parse_update("nearest-w4")) + statistics
    full, *_ = fit({"clients": 4}, rounds=1)
    assert full.upload_bytes == 4 * sum(weight.numel() for weight in full.network.parameters())


@pytest.mark.parametrize("schedule", ["cosine", "one-cycle"])
def test_the_learning_rate_is_constant_within_a_round(fit, monkeypatch, schedule):
    rates, real = [], Classifier.training_step

    def step(self, batch, batch_idx):
        rates.append((self.current_epoch, self.optimizers().param_groups[0]["lr"]))
        return real(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", step)
    fit({"clients": 5}, options={"lr": 0.2, "schedule": schedule})
    by_round = [{rate for at, rate in rates if at == number} for number in range(ROUNDS)]
    assert all(len(rate) == 1 for rate in by_round)
    found = [rate for (rate,) in by_round]
    if schedule == "cosine":
        assert found == [0.2 * (1 + cos(pi * t / ROUNDS)) / 2 for t in range(ROUNDS)]
    else:
        assert found[0] == pytest.approx(0.2 / 25)
        assert found[0] < found[1] > found[2] > found[3] > 0


def test_a_federation_of_other_members_is_refused(fit):
    holder = torch.zeros(80, dtype=torch.int16)
    with pytest.raises(ValueError, match=r"got holders of 80 examples and 40 members\. Draw them"):
        fit({"clients": 1}, holder=holder)
