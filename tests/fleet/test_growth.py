"""Reruns, more models and more variants of a fleet, by several processes at once."""

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

import train
from datamodules.membership import membership
from datamodules.seeds import derive_seed
from lightning_modules.classifier import Classifier
from lightning_modules.options import ModelOptions
from quantization.quantize import quantize_network
from quantization.variant import Variant
from storage.names import fleet_names
from storage.run_folder import RunFolder
from storage.weights import load_weights

NAMES = fleet_names(4, 1)
PATIENCE = 1200  # seconds; only what hangs takes so long


def test_a_rerun_trains_nothing_and_says_so(
    toy, finished, snapshot, no_training, capsys, unwrap, variants
):
    before = snapshot(finished / "models")
    experiment = (finished / "experiment.yaml").read_bytes()
    train.main(toy(finished))
    assert snapshot(finished / "models") == before
    assert (finished / "experiment.yaml").read_bytes() == experiment
    output = unwrap(capsys.readouterr().out)
    assert f"All 5 models in {finished} are finished: nothing to train." in output
    assert f"Next: python audit.py --run_dir {finished}" in output
    sizes = [RunFolder(finished).weights(NAMES[0], v).stat().st_size for v in variants]
    text = ", ".join(f"{v} {size:,}" for v, size in zip(variants, sizes, strict=True))
    assert f"Bytes of a model on disk: {text}." in output


@pytest.mark.fleet
def test_more_shadows_leave_existing_models_unchanged(
    toy, toy_run, finished, snapshot, tmp_path, served, capsys, of_models, tensors
):
    before = snapshot(finished / "models")
    train.main(toy(finished, "--fleet.shadows 6"))
    after = snapshot(finished / "models")
    assert {key: after[key] for key in before} == before
    new = {key.split("/")[0] for key in after.keys() - before.keys()}
    assert new == {"shadow-004", "shadow-005"}
    assert {seed for seed, _, _ in served} == {derive_seed(0, "shadow", i, 0) for i in (4, 5)}
    assert "Finished 2 models" in capsys.readouterr().out
    train.main(toy(tmp_path / "big", "--fleet.shadows 6 --fleet.models 4-5"))
    assert of_models(tensors(tmp_path / "big"), *new) == of_models(tensors(finished), *new)
    grown = RunFolder(finished).membership()
    assert torch.equal(torch.stack(list(grown.values())), membership(0, 6, 1, 64))
    before_it_grew = torch.stack([grown[name] for name in NAMES])
    assert torch.equal(before_it_grew, membership(0, 4, 1, 64))


def test_another_variant_adds_only_its_own_files(toy, finished, snapshot, no_training, variants):
    before = snapshot(finished / "models")
    train.main(toy(finished, "--quantize nearest-w4"))
    after = snapshot(finished / "models")
    changed = {key.split("/")[1] for key in before if after[key] != before[key]}
    assert changed == {"SHA256SUMS", "progress.json"}
    assert after.keys() - before.keys() == {
        f"{name}/{file}"
        for name in NAMES
        for file in ("nearest-w4.safetensors", "nearest-w4.json", "signals/nearest-w4.safetensors")
    }
    run = RunFolder(finished)
    assert run.read().config["quantize"] == [*variants[2:], "nearest-w4"]
    network = Classifier(10, 1, 0, ModelOptions("convnet")).network
    network.load_state_dict(load_file(run.weights(NAMES[1], "full")))
    expected = quantize_network(network, Variant.parse("nearest-w4"))[0].state_dict()
    quantized = load_weights(run.weights(NAMES[1], "nearest-w4"))
    assert all(torch.equal(quantized[key], expected[key]) for key in expected)


@pytest.mark.fleet
def test_a_variant_added_later_equals_one_made_at_once(
    toy, toy_run, tmp_path, of_models, records, tensors
):
    folder = tmp_path / "run"
    train.main(toy(folder, "--fleet.models 1,4 --quantize nearest-w2"))
    train.main(toy(folder, "--fleet.models 1,4 --quantize adaround-w1.58-last8"))
    later = of_models(tensors(folder), *NAMES)
    files = of_models(tensors(toy_run), NAMES[1], NAMES[4])
    assert later == {key: files[key] for key in files if "nearest-w1.58-last8" not in key}
    whole = records(toy_run)
    assert all(record == whole[key] for key, record in records(folder).items())
    assert len(records(folder)) == 4


def test_a_variant_named_twice_counts_once(toy, tmp_path, capsys, unwrap):
    train.main(toy(tmp_path / "run", "--quantize nearest-w2 nearest-w2 --fleet.models 0"))
    assert RunFolder(tmp_path / "run").read().config["quantize"] == ["nearest-w2"]
    assert unwrap(capsys.readouterr().out).count("nearest-w2") == 1


@pytest.mark.fleet
def test_two_processes_with_a_slice_each_make_one_fleet(toy, toy_run, tmp_path, start, tensors):
    folder = tmp_path / "run"
    processes = [start(toy(folder, f"--fleet.models {text}")) for text in ("0,3", "1-2,4")]
    for process in processes:
        process.join(PATIENCE)
    assert [process.exitcode for process in processes] == [0, 0]
    assert tensors(folder) == tensors(toy_run)


@pytest.mark.fleet
def test_a_fleet_that_grows_during_training_moves_no_row(toy, tmp_path, served, monkeypatch):
    """The target is row 4 of one fleet and row 6 of the other; a process keeps its first rows."""
    folder, real = tmp_path / "run", train.fit

    def fit(job, name):
        if name == NAMES[1]:
            monkeypatch.setattr(train, "fit", real)
            train.main(toy(folder, "--fleet.shadows 6 --fleet.models 5"))
        real(job, name)

    monkeypatch.setattr(train, "fit", fit)
    train.main(toy(folder, "--fleet.models 0,1,4"))
    seeds = {derive_seed(0, "target", 0, 0), *(derive_seed(0, "shadow", i, 0) for i in (0, 1, 5))}
    assert {seed for seed, _, _ in served} == seeds
    drawn = membership(0, 6, 1, 64)
    for name, row in zip(RunFolder(folder).read().names, drawn, strict=True):
        seed = derive_seed(0, name.role, name.number, 0)
        indices = {index for own, _, batch in served if own == seed for index in batch}
        assert indices in (set(), set(row.nonzero().flatten().tolist()))


@pytest.mark.fleet
def test_a_model_locked_by_another_process_is_passed_over(toy, tmp_path, capsys, unwrap):
    folder = tmp_path / "run"
    (folder / "models" / "shadow-002").mkdir(parents=True)
    with FileLock(folder / "models" / "shadow-002" / ".lock"):
        train.main(toy(folder))
    output = unwrap(capsys.readouterr().out)
    assert "3 of 5: shadow-002 passed over, another process works on it" in output
    assert "0 finished before; 1 passed over." in output
    assert "Finished 4 models" in output
    assert not (folder / "models" / "shadow-002" / "full.safetensors").exists()
    train.main(toy(folder))
    assert "Finished 1 model in" in unwrap(capsys.readouterr().out)
