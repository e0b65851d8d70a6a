"""Analytic learners against ridge regressions solved at once, and stopped anywhere."""

import copy

import pytest
import torch
from sklearn.linear_model import Ridge as SklearnRidge
from torch.nn.functional import one_hot

from continual.leave_one_out import leverages
from datamodules import Digits
from datamodules.tasks import TaskStream, split_classes, tasks_of
from lightning_modules.analytic import AnalyticClassifier
from lightning_modules.analytic_options import AnalyticOptions
from lightning_modules.callbacks.checkpoints import SaveCheckpoint
from lightning_modules.continual_options import ContinualOptions
from lightning_modules.options import ModelOptions
from lightning_modules.ridge_head import UNSEEN

SEED, POOL, GAMMA, COLUMNS = 3, 200, 0.1, 80
MEMBERS = torch.arange(POOL) % 2 == 0


@pytest.fixture
def make():
    """A data set and a learner: by its name, epochs of its backbone, options, size of batches."""

    def make(learner="acil", backbone=0, batch_size=16, **analytic):
        options = AnalyticOptions(**{"buffer": COLUMNS, "gamma": GAMMA, **analytic})
        continual = ContinualOptions(
            tasks=3, order_seed=1, learner=learner, backbone_epochs=backbone, analytic=options
        )
        data = Digits(pool_size=POOL, batch_size=batch_size)
        data.setup("fit")
        classes = split_classes(10, 3, None, 1)
        labels, before = data.pool.labels, sum(continual.pretraining)
        ends = continual.stage_ends(before + 3)
        stream = TaskStream(tasks_of(labels, classes), labels, ends, SEED, plain_from=before)
        data.assign(MEMBERS, SEED, tasks=stream)
        model = ModelOptions("mlp", {"widths": [16]}, lr=0.1)
        return data, AnalyticClassifier(data, SEED, model, continual, classes)

    return make


@pytest.fixture
def learn(make, fit_model, monkeypatch):
    """Fit a learner; returns its data, the learner, and what each stage records."""

    def learn(*args, audited=False, resume=None, epochs=None, callbacks=(), **options):
        data, model = make(*args, **options)
        records, real = [], AnalyticClassifier.end_stage

        def end_stage(self, stage):
            real(self, stage)
            network = copy.deepcopy(self.network).float().eval()
            records.append((network, self.record(network, audited), self.describe_stage()))

        monkeypatch.setattr(AnalyticClassifier, "end_stage", end_stage)
        total = sum(model.continual.pretraining) + 3
        fit_model(model, data, epochs or total, resume, callbacks)
        monkeypatch.setattr(AnalyticClassifier, "end_stage", real)
        return data, model, records

    return learn


def features_of(network, data):
    """The buffer's outputs on the pool, in float64, by hand."""
    with torch.no_grad():
        inner = network.backbone(torch.cat([b.images for b in data.pool_batches("identity")]))
    return (inner.double() @ network.head.buffer.weight.double().T).relu()


@pytest.mark.parametrize(("backbone", "batch_size"), [(0, 16), (0, 1000), (2, 16)])
def test_acil_is_the_ridge_regression_of_sklearn_on_all_tasks_so_far(learn, backbone, batch_size):
    data, model, records = learn(backbone=backbone, batch_size=batch_size)
    labels, task = data.pool.labels, data.tasks.task
    for stage, (network, _, _) in enumerate(records):
        features = features_of(network, data)
        chosen, seen = MEMBERS & (task <= stage), model.order[: model.ends[stage]]
        oracle = SklearnRidge(alpha=GAMMA, fit_intercept=False, solver="svd")
        oracle.fit(features[chosen].numpy(), one_hot(labels, 10)[chosen].double().numpy())
        wanted = torch.as_tensor(oracle.predict(features.numpy()))
        with torch.no_grad():
            outputs = torch.cat([network(b.images) for b in data.pool_batches("identity")])
        torch.testing.assert_close(outputs[:, seen].double(), wanted[:, seen], rtol=0, atol=1e-5)
        weight = network.head.output.weight[seen].double()
        torch.testing.assert_close(weight, torch.as_tensor(oracle.coef_)[seen], rtol=0, atol=1e-6)
        unseen = sorted({*range(10)} - {*seen})
        assert (outputs[:, unseen] == UNSEEN).all()
        assert set(outputs.argmax(1).tolist()) <= set(seen)


def test_a_network_only_ever_changes_its_output_layer(learn):
    _, _, records = learn(backbone=1)
    first = records[0][0].state_dict()
    for network, _, _ in records[1:]:
        changed = {k for k, v in network.state_dict().items() if not torch.equal(v, first[k])}
        assert changed == {"head.output.weight", "head.output.bias"}


