import hashlib
import json

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from lightning_modules.callbacks.quantize import Quantize, save_variant
from quantization.calibration import Calibration
from quantization.quantize import quantize_network
from quantization.variant import Variant
from storage.weights import load_weights

VARIANTS = [Variant.parse(name) for name in ("nearest-w2", "adaround-w1.58-last8")]


def calibrate(variant):
    images = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return Calibration(images, lambda number: images, torch.arange(40), variant.calibration, 0)


def quantize(model_dir, variants, note=lambda text: None):
    return Quantize(model_dir, variants, calibrate, {}, note)


class Users(nn.Module):
    """A network that is none of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        self.head = nn.LazyLinear(3)

    def forward(self, images):
        return self.head(self.body(images))


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = Users()
        self.network(torch.zeros(2, 1, 8, 8))

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return cross_entropy(self.network(images), labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Witness(Callback):
    """Remembers weights and checkpoint as they are when training ends."""

    def __init__(self, model_dir) -> None:
        self.model_dir = model_dir

    def on_fit_end(self, trainer, pl_module):  # placed before Quantize, so it runs first
        self.weights = {key: value.clone() for key, value in pl_module.state_dict().items()}
        self.checkpoint = hashlib.sha256((self.model_dir / "last.ckpt").read_bytes()).digest()


def fit(model_dir, variants):
    torch.manual_seed(0)
    module, witness = Module(), Witness(model_dir)
    batches = TensorDataset(torch.randn(2, 8, 1, 8, 8), torch.randint(3, (2, 8)))
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            witness,
            quantize(model_dir, variants),
            ModelCheckpoint(model_dir, save_last=True, save_top_k=0),
        ],
    )
    trainer.fit(module, batches)
    return module, witness


def test_a_real_fit_is_untouched_and_its_files_are_the_network_quantized(tmp_path):
    module, witness = fit(tmp_path, VARIANTS)
    weights = module.state_dict()
    assert all(torch.equal(weights[key], witness.weights[key]) for key in weights)
    last = tmp_path / "last.ckpt"
    assert hashlib.sha256(last.read_bytes()).digest() == witness.checkpoint
    saved = torch.load(last, weights_only=True)["state_dict"]
    assert all(torch.equal(weights[key], saved[key]) for key in weights)
    assert {path.name for path in tmp_path.iterdir()} == {
        "last.ckpt",
        "nearest-w2.safetensors",
        "nearest-w2.json",
        "adaround-w1.58-last8.safetensors",
        "adaround-w1.58-last8.json",
    }
    for variant in VARIANTS:
        images = calibrate(variant) if variant.calibrates else None
        expected = quantize_network(module.network, variant, images)[0].state_dict()
        loaded = load_weights(tmp_path / f"{variant}.safetensors")
        assert loaded.keys() == expected.keys()
        assert all(torch.equal(loaded[key], expected[key]) for key in loaded)


def test_training_is_the_same_with_and_without(tmp_path):
    with_callback, _ = fit(tmp_path / "a", VARIANTS)
    without, _ = fit(tmp_path / "b", [])
    ours, theirs = with_callback.state_dict(), without.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_files_that_exist_are_kept_and_missing_ones_written(tmp_path):
    kept = tmp_path / "nearest-w2.safetensors"
    kept.write_bytes(b"as it was")
    module, _ = fit(tmp_path, VARIANTS)
    assert kept.read_bytes() == b"as it was"
    added = tmp_path / "adaround-w1.58-last8.safetensors"
    before = added.stat().st_mtime_ns
    noted = []
    more = [*VARIANTS, Variant.parse("nearest-w4")]
    callback = quantize(tmp_path, more, noted.append)
    callback.on_fit_end(Trainer(logger=False, accelerator="cpu"), module)
    assert added.stat().st_mtime_ns == before
    assert noted == ["nearest-w4"]
    assert load_weights(tmp_path / "nearest-w4.safetensors").keys() == (
        module.network.state_dict().keys()
    )


def test_only_rank_zero_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning.fabric.utilities.rank_zero.rank_zero_only.rank", 1)
    quantize(tmp_path, VARIANTS).on_fit_end(Trainer(logger=False, accelerator="cpu"), Module())
    assert list(tmp_path.iterdir()) == []


def test_a_module_without_a_network_is_an_error(tmp_path):
    with pytest.raises(AttributeError, match="network"):
        quantize(tmp_path, VARIANTS).on_fit_end(
            Trainer(logger=False, accelerator="cpu"), LightningModule()
        )


LOOKING = ["adaround-w2", "brecq-w2-fisher", "obc-w2", "gptq-w2", "brecq-w1.58-paper"]
DIVERGED = [(name, "body.0", torch.nan) for name in ["nearest-w2", *LOOKING]]
DIVERGED += [(name, "body.0", factor) for name in LOOKING for factor in (1e20, 1e38)]


@pytest.mark.parametrize(("name", "layer", "factor"), DIVERGED)
def test_a_network_that_diverged_is_written_as_it_is(tmp_path, name, layer, factor):
    torch.manual_seed(0)
    network = Module().network.eval()
    with torch.no_grad():
        network.get_submodule(layer).weight.mul_(factor)
    path = tmp_path / f"{name}.safetensors"
    save_variant(network, path, Variant.parse(name), calibrate, {})
    state, saved = network.state_dict(), load_weights(path)
    assert all(torch.equal(state[key], saved[key]) or state[key].isnan().any() for key in state)
    assert not path.with_suffix(".json").exists()


def test_images_are_asked_for_by_variants_that_look_at_some_and_each_is_noted(tmp_path):
    module, said = Module(), []

    def asked(variant):
        said.append(f"images of {variant}")
        return calibrate(variant)

    variants = [Variant.parse(name) for name in ("nearest-w2", "gptq-w2-heldout", "nearest-w4-bn")]
    callback = Quantize(tmp_path, variants, asked, {"head": 8}, said.append)
    callback.on_fit_end(Trainer(logger=False, accelerator="cpu"), module)
    assert said == [
        "nearest-w2",
        "gptq-w2-heldout",
        "images of gptq-w2-heldout",
        "nearest-w4-bn",
        "images of nearest-w4-bn",
    ]
    for variant in variants:
        record = json.loads((tmp_path / f"{variant}.json").read_text())
        assert [layer["bits"] for layer in record["layers"]] == [variant.bits, 8]
        source = variant.calibration if variant.calibrates else None
        assert (record["calibration"] or {}).get("source") == source


def test_the_network_is_put_on_the_trainers_device_and_back(tmp_path, monkeypatch):
    module, moves = Module(), []
    module.network.to = lambda device: moves.append(str(device))
    trainer = Trainer(logger=False, accelerator="cpu")
    other = property(lambda strategy: torch.device("cuda:3"))
    monkeypatch.setattr(type(trainer.strategy), "root_device", other)
    quantize(tmp_path, VARIANTS[:1]).on_fit_end(trainer, module)
    assert moves == ["cuda:3", "cpu"]


def test_the_record_is_there_before_the_weights(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(
        "lightning_modules.callbacks.quantize.save_quantized",
        lambda path, quantized: written.append(path.with_suffix(".json").exists()),
    )
    path = tmp_path / "model" / "adaround-w2.safetensors"
    save_variant(Module().network.eval(), path, Variant.parse("adaround-w2"), calibrate, {})
    assert written == [True]
    record = json.loads(path.with_suffix(".json").read_text())
    assert [layer["name"] for layer in record["layers"]] == ["body.0", "head"]
    assert record["calibration"]["indices"] == list(range(40))
