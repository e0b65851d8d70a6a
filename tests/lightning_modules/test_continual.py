"""Learners of tasks against a plain loop, by hand, and stopped anywhere."""

import copy
from math import cos, pi

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from datamodules import Digits
from datamodules.seeds import derive_seed
from datamodules.tasks import TaskStream, split_classes, tasks_of
from lightning_modules.callbacks.checkpoints import SaveCheckpoint
from lightning_modules.classifier import Classifier
from lightning_modules.continual import ContinualClassifier, rate
from lightning_modules.continual_options import ContinualOptions
from lightning_modules.headed import HeadedNetwork, behead, on_pixels
from lightning_modules.headed_classifier import HeadedClassifier
from lightning_modules.networks import build_network
from lightning_modules.options import ModelOptions

SEED = 3
MEMBERS = torch.arange(60) % 2 == 0


class LinearHead(HeadedClassifier):
    """A head of one layer; `seen` has what each step was given: epoch, pretraining, stage."""

    def make_head(self, features):
        self.seen, self.begun, self.ended = [], [], []
        return nn.Linear(features, self.num_classes)

    def begin_stage(self, stage):
        self.begun.append((self.current_epoch, stage, self.network.frozen))

    def end_stage(self, stage):
        self.ended.append((self.current_epoch, stage))

    def learn(self, batch, number):
        self.seen.append((self.current_epoch, self.pretraining, self.stage))
        super().learn(batch, number)


class Witness(Callback):
    """Remembers the network at the end of every epoch."""

    def __init__(self):
        self.states = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.states.append(copy.deepcopy(pl_module.state_dict()))


@pytest.fixture
def make(tmp_path):
    """A data set and a model, and how to fit it."""

    def make(continual, epochs, learner=ContinualClassifier, **options):
        continual = ContinualOptions(**continual)
        data = Digits(pool_size=60, batch_size=8)
        data.setup("fit")
        classes = split_classes(10, continual.tasks, continual.base_classes, continual.order_seed)
        labels, ends = data.pool.labels, continual.stage_ends(epochs)
        task, further = tasks_of(labels, classes), (continual.joint, continual.replay)
        data.assign(MEMBERS, SEED, tasks=TaskStream(task, labels, ends, SEED, *further))
        options = ModelOptions("mlp", {"widths": [16]}, **options)
        return data, learner(data, SEED, options, continual, classes)

    return make


@pytest.fixture
def fit(fit_model):
    """Fit a model on its data; returns what a witness saw."""

    def train(data, model, epochs, resume=None, callbacks=()):
        witness = Witness()
        fit_model(model, data, epochs, resume, [*callbacks, witness])
        return witness.states

    return train


