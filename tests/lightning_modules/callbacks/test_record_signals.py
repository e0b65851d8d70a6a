from math import exp, log

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from safetensors.torch import load_file
from torch import Tensor

import train
from attacks.signals import signals
from datamodules import Digits
from lightning_modules.callbacks.record_signals import RecordSignals
from lightning_modules.classifier import Classifier
from lightning_modules.networks import build_network
from lightning_modules.options import ModelOptions
from storage.files import save_whole
from storage.names import ModelName
from storage.run_folder import RunFolder
from storage.weights import load_weights

CONVNET = ModelOptions("convnet")
VARIANTS = ["full", "nearest-w2", "nearest-w1.58-last8"]
QUERIES = ["identity", "mirror", "shift-1+0", "shift+1+0", "shift+0-1", "shift+0+1"]


@pytest.fixture
def data():
    data = Digits(pool_size=64, batch_size=16, flip=True, crop=1)
    data.setup("fit")
    return data


def shown(image: Tensor, query: str) -> Tensor:
    """Show a 1 x 8 x 8 image of bytes as a query does, pixel by pixel, then normalise it."""
    out = torch.zeros(1, 8, 8, dtype=torch.float64)
    for y in range(8):
        for x in range(8):
            from_y, from_x = y, x
            if query == "mirror":
                from_x = 7 - x
            elif query != "identity":
                from_y, from_x = y - int(query[5:7]), x - int(query[7:9])
            if 0 <= from_y < 8 and 0 <= from_x < 8:
                out[0, y, x] = int(image[0, from_y, from_x])
    return (out / 255 - 0.3053) / 0.3759


@pytest.mark.parametrize("variant", VARIANTS)
def test_signals_follow_from_the_weights_file(toy_run, data, variant):
    run = RunFolder(toy_run)
    assert run.read().queries == QUERIES
    name = ModelName("shadow", 2)
    network = build_network("convnet", 10, 1, {}).double().eval()
    read = load_file if variant == "full" else load_weights
    network.load_state_dict(read(run.weights(name, variant)))
    stored = load_file(run.signals(name, variant))
    assert stored["phi"].shape == (len(QUERIES), 64)
    assert stored["phi"].dtype == stored["loss"].dtype == torch.float32
    for row, query in enumerate(QUERIES):
        views = torch.stack([shown(image, query) for image in data.pool.images])
        with torch.no_grad():
            logits = network(views).tolist()
        for example, (z, label) in enumerate(zip(logits, data.pool.labels.tolist(), strict=True)):
            others = [other for k, other in enumerate(z) if k != label]
            log_p = z[label] - log(sum(exp(other) for other in z))
            phi = log_p - (log(sum(map(exp, others))) - log(sum(map(exp, z))))
            keys = ("phi", "loss", "hinge")
            signal = {key: stored[key][row, example].item() for key in keys}
            assert signal["phi"] == pytest.approx(phi, abs=1e-3)
            assert signal["loss"] == pytest.approx(-log_p, abs=1e-3)
            assert signal["hinge"] == pytest.approx(z[label] - max(others), abs=1e-3)
            if abs(signal["hinge"]) > 1e-3:
                assert stored["correct"][row, example] == (z[label] > max(others))


