import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from lightning_modules.networks import build_network
from quantization.activations import ActivationGrid
from quantization.calibration import Calibration
from quantization.quantize import quantize_network
from quantization.ranges import quantize_activations
from quantization.variant import Variant
from storage.weights import (
    load_into,
    load_quantized,
    load_weights,
    pack_network,
    save_quantized,
    stored_bytes,
)

VARIANTS = ["nearest-w8", "nearest-w4-sym", "nearest-w3", "nearest-w2-last8", "nearest-w1.58"]


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("architecture", ["resnet8", "convnet"])
def test_loaded_logits_are_bit_for_bit_those_in_memory(tmp_path, rng, architecture, name):
    network = build_network(architecture, 10, 3, {}).eval()
    images = torch.randn(4, 3, 9, 9, generator=rng)
    quantized = quantize_network(network, Variant.parse(name))[0]
    save_quantized(tmp_path / "file", quantized)
    network.load_state_dict(quantized.state_dict())
    in_memory = network(images)
    fresh = build_network(architecture, 10, 3, {}).eval()  # other weights, all replaced
    fresh.load_state_dict(load_weights(tmp_path / "file"))
    assert torch.equal(fresh(images), in_memory)


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_read_is_what_was_written(tmp_path, name):
    written = quantize_network(build_network("resnet8", 10, 1, {}), Variant.parse(name))[0]
    save_quantized(tmp_path / "file", written)
    read = load_quantized(tmp_path / "file")
    assert read.variant == written.variant
    assert list(read.weights) == list(written.weights)
    for key, (codes, grid, shape) in written.weights.items():
        assert torch.equal(read.weights[key].codes, codes)
        assert torch.equal(read.weights[key].grid.scale, grid.scale)
        assert torch.equal(read.weights[key].grid.zero, grid.zero)
        assert (read.weights[key].grid.levels, read.weights[key].shape) == (grid.levels, shape)
    assert read.rest.keys() == written.rest.keys()
    assert all(torch.equal(read.rest[key], tensor) for key, tensor in written.rest.items())


@pytest.mark.parametrize("name", ["nearest-w8-a8", "adaround-w2-a8-last32", "nearest-w4-a4"])
@pytest.mark.parametrize("architecture", ["resnet8", "convnet", "mlp"])
def test_loaded_activations_are_bit_for_bit_those_in_memory(tmp_path, rng, architecture, name):
    network = build_network(architecture, 10, 3, {}, (3, 8, 8)).eval()
    images, shape = torch.randn(8, 3, 8, 8, generator=rng), (3, 8, 8)
    calibration = Calibration(images, lambda _: images, torch.arange(8), "members", 0)
    quantized = quantize_network(network, Variant.parse(name), calibration)[0]
    save_quantized(tmp_path / "file", quantized)
    assert load_quantized(tmp_path / "file").activations == quantized.activations
    network.load_state_dict(quantized.state_dict())
    plain = network(images)
    in_memory = quantize_activations(network, quantized.activations)(images)
    fresh = load_into(build_network(architecture, 10, 3, {}, shape).eval(), tmp_path / "file")
    assert torch.equal(fresh(images), in_memory)
    assert not torch.equal(plain, in_memory)
    size, estimate = len(pack_network(quantized)), stored_bytes(network, quantized.variant)
    assert abs(size - estimate) <= 0.01 * size + 800  # ranges of additions and a pool are unknown


def test_activations_in_a_file_by_hand(tmp_path):
    layer = nn.Linear(5, 1)
    images = torch.tensor([[-1.0, 0, 0, 0, 4]])
    calibration = Calibration(images, lambda _: images, torch.arange(1), "members", 0)
    quantized = quantize_network(layer, Variant.parse("nearest-w8-a4"), calibration)[0]
    assert quantized.activations == {"": ActivationGrid(pytest.approx(1 / 3), 3, 16)}
    save_quantized(tmp_path / "file", quantized)
    with safe_open(tmp_path / "file", framework="pt") as file:
        header = json.loads(file.metadata()["quantized"])
    assert header["activations"] == {"": [quantized.activations[""].scale, 3, 16]}
    assert header["variant"] == "nearest-w8-a4"


