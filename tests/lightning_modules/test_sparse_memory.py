"""SDMLP, SSD and their peers against a plain loop, stopped anywhere, and what they count."""

import copy
from itertools import pairwise
from math import ceil, cos, pi

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.nn.functional import cross_entropy, kl_div
from torch.optim import SGD

from datamodules import Digits
from datamodules.seeds import derive_seed
from datamodules.tasks import TaskStream, split_classes, tasks_of
from lightning_modules.callbacks.checkpoints import SaveCheckpoint
from lightning_modules.continual_options import ContinualOptions
from lightning_modules.learners import make_classifier
from lightning_modules.options import ModelOptions
from lightning_modules.sdmlp_options import SdmlpOptions

SEED, LR, EPOCHS = 3, 0.5, 6
MEMBERS = torch.arange(120) % 2 == 0


@pytest.fixture
def make():
    """A data set and a model of two tasks, with half of the epochs each."""

    def make(learner, backbone=0, epochs=EPOCHS, **sdmlp):
        known = {"hidden": 40} | ({} if learner == "relu" else {"k": 5})
        sdmlp = SdmlpOptions(**known | sdmlp)
        continual = ContinualOptions(2, learner=learner, sdmlp=sdmlp, backbone_epochs=backbone)
        data = Digits(pool_size=120, batch_size=8, flip=False, crop=0)
        data.setup("fit")
        task = tasks_of(data.pool.labels, split_classes(10, 2))
        ends = continual.stage_ends(epochs + backbone)
        data.assign(MEMBERS, SEED, tasks=TaskStream(task, data.pool.labels, ends, SEED))
        options = ModelOptions("mlp", {"widths": [12]}, lr=LR)
        return data, make_classifier(data, SEED, options, continual=continual)

    return make


@pytest.fixture
def fit(fit_model):
    """Fit a model on its data."""

    def fit(data, model, resume=None, callbacks=(), validate=0):
        fit_model(model, data, data.tasks.ends[-1], resume, callbacks, limit_val_batches=validate)
        return model

    return fit


class Watch(Callback):
    """Remembers, for each epoch, what an optimizer does and how a head stands at its end."""

    def __init__(self, look):
        self.look, self.seen = look, []

    def on_train_epoch_end(self, trainer, pl_module):
        self.seen.append(self.look(pl_module))


