"""SDMLP, SSD and their peers against a plain loop, stopped anywhere, and what they count."""

import copy
from math import ceil, cos, pi

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import nn
from torch.nn.functional import cross_entropy, kl_div
from torch.optim import SGD

from datamodules import Digits
from datamodules.seeds import derive_seed
from datamodules.tasks import TaskStream, split_classes, tasks_of
from lightning_modules.callbacks.checkpoints import SaveCheckpoint, WholeCheckpointIO
from lightning_modules.continual_options import ContinualOptions
from lightning_modules.learners import make_classifier
from lightning_modules.options import ModelOptions
from lightning_modules.sdmlp_options import SdmlpOptions

SEED, LR, EPOCHS = 3, 0.5, 6
MEMBERS = torch.arange(120) % 2 == 0


@pytest.fixture
def make():
    """A data set and a model of two tasks, three epochs each."""

    def make(learner, backbone=0, **sdmlp):
        sdmlp = SdmlpOptions(**{"hidden": 40, "k": 5} | sdmlp)
        continual = ContinualOptions(2, learner=learner, sdmlp=sdmlp, backbone_epochs=backbone)
        data = Digits(pool_size=120, batch_size=8, flip=False, crop=0)
        data.setup("fit")
        task = tasks_of(data.pool.labels, split_classes(10, 2))
        ends = continual.stage_ends(EPOCHS + backbone)
        data.assign(MEMBERS, SEED, tasks=TaskStream(task, data.pool.labels, ends, SEED))
        options = ModelOptions("mlp", {"widths": [12]}, lr=LR)
        return data, make_classifier(data, SEED, options, continual=continual)

    return make


@pytest.fixture
def fit(tmp_path):
    """Fit a model on its data."""

    def fit(data, model, resume=None, callbacks=(), validate=0):
        trainer = Trainer(
            max_epochs=data.tasks.ends[-1],
            accelerator="cpu",
            logger=False,
            callbacks=[*callbacks],
            plugins=[WholeCheckpointIO()],
            enable_checkpointing=bool(callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=validate,
            default_root_dir=tmp_path,
        )
        trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
        return model

    return fit


class Plain:
    """SDMLP by its formulas: weights V and O, counts c, and their switch s."""

    def __init__(self, state, k, switch):
        self.v, self.o = (
            state[f"head.{name}.weight"].clone().requires_grad_() for name in ("hidden", "output")
        )
        self.c, self.k, self.s = torch.zeros(len(self.v), dtype=torch.int64), k, switch

    def hidden(self, x, count=False):
        x = x.flatten(1).relu()
        a = (x / (x.norm(dim=1, keepdim=True) + 1e-12) @ self.v.T).relu()
        inhibition = a.detach().sort(1, descending=True).values[:, self.k, None]
        gains = (-1 + 2 * self.c / self.s).clamp(-1, 1)
        h = (a - gains * inhibition).relu()
        if count:
            self.c = self.c + (h > 0).sum(0)
        return a, h

    def constrain(self):
        with torch.no_grad():
            self.v.clamp_(min=0)
            self.o.clamp_(min=0)
            self.v /= self.v.norm(dim=1, keepdim=True) + 1e-12


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
        optimizer, step = SGD([net.v, net.o], LR), 0
        for epoch in range(done, end):
            seed = derive_seed(SEED, "epoch", epoch)
            order = torch.randperm(len(own), generator=torch.Generator().manual_seed(seed))
            for part in own[order].tensor_split(parts):
                rate = (1 + cos(pi * step / ((end - done) * parts))) / 2
                optimizer.param_groups[0]["lr"], step = LR * rate, step + 1
                batch = data._batch(data.pool, part, lambda images: images)
                before, after = net.hidden(batch.images, count=True)
                logits = after @ net.o.T
                loss = cross_entropy(logits, batch.labels)
                if ssd and teacher:
                    with torch.no_grad():
                        held = teacher.hidden(batch.images)
                        known = held[1] @ teacher.o.T
                    chosen = options.activations == "after"
                    pair = [(before, after)[chosen][:, units], held[chosen][:, units]]
                    first = soft_kl(*pair, options.temperature, options.forward_kl)
                    second = soft_kl(logits, known, options.temperature, options.forward_kl)
                    rest = options.lam * first + (1 - options.lam) * second
                    loss = options.alpha * loss + (1 - options.alpha) * rest
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_([net.v, net.o], 1.0)
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