def plain_loop(network, data, epochs, lr, penalty=lambda _: 0, finish=lambda *_: None):
    """Tasks as a plain loop over stages, epochs and batches; the network at each stage's end."""
    states, stream, begin = [], data.tasks, 0
    for stage, end in enumerate(stream.ends):
        optimizer = SGD(network.parameters(), lr, 0.9, weight_decay=5e-4)
        own = MEMBERS & (stream.task <= stage if stream.joint else stream.task == stage)
        if stream.replay and stage:
            own |= stream.exemplars(MEMBERS, stage - 1)
        own = own.nonzero().flatten()
        parts, done = -(-len(own) // data.batch_size), 0
        steps = (end - begin) * parts
        for epoch in range(begin, end):
            seed = derive_seed(SEED, "epoch", epoch)
            order = torch.randperm(len(own), generator=torch.Generator().manual_seed(seed))
            for part in own[order].tensor_split(parts):
                optimizer.param_groups[0]["lr"] = lr * (1 + cos(pi * done / steps)) / 2
                batch = data._batch(data.pool, part, lambda images: images)
                optimizer.zero_grad()
                loss = cross_entropy(network.train()(batch.images), batch.labels)
                (loss + penalty(network)).backward()
                optimizer.step()
                done += 1
        states.append(copy.deepcopy(network.state_dict()))
        finish(network, stage)
        begin = end
    return states


@pytest.mark.parametrize(
    "continual",
    [
        {"tasks": 5},
        {"tasks": 3, "base_classes": 6, "order_seed": 1},
        {"tasks": 4, "replay": 2},
        {"tasks": 4, "joint": True},
    ],
    ids=["finetune", "base", "replay", "joint"],
)
def test_a_plain_loop_over_tasks_gives_the_same_weights(make, fit, continual):
    epochs = 2 * continual["tasks"]
    data, model = make(continual, epochs, lr=0.1)
    first = copy.deepcopy(model.network)
    states = fit(data, model, epochs)
    wanted = plain_loop(first, data, epochs, 0.1)
    for end, state in zip(data.tasks.ends, wanted, strict=True):
        for key, value in state.items():
            assert torch.equal(value, states[end - 1][f"network.{key}"])


@pytest.mark.parametrize(
    ("schedule", "steps"), [("cosine", 7), ("one-cycle", 7), ("one-cycle", 40)]
)
def test_the_learning_rate_of_a_phase_is_that_of_torch(schedule, steps):
    optimizer = SGD([nn.Parameter(torch.zeros(1))], 0.3)
    theirs = CosineAnnealingLR(optimizer, steps)
    if schedule == "one-cycle":
        theirs = OneCycleLR(optimizer, 0.3, steps, cycle_momentum=False)
    for step in range(steps):
        assert 0.3 * rate(schedule, step, steps) == pytest.approx(theirs.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        theirs.step()


HEADED = {"tasks": 3, "learner": "relu", "backbone_epochs": 2}


def test_a_backbone_is_trained_on_the_first_task_as_its_network_would_be_and_then_frozen(make, fit):
    data, model = make(HEADED, 8, LinearHead, lr=0.1)
    network = build_network("mlp", 10, 1, {"widths": [16]}, (1, 8, 8))
    network.load_state_dict(
        {k: v for k, v in model.network.backbone.state_dict().items()}
        | {f"fc.{k}": v for k, v in model.warmup.state_dict().items()}
    )
    head = copy.deepcopy(model.network.head.state_dict())
    states = fit(data, model, 8)
    alone = data.tasks._replace(ends=[2])
    (wanted,) = plain_loop(network, _with(data, alone), 2, 0.1)
    for key, value in wanted.items():
        own = f"warmup.{key[3:]}" if key.startswith("fc.") else f"network.backbone.{key}"
        for state in states[1:]:  # frozen from here on
            assert torch.equal(value, state[own])
    for key, value in head.items():
        assert torch.equal(states[1][f"network.head.{key}"], value)
        assert not torch.equal(states[-1][f"network.head.{key}"], value)
    assert all(state.keys() == states[0].keys() for state in states)


def test_hooks_come_at_the_stages_by_hand(make, fit):
    data, model = make(HEADED, 8, LinearHead)
    assert data.tasks.ends == [4, 6, 8]
    fit(data, model, 8)
    assert model.begun == [(2, 0, True), (4, 1, True), (6, 2, True)]
    assert model.ended == [(3, 0), (5, 1), (7, 2)]
    expected = [(0, True, 0), (1, True, 0), (2, False, 0), (3, False, 0)]
    expected += [(4, False, 1), (5, False, 1), (6, False, 2), (7, False, 2)]
    assert list(dict.fromkeys(model.seen)) == expected


def test_a_frozen_backbone_stays_in_evaluation_mode():
    network = HeadedNetwork(nn.BatchNorm1d(3), nn.Linear(3, 2))
    assert network.train().backbone.training
    network.freeze()
    for mode in (True, False, True):
        network.train(mode)
        assert not network.backbone.training
        assert network.head.training == mode
    assert not any(weight.requires_grad for weight in network.backbone.parameters())
    assert all(weight.requires_grad for weight in network.head.parameters())


def test_heads_in_the_place_of_last_layers():
    network = build_network("convnet", 10, 1, {}, (1, 8, 8)).eval()
    images = torch.randn(3, 1, 8, 8)
    logits = network(images)
    backbone, last = behead(network, (1, 8, 8))
    assert torch.equal(last(backbone(images)), logits)
    assert on_pixels((2, 3, 3), lambda features: nn.Linear(features, 4)).head.in_features == 18
    with pytest.raises(ValueError, match=r"`--continual\.backbone_epochs` replaces the last layer"):
        behead(nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Tanh()), (1, 8, 8))


@pytest.mark.parametrize("stop", [1, 2, 3, 6])
@pytest.mark.parametrize("learner", [ContinualClassifier, LinearHead])
def test_a_fit_that_goes_on_from_any_epoch_ends_bit_for_bit_the_same(
    make, fit, tmp_path, stop, learner
):
    continual = HEADED if learner is LinearHead else {"tasks": 4, "replay": 1, "ewc": 5.0}
    whole = fit(*make(continual, 8, learner, schedule="one-cycle"), 8)
    path = tmp_path / "last.ckpt"
    fit(
        *make(continual, 8, learner, schedule="one-cycle"),
        stop,
        callbacks=[SaveCheckpoint(path, 0.0)],
    )
    states = fit(*make(continual, 8, learner, schedule="one-cycle"), 8, resume=path)
    assert len(states) == 8 - stop
    for one, other in zip(whole[stop:], states, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[key]) for key, value in one.items())


