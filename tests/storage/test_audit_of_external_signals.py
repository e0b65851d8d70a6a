"""`audit.py --signals`: models that were trained elsewhere, known by an .npz file."""

import csv
import json
from html import unescape

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from attacks import ATTACKS, DEFAULT_ATTACKS
from reporting.results import COSTS
from storage.external_signals import NO_ACCURACY
from storage.run_folder import RunFolder


def save_signals(path, run, **changes):
    """Save phi and the membership of a run as a user would who trained the models elsewhere."""
    members = torch.stack(list(run.membership().values()))
    arrays = {"shadow_members": members[:4].numpy(), "target_members": members[4:].numpy()}
    for variant in run.read().variants:
        files = [load_file(run.signals(name, variant)) for name in run.read().names]
        for part, key in (("", "phi"), ("population_", "population")):
            signals = torch.stack([file[key] for file in files]).numpy()
            arrays[f"{variant}/shadow_{part}phi"] = signals[:4]
            arrays[f"{variant}/target_{part}phi"] = signals[4:]
    np.savez(path, **arrays | changes)


def test_the_signals_of_a_run_give_its_own_results(
    toy_audit, tmp_path, audit, audit_files, read_csv
):
    """Exactly the same results, by every attack that needs no more than phi."""
    run, _ = toy_audit
    save_signals(tmp_path / "theirs.npz", run)
    external = RunFolder(tmp_path / "out")
    attacks = [name for name, attack in ATTACKS.items() if set(attack.needs) <= {"population"}]
    output = audit(external, "--signals", str(tmp_path / "theirs.npz"), "--attacks", *attacks)
    assert len(attacks) == len(ATTACKS) - 3
    expected = [line for line in read_csv(run) if line["attack"] in attacks]
    # with fewer attacks another may be the strongest
    of_models = ("strongest", "bytes", "seconds", *COSTS)
    kept = [key for key in expected[0] if not key.startswith((*of_models, "accuracy"))]
    for line, wanted in zip(read_csv(external), expected, strict=True):
        # the strongest attack's intervals on a single target widen with the number of attacks
        chosen = {*line["strongest"].split(), *wanted["strongest"].split()}
        widened = chosen | ({"balanced_accuracy"} if "auc" in chosen else set())
        ends = {f"{metric}{end}" for metric in widened for end in ("_low", "_high")}
        assert {k: line[k] for k in kept if k not in ends} == {
            k: wanted[k] for k in kept if k not in ends
        }
    assert {file.name for file in (external.path / "audit").iterdir()} == audit_files
    page = (external.path / "audit" / "report.html").read_text()
    assert "<td>unknown</td>" in page
    assert "How to reproduce it" not in page
    assert "theirs" in output.splitlines()[0]


def test_shadows_without_the_examples_get_only_offline_attacks(
    toy_audit, tmp_path, audit, read_csv, results_of
):
    """Shadows of other data: attacks that need shadows with an example are left out."""
    run, _ = toy_audit
    path, external = tmp_path / "theirs.npz", RunFolder(tmp_path / "out")
    save_signals(path, run, shadow_members=np.zeros((4, 64), dtype=bool))
    audit(external, "--signals", str(path))
    attacks = {line["attack"] for line in read_csv(external)}
    offline = {"attack_r", "rmia_offline", "lira_offline", "lira_offline_fixed"}
    assert attacks == {"global_threshold", *offline}
    way_out = (
        "which 64 of 64 examples lack, too many to leave out. Train more shadows; in complementary "
        "halves, 4 suffice."
    )
    unjudged, *_, without_in, without_pairs = results_of(external)["left_out"]
    assert unjudged == NO_ACCURACY  # phi does not tell who classified what
    assert [without_in, without_pairs] == [
        f"rmia_online was left out: it needs 1 shadow with and 1 without each example, {way_out}",
        "lira_online, lira_online_fixed and joint LiRA on several variants were left out: they "
        f"need 2 shadows with and 2 without each example, {way_out}",
    ]
    assert results_of(external)["basis"]["shadows with an example"] == "0 to 0"
    message = "`lira_online` needs 2 shadows with and 2 without each example, which 64 of 64"
    with pytest.raises(SystemExit, match=message):
        audit(external, "--signals", str(path), "--attacks", "lira_online")