@pytest.mark.parametrize("published", [False, True])
def test_dsal_adds_a_stream_that_learns_residuals(learn, published):
    data, model, records = learn("dsal", 0, 1000, compensation=0.7, published_residuals=published)
    network = records[-1][0]
    inner = torch.cat([b.images for b in data.pool_batches("identity")]).flatten(1).double()
    z = inner @ network.head.buffer.weight.double().T
    identity = GAMMA * torch.eye(COLUMNS, dtype=torch.float64)
    order = model.order
    targets, left = one_hot(data.pool.labels, 10).double()[:, order], torch.zeros(POOL, 10).double()
    for stage, known in enumerate((0, 4, 7)):
        chosen = MEMBERS & (data.tasks.task <= stage)
        rows = z[chosen].relu()
        main = torch.linalg.solve(rows.T @ rows + identity, rows.T @ targets[chosen])
        new = MEMBERS & (data.tasks.task == stage)
        left[new, known:] = (targets - z.relu() @ main)[new, known:]
        left[new, known + (4, 3, 3)[stage] :] = 0
    other = z[MEMBERS].tanh()
    second = torch.linalg.solve(other.T @ other + identity, other.T @ left[MEMBERS])
    wanted = torch.cat([main, 0.7 * second]).T
    weight = network.head.output.weight[order].double()
    torch.testing.assert_close(weight, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("learner", ["acil", "dsal"])
def test_what_is_recorded_is_that_of_brute_force(learn, learner):
    data, model, records = learn(learner, audited=True, worlds=3)
    task, order = data.tasks.task, model.order
    targets = one_hot(data.pool.labels, 10).double()[:, order]
    identity = GAMMA * torch.eye(COLUMNS, dtype=torch.float64)
    members = records[0][1]["world_members"]
    assert torch.equal(members[0], ~members[1])
    assert members.sum(1).tolist() == [POOL // 2] * 3
    for stage, (network, record, facts) in enumerate(records):
        features, known = features_of(network, data), (4, 7, 10)[stage]
        assert torch.equal(record["world_members"], members)
        assert record["world_seconds"].shape == (1,)
        for world, own in enumerate(members):
            rows = features[own & (task <= stage)]
            inverse = torch.linalg.inv(rows.T @ rows + identity)
            wanted = leverages(inverse, features).float()
            torch.testing.assert_close(record["world_leverage"][world], wanted)
            if learner == "acil":
                weight = inverse @ rows.T @ targets[own & (task <= stage)]
                outputs = record["world_outputs"][world][:, order]
                wanted = (features @ weight)[:, :known].float()
                torch.testing.assert_close(outputs[:, :known], wanted)
                assert (outputs[:, known:] == UNSEEN).all()
        rows = features[MEMBERS & (task <= stage)]
        inverse = torch.linalg.inv(rows.T @ rows + identity)
        torch.testing.assert_close(record["leverage"], leverages(inverse, features).float())
        rounded = leverages(inverse.half().double(), features).float()
        torch.testing.assert_close(record["leverage_float16"], rounded, rtol=1e-2, atol=1e-2)
        own = MEMBERS & (task == stage)
        assert record["outside"][own].max() < 1e-9 < record["outside"][~own].min()
        assert ((record["solved"] > 0.5) == (MEMBERS & (task <= stage))).all()
        assert facts == {"columns": COLUMNS, "fewer_rows": True}


def test_a_world_of_the_members_is_the_audited_model(learn, monkeypatch):
    """With DS-AL, too, a world is solved as the model was."""
    worlds = "lightning_modules.analytic.draw_worlds"
    monkeypatch.setattr(worlds, lambda *_: MEMBERS[None])
    for learner in ("acil", "dsal"):
        data, _, records = learn(learner, audited=True)
        for network, record, _ in records:
            with torch.no_grad():
                outputs = torch.cat([network(b.images) for b in data.pool_batches("identity")])
            torch.testing.assert_close(record["world_outputs"][0], outputs, rtol=0, atol=1e-4)


def test_shadows_have_no_worlds_and_a_wide_task_hides_its_rows(learn):
    _, _, records = learn(buffer=20)
    for _, record, facts in records:
        assert {*record} == {"leverage", "leverage_float16", "leverage_int8", "outside"}
        assert record["outside"].tolist() == [0] * POOL
        assert facts == {"columns": 20, "fewer_rows": False}


@pytest.mark.parametrize(("learner", "stop"), [("acil", 2), ("dsal", 1), ("dsal", 3)])
def test_a_fit_that_goes_on_from_any_epoch_ends_bit_for_bit_the_same(
    learn, tmp_path, learner, stop
):
    _, whole, records = learn(learner, 1)
    path = tmp_path / "last.ckpt"
    learn(learner, 1, epochs=stop, callbacks=[SaveCheckpoint(path, 0.0)])
    _, resumed, later = learn(learner, 1, resume=path)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key])
    for one, other in zip(records[stop - 1 :], later, strict=True):
        assert all(torch.equal(value, other[1][key]) for key, value in one[1].items())


def test_a_gamma_below_the_precision_stops_the_fit_and_names_the_remedy(learn):
    with pytest.raises(ValueError, match=r"`gamma` 1e-14 is too small for float64.*Raise it to"):
        learn(gamma=1e-14)


def test_a_backbone_that_diverged_leaves_no_state(learn, monkeypatch):
    monkeypatch.setattr(
        AnalyticClassifier,
        "begin_stage",
        lambda self, _: self.network.head.buffer.weight.fill_(torch.inf),
    )
    _, _, records = learn()
    assert all(record == {} for _, record, _ in records)
