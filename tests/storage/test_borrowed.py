"""Audits in which the shadows of another experiment attack, too."""

import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file

from attacks.game import keep_examples
from storage.evidence import gather
from storage.run_folder import RunFolder

VARIANTS = "full", "nearest-w4", "nearest-w2"


@pytest.fixture
def lender(demo_run, tmp_path):
    """Another folder with the same experiment, free to be changed."""
    shutil.copytree(demo_run.path, tmp_path / "dense")
    return RunFolder(tmp_path / "dense")


def rewrite(run, **changes):
    """Change fields of experiment.yaml, by dotted names with `__`."""
    stored = yaml.safe_load(run.experiment_file.read_text())
    for name, value in changes.items():
        *parents, key = name.split("__")
        place = stored
        for parent in parents:
            place = place[parent]
        place[key] = value
    run.experiment_file.write_text(yaml.safe_dump(stored))


def by_kind(lines, kind):
    return {
        (line["variant"], line["attack"]): line["auc"]
        for line in lines
        if line["knowledge"] == kind
    }


def test_equal_shadows_find_what_matched_ones_find(
    demo_run, lender, empty_figures, quick_audit, read_csv, results_of
):
    quick_audit(demo_run, "--shadows", str(lender.path))
    matched, other = (by_kind(read_csv(demo_run), kind) for kind in ("matched", "other"))
    assert other == matched
    assert len(other) == len(VARIANTS)
    results = results_of(demo_run)
    gains = results["findings"]["other_shadows"]
    assert set(gains["auc"]) == set(VARIANTS)
    assert all(own["gain"]["estimate"]["value"] == 0 for own in gains["auc"].values())
    fact = results["basis"]["shadows of another experiment"]
    assert fact == "dense, which differs in nothing that is recorded"
    report = (demo_run.path / "audit" / "report.html").read_text()
    assert "What an attacker finds with another experiment" in report


def test_each_attack_reads_the_lenders_signals(
    demo_run, lender, empty_figures, quick_audit, read_csv, change_signals
):
    """The oracle is an audit of a folder that has the lender's shadows in place of its own."""
    swapped = RunFolder(lender.path.with_name("swapped"))
    for name in lender.read().names[:12]:
        for variant in VARIANTS:
            file = lender.signals(name, variant)
            signals = load_file(file)
            noise = torch.randn(signals["phi"].shape, generator=torch.Generator().manual_seed(3))
            change_signals(file, phi=signals["phi"] + noise)
    shutil.copytree(lender.path, swapped.path)
    quick_audit(swapped)
    quick_audit(demo_run, "--shadows", str(lender.path))
    expected, found = by_kind(read_csv(swapped), "matched"), by_kind(read_csv(demo_run), "other")
    assert found == expected
    assert found != by_kind(read_csv(demo_run), "matched")


def test_a_lender_without_a_variant_attacks_it_at_full_precision(demo_run, lender):
    rewrite(lender, config__quantize=["nearest-w4"], config__model__network="other.Network")
    evidence = gather(demo_run, False, lender)
    theirs = evidence.game.others["other: nearest-w2"].phi[[0]][..., :]
    assert torch.equal(theirs[0], load_file(lender.signals(lender.read().names[0], "full"))["phi"])
    assert evidence.facts["shadows of another experiment"] == (
        "dense, which differs in model.network other.Network (here nowhere.Network); "
        "at full precision against nearest-w2"
    )


def test_shadows_that_failed_there_attack_nowhere(demo_run, lender, change_signals):
    name = lender.read().names[5]
    file = lender.signals(name, "full")
    change_signals(file, phi=torch.full_like(load_file(file)["phi"], torch.nan))
    evidence = gather(demo_run, False, lender)
    assert all({4, 5}.isdisjoint(case.shadows) for case in evidence.game.cases)
    assert any("shadow-005 is excluded with its partner" in line for line in evidence.left_out)
    assert any("are not finite in dense" in line for line in evidence.left_out)


def test_examples_are_left_out_of_both(demo_run, lender):
    game = gather(demo_run, False, lender).game
    usable = torch.arange(game.members.shape[1]) % 3 > 0
    fewer = keep_examples(game, usable)
    key = "other: nearest-w2"
    expected = game.others[key].phi[[2]][..., :][..., usable]
    assert torch.equal(fewer.others[key].phi[[2]][..., :], expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fingerprints__data": "ffff"}, "their pool, labels or test images are others. Train"),
        ({"config__fleet__shadows": 8}, "12 shadows attack here, and there are 8. Train it again"),
        ({"config__queries": ["identity"]}, "they were asked by identity, and the targets by"),
    ],
)
def test_shadows_that_cannot_attack(demo_run, lender, audit, changes, message):
    rewrite(lender, **changes)
    with pytest.raises(SystemExit, match=f"dense cannot attack demo: {message}"):
        audit(demo_run, "--shadows", str(lender.path))
    assert not (demo_run.path / "audit").exists()


def test_random_views_are_those_of_training_in_both(demo_run, lender):
    """A name such as random-0 does not say by which flip and crop its views were drawn."""
    augmented = {"flip": True, "crop": 2}
    queries = ["identity", "random-0", "random-1"]
    for run, crop in ((demo_run, 2), (lender, 4)):
        data = {"class_path": "nowhere.Images", "init_args": augmented | {"crop": crop}}
        rewrite(run, config__queries=queries, config__data=data)
    with pytest.raises(
        ValueError,
        match=r"dense cannot attack demo: random-0, random-1 show what training shows, which is "
        r"flip true, crop 4 there and flip true, crop 2 here\. Train both .* `--queries identity`",
    ):
        gather(demo_run, False, lender)
    rewrite(lender, config__data__init_args__crop=2)
    assert gather(demo_run, False, lender).game.others
    for run, crop in ((demo_run, 2), (lender, 4)):  # other views are the same for every model
        rewrite(run, config__queries=["identity"], config__data__init_args__crop=crop)
    assert gather(demo_run, False, lender).game.others


def test_shadows_of_another_seed_cannot_attack(demo_run, lender):
    lender.experiment_file.unlink()
    lender.membership_file.unlink()
    experiment = demo_run.read()
    experiment.config["seed"] = 7
    rows = torch.stack(list(demo_run.membership().values()))
    lender.open(experiment, ~rows)
    with pytest.raises(ValueError, match=r"other examples \(seed 7 there, 0 here\).*`--seed 0`"):
        gather(demo_run, False, lender)


def test_damaged_and_unfinished_shadows_are_named(demo_run, lender):
    with pytest.raises(ValueError, match="it is the same folder, whose shadows attack anyway"):
        gather(demo_run, False, demo_run)
    lender.signals(lender.read().names[3], "full").unlink()
    with pytest.raises(
        ValueError, match=r"1 of the 12 shadows needed of .* unfinished: shadow-003"
    ):
        gather(demo_run, False, lender)


def test_shadows_need_targets_that_were_trained_here(demo_run, lender, audit, tmp_path):
    both = ("--shadows", str(lender.path), "--signals", str(tmp_path / "given.npz"))
    with pytest.raises(SystemExit, match="Leave out one of them"):
        audit(demo_run, *both)