def test_a_diverged_external_model_is_excluded(tmp_path, rng, audit, read_csv):
    members = torch.rand(6, 80, generator=rng).argsort(1) < 40
    members = torch.cat([members[:3], ~members[:3], members[3:]])  # 3 pairs, and 3 targets
    labels = torch.arange(80) % 5
    logits = torch.randn(9, 80, 5, generator=rng)
    logits += 6 * members[..., None] * (torch.arange(5) == labels[:, None])
    logits[[1, 7]] = torch.randn(2, 80, 5, generator=rng)  # learned nothing
    arrays = {"labels": labels, "shadow_members": members[:6], "target_members": members[6:]}
    arrays |= {"full/shadow_logits": logits[:6], "full/target_logits": logits[6:]}
    np.savez(tmp_path / "theirs.npz", **{key: tensor.numpy() for key, tensor in arrays.items()})
    external = RunFolder(tmp_path / "out")
    output = audit(external, "--signals", str(tmp_path / "theirs.npz"), "--attacks", "attack_r")
    assert "shadow-001 is excluded: training accuracy" in output
    assert "target-001 is excluded: training accuracy" in output
    (line,) = read_csv(external)
    assert (line["targets"], line["shadows"]) == (2, 5)


def test_external_signals_get_every_attack_they_suffice_for(
    toy_audit, tmp_path, audit, audit_states, read_csv, quick_audit
):
    run, _ = toy_audit
    path, external = tmp_path / "theirs.npz", RunFolder(tmp_path / "out")
    save_signals(path, run)
    options = ("--signals", str(path))
    audit(external, *options)
    attacks = {line["attack"] for line in read_csv(external)}
    assert attacks == set(DEFAULT_ATTACKS) - {"gap", "quantile_regression"}
    before = audit_states(external)
    assert "Nothing has changed" in audit(external, *options)
    assert audit_states(external) == before
    with pytest.raises(SystemExit, match="`gap` needs logits, which not every variant has"):
        audit(external, *options, "--attacks", "gap")
    members = np.stack([row.numpy() for row in run.membership().values()])[4:]
    save_signals(path, run, target_members=~members)
    assert "Nothing has changed" not in quick_audit(external, *options)
    first = next(line for line in read_csv(run) if line["attack"] == "global_threshold")
    assert read_csv(external)[0]["auc"] == pytest.approx(1 - first["auc"], abs=1e-12)


def test_examples_in_every_shadow_or_in_none_are_named_in_every_view(tmp_path, rng, audit):
    """A shared public part of 30 and 40 held-out examples, of 200, each target by every attack."""
    members = torch.rand(4, 200, generator=rng).argsort(1) < 100
    members = torch.cat([members, ~members, members[:2].roll(1, 1)])
    members[:8, :30], members[:8, 30:70] = True, False
    labels = torch.arange(200) % 5
    logits = torch.randn(2, 10, 200, 5, generator=rng)
    logits += 3 * members[:, :, None] * (torch.arange(5) == labels[:, None])
    outside = torch.randn(2, 10, 120, 5, generator=rng)
    arrays = {"labels": labels, "shadow_members": members[:8], "target_members": members[8:]}
    arrays["population_labels"] = labels[:120]
    for variant, inner, outer in zip(("full", "int8"), logits, outside, strict=True):
        for role, rows in (("shadow", slice(8)), ("target", slice(8, None))):
            arrays[f"{variant}/{role}_logits"] = inner[rows]
            arrays[f"{variant}/{role}_population_logits"] = outer[rows]
    np.savez(tmp_path / "theirs.npz", **{key: tensor.numpy() for key, tensor in arrays.items()})
    external = RunFolder(tmp_path / "out")
    output = audit(external, "--signals", str(tmp_path / "theirs.npz"), "--rmia.a", "tuned")
    note = "30 examples are in every shadow's training set and 40 in none: no attack can compare"
    folder = external.path / "audit"
    page = (folder / "report.html").read_text()
    table = (folder / "table.txt").read_text()
    for view in (output, (folder / "results.json").read_text(), table, unescape(page)):
        assert note in " ".join(view.split())
    with (folder / "exposure.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    reasons = ["in every shadow"] * 30 + ["in no shadow"] * 40 + [""] * 130
    assert [line["left_out"] for line in lines] == reasons
    trained = members[8:].any(0).tolist()  # no exposure without a target that trained on it
    for line, known in zip(lines, trained, strict=True):
        assert (line["full"] == "") == (line["left_out"] != "" or not known)
    results = json.loads((folder / "results.json").read_text())
    assert results["basis"]["audited examples"] == "130 of 200"
    assert {row["attack"] for row in results["rows"]} == set(DEFAULT_ATTACKS) - {
        "quantile_regression"  # it needs images
    }
    assert {row["knowledge"] for row in results["rows"] if row["variant"] == "int8"} == {
        *("none", "matched", "unquantized", "recalibrated")
    }
    assert results["findings"]["joint_lira"]
    inside = members[8:, 70:]
    assert {row["non_members"] for row in results["rows"]} == {int((~inside[0]).sum())}


def test_a_missing_file_of_external_signals_is_an_error(tmp_path, audit):
    external = RunFolder(tmp_path / "out")
    with pytest.raises(SystemExit, match=r"No .*typo\.npz\. Give an \.npz file"):
        audit(external, "--signals", str(tmp_path / "typo.npz"))
    assert not external.path.exists()
