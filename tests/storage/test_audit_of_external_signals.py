"""`audit.py --signals`: models that were trained elsewhere, known by an .npz file."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from attacks import ATTACKS, DEFAULT_ATTACKS
from storage.run_folder import RunFolder


def save_outside(path, run, **changes):
    """What a user would save of a run's models, had others trained them: phi and membership."""
    members = run.membership()
    arrays = {"shadow_members": members[:4].numpy(), "target_members": members[4:].numpy()}
    for variant in ("full", *run.read()["config"]["quantize"]):
        files = [load_file(run.signals(name, variant)) for name in run.names()]
        for part, key in (("", "phi"), ("population_", "population")):
            signals = torch.stack([file[key] for file in files]).numpy()
            arrays[f"{variant}/shadow_{part}phi"] = signals[:4]
            arrays[f"{variant}/target_{part}phi"] = signals[4:]
    np.savez(path, **arrays | changes)


def test_the_signals_of_a_run_give_its_own_results(
    toy_audit, tmp_path, audit, audit_files, read_csv
):
    """Exactly, and by every attack that does with phi."""
    run, _ = toy_audit
    save_outside(tmp_path / "theirs.npz", run)
    outside = RunFolder(tmp_path / "out")
    alike = [name for name, attack in ATTACKS.items() if set(attack.needs) <= {"population"}]
    output = audit(outside, "--signals", str(tmp_path / "theirs.npz"), "--attacks", *alike)
    assert len(alike) == len(ATTACKS) - 2
    same = [line for line in read_csv(run) if line["attack"] in alike]
    of_models = ("strongest", "bytes", "seconds")  # the first for there are fewer attacks
    kept = [key for key in same[0] if not key.startswith((*of_models, "accuracy"))]
    found = read_csv(outside)
    assert [{k: line[k] for k in kept} for line in found] == [
        {k: line[k] for k in kept} for line in same
    ]
    assert {file.name for file in (outside.path / "audit").iterdir()} == audit_files
    page = (outside.path / "audit" / "report.html").read_text()
    assert "<td>unknown</td>" in page
    assert "How to reproduce it" not in page
    assert "theirs" in output.splitlines()[0]


def test_shadows_without_the_examples_get_only_offline_attacks(
    toy_audit, tmp_path, audit, read_csv
):
    """Shadows of other data: what needs some that trained on an example is left out."""
    run, _ = toy_audit
    path, outside = tmp_path / "theirs.npz", RunFolder(tmp_path / "out")
    save_outside(path, run, shadow_members=np.zeros((4, 64), dtype=bool))
    output = audit(outside, "--signals", str(path))
    attacks = {line["attack"] for line in read_csv(outside)}
    offline = {"attack_r", "rmia_offline", "lira_offline", "lira_offline_fixed"}
    assert attacks == {"global_threshold", *offline}
    assert "Note: lira_online is left out, for it needs 2 shadows with each example." in output
    assert "Note: rmia_online is left out, for it needs 1 shadow with each example." in output
    with pytest.raises(SystemExit, match="`lira_online` needs 2 shadows with each example"):
        audit(outside, "--signals", str(path), "--attacks", "lira_online")


def test_a_diverged_external_model_is_excluded(tmp_path, rng, audit, read_csv):
    members = torch.rand(6, 80, generator=rng).argsort(1) < 40
    members = torch.cat([members[:3], ~members[:3], members[3:]])  # 3 pairs, and 3 targets
    labels = torch.arange(80) % 5
    logits = torch.randn(9, 80, 5, generator=rng)
    logits += 6 * members[..., None] * (torch.arange(5) == labels[:, None])
    logits[[1, 7]] = torch.randn(2, 80, 5, generator=rng)  # learned nothing
    arrays = {"labels": labels, "shadow_members": members[:6], "target_members": members[6:]}
    arrays |= {"full/shadow_logits": logits[:6], "full/target_logits": logits[6:]}
    np.savez(tmp_path / "theirs.npz", **{key: some.numpy() for key, some in arrays.items()})
    outside = RunFolder(tmp_path / "out")
    output = audit(outside, "--signals", str(tmp_path / "theirs.npz"), "--attacks", "attack_r")
    assert "shadow-001 is left out: training accuracy" in output
    assert "target-001 is left out: training accuracy" in output
    (line,) = read_csv(outside)
    assert (line["targets"], line["shadows"]) == (2, 5)


def test_external_signals_get_every_attack_they_suffice_for(
    toy_audit, tmp_path, audit, audit_states, read_csv, quick_audit
):
    run, _ = toy_audit
    path, outside = tmp_path / "theirs.npz", RunFolder(tmp_path / "out")
    save_outside(path, run)
    options = ("--signals", str(path))
    audit(outside, *options)
    attacks = {line["attack"] for line in read_csv(outside)}
    assert attacks == set(DEFAULT_ATTACKS) - {"gap", "quantile_regression"}
    before = audit_states(outside)
    assert "Nothing has changed" in audit(outside, *options)
    assert audit_states(outside) == before
    with pytest.raises(SystemExit, match="`gap` needs logits, which not every precision has"):
        audit(outside, *options, "--attacks", "gap")
    members = run.membership()[4:].numpy()
    save_outside(path, run, target_members=~members)
    assert "Nothing has changed" not in quick_audit(outside, *options)
    first = next(line for line in read_csv(run) if line["attack"] == "global_threshold")
    assert read_csv(outside)[0]["auc"] == pytest.approx(1 - first["auc"], abs=1e-12)


def test_a_missing_file_of_external_signals_is_an_error(tmp_path, audit):
    outside = RunFolder(tmp_path / "out")
    with pytest.raises(SystemExit, match=r"No .*typo\.npz\. Give an \.npz file"):
        audit(outside, "--signals", str(tmp_path / "typo.npz"))
    assert not outside.path.exists()