@pytest.mark.parametrize("variant", VARIANTS)
def test_accuracy_is_measured_on_images_outside_the_pool(toy_run, data, variant):
    run, name = RunFolder(toy_run), ModelName("target", 0)
    network = build_network("convnet", 10, 1, {}).double().eval()
    network.load_state_dict(load_weights(run.weights(name, variant)))
    with torch.no_grad():
        logits = network((data.test.images.double() / 255 - 0.3053) / 0.3759)
    best, second = logits.topk(2).values.unbind(1)
    clear = best - second > 1e-3
    correct = load_file(run.signals(name, variant))["test_correct"]
    assert correct.shape == (1797 - 64,)
    assert clear.double().mean() > 0.99
    assert torch.equal(correct[clear], (logits.argmax(1) == data.test.labels)[clear])


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_population_is_the_test_split_in_every_query(toy_run, data, variant):
    run, name = RunFolder(toy_run), ModelName("shadow", 1)
    network = build_network("convnet", 10, 1, {}).double().eval()
    network.load_state_dict(load_weights(run.weights(name, variant)))
    stored = load_file(run.signals(name, variant))
    for key in ("population", "population_hinge"):
        assert stored[key].shape == (len(QUERIES), 1797 - 64)
        assert stored[key].dtype == torch.float32
    examples = range(0, 1797 - 64, 29)
    labels = data.test.labels[examples]
    own = torch.eye(10)[labels].bool()
    for row, query in enumerate(QUERIES):
        views = torch.stack([shown(data.test.images[example], query) for example in examples])
        with torch.no_grad():
            p = network(views).softmax(-1)
        true, best = p[own], p.masked_fill(own, 0).amax(-1)
        phi = true.log() - p.masked_fill(own, 0).sum(-1).log()
        torch.testing.assert_close(
            stored["population"][row, examples].double(), phi, atol=1e-3, rtol=0
        )
        hinge = stored["population_hinge"][row, examples].double()
        torch.testing.assert_close(hinge, true.log() - best.log(), atol=1e-3, rtol=0)
    # accuracy is measured on the identity
    clear = stored["population_hinge"][0].abs() > 1e-3
    right = stored["population_hinge"][0] > 0
    assert torch.equal(right[clear], stored["test_correct"][clear])


def test_no_two_queries_or_variants_give_the_same_signals(toy_run):
    run, name = RunFolder(toy_run), ModelName("shadow", 0)
    phi = torch.stack([load_file(run.signals(name, variant))["phi"] for variant in VARIANTS])
    rows = phi.flatten(0, 1)
    assert len(rows.unique(dim=0)) == len(VARIANTS) * len(QUERIES)


def test_queries_are_recorded_in_the_order_asked_for(toy, toy_run, tmp_path, capsys):
    asked = "--queries shift+0+1 identity shift+0-2 --fleet.models 2"
    train.main(toy(tmp_path / "run", asked))
    assert "training never uses shift+0-2; such a query is weak" in capsys.readouterr().out
    name = ModelName("shadow", 2)
    phi = load_file(RunFolder(tmp_path / "run").signals(name, "nearest-w2"))["phi"]
    before = load_file(RunFolder(toy_run).signals(name, "nearest-w2"))["phi"]
    assert torch.equal(phi[:2], before[[5, 0]])
    assert not torch.isclose(phi[2], before, atol=1e-3).all(1).any()


class Logger(DummyLogger):
    """Keeps the metrics that are logged."""

    def __init__(self):
        super().__init__()
        self.logged = {}

    def log_metrics(self, metrics, *args, **kwargs):
        self.logged |= metrics


@pytest.fixture
def record(tmp_path, rng):
    """Record signals of networks of random weights, `NaN` of broken ones, and what it looked at.

    The pool and the test split are more than a batch each, and neither a whole number of them.
    """

    class Counted(Digits):
        def _batch(self, split, indices, change):
            shown.append((split is self.pool, change.keywords["query"], int(indices[0])))
            return super()._batch(split, indices, change)

    shown, data = [], Counted(pool_size=1100, batch_size=32, flip=True, crop=1)
    data.setup("fit")
    data.assign(torch.ones(1100, dtype=torch.bool), 0)
    networks = {}
    for name in ("a", "b-w1.58", "c"):
        # as a fit leaves it: with its layout of weights in memory, which changes the last digits
        networks[name] = network = Classifier(10, 1, 0, CONVNET).network.eval()
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor += 0.1 * torch.rand(tensor.shape, generator=rng)
        if name == "c":
            network.state_dict()["fc.bias"][3] = torch.nan
        save_whole(tmp_path / f"{name}.safetensors", network.state_dict())

    def run(queries):
        shown.clear()
        logger = Logger()
        ours = RecordSignals(tmp_path, list(networks), queries)
        options = {"enable_progress_bar": False, "enable_model_summary": False}
        options |= {"enable_checkpointing": False, "default_root_dir": tmp_path}
        options |= {"log_every_n_steps": 1, "num_sanity_val_steps": 0}
        trainer = Trainer(
            **options, accelerator="cpu", max_epochs=0, logger=logger, callbacks=[ours]
        )
        trainer.fit(Classifier(10, 1, 0, CONVNET), datamodule=data)
        return list(shown), logger.logged

    return run, networks, data


