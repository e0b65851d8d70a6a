import shutil

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from safetensors.torch import load_file

from attacks.signals import signals
from datamodules import Digits
from lightning_modules.callbacks.peers import Peers
from lightning_modules.callbacks.record_signals import RecordSignals
from lightning_modules.classifier import Classifier
from lightning_modules.float32 import tf32
from lightning_modules.options import ModelOptions
from storage.files import save_whole

CONVNET = ModelOptions("convnet")


class Logger(DummyLogger):
    """Keeps the metrics that are logged."""

    def __init__(self):
        super().__init__()
        self.logged = {}

    def log_metrics(self, metrics, *args, **kwargs):
        self.logged |= metrics


@pytest.fixture
def record(tmp_path, rng):
    """Record signals of three random networks, the last with a NaN, and the batches shown to them.

    The pool and the test split take several batches each, and not a whole number of them.
    """

    class Recorder(Digits):
        def _batch(self, split, indices, change):
            shown.append((split is self.pool, change.keywords["query"], int(indices[0])))
            return super()._batch(split, indices, change)

    shown, data = [], Recorder(pool_size=1100, batch_size=32, flip=True, crop=1)
    data.setup("fit")
    data.assign(torch.ones(1100, dtype=torch.bool), 0)
    networks = {}
    for name in ("a", "b-w1.58", "c"):
        # made as in a fit, because the layout of weights in memory changes the last digits
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
        ours = RecordSignals(tmp_path, list(networks), queries, Peers(""))
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

    def logits(batches):
        return torch.cat([network(batch.images) for batch in batches])

    with torch.inference_mode():
        pool = torch.stack([logits(data.pool_batches(query)) for query in queries])
        test = torch.stack([logits(data.test_batches(query)) for query in queries])
        plain = logits(data.test_batches("identity"))
    population = signals(test, data.test.labels)
    record = signals(pool, data.pool.labels)._asdict()
    record |= {"population": population.phi, "population_hinge": population.hinge}
    return record | {"test_correct": signals(plain, data.test.labels).correct}


@pytest.mark.parametrize(
    "queries", [["identity"], ["mirror", "identity", "shift+1+0"], ["shift+0-1", "mirror"]]
)
def test_one_pass_records_the_same_as_one_pass_per_variant_and_query(record, tmp_path, queries):
    run, networks, data = record
    shown, logged = run(queries)
    views = queries if "identity" in queries else [*queries, "identity"]
    assert len(shown) == len(set(shown))  # each batch once, whatever the number of networks
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
    (tmp_path / "a.safetensors").rename(tmp_path / "away")  # its signals exist
    (folder / "b-w1.58.safetensors").unlink()
    _, logged = run(["mirror"])
    assert [key for key in logged if "test_" in key] == ["test_accuracy/b_w1_58"]
    after = snapshot(folder)
    assert after.pop("b-w1.58.safetensors")[1] == before.pop("b-w1.58.safetensors")[1]
    assert after == before
    (tmp_path / "b-w1.58.safetensors").unlink()
    assert run(["mirror"]) == ([], {})  # no image is shown, no weight read


def test_a_process_records_its_share_of_the_variants(record, tmp_path, monkeypatch):
    run, _, _ = record
    run(["mirror"])
    folder = tmp_path / "signals"
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(folder)
    for rank, own in ((1, {"b-w1.58"}), (0, {"a", "b-w1.58", "c"})):
        monkeypatch.setattr(Trainer, "global_rank", rank)
        monkeypatch.setattr(Trainer, "world_size", 2)
        run(["mirror"])
        made = {path.stem.removesuffix(".safetensors"): path for path in folder.iterdir()}
        assert made.keys() == own
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_signals_are_true_float32_whatever_training_allowed(record, tmp_path, monkeypatch):
    """TF32 changes nothing on a CPU, so the flags are read while a network computes."""
    run, networks, _ = record
    seen, real = set(), Classifier(10, 1, 0, CONVNET).network.__class__.forward

    def forward(self, images):
        seen.add((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
        return real(self, images)

    monkeypatch.setattr(next(iter(networks.values())).__class__, "forward", forward)
    with tf32(True):
        run(["identity"])
        assert torch.backends.cudnn.allow_tf32
        assert torch.backends.cuda.matmul.allow_tf32
    assert seen == {(False, False)}
