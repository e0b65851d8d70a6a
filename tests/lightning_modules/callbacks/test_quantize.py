import hashlib
import json
from collections import OrderedDict

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn.functional import cross_entropy

from datamodules import Digits
from lightning_modules.callbacks.quantize import Common, Quantize, calibrate, save_variant
from lightning_modules.float32 import tf32
from lightning_modules.options import CalibrationOptions
from quantization.calibration import Calibration
from quantization.mixed_options import MixedOptions
from quantization.quantize import quantize_network
from quantization.rounding.grid import LEVELS
from quantization.shared import Shared
from quantization.variant import Variant
from storage.weights import load_quantized, load_weights

VARIANTS = [Variant.parse(name) for name in ("nearest-w2", "adaround-w1.58-last8")]


OPTIONS, SEED = CalibrationOptions(images=40), 7
MEMBERS = torch.arange(120) % 2 == 0
IMAGE = torch.zeros(1, 1, 8, 8)


def draw(variant):
    """Draw random images, of no data set."""
    images = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return Calibration(images, lambda number: images, torch.arange(40), variant.calibration, 0)


@pytest.fixture
def data():
    data = Digits(pool_size=120, batch_size=32, flip=True, crop=1)
    data.setup("fit")
    data.assign(MEMBERS, seed=5)
    return data


@pytest.fixture
def trainer(data):
    trainer = Trainer(logger=False, accelerator="cpu")
    trainer.datamodule = data
    return trainer


def quantize(model_dir, variants, patterns=None, note=lambda stage: None):
    names = ["full", *map(str, variants)]
    return Quantize(model_dir, names, OPTIONS, MEMBERS, SEED, patterns or {}, note, MixedOptions())


