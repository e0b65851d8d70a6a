"""The quantized variants of real fits: their bits, their calibration images, a user's networks."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import train
from datamodules.digits import Digits
from datamodules.seeds import derive_seed
from datamodules.views import augment, normalise
from lightning_modules.classifier import Classifier
from lightning_modules.options import ModelOptions
from quantization.calibration import Calibration
from quantization.quantize import quantize_network
from quantization.variant import Variant
from storage.names import fleet_names
from storage.records import read_record
from storage.run_folder import RunFolder
from storage.weights import load_quantized, load_weights

NAMES = fleet_names(4, 1)


@pytest.fixture(scope="module")
def adjusted(toy, tmp_path_factory):
    """Two models with their own bits for some layers, and 20 calibration images augmented twice."""
    folder = tmp_path_factory.mktemp("runs") / "adjusted"
    options = "--fleet.models 1,4 --quantize gptq-w2 obc-w2-nonmembers --calibration.rounds 2"
    bits = '{"fc": 8, "layer1.*": 4}'
    train.main([*toy(folder, f"{options} --calibration.images 20"), "--layer_bits", bits])
    return RunFolder(folder)


@pytest.mark.fleet
@pytest.mark.parametrize("variant", ["gptq-w2", "obc-w2-nonmembers"])
def test_layers_have_the_requested_bits(adjusted, variant):
    path = adjusted.weights(NAMES[1], variant)
    weights, record = load_quantized(path).weights, read_record(adjusted, NAMES[1], variant)
    bits = {"layer1.0": 4, "layer2.0": 2, "layer3.0": 2, "fc": 8}
    assert {layer["name"]: layer["bits"] for layer in record["layers"]} == bits
    assert weights.keys() == {f"{name}.weight" for name in bits}
    for name, width in bits.items():
        codes, grid, _ = weights[f"{name}.weight"]
        assert grid.levels == 2**width
        # rows of 9 or 64 columns do not use every level, but some row uses the first and the last
        assert (codes.min(), codes.max()) == (0, 2**width - 1)
    assert max(len(row.unique()) for row in weights["fc.weight"].codes) > 32
    content, rows = load_file(path), {"layer1.0": 16, "layer2.0": 32, "layer3.0": 64, "fc": 10}
    columns = {"layer1.0": 9, "layer2.0": 144, "layer3.0": 288, "fc": 64}
    for name, width in bits.items():
        (packed,) = (v for k, v in content.items() if name in k and k.endswith("codes"))
        assert packed.numel() == rows[name] * -(-columns[name] * width // 8)


@pytest.mark.fleet
@pytest.mark.parametrize(("variant", "member"), [("gptq-w2", True), ("obc-w2-nonmembers", False)])
def test_calibration_images_are_the_models_own(adjusted, variant, member):
    indices = {}
    for position in (1, 4):
        name = NAMES[position]
        row = adjusted.membership()[name]
        calibration = read_record(adjusted, name, variant)["calibration"]
        indices[position] = calibration["indices"]
        assert len(set(indices[position])) == len(indices[position]) == calibration["images"] == 20
        assert calibration["source"] == ("members" if member else "nonmembers")
        assert (row[indices[position]] == member).all()
    assert set(indices[1]) != set(indices[4])


@pytest.mark.fleet
@pytest.mark.parametrize("variant", ["gptq-w2", "obc-w2-nonmembers"])
def test_calibration_images_are_augmented_as_in_training(adjusted, variant):
    data, name = Digits(pool_size=64), NAMES[4]
    data.setup("fit")
    used = read_record(adjusted, name, variant)["calibration"]
    seed, source = derive_seed(0, "target", 0, 0), used["source"]
    indices = torch.tensor(used["indices"])

    def augmented(number):
        rng = torch.Generator().manual_seed(derive_seed(seed, "calibration", source, number))
        changed = augment(data.pool.images[indices], flip=True, crop=1, generator=rng)
        return normalise(changed, data.mean, data.std)

    network = Classifier(10, 1, 0, ModelOptions("convnet")).network
    network.load_state_dict(load_file(adjusted.weights(name, "full")))
    patterns, stored = {"fc": 8, "layer1.*": 4}, load_weights(adjusted.weights(name, variant))
    same = {}
    for rounds in (1, 2):
        images = Calibration(augmented(0), augmented, indices, source, seed, rounds)
        made, _ = quantize_network(network, Variant.parse(variant), images, patterns)
        expected = made.state_dict()
        same[rounds] = all(torch.equal(stored[key], expected[key]) for key in expected)
    assert same == {1: variant == "gptq-w2", 2: True}  # GPTQ sees only the first round


@pytest.mark.fleet
def test_a_users_network_is_trained_resumed_and_quantized(
    toy, tmp_path, own_networks, monkeypatch, tensors, variants
):
    options = "--model.network own_networks.Perceptron --fleet.models 0-1"
    train.main(toy(tmp_path / "whole", options))
    real, calls = Classifier.training_step, []

    def step(self, batch, batch_idx):
        calls.append(self.current_epoch)
        if len(calls) in (4, 8):
            raise SystemExit("killed")
        return real(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", step)
        for _ in range(2):
            with pytest.raises(SystemExit, match="killed"):
                train.main(toy(tmp_path / "killed", options))
    train.main(toy(tmp_path / "killed", options))
    assert tensors(tmp_path / "killed") == tensors(tmp_path / "whole")
    run, data = RunFolder(tmp_path / "whole"), Digits(pool_size=64)
    data.setup("fit")
    pool = data.pool
    shown = ((pool.images.float() / 255 - 0.3053) / 0.3759).flatten(1)
    for variant in variants:
        weights = load_weights(run.weights(NAMES[0], variant))
        hidden = (shown @ weights["first.weight"].T + weights["first.bias"]).relu()
        log_p = (hidden @ weights["second.weight"].T + weights["second.bias"]).log_softmax(1)
        loss = -log_p[torch.arange(64), pool.labels]
        stored = load_file(run.signals(NAMES[0], variant))
        torch.testing.assert_close(stored["loss"][0], loss, atol=1e-4, rtol=1e-4)
        values = [len(row.unique()) for row in weights["first.weight"]]
        most = {"full": 64, "epoch-01": 64, "nearest-w2": 4}.get(variant, 3)
        assert max(values) <= most
        assert max(values) > most / 2


def test_a_layer_that_is_never_called_can_keep_full_precision(toy, tmp_path, own_networks):
    options = "--model.network own_networks.Forgetful --fleet.models 0 --quantize adaround-w2"
    train.main([*toy(tmp_path / "run", options), "--layer_bits", '{"spare": 32}'])
    run = RunFolder(tmp_path / "run")
    quantized, full = (
        load_weights(run.weights(NAMES[0], name)) for name in ("adaround-w2", "full")
    )
    assert torch.equal(quantized["spare.weight"], full["spare.weight"])
    assert max(len(row.unique()) for row in quantized["first.weight"]) <= 4
    record = read_record(run, NAMES[0], "adaround-w2")
    assert [layer["name"] for layer in record["layers"]] == ["first", "second"]


def test_a_later_variant_is_made_from_the_stored_weights(toy, toy_run, tmp_path):
    folder = Path(shutil.copytree(toy_run, tmp_path / "run"))
    run = RunFolder(folder)
    for name in run.read().names:
        run.checkpoint(name).unlink()
    name = run.read().names[0]
    state = {key: tensor + 1 for key, tensor in load_file(run.weights(name, "full")).items()}
    save_file(state, run.weights(name, "full"))  # weights that no training ends in
    (run.model(name) / "SHA256SUMS").unlink()
    before = run.weights(name, "full").read_bytes()
    train.main(toy(folder, "--quantize nearest-w8"))
    assert run.weights(name, "full").read_bytes() == before
    assert not run.checkpoint(name).exists()
    weights = load_weights(run.weights(name, "nearest-w8"))
    for key in ("fc.weight", "layer1.0.weight"):
        step = (state[key].amax() - state[key].amin().clamp(max=0)) / 255
        assert (weights[key] - state[key]).abs().max() <= step
