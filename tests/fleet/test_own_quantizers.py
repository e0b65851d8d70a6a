"""`--quantize my.rounding-w4`: made, audited and exported like ours; edits are noticed."""

import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file

import train
from fleet.export import export
from storage.run_folder import RunFolder
from storage.weights import load_weights

LAYERS = """
def rounding(weight, grid):
    return (weight / grid.scale + grid.zero).round().clamp(0, grid.levels - 1).byte()
"""
ENGINE = """
from torch import nn

def engine(network, images, bits):
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            step = module.weight.data.abs().max() / (2 ** (bits - 1) - 1)
            module.weight.data = (module.weight.data / step).round() * step
    return network
"""
OWN = "quantizers_of_mine"


@pytest.fixture
def own(tmp_path, monkeypatch, forget_own):
    """Write a user's module of quantizers into the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(content):
        forget_own(OWN)
        (tmp_path / f"{OWN}.py").write_text(content)

    write(LAYERS + ENGINE)
    return write


def test_own_quantizers_join_a_finished_fleet(
    toy, finished, own, no_training, snapshot, audit, results_of, read_csv
):
    """The rounding is ours, and so must its network be; an engine's weights are as it left them."""
    before, run = snapshot(finished / "models"), RunFolder(finished)
    known = run.read().fingerprints
    names = [f"{OWN}.rounding-w2", f"{OWN}.engine-w4"]
    train.main(toy(finished, f"--quantize {' '.join(names)}"))
    after = snapshot(finished / "models")
    changed = {key for key in before if before[key] != after[key]}
    assert {key.rpartition("/")[2] for key in changed} <= {"SHA256SUMS", "progress.json"}
    target = run.read().names[-1]
    ours = load_file(run.weights(target, "nearest-w2"))
    theirs = load_file(run.weights(target, names[0]))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    full, made = (load_file(run.weights(target, v)) for v in ("full", names[1]))
    for key, weight in made.items():
        if weight.ndim > 1:
            step = full[key].abs().max() / 7
            assert torch.equal(weight, (full[key] / step).round() * step)
        else:
            assert torch.equal(weight, full[key])
    stored = run.read().fingerprints
    assert stored.keys() - known.keys() == {f"{OWN}.rounding", f"{OWN}.engine"}
    output = audit(run, "--attacks", "global_threshold", "lira_offline_fixed")
    for name in names:
        assert {row["knowledge"] for row in read_csv(run) if row["variant"] == name} >= {
            *("none", "matched", "unquantized")
        }
        assert name in output
        for view in ("table.txt", "report.html", "results.json"):
            assert name in (finished / "audit" / view).read_text()
    facts = results_of(run)["variants"]
    assert facts[names[0]]["quantization"]["objective"].startswith(f"by {OWN}.rounding, each")
    assert facts[names[1]]["quantization"]["calibration"] == "members, 32 images"
    assert export(finished, str(target), names[1], "state_dict", None)
    with pytest.raises(ValueError, match="torchao has nothing to pack in `quantizers_of_mine"):
        export(finished, str(target), names[1], "torchao", None)


def test_an_own_quantizer_has_controls_and_an_engine_none(toy, finished, own, no_training):
    names = [f"{OWN}.rounding-w2-noise0.5", f"{OWN}.rounding-w2-zeros"]
    train.main(toy(finished, f"--quantize nearest-w2-zeros {' '.join(names)}"))
    run = RunFolder(finished)
    target = run.read().names[-1]
    ours, theirs = (load_file(run.weights(target, v)) for v in ("nearest-w2-zeros", names[1]))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    full, noisy, base = (
        load_file(run.weights(target, "full")),
        load_file(run.weights(target, names[0])),
        load_weights(run.weights(target, "nearest-w2")),
    )
    noise, change = (s["fc.weight"].double() - full["fc.weight"] for s in (noisy, base))
    assert noise.square().mean().item() == pytest.approx(change.square().mean().item() / 4)
    message = r"engine-w4-noise`: .*engine quantizes whole networks, and a control is made layer"
    with pytest.raises(SystemExit, match=message):
        train.main(toy(finished, f"--quantize {OWN}.engine-w4-noise"))


def test_an_edited_quantizer_stops_with_both_fingerprints(toy, finished, own):
    option = f"--quantize {OWN}.rounding-w2"
    train.main(toy(finished, option))
    before = (finished / "experiment.yaml").read_bytes()
    first = yaml.safe_load(before)["fingerprints"][f"{OWN}.rounding"]
    own(LAYERS + "# an edit\n")
    message = (
        rf"{OWN}\.rounding's fingerprint: '{first}' in the folder, '\w{{16}}' asked\n.*new one"
    )
    for options in (option, ""):  # what was asked for before is made for new models, too
        with pytest.raises(SystemExit, match=message):
            train.main(toy(finished, options))
    assert (finished / "experiment.yaml").read_bytes() == before
    own(LAYERS + ENGINE)
    train.main(toy(finished, option))


def test_a_wrong_quantizer_stops_before_there_is_a_folder(toy, own, tmp_path):
    own("def rounding(weight):\n    return weight\n")
    with pytest.raises(SystemExit, match=r"rounding` takes \(weight\)\. Expected is rounding\(w"):
        train.main(toy(tmp_path / "run", f"--quantize {OWN}.rounding-w2"))
    with pytest.raises(SystemExit, match=r"none of that name\. Did you mean `quantizers_of_mine\."):
        train.main(toy(tmp_path / "run", f"--quantize {OWN}.round-w2"))
    assert not (tmp_path / "run").exists()


def test_a_dry_run_estimates_them(toy, own, tmp_path, capsys):
    names = f"{OWN}.rounding-w2 {OWN}.engine-w4"
    train.main(toy(tmp_path / "run", f"--quantize {names} --fleet.dry_run true"))
    printed = capsys.readouterr().out
    assert all(name in printed for name in names.split())
    assert not (tmp_path / "run").exists()