class Module(LightningModule):
    """A network of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        self.network = nn.Sequential(OrderedDict(body=body, head=nn.Linear(4 * 6 * 6, 10)))

    def training_step(self, batch, batch_idx):
        return cross_entropy(self.network(batch.images), batch.labels)

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Witness(Callback):
    """Remembers the weights and the checkpoint at the end of training."""

    def __init__(self, model_dir) -> None:
        self.model_dir = model_dir

    def on_fit_end(self, trainer, pl_module):  # placed before Quantize, so it runs first
        self.weights = {key: value.clone() for key, value in pl_module.state_dict().items()}
        self.checkpoint = hashlib.sha256((self.model_dir / "last.ckpt").read_bytes()).digest()


def fit(model_dir, data, variants):
    torch.manual_seed(0)
    module, witness = Module(), Witness(model_dir)
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[
            witness,
            quantize(model_dir, variants),
            ModelCheckpoint(model_dir, save_last=True, save_top_k=0),
        ],
    )
    trainer.fit(module, datamodule=data)
    return module, witness


def test_a_real_fit_is_untouched_and_its_files_are_the_network_quantized(tmp_path, data):
    module, witness = fit(tmp_path, data, VARIANTS)
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
        images = calibrate(data, OPTIONS, MEMBERS, SEED, variant) if variant.calibrates else None
        expected = quantize_network(module.network, variant, images)[0].state_dict()
        loaded = load_weights(tmp_path / f"{variant}.safetensors")
        assert loaded.keys() == expected.keys()
        assert all(torch.equal(loaded[key], expected[key]) for key in loaded)


def test_training_is_the_same_with_and_without_variants(tmp_path, data):
    quantized, _ = fit(tmp_path / "a", data, VARIANTS)
    plain, _ = fit(tmp_path / "b", data, [])
    weights, expected = quantized.state_dict(), plain.state_dict()
    assert all(torch.equal(weights[key], expected[key]) for key in expected)


def test_existing_files_are_kept_and_missing_files_written(tmp_path, data, trainer):
    kept = tmp_path / "nearest-w2.safetensors"
    kept.write_bytes(b"as it was")
    module, _ = fit(tmp_path, data, VARIANTS)
    assert kept.read_bytes() == b"as it was"
    added = tmp_path / "adaround-w1.58-last8.safetensors"
    before = added.stat().st_mtime_ns
    stages = []
    more = [*VARIANTS, Variant.parse("nearest-w4")]
    quantize(tmp_path, more, note=stages.append).on_fit_end(trainer, module)
    assert added.stat().st_mtime_ns == before
    assert stages == ["nearest-w4"]
    assert load_weights(tmp_path / "nearest-w4.safetensors").keys() == (
        module.network.state_dict().keys()
    )


def test_processes_save_shares_that_are_the_files_of_one(tmp_path, trainer, monkeypatch):
    module = Module()
    quantize(tmp_path / "alone", VARIANTS).on_fit_end(trainer, module)
    monkeypatch.setattr(Trainer, "world_size", 2)
    for rank, own in ((1, VARIANTS[0]), (0, VARIANTS[1])):  # the first process has `full`
        monkeypatch.setattr(Trainer, "global_rank", rank)
        before = {*tmp_path.glob("together/*.safetensors")}
        quantize(tmp_path / "together", VARIANTS).on_fit_end(trainer, module)
        made = {*tmp_path.glob("together/*.safetensors")} - before
        assert {path.name for path in made} == {f"{own}.safetensors"}
    for path in tmp_path.glob("alone/*.safetensors"):
        assert path.read_bytes() == (tmp_path / "together" / path.name).read_bytes()


def test_quantization_is_true_float32_whatever_training_allowed(tmp_path, trainer, monkeypatch):
    """TF32 changes nothing on a CPU, so the flags are read where a network is quantized."""
    seen, real = [], quantize_network

    def spy(*arguments, **options):
        seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
        return real(*arguments, **options)

    monkeypatch.setattr("lightning_modules.callbacks.quantize.quantize_network", spy)
    with tf32(True):
        quantize(tmp_path, VARIANTS).on_fit_end(trainer, Module())
    assert seen == [(False, False)] * 2


def test_a_module_without_a_network_is_an_error(tmp_path, trainer):
    with pytest.raises(AttributeError, match="network"):
        quantize(tmp_path, VARIANTS).on_fit_end(trainer, LightningModule())


CALIBRATING = ["adaround-w2", "brecq-w2-fisher", "obc-w2", "gptq-w2", "brecq-w1.58-paper"]
DIVERGED = [(name, "body.0", torch.nan) for name in ["nearest-w2", *CALIBRATING]]
DIVERGED += [(name, "body.0", factor) for name in CALIBRATING for factor in (1e20, 1e38)]


@pytest.mark.parametrize(("name", "layer", "factor"), DIVERGED)
def test_a_network_that_diverged_is_written_as_it_is(tmp_path, name, layer, factor):
    torch.manual_seed(0)
    network = Module().network.eval()
    with torch.no_grad():
        network.get_submodule(layer).weight.mul_(factor)
    path = tmp_path / f"{name}.safetensors"
    save_variant(network, path, Variant.parse(name), draw, Common(IMAGE, Shared(), 0))
    state, saved = network.state_dict(), load_weights(path)
    assert all(torch.equal(state[key], saved[key]) or state[key].isnan().any() for key in state)
    assert not path.with_suffix(".json").exists()


@pytest.mark.parametrize("name", ["adaround-w2", "nearest-w1.58"])
def test_a_control_is_made_from_codes_that_are_there(tmp_path, monkeypatch, name):
    """To learn them anew may take hours; and its zeros are those of the file."""
    network, controls = Module().network.eval(), [f"{name}-noise0.5", f"{name}-zeros"]

    def save(folder, *names):
        (tmp_path / folder).mkdir(exist_ok=True)
        for each in names:
            path = tmp_path / folder / f"{each}.safetensors"
            save_variant(network, path, Variant.parse(each), draw, Common(IMAGE, Shared(), 4))
        return [(tmp_path / folder / f"{each}.safetensors").read_bytes() for each in controls]

    expected = save("alone", *controls)
    save("beside", name, *controls)
    for control in controls:
        (tmp_path / "beside" / f"{control}.safetensors").unlink()
    monkeypatch.setattr("quantization.quantize.quantize_copy", lambda *_: pytest.fail("solved"))
    assert save("beside", *controls) == expected
    with torch.no_grad():
        network.get_submodule("body.0").weight.fill_(torch.nan)
    save("beside", *controls)
    for control in controls:
        state = load_weights(tmp_path / "beside" / f"{control}.safetensors")
        assert torch.equal(state["head.weight"], network.state_dict()["head.weight"])


@pytest.mark.parametrize("control", ["adaround-w2-noise", "adaround-w2-zeros"])
def test_a_control_of_a_network_that_diverged_is_that_network(tmp_path, control):
    network = Module().network.eval()
    with torch.no_grad():
        network.get_submodule("body.0").weight.mul_(1e20)
    for name in ("adaround-w2", control):
        path = tmp_path / f"{name}.safetensors"
        save_variant(network, path, Variant.parse(name), draw, Common(IMAGE, Shared(), 0))
        assert not path.with_suffix(".json").exists()
        state, saved = network.state_dict(), load_weights(path)
        assert all(torch.equal(state[key], saved[key]) for key in state)


def halve(network, images, bits):
    """Quantize a whole network, as a user's own might."""
    for parameter in network.parameters():
        parameter.data /= 2
    return network


def test_a_mask_that_is_infinite_from_the_start_is_no_divergence(tmp_path, monkeypatch, forget_own):
    monkeypatch.setattr("quantization.own.imported", lambda *_: halve)
    forget_own()
    network = Module().network.eval()
    network.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
    path = tmp_path / "engines.halve-w4.safetensors"
    save_variant(network, path, Variant.parse("engines.halve-w4"), draw, Common(IMAGE, Shared(), 0))
    state, saved = network.state_dict(), load_weights(path)
    assert torch.equal(saved["mask"], state["mask"])
    assert torch.equal(saved["head.weight"], state["head.weight"] / 2)
    assert path.with_suffix(".json").exists()


