"""Controls of quantized variants in a fleet: the same bits whenever made, audited and exported."""

import re
import shutil
from html import unescape

import onnx
import pytest
import torch
from safetensors.torch import load_file

import train
from attacks.game import Curve
from fleet.export import export
from lightning_modules.networks import build_network
from quantization.deploy import run_onnx
from storage.evidence import gather
from storage.names import fleet_names
from storage.records import read_record
from storage.run_folder import RunFolder
from storage.weights import load_quantized, load_weights

NAMES = fleet_names(4, 1)
BASES = ["nearest-w2", "adaround-w1.58-last8"]
CONTROLS = [f"{base}-{kind}" for base in BASES for kind in ("noise0.5", "noise", "zeros")]


@pytest.fixture(scope="module")
def controlled(toy, toy_run, tmp_path_factory):
    """The toy run with controls, whose bases were made by an earlier call; not to be changed."""
    folder = shutil.copytree(toy_run, tmp_path_factory.mktemp("runs") / "controlled")
    train.main(toy(folder, f"--quantize {' '.join(CONTROLS)}"))
    return RunFolder(folder)


@pytest.mark.fleet
def test_controls_are_the_same_alone_together_and_in_a_fleet_that_grew(
    toy, controlled, tmp_path, of_models, tensors, records
):
    """The target is row 4 of one fleet and row 6 of the other."""
    alone = tmp_path / "run"
    train.main(toy(alone, "--fleet.models 1,4 --quantize adaround-w1.58-last8-noise"))
    train.main(toy(alone, "--fleet.shadows 6 --fleet.models 6 --quantize nearest-w2-noise"))
    names = f"{CONTROLS[-1]} {' '.join(BASES)} {' '.join(CONTROLS)}"
    train.main(toy(alone, f"--fleet.shadows 6 --fleet.models 1,6 --quantize {names}"))
    expected = of_models(tensors(controlled.path), NAMES[1], NAMES[4])
    made = of_models(tensors(alone), NAMES[1], NAMES[4])
    made = {key: content for key, content in made.items() if "nearest-w1.58-last8" not in key}
    assert made == {key: expected[key] for key in made}
    assert {key.rpartition("/")[2] for key in made} >= {f"{name}.safetensors" for name in CONTROLS}
    stored = records(controlled.path)
    assert all(record == stored[key] for key, record in records(alone).items())


@pytest.mark.fleet
@pytest.mark.parametrize("base", BASES)
def test_controls_are_of_each_models_own_weights(controlled, base):
    draws = []
    for name in NAMES:
        full, codes = (
            load_weights(controlled.weights(name, "full")),
            load_quantized(controlled.weights(name, base)),
        )
        noisy, half, zeros = (
            load_weights(controlled.weights(name, f"{base}-{kind}"))
            for kind in ("noise", "noise0.5", "zeros")
        )
        for key, weight in full.items():
            if key not in codes.weights:
                assert all(torch.equal(s[key], weight) for s in (noisy, half, zeros))
                continue
            change, noise = (s[key] - weight for s in (codes.state_dict(), noisy))
            power = change.double().square().mean().item()
            assert noise.double().square().mean().item() == pytest.approx(power, rel=1e-4)
            torch.testing.assert_close(2 * (half[key] - weight), noise, atol=1e-6, rtol=0)
            assert torch.equal(zeros[key], torch.where(codes.state_dict()[key] == 0, 0, weight))
        draws.append(noisy["fc.weight"] - full["fc.weight"])
    correlations = torch.corrcoef(torch.stack([draw.flatten() for draw in draws]))
    assert (correlations - torch.eye(len(NAMES))).abs().max() < 0.25  # of 640 weights


@pytest.mark.fleet
def test_a_dry_run_knows_the_size_and_who_pays(toy, controlled, tmp_path, capsys, unwrap):
    folder = controlled.model(NAMES[0])
    names = ["adaround-w1.58-last8-noise", "adaround-w1.58-last8", "adaround-w1.58-last8-zeros"]
    options = f"--fleet.dry_run true --quantize {' '.join(names)}"
    train.main(toy(tmp_path / "run", options))
    said = capsys.readouterr().out
    files = [folder / f"{name}.safetensors" for name in ("full", "epoch-01", *names)]
    assert f"{sum(file.stat().st_size for file in files):,} of weights" in unwrap(said)
    rows = dict(re.findall(r"│ (adaround[^│ ]*) +│ +([^│]*?) +│", said))
    assert rows.keys() == {*names}
    assert rows[names[0]] != "0.00 s"
    assert rows[names[1]] == rows[names[2]] == "0.00 s"
    assert "solved with" in said


@pytest.mark.fleet
def test_an_audit_names_controls_and_compares_with_noise(controlled, quick_audit, results_of):
    output = quick_audit(controlled)
    facts = results_of(controlled)["variants"]
    phrases = {
        "noise": "Gaussian noise of the mean square of nearest-w2's change, per layer",
        "zeros": "zero where nearest-w2 has zeros, all other weights as trained",
    }
    for kind, phrase in phrases.items():
        made = facts[f"nearest-w2-{kind}"]["quantization"]
        assert (made["objective"], made["calibration"]) == (phrase, None)
        assert phrase in unescape((controlled.path / "audit" / "report.html").read_text())
    assert facts[CONTROLS[-1]]["quantization"]["calibration"] == "members, 32 images"
    indices = [
        read_record(controlled, NAMES[4], name)["calibration"]["indices"]
        for name in (BASES[1], CONTROLS[-1])
    ]
    assert indices[0] == indices[1]
    assert all(name in output for name in CONTROLS)
    early, *noise = gather(controlled, False).game.curves
    assert {*CONTROLS} < {*early.against}
    assert noise == [
        Curve(f"noise like {base}", [f"{base}-noise", f"{base}-noise0.5", "full"], [base])
        for base in BASES
    ]


@pytest.mark.fleet
@pytest.mark.parametrize("name", ["nearest-w2-noise", "adaround-w1.58-last8-zeros"])
def test_controls_are_exported_as_the_float_weights_that_were_audited(
    controlled, tmp_path, name, rng
):
    expected = load_weights(controlled.weights(NAMES[4], name))
    for kind in ("state_dict", "onnx"):
        export(controlled.path, "target-000", name, kind, tmp_path / kind)
    with pytest.raises(ValueError, match=f"torchao has nothing to pack in `{name}`. Pass onnx or"):
        export(controlled.path, "target-000", name, "torchao", None)
    state = load_file(tmp_path / "state_dict")
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in state)
    network, images = build_network("convnet", 10, 1, {}).eval(), torch.randn(4, 1, 8, 8)
    network.load_state_dict(expected)
    with torch.no_grad():
        logits = network(images)
    difference = run_onnx(onnx.load(tmp_path / "onnx"), images) - logits
    assert difference.abs().max() <= 1e-5 * logits.abs().max()
