"""Which models of a run are audited: the finished and sound ones, and the errors otherwise."""

import hashlib
import json
import re
import shutil

import numpy as np
import pytest
import torch
from markupsafe import escape
from safetensors.torch import load_file

from attacks import ATTACKS, DEFAULT_ATTACKS
from storage.checksums import seal
from storage.evidence import gather
from storage.run_folder import RunFolder


def test_an_audit_reads_no_checkpoint(demo_run, empty_figures, monkeypatch, read_csv, quick_audit):
    def fail(*_, **__):
        raise AssertionError("an audit reads signals")

    monkeypatch.setattr("torch.load", fail)
    quick_audit(demo_run)
    assert len(read_csv(demo_run)) == 2 + 4 + 4  # one without shadows, one with up to three kinds


def test_signals_without_a_population_get_the_attacks_that_need_none(
    synthetic_fleet, tmp_path, audit, read_csv
):
    phi, members = synthetic_fleet(shadows=8, targets=2, examples=80)
    arrays = {"shadow_members": members[:8], "target_members": members[8:]}
    arrays |= {"full/shadow_phi": phi[:8], "full/target_phi": phi[8:]}
    np.savez(tmp_path / "phi.npz", **{key: array.numpy() for key, array in arrays.items()})
    run, external = RunFolder(tmp_path / "run"), ("--signals", str(tmp_path / "phi.npz"))
    for attacks, message in (
        (["rmia_online"], "`rmia_online` needs signals on a population, which not every"),
        (
            ["global_threshold", "lira_online_fixed", "rmia_offline"],
            "`rmia_offline` needs signals on a population, which",
        ),
        (["quantile_regression"], "needs logits and logits on a population and the images, which"),
    ):
        with pytest.raises(SystemExit, match=message) as stopped:
            audit(run, *external, "--attacks", *attacks)
        assert "Leave it out of `--attacks`" in str(stopped.value)
        assert not (run.path / "audit").exists()
    audit(run, *external)
    attacks = {line["attack"] for line in read_csv(run)}
    needless = {name for name in DEFAULT_ATTACKS if not ATTACKS[name].needs}
    assert attacks == needless


def test_unfinished_models_are_named(demo_run, audit):
    names = demo_run.read().names
    demo_run.signals(names[5], "nearest-w2").unlink()
    demo_run.weights(names[13], "full").unlink()
    with pytest.raises(SystemExit, match="2 of 14 models are unfinished: shadow-005, target-001"):
        audit(demo_run)
    with pytest.raises(SystemExit, match="`--partial`"):
        audit(demo_run)
    assert not (demo_run.path / "audit").exists()


def test_partial_excludes_unfinished_models_and_their_partners(
    make_run, tmp_path, read_csv, quick_audit
):
    run, alone = make_run(targets=3), make_run("alone", targets=3, without=(4, 5, 10))
    names = run.read().names
    lost = {
        run.signals(names[5], "nearest-w2"): tmp_path / "0",
        run.model(names[10]): tmp_path / "1",
    }
    for path, elsewhere in lost.items():
        path.rename(elsewhere)
    output = quick_audit(run, "--partial")
    quick_audit(alone)
    assert read_csv(run) == read_csv(alone)
    assert "shadow-005 is excluded with its partner: unfinished" in output
    assert "target-000 is excluded: unfinished" in output
    basis = json.loads((run.path / "audit" / "results.json").read_text())["basis"]
    assert basis["excluded"] == (
        "shadow-005 is excluded with its partner: unfinished. Run train.py again to finish it. "
        "target-000 is excluded: unfinished. Run train.py again to finish it."
    )
    assert basis["shadow models"] == "8 against each of them"
    for path, elsewhere in lost.items():  # now they are finished, and all are audited
        elsewhere.rename(path)
    quick_audit(run, "--partial")
    assert {line["targets"] for line in read_csv(run)} == {3}
    assert {line["shadows"] for line in read_csv(run)} == {0, 10}


def test_partial_does_without_the_first_model(make_run, read_csv, quick_audit):
    """Facts about all models must not be read from the files of the first."""
    run, alone = make_run(targets=3), make_run("alone", targets=3, without=(0, 1))
    shutil.rmtree(run.model(run.read().names[0]))
    quick_audit(run, "--partial")
    quick_audit(alone)
    assert read_csv(run) == read_csv(alone)


def test_a_run_without_a_finished_model_is_an_error(demo_run, audit):
    shutil.rmtree(demo_run.path / "models")
    with pytest.raises(SystemExit, match="14 of 14 models are unfinished"):
        audit(demo_run)
    with pytest.raises(SystemExit, match=r"No model in .* is finished\. Run train.py again"):
        audit(demo_run, "--partial")


@pytest.mark.parametrize("make", [False, True], ids=["no-folder", "empty-folder"])
def test_a_folder_without_an_experiment_is_an_error(tmp_path, make, audit):
    run = RunFolder(tmp_path / "typo")
    if make:
        run.path.mkdir()
    with pytest.raises(SystemExit, match=r"No experiment in .*typo: no experiment\.yaml there"):
        audit(run)
    assert run.path.exists() == make


@pytest.mark.parametrize(
    ("shadows", "targets", "got"), [(2, 1, "1 and 2"), (4, 0, "4 and 2"), (0, 2, "2 and 0")]
)
def test_too_few_shadows_are_an_error(make_run, shadows, targets, got, audit):
    run = make_run(shadows=shadows, targets=targets)
    with pytest.raises(SystemExit, match=f"4 shadows against it, got {got}. Finish the fleet"):
        audit(run)