class Kill(Callback):
    """Stops a fit within an epoch, after some of its steps."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch == self.epoch:
            raise RuntimeError("killed")


class Plain:
    """SDMLP by its formulas: weights V and O, counts c, and their switch s."""

    def __init__(self, state, k, switch):
        self.v, self.o = self.weights = [
            state[f"head.{name}.weight"].clone().requires_grad_() for name in ("hidden", "output")
        ]
        self.c, self.k, self.s = torch.zeros(len(self.v), dtype=torch.int64), k, switch
        self.schedule = None

    def hidden(self, x, count=False):
        x = x.flatten(1).relu()
        a = (x / (x.norm(dim=1, keepdim=True) + 1e-12) @ self.v.T).relu()
        inhibition = a.detach().sort(1, descending=True).values[:, self.k, None]
        gains = (-1 + 2 * self.c / self.s).clamp(-1, 1)
        h = (a - gains * inhibition).relu()
        if count:
            self.c = self.c + (h > 0).sum(0)
        return a, h

    def logits(self, h):
        return h @ self.o.T

    def constrain(self):
        with torch.no_grad():
            self.v.clamp_(min=0)
            self.o.clamp_(min=0)
            self.v /= self.v.norm(dim=1, keepdim=True) + 1e-12


class PlainTopK(Plain):
    """A layer with biases whose k largest activations stay as they are; all of them for ReLU."""

    def __init__(self, state, schedule):
        self.weights = [
            state[f"head.{name}"].clone().requires_grad_()
            for name in ("hidden.weight", "hidden.bias", "output.weight", "output.bias")
        ]
        self.schedule = schedule

    def hidden(self, x, count=False):
        a = nn.functional.linear(x.flatten(1), *self.weights[:2]).relu()
        kept = torch.zeros_like(a).scatter_(1, a.topk(self.k, 1).indices, 1)
        return a, a * kept

    def logits(self, h):
        return nn.functional.linear(h, *self.weights[2:])

    def constrain(self):
        pass


def soft_kl(student, teacher, temperature, forward):
    student, teacher = ((z / temperature).log_softmax(1) for z in (student, teacher))
    pair = (student, teacher) if forward else (teacher, student)
    return temperature**2 * kl_div(*pair, reduction="batchmean", log_target=True)


def plain_loop(net, data, options, ssd):
    """Two tasks, one batch after another; clip, step, clamp, normalise."""
    teacher, units, done = None, [], 0
    for stage, end in enumerate(data.tasks.ends):
        own = (MEMBERS & (data.tasks.task == stage)).nonzero().flatten()
        parts = -(-len(own) // data.batch_size)
        optimizer, step = SGD(net.weights, LR), 0
        for epoch in range(done, end):
            if net.schedule:
                net.k = net.schedule[epoch]
            seed = derive_seed(SEED, "epoch", epoch)
            order = torch.randperm(len(own), generator=torch.Generator().manual_seed(seed))
            for part in own[order].tensor_split(parts):
                rate = (1 + cos(pi * step / ((end - done) * parts))) / 2
                optimizer.param_groups[0]["lr"], step = LR * rate, step + 1
                batch = data._batch(data.pool, part, lambda images: images)
                before, after = net.hidden(batch.images, count=True)
                logits = net.logits(after)
                loss = cross_entropy(logits, batch.labels)
                if ssd and teacher:
                    with torch.no_grad():
                        held = teacher.hidden(batch.images)
                        known = teacher.logits(held[1])
                    chosen = options.activations == "after"
                    pair = [(before, after)[chosen][:, units], held[chosen][:, units]]
                    first = soft_kl(*pair, options.temperature, options.forward_kl)
                    second = soft_kl(logits, known, options.temperature, options.forward_kl)
                    rest = options.lam * first + (1 - options.lam) * second
                    loss = options.alpha * loss + (1 - options.alpha) * rest
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(net.weights, 1.0)
                optimizer.step()
                net.constrain()
        with torch.no_grad():
            images = data._batch(data.pool, own, lambda images: images).images
            counts = (net.hidden(images)[1] > 0).sum(0).tolist()
        ranked = sorted(range(len(counts)), key=lambda i: (-counts[i], i))
        units = sorted(ranked[: options.units or options.k])
        teacher, done = copy.deepcopy(net), end
    return units


SSD = [
    {},
    {"forward_kl": False, "activations": "before", "units": 12},
    {"alpha": 0.3, "lam": 0.6, "temperature": 2.0},
]


@pytest.mark.parametrize(
    ("learner", "options"), [("sdmlp", {}), ("sdmlp", {"switch": 30.0}), *(("ssd", o) for o in SSD)]
)
def test_weights_and_counts_are_bit_for_bit_those_of_a_plain_loop(make, fit, learner, options):
    data, model = make(learner, **options)
    own = int((MEMBERS & (data.tasks.task == 0)).sum())
    switch = options.get("switch", ceil(0.2 * own * 3))
    net = Plain(model.network.state_dict(), 5, switch)
    options = model.continual.sdmlp
    fit(data, model)
    units = plain_loop(net, data, options, learner == "ssd")
    assert torch.equal(model.head.hidden.weight, net.v)
    assert torch.equal(model.head.output.weight, net.o)
    assert torch.equal(model.head.inhibition.counts, net.c)
    assert model.head.inhibition.switch == switch
    if learner == "ssd":
        assert model.subnetwork.tolist() == units == model.facts["subnetwork"]


@pytest.mark.parametrize(
    ("learner", "schedule"), [("relu", [40] * 10), ("topk", [40, 22, *[5] * 8])]
)
def test_peers_are_bit_for_bit_those_of_a_plain_loop(make, fit, learner, schedule):
    """Their step is as plain, and clipped likewise; Top-K lowers k over the first 2 of 5 epochs."""
    data, model = make(learner, epochs=10)
    net = PlainTopK(model.network.state_dict(), schedule)
    fit(data, model)
    plain_loop(net, data, model.continual.sdmlp, False)
    for weight, plain in zip(model.head.parameters(), net.weights, strict=True):
        assert torch.equal(weight, plain)


@pytest.mark.parametrize(("learner", "epoch"), [("ssd", 1), ("ssd", 4), ("topk", 1)])
def test_a_fit_that_was_killed_ends_as_it_would_have(make, fit, tmp_path, learner, epoch):
    whole = fit(*make(learner))
    path = tmp_path / "last.ckpt"
    with pytest.raises(RuntimeError, match="killed"):
        fit(*make(learner), callbacks=[SaveCheckpoint(path, 0.0), Kill(epoch)])
    resumed = fit(*make(learner), resume=path)
    assert whole.state_dict().keys() == resumed.state_dict().keys()
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    assert whole.facts == resumed.facts


def test_nothing_but_training_moves_the_counts(make, fit):
    """Neither validation, nor counting for the subnetwork, nor a teacher, nor a look at it."""
    counts = []
    for validate in (0, 1.0):
        data, model = make("ssd")
        fit(data, model, validate=validate)
        counts.append(model.head.inhibition.counts.clone())
        assert counts[-1].sum() > 0
        model.network.eval()(torch.rand(9, 1, 8, 8))
    assert torch.equal(*counts)
    assert torch.equal(model.head.inhibition.counts, counts[0])
    assert torch.equal(model.teacher.inhibition.counts, counts[0])  # of the last stage's end
    assert torch.equal(model.teacher.hidden.weight, model.head.hidden.weight)


def test_the_constraints_hold_before_training_and_after_every_epoch(make, fit):
    def look(model):
        norms = model.head.hidden.weight.norm(dim=1)
        return norms.detach(), min(weight.min() for weight in model.head.parameters())

    data, model = make("sdmlp")
    first, watch = look(model), Watch(look)
    fit(data, model, callbacks=[watch])
    for norms, least in [first, *watch.seen]:
        torch.testing.assert_close(norms, torch.ones(40))
        assert least >= 0
    data, model = make("sdmlp", positive=False)
    assert look(model)[1] < 0
    torch.testing.assert_close(look(model)[0], torch.ones(40))


def test_a_backbone_has_momentum_and_a_head_has_none(make, fit):
    """While the backbone is trained the head waits; after that the backbone stays as it is."""

    def look(model):
        group = model.optimizers().param_groups[0]
        state = copy.deepcopy(model.network.state_dict())
        return group["momentum"], group["weight_decay"], state

    data, model = make("sdmlp", backbone=2)
    first, watch = copy.deepcopy(model.network.state_dict()), Watch(look)
    fit(data, model, callbacks=[watch])
    assert [seen[:2] for seen in watch.seen] == [(0.9, 5e-4)] * 2 + [(0.0, 0.0)] * EPOCHS
    states = [first, *(state for *_, state in watch.seen)]
    for number, (before, after) in enumerate(pairwise(states)):
        for key in before:
            moved = not torch.equal(before[key], after[key])
            if key.startswith("backbone"):
                assert moved == (number < 2), (number, key)
            elif number < 2:
                assert not moved, (number, key)
    assert states[2]["head.inhibition.counts"].sum() == 0
    assert states[3]["head.inhibition.counts"].sum() > 0


def test_facts_of_a_stage_match_a_slow_count(make, fit):
    data, model = make("ssd")
    fit(data, model)
    own = data.served(EPOCHS - 1)
    assert own.tolist() == (MEMBERS & (data.tasks.task == 1)).nonzero().flatten().tolist()
    images = data.calibration_images("members", own)
    with torch.no_grad():
        rows = model.head.eval().activations(images.flatten(1)).after.tolist()
    active = [sum(value > 0 for value in row) for row in rows]
    silent = sum(not any(value > 0 for value in column) for column in zip(*rows, strict=True))
    assert model.facts["active"] == pytest.approx(sum(active) / len(rows))
    assert model.facts["silent"] == silent
    assert 0 <= model.facts["entropy"] <= 1
    assert 0 < model.facts["alive"] <= 1
    assert model.describe_stage() == model.facts


def test_neurons_that_all_died_stay_finite_and_are_counted(make, fit):
    """A row of zeros has no direction; it stays zero, and so do the logits."""
    data, model = make("sdmlp")
    with torch.no_grad():
        model.head.hidden.weight.zero_()
    fit(data, model)
    assert (model.facts["active"], model.facts["silent"]) == (0, 40)
    assert not model.head.hidden.weight.any()
    assert all(weight.isfinite().all() for weight in model.head.parameters())


def test_images_without_a_bright_pixel_have_logits_of_zero(make):
    _, model = make("sdmlp")
    assert not model.head(-torch.rand(3, 64)).any()
