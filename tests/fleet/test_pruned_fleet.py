"""Fleets whose channels are cut in the middle of training: resumed, quantized, exported."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import train
from fleet.export import export
from lightning_modules.callbacks.checkpoints import SaveCheckpoint
from lightning_modules.networks import build_network
from pruning.cut import load
from storage.names import fleet_names
from storage.run_folder import RunFolder
from storage.weights import load_kept, load_weights

ROOT = Path(train.__file__).parent
NAMES = fleet_names(2, 0)
STEPS = 6 * 2  # of a model: epochs, steps per epoch
FLEET = "--trainer.max_epochs 6 --snapshots 1 3 5 --fleet.shadows 2 --fleet.targets 0"
NETWORK = "--model.network resnet8 --quantize adaround-w2"
OCS = f"{FLEET} {NETWORK} --prune ocs --prune.start 0.2 --prune.cut 0.5"  # at epochs 1 to 3
PEERS = {
    "magnitude": "--prune magnitude --prune.cut 0.5",
    "random": "--prune random --prune.cut 0.5",
    "init": "--prune init",
}


@pytest.fixture(scope="module")
def pruned_run(toy, tmp_path_factory):
    """A finished fleet, to be read or copied."""
    folder = tmp_path_factory.mktemp("runs") / "pruned"
    train.main(toy(folder, OCS))
    return folder


@pytest.mark.fleet
def test_files_carry_the_narrow_network_and_what_is_kept_of_the_dense_one(pruned_run):
    run = RunFolder(pruned_run)
    for name in NAMES:
        record = json.loads(run.record(name, "full").read_text())
        assert record["cut_after"] == 3
        kept, dense = record["kept"], build_network("resnet8", 10, 1, {})
        assert load_kept(run.weights(name, "full")) == kept
        checkpoint = torch.load(run.checkpoint(name), weights_only=True)
        assert checkpoint["kept"] == kept
        assert load_kept(run.weights(name, "epoch-01")) == {}
        assert load_kept(run.weights(name, "epoch-03")) == {}  # before the cut of the same epoch
        assert load_kept(run.weights(name, "epoch-05")) == kept
        before, after = record["parameters"]
        assert before == sum(weight.numel() for weight in dense.parameters())
        load(dense, load_weights(run.weights(name, "full")))
        assert after == sum(weight.numel() for weight in dense.parameters())
        whole, small = (run.weights(name, v).stat().st_size for v in ("epoch-01", "full"))
        assert whole - small > 4 * (before - after) * 0.95  # kept channels take some bytes
        assert record["macs"][1] <= 0.5 * record["macs"][0]
        quantized = load_weights(run.weights(name, "adaround-w2"))
        assert {k: v.shape for k, v in quantized.items()} == {
            key: value.shape for key, value in load_file(run.weights(name, "full")).items()
        }


@pytest.mark.fleet
def test_the_last_accuracy_of_the_record_is_that_of_the_signals(pruned_run):
    run = RunFolder(pruned_run)
    for name in NAMES:
        record = json.loads(run.record(name, "full").read_text())
        correct = load_file(run.signals(name, "full"))["test_correct"]
        assert record["accuracy"][2] == correct.double().mean().item()
        at_the_cut = load_file(run.signals(name, "epoch-03"))["test_correct"]
        assert record["accuracy"][0] == at_the_cut.double().mean().item()


@pytest.mark.fleet
def test_each_model_has_channels_of_its_own(pruned_run, full_records):
    kept = [record["kept"] for record in full_records(pruned_run).values()]
    assert kept[0] != kept[1]


@pytest.mark.fleet
@pytest.mark.parametrize(
    "steps",
    [[1, 5, 6, 7], [4, STEPS + 6]],
    ids=["around the cut", "in every model"],
)
def test_a_killed_fleet_ends_bit_for_bit_the_same(
    toy, pruned_run, tmp_path, killed, steps, tensors, records, last_epochs, full_records
):
    folder = tmp_path / "run"
    killed(toy(folder, OCS), steps)
    assert tensors(folder) == tensors(pruned_run)
    assert full_records(folder) == full_records(pruned_run)
    assert records(folder) == records(pruned_run)
    assert last_epochs(folder) == last_epochs(pruned_run)


@pytest.mark.fleet
def test_a_kill_between_the_cut_and_its_checkpoint(toy, pruned_run, tmp_path, monkeypatch, tensors):
    real = SaveCheckpoint.on_train_epoch_end

    def save(self, trainer, pl_module):
        if trainer.current_epoch == 2:
            assert pl_module.kept
            raise SystemExit("killed")
        real(self, trainer, pl_module)

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(SaveCheckpoint, "on_train_epoch_end", save)
        with pytest.raises(SystemExit, match="killed"):
            train.main(toy(folder, OCS))
    train.main(toy(folder, OCS))
    assert tensors(folder) == tensors(pruned_run)


@pytest.mark.fleet
@pytest.mark.parametrize("method", PEERS)
def test_peers_cut_once_and_resume(toy, tmp_path, killed, method, tensors, full_records):
    options = f"{FLEET} --quantize nearest-w2 --fleet.models 0 {PEERS[method]}"
    runs = [tmp_path / "run", tmp_path / "killed"]
    train.main(toy(runs[0], options))
    killed(toy(runs[1], options), [3, 8])
    assert tensors(runs[0]) == tensors(runs[1])
    (record,) = full_records(runs[0]).values()
    assert full_records(runs[1]) == full_records(runs[0])
    assert record["cut_after"] == {"init": 0}.get(method, 3)
    assert record["stability"] == []
    assert record["macs"][1] <= 0.5 * record["macs"][0]


@pytest.mark.fleet
def test_random_channels_are_of_the_model_and_not_of_its_weights(toy, tmp_path, full_records):
    """Another learning rate gives other weights, and the same channels."""
    options = f"{FLEET} --quantize --snapshots --fleet.models 0 {PEERS['random']}"
    train.main(toy(tmp_path / "a", options))
    train.main(toy(tmp_path / "b", f"{options} --model.lr 0.01"))
    (one,), (other,) = (full_records(tmp_path / name).values() for name in "ab")
    assert one["kept"] == other["kept"]
    assert one["accuracy"] != other["accuracy"]


@pytest.mark.fleet
def test_workers_and_slices_make_the_same_fleet(toy, pruned_run, tmp_path, tensors):
    folder = tmp_path / "run"
    train.main(toy(folder, f"{OCS} --fleet.models 1"))
    train.main(toy(folder, f"{OCS} --fleet.workers 2"))
    assert tensors(folder) == tensors(pruned_run)


@pytest.mark.fleet
def test_lost_files_are_made_from_the_narrow_weights(
    toy, pruned_run, tmp_path, no_training, tensors, records
):
    """Signals of dense snapshots and of narrow variants, codes, and a variant that is new."""
    copy = Path(shutil.copytree(pruned_run, tmp_path / "copy"))
    for path in [*copy.glob("models/*/*-w*"), *copy.glob("models/*/signals/*")]:
        path.unlink()
    train.main(toy(copy, OCS))
    assert tensors(copy) == tensors(pruned_run)
    assert records(copy) == records(pruned_run)
    more = NETWORK.replace("adaround-w2", "brecq-w2 nearest-w2-last8")
    train.main(toy(copy, f"{OCS.replace(NETWORK, more)} --fleet.models 0"))
    record = json.loads(RunFolder(copy).record(NAMES[0], "brecq-w2").read_text())
    assert record["units"] == ["conv1", "layer1.0", "layer2.0", "layer3.0", "fc"]


@pytest.mark.fleet
@pytest.mark.parametrize("variant", ["full", "epoch-01", "adaround-w2"])
def test_export_computes_what_was_audited(pruned_run, tmp_path, variant):
    """ONNX Runtime compares the logits while it exports; sizes follow the narrow network."""
    output = tmp_path / "network.onnx"
    export(pruned_run, "shadow-001", variant, "onnx", output)
    weights = load_weights(RunFolder(pruned_run).weights(NAMES[-1], variant))
    size = sum(w.numel() for w in weights.values()) * (1 if variant == "adaround-w2" else 16) / 4
    assert size < output.stat().st_size < size + 20_000  # and the graph


@pytest.mark.fleet
def test_the_last_lines_say_when_channels_were_cut(toy, pruned_run, capsys, unwrap, no_training):
    """Three epochs of selection are too few for them to become stable."""
    train.main(toy(pruned_run, OCS))
    assert (
        "Pruning by ocs cut channels after epoch 3: in 0 of 2 models because they had become "
        "stable, in 2 at the latest epoch, before that." in unwrap(capsys.readouterr().out)
    )


@pytest.mark.fleet
def test_an_audit_reports_what_was_cut(toy, tmp_path, audit, results_of, full_records):
    """Models have different numbers of embeddings, too: that of inputs of the last layer."""
    run = RunFolder(tmp_path / "run")
    options = "--fleet.shadows 6 --fleet.targets 0 --quantize nearest-w2 --record_embeddings true"
    train.main(toy(run.path, f"{options} --prune random --prune.remove 0.8 --prune.cut 0.4"))
    audit(run, "--attacks", "global_threshold", "lira_online_fixed", "quantile_embeddings")
    results, records = results_of(run), list(full_records(run.path).values())
    attacks = {(row["variant"], row["attack"]) for row in results["rows"]}
    assert {("full", "quantile_embeddings"), ("epoch-01", "quantile_embeddings")} <= attacks
    pruned = results["pruned"]
    assert pruned["cut_after"] == [1] * 6
    assert pruned["macs"][1] == pytest.approx(sum(r["macs"][1] for r in records) / 6)
    layer = next(width for width in pruned["widths"] if width["layer"] == "layer3.0")
    widths = [len(record["kept"]["layer3.0"]) for record in records]
    assert (layer["dense"], layer["fewest"], layer["most"]) == (64, min(widths), max(widths))
    assert min(widths) < 32  # whose embeddings have fewer components
    assert len(set(widths)) > 1
    assert "pruning" in results["figures"]
    assert (run.path / "audit" / "pruning.png").exists()
    page = (run.path / "audit" / "report.html").read_text()
    assert "<h2>Pruning</h2>" in page
    assert "Jaccard" in page
    assert "Pruning by random cut channels after epoch 1." in page


@pytest.mark.fleet
def test_a_model_that_diverges_stays_dense_and_has_no_record(toy, tmp_path, full_records):
    options = f"{FLEET} --quantize nearest-w2 --fleet.models 0 --model.lr 1e30 --prune ocs"
    with pytest.raises(SystemExit) as stopped:
        train.main(toy(tmp_path / "run", options))
    assert stopped.value.code == 3
    assert full_records(tmp_path / "run") == {}
    assert load_kept(RunFolder(tmp_path / "run").weights(NAMES[0], "full")) == {}


@pytest.mark.fleet
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--prune.remove 0.4", r"prune\.remove: 0\.5 in the folder, 0\.4 asked"),
        ("--prune.cut 0.6", r"prune\.cut: 0\.5 in the folder, 0\.6 asked"),
        ("--prune.strength 0.5", r"prune\.strength: 0\.03 in the folder, 0\.5 asked"),
    ],
)
def test_a_folder_is_of_one_way_to_prune(toy, pruned_run, options, said):
    with pytest.raises(SystemExit, match=f"(?s)holds another experiment.*{said}"):
        train.main(toy(pruned_run, f"{OCS} {options}"))


@pytest.mark.fleet
def test_a_damaged_record_is_made_again(
    toy, pruned_run, tmp_path, no_training, tensors, full_records
):
    """From the last checkpoint, without a step of training."""
    copy = Path(shutil.copytree(pruned_run, tmp_path / "copy"))
    path = RunFolder(copy).record(NAMES[0], "full")
    path.write_text(path.read_text().replace('"cut_after": 3', '"cut_after": 2'))
    with pytest.raises(SystemExit, match=r"(?s)Damaged since they were written.*full\.json"):
        train.main(toy(copy, OCS))
    train.main(toy(copy, f"{OCS} --repair"))
    assert full_records(copy) == full_records(pruned_run)
    assert tensors(copy) == tensors(pruned_run)
