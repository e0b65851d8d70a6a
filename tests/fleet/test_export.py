import json
import shutil

import onnx
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits

import train
from attacks.signals import signals as signals_of
from datamodules import Digits
from datamodules.views import normalise
from fleet.export import main
from lightning_modules.networks import build_network
from quantization.deploy import run_onnx
from quantization.quantized_network import QuantizedNetwork
from quantization.variant import Variant
from storage.weights import load_into, load_weights, save_quantized

LEARNED = ["adaround-w2", "brecq-w1.58-folded", "obc-w2-bn", "gptq-w4"]
# Share of the largest logit: both sum the same float32 products in another order, as in
# `test_deploy.py`.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def digits():
    images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None]
    return (images / 16 - 0.31) / 0.38


@pytest.fixture(scope="module")
def learned_run(toy, tmp_path_factory):
    """A run folder of the target alone, quantized by every method that looks at images."""
    folder = tmp_path_factory.mktemp("runs") / "learned"
    train.main(toy(folder, f"--fleet.models 4 --quantize {' '.join(LEARNED)}"))
    return folder


@torch.no_grad()
def logits_of(state, images, assign=False):
    network = build_network("convnet", 10, 1, {}).eval()
    network.load_state_dict(state, assign=assign)
    return network(images)


@pytest.fixture
def run(toy_run, tmp_path):
    """A copy of a finished run folder, to be changed."""
    return shutil.copytree(toy_run, tmp_path / "toy")


def convert(run, *arguments):
    main([str(run), *arguments])


@pytest.mark.parametrize(
    "variant", ["full", "epoch-01", "nearest-w2", "nearest-w1.58-last8", "adaround-w1.58-last8"]
)
@pytest.mark.parametrize("kind", ["onnx", "torchao", "state_dict"])
def test_every_format_of_a_run_gives_the_audited_logits(
    run, digits, capsys, tmp_path, kind, variant
):
    model = run / "models" / "target-000"
    expected = logits_of(load_weights(model / f"{variant}.safetensors"), digits)
    if kind == "torchao" and variant in ("full", "epoch-01"):
        with pytest.raises(
            SystemExit, match=rf"torchao has nothing to pack in `{variant}`. Pass onnx or"
        ):
            convert(run, "target-000", variant, "--format", kind)
        assert not (run / "export").exists()
        return
    output = [] if kind == "onnx" else ["--output", str(tmp_path / "mine.bin")]
    convert(run, "target-000", variant, "--format", kind, *output)
    path = tmp_path / "mine.bin" if output else run / "export" / f"target-000-{variant}.onnx"
    if kind == "onnx":
        logits = run_onnx(onnx.load(path), digits)
        assert (logits - expected).abs().max() <= TOLERANCE * expected.abs().max()
    elif kind == "torchao":
        state = torch.load(path, weights_only=True)
        assert torch.equal(logits_of(state, digits, assign=True), expected)
    else:
        assert torch.equal(logits_of(load_file(path), digits), expected)
    size, full = path.stat().st_size, (model / "full.safetensors").stat().st_size
    line = f"{path}: {size:,} bytes, {full:,} at full precision."
    assert line in capsys.readouterr().out
    assert {p.name for p in path.parent.iterdir()} <= {path.name, "toy"}  # nothing half-written


@pytest.mark.parametrize("variant", LEARNED)
def test_learned_codes_are_exported_as_they_were_audited(learned_run, digits, tmp_path, variant):
    weights = load_weights(learned_run / "models" / "target-000" / f"{variant}.safetensors")
    expected = logits_of(weights, digits)
    for kind in ("onnx", "torchao", "state_dict"):
        output = ["--output", str(tmp_path / kind)]
        convert(learned_run, "target-000", variant, "--format", kind, *output)
    logits = run_onnx(onnx.load(tmp_path / "onnx"), digits)
    assert (logits - expected).abs().max() <= TOLERANCE * expected.abs().max()
    state = torch.load(tmp_path / "torchao", weights_only=True)
    assert torch.equal(logits_of(state, digits, assign=True), expected)
    state = load_file(tmp_path / "state_dict")
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[key], weights[key]) for key in weights)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["target-009", "nearest-w2"], r"No model `target-009` in .*: it has shadow-000, .*-000\."),
        (
            ["target-000", "nearest-w3"],
            r"No variant `nearest-w3` of target-000 .*: it has ada.*, full, ne",
        ),
        (
            ["target-000", "nearest-w2", "--output", "no/such/x"],
            r"No folder no/such for `--out.*Cr",
        ),
        (["target-000", "nearest-w2", "--output", "."], r"`--output` must be a file .* Leave it"),
    ],
)
def test_a_missing_model_variant_or_folder_is_named(run, arguments, message):
    with pytest.raises(SystemExit, match=rf"fleet.export: {message}"):
        convert(run, *arguments, "--format", "state_dict")


def test_a_folder_without_experiment_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"fleet.export: No experiment in .*train.py"):
        convert(tmp_path, "target-000", "full", "--format", "onnx")