def test_no_remaining_target_is_an_error(make_run, audit):
    run = make_run()
    for name in run.read().names[10:]:
        run.signals(name, "full").unlink()
    with pytest.raises(SystemExit, match=r"got 0 and 0\. Finish the fleet"):
        audit(run, "--partial")


@pytest.mark.parametrize("how", ["nan", "inf", "accuracy", "quantized"])
def test_a_diverged_shadow_is_excluded_with_its_partner(
    make_run, how, change_signals, read_csv, quick_audit
):
    run, alone = make_run(), make_run("alone", without=(2, 3))
    variant = "nearest-w2" if how == "quantized" else "full"
    path = run.signals(run.read().names[3], variant)
    signals = load_file(path)
    if how == "accuracy":
        change_signals(path, correct=torch.arange(160).reshape(2, 80) % 10 == 0)
        reason = r"training accuracy 0\.\d+, its peers' median 1.000"
    else:
        signals["phi"][1, 7] = torch.inf if how == "inf" else torch.nan
        change_signals(path, phi=signals["phi"])
        reason = "1 of 160 signals are not finite"
        if how == "quantized":
            reason = "signals of nearest-w2 are not finite"
    output = quick_audit(run)
    quick_audit(alone)
    assert read_csv(run) == read_csv(alone)
    basis = json.loads((run.path / "audit" / "results.json").read_text())["basis"]
    assert "shadow-003 is excluded with its partner: " in output
    (named,) = (line for line in output.splitlines() if "is excluded" in line)
    for text in (named, basis["excluded"]):
        assert re.search(reason, text)
    assert named == basis["excluded"]
    assert named.endswith("`train.py --fleet.retrain_failed true` trains it from another start.")
    assert escape(named) in (run.path / "audit" / "report.html").read_text()


def test_a_diverged_target_is_excluded(make_run, change_signals, read_csv, quick_audit):
    run, alone = make_run(targets=3), make_run("alone", targets=3, without=(11,))
    path = run.signals(run.read().names[11], "full")
    change_signals(path, phi=torch.full_like(load_file(path)["phi"], torch.nan))
    output = quick_audit(run)
    quick_audit(alone)
    assert read_csv(run) == read_csv(alone)
    assert "target-001 is excluded: 160 of 160 signals are not finite" in output


def test_without_targets_each_shadow_is_attacked_by_the_others(
    make_run, change_signals, read_csv, quick_audit
):
    run, alone = make_run(targets=0), make_run("alone", targets=0, without=(6, 7))
    path = run.signals(run.read().names[6], "full")
    change_signals(path, phi=load_file(path)["phi"] * torch.nan)
    quick_audit(run)
    quick_audit(alone)
    assert read_csv(run) == read_csv(alone)
    assert {(line["targets"], line["shadows"]) for line in read_csv(run)} == {(8, 0), (8, 6)}
    basis = json.loads((run.path / "audit" / "results.json").read_text())["basis"]
    assert basis["audited models"] == "8 (each shadow, attacked by the others without its partner)"


def test_damaged_signals_are_named(make_run, quick_audit):
    run = make_run()
    name, path = run.read().names[1], run.signals(run.read().names[1], "nearest-w2")
    seal(run.model(name))
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(SystemExit, match=rf"{path} is not what was written.*train.py .*`--repair`"):
        quick_audit(run)
    path.write_bytes(content)
    quick_audit(run)


def test_a_diverged_model_does_not_hide_who_was_calibrated(make_run, change_signals):
    """It has no record; the records of the others still tell which examples were looked at."""
    run = make_run()
    names = run.read().names
    for name in names[:3] + names[4:]:
        used = {"source": "members", "images": 2, "indices": [1, 5]}
        run.record(name, "nearest-w2").write_text(
            json.dumps(
                {"objective": "", "units": [], "layers": [], "seconds": 1.0} | {"calibration": used}
            )
        )
    path = run.signals(names[3], "nearest-w2")
    change_signals(path, phi=load_file(path)["phi"] * torch.nan)
    evidence = gather(run, allow_partial=False)
    assert list(evidence.excluded) == [names[3]]
    mask = evidence.game.calibrated["nearest-w2"]
    assert mask[0].nonzero().flatten().tolist() == [1, 5]
    assert not mask[3].any()


def test_targets_are_known_by_what_they_trained_on(make_run):
    """By the rows that are stored, whole; a target keeps its name where others are missing."""
    run = make_run(targets=3)
    members = run.membership()
    audited = gather(run, allow_partial=False).audited
    assert list(audited) == ["target-000", "target-001", "target-002"]
    for name in run.read().names[-3:]:
        digest = hashlib.sha256(bytes(members[name].tolist())).hexdigest()
        assert digest.startswith(audited[str(name)])
    assert len(set(audited.values())) == 3
    shutil.rmtree(run.model(run.read().names[-3]))
    fewer = gather(run, allow_partial=True).audited
    assert fewer == {name: audited[name] for name in ("target-001", "target-002")}


def test_hours_are_those_of_every_model_whose_time_is_known(make_run):
    run = make_run(targets=2)
    first, *_, last = run.read().names
    for name, seconds in ((first, 2.5), (last, 4.0)):
        run.progress(name).write_text(json.dumps({"seconds": seconds}))
    seconds = gather(run, allow_partial=False).seconds
    assert seconds[str(first)] == 2.5
    assert seconds[str(last)] == 4.0
