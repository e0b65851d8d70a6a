"""`--record_embeddings true`: in a new fleet, added to a finished one, repaired and audited."""

import re
import shutil

import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

import train
from attacks import DEFAULT_ATTACKS
from attacks.quantile import quantile_embeddings
from datamodules import Digits
from lightning_modules.classifier import Classifier
from storage.files import save_whole
from storage.run_folder import RunFolder

ON = "--record_embeddings true"


@pytest.fixture(scope="module")
def embedded(toy, toy_run, tmp_path_factory):
    """A copy of the finished toy fleet, with embeddings added; not to be changed."""
    run = RunFolder(tmp_path_factory.mktemp("runs") / "embedded")
    shutil.copytree(toy_run, run.path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "training_step", lambda *_: pytest.fail("trained"))
        train.main(toy(run.path, ON))
    return run


def test_a_finished_fleet_gets_embeddings_and_keeps_its_files(embedded, toy_run, tensors, variants):
    before, after = tensors(toy_run), tensors(embedded.path)
    assert {name: after[name] for name in before} == before
    folder = "models/target-000/embeddings"  # no shadow is audited
    assert after.keys() - before.keys() == {f"{folder}/{v}.safetensors" for v in variants}
    assert embedded.read().config["record_embeddings"]
    name = embedded.read().embedded[0]
    assert embedded.is_finished(name, variants, [name])
    for variant in variants:
        record = load_file(embedded.embeddings(name, variant))
        assert record["embeddings"].shape == (32, 64)
        assert record["population"].shape == (32, 1797 - 64)


def test_a_later_call_without_the_option_keeps_them(embedded, toy, tmp_path, capsys, unwrap):
    folder = tmp_path / "run"
    shutil.copytree(embedded.path, folder)
    train.main(toy(folder))
    assert "All 5 models in" in unwrap(capsys.readouterr().out)
    run = RunFolder(folder)
    name = run.read().embedded[0]
    run.embeddings(name, "full").unlink()
    assert run.missing(name, ["full"], [name]) == ["full"]
    train.main(toy(folder, "--status"))
    assert re.search(r"finished +│ +4 ", capsys.readouterr().out)
    train.main(toy(folder))
    assert "Finished 1 model in" in unwrap(capsys.readouterr().out)
    original = embedded.embeddings(name, "full").read_bytes()
    assert run.embeddings(name, "full").read_bytes() == original


def test_damaged_embeddings_are_named_and_made_again(embedded, toy, tmp_path, audit):
    folder = tmp_path / "run"
    shutil.copytree(embedded.path, folder)
    run = RunFolder(folder)
    path = run.embeddings(run.read().embedded[0], "nearest-w2")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(SystemExit, match=rf"{path} is not what was written.*`--repair`"):
        audit(run)
    with pytest.raises(SystemExit, match=rf"(?s)Damaged since .*{path}"):
        train.main(toy(folder))
    train.main(toy(folder, "--repair"))
    assert path.read_bytes() == content


@pytest.mark.fleet
def test_without_targets_every_shadow_is_embedded(toy, tmp_path):
    folder = tmp_path / "run"
    options = "--fleet.targets 0 --fleet.models 0-1 --trainer.max_epochs 1 --snapshots"
    options += " --quantize nearest-w2"
    train.main(toy(folder, f"{options} {ON}"))
    run = RunFolder(folder)
    assert [str(name) for name in run.read().embedded] == [f"shadow-00{i}" for i in range(4)]
    for name in run.read().names[:2]:
        assert run.embeddings(name, "nearest-w2").exists()
    assert run.missing(run.read().names[2], ["full"], run.read().embedded) == ["full"]


def test_an_audit_attacks_embeddings_unasked(embedded, audit, results_of, tmp_path):
    """AUC in results.json against scikit-learn, from the files alone."""
    run = RunFolder(tmp_path / "run")
    shutil.copytree(embedded.path, run.path)
    audit(run)
    rows = results_of(run)["rows"]
    assert {row["attack"] for row in rows} == {*DEFAULT_ATTACKS, "quantile_embeddings"}
    data = Digits(pool_size=64, batch_size=16)
    data.setup("fit")
    (name,), members = run.read().embedded, list(run.membership().values())[-1]
    own = [row for row in rows if row["attack"] == "quantile_embeddings"]
    assert [row["variant"] for row in own] == run.read().variants
    for row in own:
        assert (row["knowledge"], row["shadows"]) == ("none", 0)
        signals = load_file(run.signals(name, row["variant"]))
        record = load_file(run.embeddings(name, row["variant"]))
        scores = quantile_embeddings(
            signals["hinge"][None],
            signals["population_hinge"][None],
            record["embeddings"][None],
            record["population"][None],
            data.pool.labels,
            data.test.labels,
        )
        expected = roc_auc_score(members, scores[0])
        assert row["auc"] == pytest.approx(expected, abs=1e-12)


def test_an_unfinished_recording_stops_an_audit(embedded, audit, tmp_path):
    run = RunFolder(tmp_path / "run")
    shutil.copytree(embedded.path, run.path)
    run.embeddings(run.read().embedded[0], "full").unlink()
    with pytest.raises(SystemExit, match="1 of 5 models are unfinished: target-000"):
        audit(run)


def test_a_dry_run_counts_the_embeddings(toy, finished, snapshot, capsys):
    before = snapshot(finished)
    train.main(toy(finished, f"{ON} --fleet.dry_run true"))
    output = capsys.readouterr().out
    assert snapshot(finished) == before
    assert re.search(r"embeddings of a variant +│[^│]*│ +5 │", output)
    size = 5 * (512 + 4 * 32 * 1797)
    assert f"{size:,} of embeddings per audited model" in " ".join(output.split())


def test_a_network_without_a_last_layer_is_refused_before_anything_is_written(
    toy, tmp_path, own_networks
):
    options = f"--model.network own_networks.Bilinear --quantize {ON}"
    with pytest.raises(
        SystemExit, match=r"^train.py: .*Bilinear calls neither as a module\. Leave"
    ):
        train.main(toy(tmp_path / "run", options))
    assert not (tmp_path / "run").exists()


def test_training_again_discards_embeddings_of_lost_weights(embedded, toy, tmp_path):
    """They belong to weights of which nothing is whole."""
    folder = tmp_path / "run"
    shutil.copytree(embedded.path, folder)
    run = RunFolder(folder)
    name = run.read().embedded[0]
    for file in ("full.safetensors", "last.ckpt"):
        (run.model(name) / file).unlink()
    save_whole(run.embeddings(name, "full"), {"embeddings": torch.zeros(32, 64)})
    train.main(toy(folder, "--repair"))
    original = embedded.embeddings(name, "full").read_bytes()
    assert run.embeddings(name, "full").read_bytes() == original