def test_awkward_layers_survive(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Conv3d(1, 2, 3), nn.Linear(1, 4))
    with torch.no_grad():
        network[0].weight[0], network[0].weight[1], network[0].weight[2] = 0, 0.3, -2
    quantized = quantize_network(network, Variant.parse("nearest-w1.58"))[0]
    save_quantized(tmp_path / "file", quantized)
    loaded, state = load_weights(tmp_path / "file"), quantized.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    assert not loaded["0.weight"][0].any()


@pytest.mark.parametrize(("name", "least"), [("nearest-w2", 15.3), ("nearest-w1.58", 18.9)])
def test_a_packed_resnet18_is_as_small_as_its_bits(tmp_path, name, least):
    # 44.7 MB in full. Beside the codes a file has 4,810 steps and zero points and BatchNorm's
    # 19,200 numbers in float32, so the ratio stays short of 16 (ternary: of 20).
    network = build_network("resnet18", 10, 3, {})
    save_file(network.state_dict(), tmp_path / "full")
    save_quantized(tmp_path / "packed", quantize_network(network, Variant.parse(name))[0])
    ratio = (tmp_path / "full").stat().st_size / (tmp_path / "packed").stat().st_size
    assert least < ratio < {"nearest-w2": 16, "nearest-w1.58": 20}[name]


def test_file_by_hand(tmp_path):
    layer = nn.Linear(5, 1)
    layer.load_state_dict(
        {"weight": torch.tensor([[-1.0, 0.0, 1.0, 2.0, 2.0]]), "bias": torch.ones(1)}
    )
    save_quantized(tmp_path / "file", quantize_network(layer, Variant.parse("nearest-w2"))[0])
    with safe_open(tmp_path / "file", framework="pt") as file:
        tensors = {key: file.get_tensor(key).tolist() for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    assert tensors == {
        "weight.codes": [[0b11_10_01_00, 0b11]],
        "weight.scale": [[1.0]],
        "weight.zero": [[1]],
        "bias": [1.0],
    }
    assert metadata.keys() == {"quantized"}  # several come in random order, other bytes each time
    assert json.loads(metadata["quantized"]) == {
        "variant": "nearest-w2",
        "weights": {"weight": {"levels": 4, "shape": [1, 5]}},
    }


def test_full_precision_files_load_as_they_are(tmp_path):
    state = build_network("resnet8", 10, 1, {}).state_dict()
    save_file(state, tmp_path / "full.safetensors")
    loaded = load_weights(tmp_path / "full.safetensors")
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    with pytest.raises(
        ValueError, match=r"full.safetensors must hold a quantized .*`load_weights`"
    ):
        load_quantized(tmp_path / "full.safetensors")


def test_a_crash_while_writing_leaves_no_file_and_an_old_one_whole(tmp_path, monkeypatch):
    quantized = quantize_network(nn.Linear(3, 2), Variant.parse("nearest-w2"))[0]
    path = tmp_path / "model" / "nearest-w2.safetensors"

    write = Path.write_bytes

    def full_disk(path, content):
        write(path, content[: len(content) // 2])
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full_disk)
        with pytest.raises(OSError, match="No space left"):
            save_quantized(path, quantized)
        assert list(path.parent.iterdir()) == []
    save_quantized(path, quantized)
    before = path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full_disk)
        with pytest.raises(OSError, match="No space left"):
            save_quantized(path, quantized)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_what_a_killed_process_left_is_no_obstacle(tmp_path):
    path = tmp_path / "nearest-w2.safetensors"
    path.with_name("nearest-w2.safetensors.partial").write_bytes(b"half a file")
    save_quantized(path, quantize_network(nn.Linear(3, 2), Variant.parse("nearest-w2"))[0])
    assert list(tmp_path.iterdir()) == [path]
    assert load_weights(path).keys() == {"weight", "bias"}


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "nearest-w2.safetensors"
    save_quantized(path, quantize_network(nn.Linear(3, 2), Variant.parse("nearest-w2"))[0])
    path.write_bytes(path.read_bytes()[:-1])
    for load in (load_weights, load_quantized):
        with pytest.raises(ValueError, match=r"nearest-w2.safetensors is not a whole .* Delete it"):
            load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        load_weights(tmp_path / "absent.safetensors")