def test_only_variants_that_need_images_draw_them_and_all_are_noted(
    tmp_path, data, trainer, monkeypatch
):
    events = []

    def spy(*arguments):
        assert arguments[:4] == (data, OPTIONS, MEMBERS, SEED)
        events.append(f"images of {arguments[-1]}")
        return draw(arguments[-1])

    monkeypatch.setattr("lightning_modules.callbacks.quantize.calibrate", spy)
    names = ("nearest-w2", "gptq-w2-nonmembers", "nearest-w4-bn")
    variants = [Variant.parse(name) for name in names]
    quantize(tmp_path, variants, {"head": 8}, events.append).on_fit_end(trainer, Module())
    assert events == [
        "nearest-w2",
        "gptq-w2-nonmembers",
        "images of gptq-w2-nonmembers",
        "nearest-w4-bn",
        "images of nearest-w4-bn",
    ]
    for variant in variants:
        record = json.loads((tmp_path / f"{variant}.json").read_text())
        assert [layer["bits"] for layer in record["layers"]] == [variant.bits, 8]
        source = variant.calibration if variant.calibrates else None
        assert (record["calibration"] or {}).get("source") == source


def test_the_network_is_put_on_the_trainers_device_and_back(tmp_path, trainer, monkeypatch):
    module, moves = Module(), []
    module.network.to = lambda device: moves.append(str(device))
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
    save_variant(
        Module().network.eval(),
        path,
        Variant.parse("adaround-w2"),
        draw,
        Common(IMAGE, Shared(), 0),
    )
    assert written == [True]
    record = json.loads(path.with_suffix(".json").read_text())
    assert [layer["name"] for layer in record["layers"]] == ["body.0", "head"]
    assert record["calibration"]["indices"] == list(range(40))


@pytest.mark.parametrize("source", ["members", "nonmembers"])
def test_calibration_images_are_drawn_from_their_source(data, source):
    variant = Variant.parse("gptq-w2" + ("-nonmembers" if source == "nonmembers" else ""))
    drawn = calibrate(data, OPTIONS, MEMBERS, SEED, variant)
    assert (drawn.source, drawn.seed, drawn.rounds) == (source, SEED, 0)
    assert len(drawn.indices.unique()) == 40
    assert (MEMBERS[drawn.indices] == (source == "members")).all()
    pixels = data.pool.images[drawn.indices].double()
    expected = (pixels / 255 - 0.3053) / 0.3759
    torch.testing.assert_close(drawn.images.double(), expected, atol=1e-5, rtol=0)
    again = calibrate(data, OPTIONS, MEMBERS, SEED, variant)
    assert torch.equal(again.indices, drawn.indices)
    other = calibrate(data, OPTIONS, MEMBERS, SEED + 1, variant)
    assert not torch.equal(other.indices, drawn.indices)


def test_rounds_of_calibration_are_augmented_anew_and_repeatable(data):
    options = CalibrationOptions(images=40, rounds=3)
    drawn = calibrate(data, options, MEMBERS, SEED, Variant.parse("obc-w2"))
    assert drawn.rounds == 3
    assert torch.equal(drawn.images, drawn.augmented(0))
    assert torch.equal(drawn.augmented(1), drawn.augmented(1))
    assert not torch.equal(drawn.augmented(1), drawn.augmented(2))


def test_bits_that_are_chosen_do_not_depend_on_what_is_made_beside_them(tmp_path, trainer):
    """As after a kill, when the variants that are left are made in another process."""
    module = Module()
    names = [
        "nearest-mix9",
        "adaround-mix9",
        "adaround-mix7",
        "adaround-aiq0.9",
        "nearest-mix9-zeros",
    ]
    variants = [Variant.parse(name) for name in names]
    quantize(tmp_path / "together", variants).on_fit_end(trainer, module)
    for variant in variants:
        quantize(tmp_path / "alone", [variant]).on_fit_end(trainer, module)
    for name in names:
        first, again = (
            tmp_path / folder / f"{name}.safetensors" for folder in ("together", "alone")
        )
        assert first.read_bytes() == again.read_bytes()
        record = json.loads(first.with_suffix(".json").read_text())
        assert record["cost"]["full"]["weight_bytes"] >= record["cost"]["own"]["weight_bytes"]
        assert ("search" in record) == (not name.endswith("-zeros"))
        if "search" not in record:
            continue
        layers = {layer["name"]: layer["bits"] for layer in record["layers"]}
        assert layers.items() <= record["search"]["bits"].items()
        loaded = load_quantized(first)
        widths = {key[: -len(".weight")]: w.grid.levels for key, w in loaded.weights.items()}
        assert widths == {name: LEVELS[bits] for name, bits in layers.items()}