def _with(data, tasks):
    data = copy.copy(data)
    data.tasks = tasks
    return data


def test_elastic_weight_consolidation_is_a_plain_loop_with_a_quadratic(make, fit):
    """The first stage has no penalty; the second is held by the first, the third by both."""
    data, model = make({"tasks": 3, "ewc": 50.0, "ewc_scale": 0.5}, 6, lr=0.1)
    first = copy.deepcopy(model.network)
    states, held = fit(data, model, 6), []

    def quadratic(network):
        weights = dict(network.named_parameters())
        return 50.0 * sum(
            (fisher[key] * (weights[key] - end[key]).square()).sum()
            for fisher, end in held
            for key in fisher
        )

    def hold(network, stage):
        own = (MEMBERS & (data.tasks.task == stage)).nonzero().flatten()
        fisher = {key: torch.zeros_like(value) for key, value in network.named_parameters()}
        for index in own:  # one example at a time
            image = data._batch(data.pool, index[None], lambda images: images).images
            network.zero_grad()
            logits = 0.5 * network.eval()(image)
            (-cross_entropy(logits, logits.argmax(1))).backward()
            for key, value in network.named_parameters():
                fisher[key] += value.grad.square() / len(own)
        held.append((fisher, {k: v.detach().clone() for k, v in network.named_parameters()}))

    wanted = plain_loop(first, data, 6, 0.1, quadratic, hold)
    for end, state in zip(data.tasks.ends, wanted, strict=True):
        for key, value in state.items():
            torch.testing.assert_close(states[end - 1][f"network.{key}"], value, rtol=0, atol=2e-5)
    free = fit(*make({"tasks": 3}, 6, lr=0.1), 6)
    moved, unheld = (
        sum((run[5][key] - run[1][key]).square().sum() for key in run[1]) for run in (states, free)
    )
    assert moved < unheld


def test_a_penalty_is_added_in_stages_and_not_to_the_backbone(make, fit, monkeypatch):
    losses = []

    class Penalised(LinearHead):
        def penalty(self, batch, logits):
            return 10 + 0 * logits.sum()

    real = Classifier.training_step

    def step(self, batch, batch_idx):
        losses.append((self.pretraining, real(self, batch, batch_idx).item()))
        return torch.zeros((), requires_grad=True)

    monkeypatch.setattr(Classifier, "training_step", step)
    fit(*make(HEADED, 5, Penalised), 5)
    assert all(loss < 10 for before, loss in losses if before)
    assert all(loss > 10 for before, loss in losses if not before)