def test_the_models_of_a_run_are_never_written_to(run, snapshot):
    before = snapshot(run / "models")
    full = run / "models" / "target-000" / "full.safetensors"
    with pytest.raises(SystemExit, match="`--output` must be a file apart from the run's own"):
        convert(run, "target-000", "nearest-w2", "--format", "state_dict", "--output", str(full))
    convert(run, "target-000", "nearest-w2", "--format", "state_dict")
    assert snapshot(run / "models") == before


def test_damaged_and_diverged_weights_are_refused(run):
    model = run / "models" / "target-000"
    path = model / "nearest-w2.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SystemExit, match=r"w2.safetensors is not a whole .* Delete it and run"):
        convert(run, "target-000", "nearest-w2", "--format", "onnx")
    path.unlink()
    network = build_network("convnet", 10, 1, {})
    with torch.no_grad():
        network.fc.weight[0, 0] = torch.nan
    unpacked = QuantizedNetwork(Variant.parse("nearest-w2"), {}, network.state_dict())
    save_quantized(path, unpacked)
    save_file(network.state_dict(), model / "full.safetensors")
    for variant in ("nearest-w2", "full"):
        for kind in ("onnx", "state_dict"):
            message = rf"{variant}.safetensors must hold a trained .* diverged.* --fleet.retrain"
            with pytest.raises(SystemExit, match=message.replace(" --", ".*--")):
                convert(run, "target-000", variant, "--format", kind)
    assert not (run / "export").exists()


def test_a_network_that_has_changed_is_refused(run):
    arguments = ["target-000", "nearest-w2", "--format"]
    experiment = yaml.safe_load((run / "experiment.yaml").read_text())
    experiment["config"]["model"]["network"] = "resnet8"
    (run / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    with pytest.raises(SystemExit, match=r"`resnet8` must be the network that was trained, got"):
        convert(run, *arguments, "torchao")


def test_a_missing_package_is_named_with_the_way_to_get_it(run, monkeypatch):
    monkeypatch.setattr("fleet.export.find_spec", lambda name: name == "onnx" or None)
    arguments = ["target-000", "nearest-w2", "--format"]
    for kind, missing in (("onnx", "onnxscript, onnxruntime"), ("torchao", "torchao")):
        with pytest.raises(SystemExit, match=rf"{kind}` needs {missing}. Run `pip install -e '.\["):
            convert(run, *arguments, kind)
    convert(run, *arguments, "state_dict")  # needs no further package


@pytest.mark.parametrize("kind", ["onnx", "torchao", "state_dict"])
def test_a_full_disk_leaves_no_file_and_an_old_one_whole(run, monkeypatch, kind):
    def full_disk(*_, **__):
        raise OSError("No space left on device")

    arguments = ["target-000", "nearest-w2", "--format", kind, "--output"]
    path = run.parent / "old"
    path.write_text("old")
    monkeypatch.setattr("pathlib.Path.write_bytes", full_disk)
    monkeypatch.setattr("torch.save", full_disk)
    for output in (path, run.parent / "new"):
        with pytest.raises(SystemExit, match=r"fleet.export: No space left on device"):
            convert(run, *arguments, str(output))
    assert path.read_text() == "old"
    assert {entry.name for entry in run.parent.iterdir()} == {"old", "toy"}


@pytest.mark.parametrize("variant", ["nearest-w8-a8", "adaround-w4-a4"])
def test_quantized_activations_are_exported_to_onnx_alone(
    toy, digits, tmp_path_factory, tmp_path, variant
):
    """The signals, the file and the session are of one network: that with its activations."""
    folder = tmp_path_factory.mktemp("runs") / "activations"
    train.main(toy(folder, f"--fleet.models 4 --quantize {variant}"))
    path = folder / "models" / "target-000" / f"{variant}.safetensors"
    network = load_into(build_network("convnet", 10, 1, {}).eval(), path)
    with torch.no_grad():
        expected = network(digits)
        plain = logits_of(load_weights(path), digits)
    assert json.loads(path.with_suffix(".json").read_text())["activations"].keys() >= {"fc"}
    signals = load_file(path.parent / "signals" / f"{variant}.safetensors")
    data = Digits(pool_size=64)
    data.setup("fit")
    images = normalise(data.pool.images, data.mean, data.std)
    with torch.no_grad():
        phi = signals_of(network(images), data.pool.labels).phi
    assert torch.allclose(signals["phi"][0], phi.float(), atol=1e-4)

    convert(folder, "target-000", variant, "--format", "onnx")
    model = onnx.load(folder / "export" / f"target-000-{variant}.onnx")
    noise = (expected - plain).square().mean().sqrt()
    assert (run_onnx(model, digits) - expected).square().mean().sqrt() <= 2 * noise
    for kind in ("torchao", "state_dict"):
        with pytest.raises(SystemExit, match=rf"`{variant}` quantizes activations, and {kind} .*"):
            convert(folder, "target-000", variant, "--format", kind)
