"""REAL's parts of a fit: which network each trains, by which loss, and what is kept of it."""

import copy
from itertools import pairwise

import pytest
import torch
from lightning.pytorch import Callback
from torch.nn.functional import cosine_similarity, cross_entropy

from datamodules import Digits
from datamodules.tasks import TaskStream, split_classes, tasks_of
from lightning_modules.analytic_options import AnalyticOptions
from lightning_modules.callbacks.checkpoints import SaveCheckpoint
from lightning_modules.continual_options import ContinualOptions
from lightning_modules.options import ModelOptions
from lightning_modules.real import RealClassifier

SEED, MEMBERS = 3, torch.arange(60) % 2 == 0
STREAMS = {"supervised": (1, 0, 0), "contrastive": (0, 1, 0), "both": (1, 1, 1)}


class Witness(Callback):
    """Remembers the module at the end of every epoch."""

    def __init__(self):
        self.states = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.states.append(copy.deepcopy(pl_module.state_dict()))


@pytest.fixture
def fit(fit_model):
    def fit(streams, stop=None, resume=None, callbacks=(), **analytic):
        labelled, contrastive, distil = STREAMS[streams]
        options = AnalyticOptions(
            buffer=24, contrastive_epochs=contrastive, distill_epochs=distil, **analytic
        )
        continual = ContinualOptions(
            tasks=2, learner="real", backbone_epochs=labelled, analytic=options
        )
        data = Digits(pool_size=60, batch_size=8)
        data.setup("fit")
        classes, before = split_classes(10, 2), labelled + contrastive + distil
        ends = continual.stage_ends(before + 2)
        task = tasks_of(data.pool.labels, classes)
        stream = TaskStream(task, data.pool.labels, ends, SEED, plain_from=before)
        data.assign(MEMBERS, SEED, tasks=stream)
        model = RealClassifier(data, SEED, ModelOptions("resnet8", lr=0.05), continual, classes)
        first, witness = copy.deepcopy(model), Witness()
        fit_model(model, data, stop or before + 2, resume, [*callbacks, witness])
        return first, witness.states, data

    return fit


def changed(before, after):
    """First parts of the names of what differs, among parameters and statistics."""
    names = {k for k, v in after.items() if not torch.equal(v, before[k])}
    return {
        ".".join(name.split(".")[:2]) if name[:3] == "net" else name.split(".")[0] for name in names
    }


def test_each_part_trains_its_own_network(fit):
    first, states, _ = fit("both")
    states = [first.state_dict(), *states]
    parts = [changed(one, other) for one, other in pairwise(states)]
    backbone = "network.backbone"
    expected = [{"teacher", "warmup"}, {backbone, "simsiam"}, {backbone, "labeller"}]
    assert parts[:3] == expected
    assert parts[3] == {backbone, "network.head"}  # standardised, and solved
    assert parts[4] == {"network.head"}
    assert all(state.keys() == states[0].keys() for state in states)


@pytest.mark.parametrize("streams", ["supervised", "contrastive"])
def test_one_stream_alone_is_kept(fit, streams):
    first, states, _ = fit(streams)
    parts = changed(first.state_dict(), states[0])
    assert parts == {"network.backbone", "warmup" if streams == "supervised" else "simsiam"}


@pytest.mark.parametrize("fusion", [True, False])
def test_the_head_reads_standardised_stages_or_the_last_features(fit, fusion):
    first, _, data = fit("supervised", fusion=fusion)
    features = first.network.head.buffer.in_features
    assert features == (16 + 32 + 64 if fusion else 64)
    if fusion:
        _, states, _ = fit("supervised", fusion=True)
        model = copy.deepcopy(first)
        model.load_state_dict(states[-1])
        images = torch.cat([b.images for b in data.pool_batches("identity")])
        base = images[MEMBERS & (data.tasks.task == 0)]
        with torch.no_grad():
            fused = model.network.eval().backbone(base)
        torch.testing.assert_close(fused.mean(0), torch.zeros(112), rtol=0, atol=1e-4)
        spread = fused.std(0, correction=0)
        assert ((spread - 1).abs() < 1e-3).sum() + (spread == 0).sum() == 112


def test_the_distillation_by_hand(fit):
    first, _, data = fit("both", stop=1, beta=0.7)
    batch = next(data.pool_batches("identity"))
    model = copy.deepcopy(first).train()
    loss = model.distil(batch)
    hand = copy.deepcopy(first).train()
    features = hand.network.backbone.inner(batch.images)
    wanted = hand.teacher.eval()(batch.images)
    expected = cross_entropy(hand.labeller(features), batch.labels)
    expected += 0.7 * (1 - cosine_similarity(features, wanted).mean())
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(weight.grad is None for weight in model.teacher.parameters())


@pytest.mark.parametrize("stop", [2, 3])
def test_a_fit_that_goes_on_from_any_epoch_ends_bit_for_bit_the_same(fit, tmp_path, stop):
    _, whole, _ = fit("both")
    path = tmp_path / "last.ckpt"
    fit("both", stop, callbacks=[SaveCheckpoint(path, 0.0)])
    _, states, _ = fit("both", resume=path)
    for key, value in whole[-1].items():
        assert torch.equal(value, states[-1][key])


@pytest.mark.parametrize("epochs", [(0, 0, 0), (1, 1, 0), (1, 0, 1), (0, 1, 1)])
def test_streams_that_nothing_reads_are_refused(epochs):
    labelled, contrastive, distil = epochs
    options = AnalyticOptions(contrastive_epochs=contrastive, distill_epochs=distil)
    with pytest.raises(ValueError, match="`real` needs epochs of one stream"):
        ContinualOptions(tasks=2, learner="real", backbone_epochs=labelled, analytic=options)