def slow_record(network, data, queries):
    """Record one network: the pool once per query, the test split once more for its accuracy."""

    def see(batches):
        return torch.cat([network(batch.images) for batch in batches])

    with torch.inference_mode():
        pool = torch.stack([see(data.pool_batches(query)) for query in queries])
        test = torch.stack([see(data.test_batches(query)) for query in queries])
        plain = see(data.test_batches("identity"))
    population = signals(test, data.test.labels)
    record = signals(pool, data.pool.labels)._asdict()
    record |= {"population": population.phi, "population_hinge": population.hinge}
    return record | {"test_correct": signals(plain, data.test.labels).correct}


@pytest.mark.parametrize(
    "queries", [["identity"], ["mirror", "identity", "shift+1+0"], ["shift+0-1", "mirror"]]
)
def test_one_pass_leaves_the_files_of_a_pass_for_each_variant_and_query(record, tmp_path, queries):
    run, networks, data = record
    shown, logged = run(queries)
    views = queries if "identity" in queries else [*queries, "identity"]
    assert len(shown) == len(set(shown))  # once each, whatever the number of networks
    assert {(pool, query) for pool, query, start in shown if start == 0} == {
        *((True, query) for query in queries),
        *((False, query) for query in views),
    }
    for name, network in networks.items():
        expected = slow_record(network, data, queries)
        path = tmp_path / "signals" / f"{name}.safetensors"
        stored = load_file(path)
        assert stored.keys() == expected.keys()
        for key, signal in expected.items():
            torch.testing.assert_close(stored[key], signal, rtol=0, atol=0, equal_nan=True)
        if name != "c":  # bytes are equal too, except for the signs of NaN
            save_whole(tmp_path / "expected", expected)
            assert path.read_bytes() == (tmp_path / "expected").read_bytes()
        accuracy = expected["test_correct"].double().mean().item()
        assert logged.pop(f"test_accuracy/{name}".replace("-w1.58", "_w1_58")) == accuracy
    assert not any(key.startswith("test_accuracy/") for key in logged)
    assert stored["phi"].isnan().all()
    assert not stored["test_correct"].any()


def test_only_missing_signals_are_recorded(record, tmp_path, snapshot):
    run, _, _ = record
    run(["mirror"])
    folder = tmp_path / "signals"
    before = snapshot(folder)
    (tmp_path / "a.safetensors").rename(tmp_path / "away")  # whose signals are there
    (folder / "b-w1.58.safetensors").unlink()
    _, logged = run(["mirror"])
    assert [key for key in logged if "test_" in key] == ["test_accuracy/b_w1_58"]
    after = snapshot(folder)
    assert after.pop("b-w1.58.safetensors")[1] == before.pop("b-w1.58.safetensors")[1]
    assert after == before
    (tmp_path / "b-w1.58.safetensors").unlink()
    assert run(["mirror"]) == ([], {})  # no image is looked at, no weight read


def test_only_rank_zero_records(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning.fabric.utilities.rank_zero.rank_zero_only.rank", 1)
    record = RecordSignals(tmp_path, ["full"], ["identity"])
    model = Classifier(10, 1, 0, CONVNET)
    record.on_fit_end(Trainer(logger=False, accelerator="cpu"), model)
    assert list(tmp_path.iterdir()) == []
