"""The audit of run folders that the tests write, against attacks on the same files."""

import csv
import html
import io
import json
import os
import re
import shutil
from contextlib import redirect_stdout
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
import yaml
from markupsafe import escape
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score, roc_curve

import train
from attacks import ATTACKS, DEFAULT_ATTACKS
from attacks.evaluate import score
from attacks.game import Observed, Shadows, make_cases
from attacks.metrics.exposure import exposure
from attacks.metrics.intervals import delong, mean_accuracy, summarise
from attacks.quantile import make_features
from audit import main
from datamodules import Digits
from reporting.charts import Chart, Panel
from reporting.figures import layers_chart
from storage.checksums import seal
from storage.files import save_whole
from storage.run_folder import RunFolder

FILES = {
    *("table.txt", "results.csv", "exposure.csv", "results.json", "report.html"),
    *("roc.png", "plane.png", "convergence.png"),
}
BYTES = {"full": 4000, "nearest-w4": 700, "nearest-w2": 420}
ALONE, SHADOWED = 2, 7  # default attacks on a run without images
QUICK = ("--attacks", "global_threshold", "lira_online_fixed")
ESTIMATES = ("accuracy", "auc", "balanced_accuracy", "tpr_1pct", "tpr_01pct")


def describe(shadows, targets):
    """An experiment whose data is nowhere: an audit does without."""
    config = {
        "seed": 0,
        "data": {"class_path": "nowhere.Images", "init_args": {"root": "/nowhere"}},
        "model": {"network": "nowhere.Network"},
        "trainer": {"max_epochs": 1},
        "fleet": {"shadows": shadows, "targets": targets},
        "queries": ["identity", "mirror"],
        "quantize": ["nearest-w4", "nearest-w2"],
    }
    versions = {"torch": "1", "lightning": "2", "bitleak": "3", "threads": 1}
    return {
        "config": config,
        "fingerprints": {"data": "00ff", "network": "ff00"},
        "versions": versions,
    }


def fabricate(path, phi, members, targets, population):
    """Write what train.py would have: `nearest-w2` loses 8 nats, and a third of its accuracy."""
    shadows = len(members) - targets
    run = RunFolder(path)
    run.open(describe(shadows, targets), members)
    for name, own, inside, others in zip(run.names(), phi, members, population, strict=True):
        for variant, shift in (("full", 0), ("nearest-w4", 1), ("nearest-w2", 8)):
            save_whole(run.weights(name, variant), {})
            run.weights(name, variant).write_bytes(bytes(BYTES[variant]))
            rng = torch.Generator().manual_seed(int(own.abs().nan_to_num().sum()) + shift)
            signals = {"phi": own - shift, "hinge": own - shift, "loss": (shift - own).exp()}
            signals |= {"population": others - shift, "population_hinge": others - shift}
            signals["correct"] = inside | (torch.rand(own.shape, generator=rng) < 0.8)
            signals["test_correct"] = torch.rand(150, generator=rng) < 0.9 - shift / 26
            save_whole(run.signals(name, variant), signals)
    return run


def audit(run, *options):
    """What one call of audit.py prints."""
    with redirect_stdout(io.StringIO()) as output:
        main(["--run_dir", str(run.path), *options])
    return output.getvalue()


def read_csv(run):
    """Lines of results.csv, their numbers as numbers."""
    with (run.path / "audit" / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    words = ("variant", "knowledge", "attack", "strongest")
    return [
        {k: v if k in words else float(v) if v else None for k, v in line.items()} for line in lines
    ]


UNITS = ["stem", "layer1.0", "layer1.1", "layer2.0", "layer2.1", "fc"]


def write_records(run, variants=("nearest-w4", "nearest-w2"), **changes):
    """Beside each model's weights what a quantizer would have left, different for each model."""
    for number, name in enumerate(run.names()):
        for variant in variants:
            moved, cost = number * (variant != "nearest-w4"), 2.5 ** (number % 5)
            error = 0.25 * number if moved else None
            layers = [
                {"name": layer, "unit": unit, "bits": 2, "weights": 9, "flipped": moved / 64}
                | {"error_before": error, "error_after": error and error / 4, "seconds": cost / 2}
                for layer, unit in (("stem", "stem"), ("layer1.0.conv", "layer1.0"), ("fc", "fc"))
            ]
            used = moved and {"source": "members", "images": 1024, "indices": [number]}
            record = {"variant": variant, "objective": "squared error of blocks", "units": UNITS}
            record |= {"calibration": used or None, "layers": layers, "seconds": cost}
            run.record(name, variant).write_text(json.dumps(record | changes))


def change(path, **tensors):
    """Replace some of a signal file."""
    save_whole(path, load_file(path) | tensors)


def states(run):
    """Names and times of every file of the audit."""
    files = sorted((run.path / "audit").iterdir())
    return [(file.name, file.stat().st_mtime_ns, file.stat().st_ino) for file in files]


@pytest.fixture(scope="module")
def audited(synthetic_fleet, observe, tmp_path_factory):
    """A run of 12 shadows and 2 targets, its audit by the default attacks, and what that said."""
    phi, members = synthetic_fleet(shadows=12, targets=2, examples=240)
    folder = tmp_path_factory.mktemp("runs") / "demo"
    run = fabricate(folder, phi, members, 2, observe(phi).population)
    return run, audit(run)


@pytest.fixture
def run(audited, tmp_path):
    """The same run, free to be changed, not audited yet."""
    copy = RunFolder(tmp_path / "demo")
    shutil.copytree(audited[0].path, copy.path, ignore=shutil.ignore_patterns("audit"))
    return copy


@pytest.fixture
def fabricated(synthetic_fleet, observe, tmp_path, monkeypatch):
    """Make a small run; `without` leaves models out as if they had never been.

    Its figures, which take most of an audit's time, are empty.
    """
    for name in ("plane_chart", "roc_chart", "convergence_chart"):
        monkeypatch.setattr(
            f"reporting.illustrate.{name}", lambda *_: Chart([[Panel([])]], (1.0, 1.0))
        )

    def make(name="small", shadows=10, targets=2, without=(), **options):
        phi, members = synthetic_fleet(shadows=shadows, targets=targets, examples=80, **options)
        kept = [i for i in range(len(members)) if i not in without]
        left = sum(i >= shadows for i in kept)
        population = observe(phi).population[kept]
        return fabricate(tmp_path / name, phi[kept], members[kept], left, population)

    return make


def test_every_file_is_written_and_whole(audited):
    run, output = audited
    assert {file.name for file in (run.path / "audit").iterdir()} == FILES
    for name in ("roc.png", "plane.png", "convergence.png"):
        content = (run.path / "audit" / name).read_bytes()
        assert content.startswith(b"\x89PNG\r\n\x1a\n")
        assert content.endswith(b"IEND\xaeB`\x82")
    table = (run.path / "audit" / "table.txt").read_text()
    assert table.strip() in output
    assert output.rstrip().endswith(f"Report: {run.path / 'audit' / 'report.html'}")


def test_csv_equals_attacks_computed_from_the_files(audited):
    run, _ = audited
    members = torch.cat(list(load_file(run.path / "membership.safetensors").values()))
    assert (members[0:12:2] ^ members[1:12:2]).all()  # shadows came first
    folders = sorted((run.path / "models").iterdir())
    seen, correct = {}, {}
    for variant in BYTES:
        files = [load_file(folder / "signals" / f"{variant}.safetensors") for folder in folders]
        keys = ("phi", "hinge", "population", "population_hinge")
        seen[variant] = Observed(*(torch.stack([file[key] for file in files]) for key in keys))
        correct[variant] = torch.stack([file["test_correct"] for file in files])[12:]
    lines = read_csv(run)
    # all but quantile regression, which needs the images
    assert len(lines) == ALONE + SHADOWED + 2 * (ALONE + 2 * SHADOWED)
    for line in lines:
        variant = line["variant"]
        with_shadows = seen["full" if line["knowledge"] == "full" else variant]
        attack, against = ATTACKS[line["attack"]], with_shadows.of(range(12))
        each = [
            attack.run(seen[variant].of([t]).read(), Shadows(against, members[:12]))
            for t in (12, 13)
        ]
        scores = torch.cat(each)
        found = {"auc": [], "balanced_accuracy": [], "tpr_1pct": [], "tpr_01pct": []}
        for inside, row in zip(members[12:], scores, strict=True):
            fpr, tpr, _ = roc_curve(inside, row, drop_intermediate=False)
            found["auc"].append(roc_auc_score(inside, row))
            found["balanced_accuracy"].append(0.5 + (tpr - fpr).max() / 2)
            found["tpr_1pct"].append(tpr[fpr <= 0.01].max())
            found["tpr_01pct"].append(tpr[fpr <= 0.001].max())
        summary = summarise(scores, members[12:])
        for metric, values in found.items():
            assert line[metric] == pytest.approx(np.mean(values), abs=1e-12)
            assert line[f"{metric}_spread"] == pytest.approx(np.std(values), abs=1e-12)
            interval = getattr(summary, metric)[1:3]
            assert (line[f"{metric}_low"], line[f"{metric}_high"]) == pytest.approx(interval)
        assert line["accuracy"] == pytest.approx(correct[variant].double().mean().item())
        interval = mean_accuracy(correct[variant])[1:3]
        assert (line["accuracy_low"], line["accuracy_high"]) == pytest.approx(interval)
        assert line["bytes"] == BYTES[variant]
        assert (line["targets"], line["non_members"]) == (2, 120)
        assert line["shadows"] == (0 if line["knowledge"] == "none" else 12)
        # of 120 non-members 1% is 1, and 0.1% none; right and wrong answers tie by the dozen
        few = 0 if line["attack"] == "gap" else 1
        assert (line["false_positives_1pct"], line["false_positives_01pct"]) == (few, 0)


def test_every_number_lies_in_its_interval(audited):
    for line in read_csv(audited[0]):
        for name in ESTIMATES:
            assert 0 <= line[f"{name}_low"] <= line[name] <= line[f"{name}_high"] <= 1


def test_a_shift_misleads_full_precision_shadows(audited):
    """The direction of the fabricated signals survives the way from files to table."""
    auc = {(e["variant"], e["knowledge"], e["attack"]): e["auc"] for e in read_csv(audited[0])}
    attack = "lira_online"
    matched, misled = auc["nearest-w2", "matched", attack], auc["nearest-w2", "full", attack]
    assert matched == pytest.approx(auc["full", "matched", attack], abs=1e-9)
    assert misled < matched - 0.05


def test_one_row_a_variant_is_the_strongest(audited):
    lines = read_csv(audited[0])
    for variant in BYTES:
        rows = [line for line in lines if line["variant"] == variant]
        (best,) = (line for line in rows if line["strongest"] == "True")
        assert best["auc"] == max(line["auc"] for line in rows)
        assert {line["strongest"] for line in rows} == {"True", "False"}


def test_json_holds_the_same_and_the_curves(audited):
    run, _ = audited
    results = json.loads((run.path / "audit" / "results.json").read_text())
    assert results["experiment"] == run.read()
    for row, line in zip(results["rows"], read_csv(run), strict=True):
        assert len(row.pop("tpr")) == len(results["fpr"])
        each = row.pop("by_target")
        assert {metric: fmean(values) for metric, values in each.items()} == pytest.approx(
            {metric: row[metric] for metric in each}
        )
        assert {key: str(row[key]) for key in ("variant", "knowledge", "attack", "strongest")} == {
            key: line.pop(key) for key in ("variant", "knowledge", "attack", "strongest")
        }
        assert {key: row[key] for key in line} == line


def cells_of(page):
    """Text of each cell of each row of the table of every attack, by what it is a row of."""
    rows = re.findall(
        r'<tr data-variant="([^"]*)" data-knowledge="([^"]*)" data-attack="([^"]*)".*?>(.*?)</tr>',
        page,
        re.S,
    )
    return {
        tuple(labels): re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", cells) for *labels, cells in rows
    }


def test_table_and_page_show_each_row_of_the_csv(audited):
    run, output = audited
    table = (run.path / "audit" / "table.txt").read_text()
    page = (run.path / "audit" / "report.html").read_text()
    lines, cells = read_csv(run), cells_of(page)
    for line in lines:
        auc = f"{line['auc']:.3f}±{line['auc_spread']:.3f}"
        shadows = "-" if line["knowledge"] == "none" else line["knowledge"]
        star = " ★" if line["strongest"] == "True" else ""
        row = cells[line["variant"], line["knowledge"], line["attack"]]
        assert row[:3] == [line["variant"], shadows, line["attack"] + star]
        assert row[3].startswith(f"{auc} (")
        if star:
            assert f"{line['variant']} " in table
            assert line["attack"] in table
            assert auc in table
    for variant, size in BYTES.items():
        accuracy = next(100 * line["accuracy"] for line in lines if line["variant"] == variant)
        assert f"{size:,}" in table
        assert f">{accuracy:.1f}% (" in page
        assert f"{accuracy:.1f}% (" in output
    for fact in ("nowhere.Images, 240 audited examples, fingerprint 00ff", "12 against each"):
        assert fact in page
    assert "120 a target, so that a TPR at 1% FPR rests on 1 false positives at most" in page


def test_marks_depend_on_the_false_positives(synthetic_fleet, observe, tmp_path):
    """2,000 non-members: 20 false positives at 1%, and 2 at 0.1%."""
    phi, members = synthetic_fleet(shadows=4, targets=1, examples=4000, queries=1)
    run = fabricate(tmp_path / "many", phi, members, 1, observe(phi).population)
    audit(run, "--attacks", "global_threshold")
    (first, *_), page = read_csv(run), (run.path / "audit" / "report.html").read_text()
    assert (first["false_positives_1pct"], first["false_positives_01pct"]) == (20, 2)
    shown = [f"{100 * first[key]:.1f}% (" for key in ("tpr_1pct", "tpr_01pct")]
    *_, at_1pct, at_01pct = cells_of(page)["full", "none", "global_threshold"]
    assert at_1pct.startswith(shown[0])
    assert not at_1pct.endswith("†")
    assert at_01pct.startswith(shown[1])
    assert at_01pct.endswith("†")


def test_checkpoints_are_never_asked_for(run, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("an audit reads signals")

    monkeypatch.setattr("torch.load", fail)
    audit(run, *QUICK)
    assert len(read_csv(run)) == 2 + 3 + 3


def test_images_that_are_gone_give_a_note_and_no_gallery(audited):
    """The experiment names a class that cannot be imported."""
    run, output = audited
    note, left_out = (line for line in output.splitlines() if line.startswith("Note: "))
    assert left_out == "Note: quantile_regression is left out, for it needs the images."
    assert "the images are not shown, nor used by an attack: " in note
    assert "nowhere.Images" in note
    assert not (run.path / "audit" / "gallery.png").exists()
    assert "quantile_regression" not in {line["attack"] for line in read_csv(run)}
    with (run.path / "audit" / "exposure.csv").open(newline="") as file:
        assert "label" not in next(csv.reader(file))
    with pytest.raises(SystemExit, match="`quantile_regression` needs the images, which not"):
        audit(run, "--attacks", "quantile_regression")


@pytest.fixture(scope="module")
def toy_audit(toy_run, tmp_path_factory):
    """The toy run, audited with every attack there is, and what that said."""
    run = RunFolder(tmp_path_factory.mktemp("audits") / "toy")
    shutil.copytree(toy_run, run.path)
    return run, audit(run, "--attacks", *ATTACKS)


def results_of(run):
    return json.loads((run.path / "audit" / "results.json").read_text())


def see(run, variant):
    """Signals of all models, and features of the images, by other means than the audit."""
    files = [load_file(run.signals(name, variant)) for name in run.names()]
    keys = ("phi", "hinge", "population", "population_hinge")
    data = Digits(pool_size=64)
    data.setup("fit")
    signals = (torch.stack([file[key] for file in files]) for key in keys)
    return Observed(*signals, make_features(*data.pool, *data.test)), data.pool


def test_an_audit_with_images_has_every_attack_and_a_gallery(toy_audit):
    run, output = toy_audit
    wanted = FILES | {"gallery.png", "layers.png"}
    assert {file.name for file in (run.path / "audit").iterdir()} == wanted
    assert set(results_of(run)["files"]) == wanted - {"results.json"}
    assert "Note: " not in output
    lines = read_csv(run)
    shadowed = sum(attack.shadows for attack in ATTACKS.values())
    assert len(lines) == 4 * (len(ATTACKS) - shadowed) + (4 + 3) * shadowed
    full, _ = see(run, "full")
    members = run.membership()
    found = score(list(ATTACKS), full, full, members, make_cases(4, 1))
    for line in [line for line in lines if line["variant"] == "full"]:
        (scores,) = found[line["attack"]]
        assert line["auc"] == pytest.approx(roc_auc_score(members[4], scores), abs=1e-12)


def test_exposure_has_a_line_an_example(toy_audit):
    """Its exposure to the attack that is the strongest on full precision, on every variant."""
    run, _ = toy_audit
    with (run.path / "audit" / "exposure.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["example"] for line in lines] == [str(index) for index in range(64)]
    members, _ = run.membership(), lines[0]
    for variant in RunFolder(run.path).read()["config"]["quantize"] + ["full"]:
        seen, pool = see(run, variant)
        rows = [line for line in read_csv(run) if line["variant"] == "full"]
        (attack,) = (row["attack"] for row in rows if row["strongest"] == "True")
        scores = score([attack], seen, seen, members, make_cases(4, 1))[attack]
        wanted = exposure(scores, members[4:])
        assert [line["label"] for line in lines] == [str(label) for label in pool.labels.tolist()]
        values = torch.tensor([float(line[variant]) for line in lines], dtype=torch.float64)
        torch.testing.assert_close(values, wanted, rtol=0, atol=1e-12, equal_nan=True)
        assert torch.equal(values.isnan(), ~members[4])  # of one target only its members are known


def test_the_findings_are_in_the_results_the_report_and_the_output(toy_audit):
    run, output = toy_audit
    results, lines = results_of(run), read_csv(run)
    page = (run.path / "audit" / "report.html").read_text()
    found, others = results["findings"], results["experiment"]["config"]["quantize"]
    assert found["reference"] == "full"
    best = {line["variant"]: line["auc"] for line in lines if line["strongest"] == "True"}
    assert [difference["first"] for difference in found["against_reference"]] == others
    for difference in found["against_reference"]:
        wanted = best[difference["first"]] - best["full"]
        assert difference["estimate"]["value"] == pytest.approx(wanted, abs=1e-12)
    for difference in found["beyond_gap"]:
        variant = difference["first"]
        (gap,) = (e["auc"] for e in lines if (e["variant"], e["attack"]) == (variant, "gap"))
        assert difference["estimate"]["value"] == pytest.approx(best[variant] - gap, abs=1e-12)
    for variant, (attack, points) in found["convergence"].items():
        assert list(points) in (["2", "4"], ["4"])
        (row,) = (
            line
            for line in lines
            if (line["variant"], line["knowledge"], line["attack"]) == (variant, "matched", attack)
        )
        assert points["4"]["value"] == row["auc"]
    assert found["bounds"].keys() == {"full", *others}
    assert all(bound["tested"] is None for bound in found["bounds"].values())  # of one target
    titles = [table["title"] for table in results["tables"]]
    assert titles == [title for title in TITLES if title in titles]
    assert {*TITLES} - {TITLES[4]} <= set(titles)
    positions = [page.index(f"<h2>{title}</h2>") for title in titles]
    assert positions == sorted(positions)
    for table in results["tables"]:
        assert all(f">{html.escape(cell)}</td>" in page for row in table["rows"] for cell in row)
    said = [line for line in output.splitlines() if line.endswith(".") and " full" in line]
    assert len(said) == len(others)
    for variant, sentence in zip(others, said, strict=True):
        assert sentence.startswith((f"{variant} leaks ", f"{variant} and full: no difference"))
        assert f"<li>{html.escape(sentence)}</li>" in page


TITLES = (
    "Is the difference between two precisions one?",
    "What quantizing the shadows is worth to the attacker",
    "Where members and others stand among the shadows",
    "An attacker who holds several versions of a model",
    "Was a training example used to calibrate the quantizer?",
    "Lower bounds on epsilon",
    "Who becomes safer, and who more exposed",
)


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


def test_a_run_audited_as_if_others_had_trained_it_gives_the_same(toy_audit, tmp_path):
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
    assert {file.name for file in (outside.path / "audit").iterdir()} == FILES
    page = (outside.path / "audit" / "report.html").read_text()
    assert "<td>unknown</td>" in page
    assert "How to reproduce it" not in page
    assert "theirs" in output.splitlines()[0]


def test_attackers_without_the_examples_get_the_attacks_for_them(toy_audit, tmp_path):
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


def test_a_diverged_model_from_elsewhere_is_left_out(tmp_path, rng):
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


def test_signals_from_elsewhere_by_default_get_what_they_suffice_for(toy_audit, tmp_path):
    run, _ = toy_audit
    path, outside = tmp_path / "theirs.npz", RunFolder(tmp_path / "out")
    save_outside(path, run)
    options = ("--signals", str(path))
    audit(outside, *options)
    attacks = {line["attack"] for line in read_csv(outside)}
    assert attacks == set(DEFAULT_ATTACKS) - {"gap", "quantile_regression"}
    before = states(outside)
    assert "Nothing has changed" in audit(outside, *options)
    assert states(outside) == before
    with pytest.raises(SystemExit, match="`gap` needs logits, which not every precision has"):
        audit(outside, *options, "--attacks", "gap")
    members = run.membership()[4:].numpy()
    save_outside(path, run, target_members=~members)
    assert "Nothing has changed" not in audit(outside, *options, *QUICK)
    first = next(line for line in read_csv(run) if line["attack"] == "global_threshold")
    assert read_csv(outside)[0]["auc"] == pytest.approx(1 - first["auc"], abs=1e-12)


def test_signals_from_elsewhere_that_are_not_there(tmp_path):
    outside = RunFolder(tmp_path / "out")
    with pytest.raises(SystemExit, match=r"No .*typo\.npz\. Give an \.npz file"):
        audit(outside, "--signals", str(tmp_path / "typo.npz"))
    assert not outside.path.exists()


def test_signals_from_elsewhere_in_wandb(toy_audit, tmp_path, read_wandb):
    """They have no experiment, whose identity a run would have."""
    run, _ = toy_audit
    save_outside(tmp_path / "theirs.npz", run)
    outside = RunFolder(tmp_path / "out")
    audit(outside, "--signals", str(tmp_path / "theirs.npz"), *QUICK, "--wandb", "offline")
    (folder,) = (outside.path / "wandb").glob("offline-run-*")
    offline = read_wandb(folder)
    assert offline.run.run_id == f"{results_of(outside)['inputs'][:16]}-audit"
    assert offline.summary["none/global_threshold/full/auc"] == read_csv(outside)[0]["auc"]


def without_population(run):
    """Signals as older versions of train.py recorded them."""
    for path in run.path.glob("models/*/signals/*"):
        record = load_file(path)
        save_whole(path, {k: v for k, v in record.items() if not k.startswith("population")})


def test_a_run_of_an_older_version(fabricated):
    run = fabricated()
    without_population(run)
    for asked, lacking in (
        (["rmia_online"], "`rmia_online` needs signals on a population, which not every"),
        ([*QUICK[1:], "rmia_offline"], "`rmia_offline` needs signals on a population, which"),
        (["quantile_regression"], "needs logits on a population and the images, which"),
    ):
        with pytest.raises(SystemExit, match=lacking) as stopped:
            audit(run, "--attacks", *asked)
        assert "Leave it out of `--attacks`" in str(stopped.value)
        assert "run train.py again" in str(stopped.value)
        assert not (run.path / "audit").exists()
    audit(run)
    attacks = {line["attack"] for line in read_csv(run)}
    assert attacks == {
        name
        for name in DEFAULT_ATTACKS
        if name not in ("quantile_regression",) and "rmia" not in name
    }


def test_other_images_than_the_fleet_was_trained_on_are_not_used(toy_run, tmp_path):
    run = RunFolder(tmp_path / "run")
    shutil.copytree(toy_run, run.path)
    content = run.experiment_file.read_text()
    fingerprint = run.read()["fingerprints"]["data"]
    run.experiment_file.write_text(content.replace(fingerprint, "00ff"))
    output = audit(run)
    assert "Note: the images are not shown, nor used by an attack: they are not those" in output
    assert not (run.path / "audit" / "gallery.png").exists()
    assert "quantile_regression" not in {line["attack"] for line in read_csv(run)}


def test_a_gallery_goes_with_the_images(toy_run, tmp_path):
    """Of an audit before, when the images were still there."""
    run = RunFolder(tmp_path / "run")
    shutil.copytree(toy_run, run.path)
    audit(run, *QUICK)
    assert (run.path / "audit" / "gallery.png").read_bytes().endswith(b"IEND\xaeB`\x82")
    content = run.experiment_file.read_text()
    run.experiment_file.write_text(content.replace(run.read()["fingerprints"]["data"], "00ff"))
    assert "Nothing has changed" not in audit(run, *QUICK)
    assert not (run.path / "audit" / "gallery.png").exists()
    assert "gallery.png" not in results_of(run)["files"]


@pytest.mark.parametrize(
    ("kind", "message"), [("ImageFolder", "[/bold]gone"), ("CIFAR10", "Dataset not found")]
)
def test_images_that_are_not_where_they_were(toy_run, tmp_path, kind, message):
    """Whatever a library raises then, and however the folder is called."""
    run = RunFolder(tmp_path / "run")
    shutil.copytree(toy_run, run.path)
    experiment = yaml.safe_load(run.experiment_file.read_text())
    experiment["config"]["data"] = {"class_path": f"datamodules.{kind}", "init_args": {}}
    experiment["places"] = {"root": str(tmp_path / "[/bold]gone")}
    run.experiment_file.write_text(yaml.safe_dump(experiment))
    output = audit(run, *QUICK)
    (note,) = (line for line in output.splitlines() if line.startswith("Note: "))
    assert "the images are not shown, nor used by an attack: " in note
    assert message in note
    assert not (run.path / "audit" / "gallery.png").exists()


def test_unfinished_models_are_named(run):
    names = run.names()
    run.signals(names[5], "nearest-w2").unlink()
    run.weights(names[13], "full").unlink()
    with pytest.raises(SystemExit, match="2 of 14 models are unfinished: shadow-005, target-001"):
        audit(run)
    with pytest.raises(SystemExit, match="`--partial`"):
        audit(run)
    assert not (run.path / "audit").exists()


def test_partial_audits_the_rest_without_their_partners(fabricated, tmp_path):
    run, alone = fabricated(targets=3), fabricated("alone", targets=3, without=(4, 5, 10))
    names = run.names()
    lost = {
        run.signals(names[5], "nearest-w2"): tmp_path / "0",
        run.model(names[10]): tmp_path / "1",
    }
    for path, elsewhere in lost.items():
        path.rename(elsewhere)
    output = audit(run, "--partial", *QUICK)
    audit(alone, *QUICK)
    assert read_csv(run) == read_csv(alone)
    assert "shadow-005 is left out, with its partner: unfinished" in output
    assert "target-000 is left out: unfinished" in output
    basis = json.loads((run.path / "audit" / "results.json").read_text())["basis"]
    assert basis["left out"] == "shadow-005 (unfinished); target-000 (unfinished)"
    assert basis["shadow models"] == "8 against each of them"
    for path, elsewhere in lost.items():  # they come: the audit is of all models
        elsewhere.rename(path)
    audit(run, "--partial", *QUICK)
    assert {line["targets"] for line in read_csv(run)} == {3}
    assert {line["shadows"] for line in read_csv(run)} == {0, 10}


def test_partial_without_the_very_first_model(fabricated):
    """What is known of all models must not be read from the first one's files."""
    run, alone = fabricated(targets=3), fabricated("alone", targets=3, without=(0, 1))
    shutil.rmtree(run.model(run.names()[0]))
    audit(run, "--partial", *QUICK)
    audit(alone, *QUICK)
    assert read_csv(run) == read_csv(alone)


def test_nothing_finished(run):
    shutil.rmtree(run.path / "models")
    with pytest.raises(SystemExit, match="14 of 14 models are unfinished"):
        audit(run)
    with pytest.raises(SystemExit, match=r"No model in .* is finished\. Run train.py again"):
        audit(run, "--partial")


@pytest.mark.parametrize("make", [False, True], ids=["no-folder", "empty-folder"])
def test_no_experiment(tmp_path, make):
    run = RunFolder(tmp_path / "typo")
    if make:
        run.path.mkdir()
    with pytest.raises(SystemExit, match=r"No experiment in .*typo: no experiment\.yaml there"):
        audit(run)
    assert run.path.exists() == make


@pytest.mark.parametrize(
    ("shadows", "targets", "got"), [(2, 1, "1 and 2"), (4, 0, "4 and 2"), (0, 2, "2 and 0")]
)
def test_too_few_shadows(fabricated, shadows, targets, got):
    run = fabricated(shadows=shadows, targets=targets)
    with pytest.raises(SystemExit, match=f"4 shadows against it, got {got}. Finish the fleet"):
        audit(run)


def test_no_target_left(fabricated):
    run = fabricated()
    for name in run.names()[10:]:
        run.signals(name, "full").unlink()
    with pytest.raises(SystemExit, match=r"got 0 and 0\. Finish the fleet"):
        audit(run, "--partial")


def test_a_bad_option_stops(audited, capsys):
    for option, message in [
        (("--attacks", "lyra"), "lyra"),
        (("--attacks",), "expected at least one argument"),
        (("--wandb", "on"), "wandb"),
    ]:
        with pytest.raises(SystemExit):
            main(["--run_dir", str(audited[0].path), *option])
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"Where to is not said: pass `--run_dir runs/NAME`\."):
        main([])
    with pytest.raises(SystemExit, match=r"pass `--run_dir runs/NAME`\."):
        main(["--signals", "some.npz"])


@pytest.mark.parametrize("how", ["nan", "inf", "accuracy", "quantized"])
def test_a_diverged_shadow_is_left_out_with_its_partner(fabricated, how):
    run, alone = fabricated(), fabricated("alone", without=(2, 3))
    variant = "nearest-w2" if how == "quantized" else "full"
    path = run.signals(run.names()[3], variant)
    signals = load_file(path)
    if how == "accuracy":
        change(path, correct=torch.arange(160).reshape(2, 80) % 10 == 0)
        reason = r"training accuracy 0\.\d+, its peers' median 1.000"
    else:
        signals["phi"][1, 7] = torch.inf if how == "inf" else torch.nan
        change(path, phi=signals["phi"])
        reason = "1 of 160 signals are not finite"
        if how == "quantized":
            reason = "signals of nearest-w2 are not finite"
    output = audit(run, *QUICK)
    audit(alone, *QUICK)
    assert read_csv(run) == read_csv(alone)
    basis = json.loads((run.path / "audit" / "results.json").read_text())["basis"]
    assert "shadow-003 is left out, with its partner: " in output
    (named,) = (line for line in output.splitlines() if "is left out" in line)
    for text in (named, basis["left out"]):
        assert re.search(reason, text)
    assert "shadow-003 (" in (run.path / "audit" / "report.html").read_text()


def test_a_diverged_target_is_left_out(fabricated):
    run, alone = fabricated(targets=3), fabricated("alone", targets=3, without=(11,))
    path = run.signals(run.names()[11], "full")
    change(path, phi=torch.full_like(load_file(path)["phi"], torch.nan))
    output = audit(run, *QUICK)
    audit(alone, *QUICK)
    assert read_csv(run) == read_csv(alone)
    assert "target-001 is left out: 160 of 160 signals are not finite" in output


def test_without_targets_shadows_are_audited_by_the_others(fabricated):
    run, alone = fabricated(targets=0), fabricated("alone", targets=0, without=(6, 7))
    path = run.signals(run.names()[6], "full")
    change(path, phi=load_file(path)["phi"] * torch.nan)
    audit(run, *QUICK)
    audit(alone, *QUICK)
    assert read_csv(run) == read_csv(alone)
    assert {(line["targets"], line["shadows"]) for line in read_csv(run)} == {(8, 0), (8, 6)}
    basis = json.loads((run.path / "audit" / "results.json").read_text())["basis"]
    assert basis["audited models"] == "8 (each shadow, attacked by the others but its partner)"


def test_a_second_call_does_nothing_and_says_so(run):
    first = audit(run, *QUICK)
    before = states(run)
    second = audit(run, *QUICK)
    assert states(run) == before
    assert "Nothing has changed since this audit." in second
    assert "Nothing has changed" not in first
    assert (run.path / "audit" / "table.txt").read_text().strip() in second
    # train.py with nothing to train opens the folder once more
    run.open(describe(12, 2), run.membership())
    assert "Nothing has changed" in audit(run, *QUICK)
    assert states(run) == before


@pytest.mark.parametrize("lost", ["table.txt", "report.html", "plane.png"])
def test_a_file_that_was_deleted_comes_back(run, lost):
    audit(run, *QUICK)
    before = (run.path / "audit" / lost).read_bytes()
    (run.path / "audit" / lost).unlink()
    assert "Nothing has changed" not in audit(run, *QUICK)
    assert (run.path / "audit" / lost).read_bytes() == before


def test_an_attack_asked_for_twice_runs_once(run):
    audit(run, "--attacks", "global_threshold", "global_threshold")
    assert [line["attack"] for line in read_csv(run)] == ["global_threshold"] * len(
        {line["variant"] for line in read_csv(run)}
    )


def test_a_second_call_still_names_what_was_left_out(fabricated):
    run = fabricated()
    path = run.signals(run.names()[10], "full")
    change(path, phi=load_file(path)["phi"] * torch.nan)
    assert "target-000 is left out: 160 of 160 signals are not finite" in audit(run, *QUICK)
    second = audit(run, *QUICK)
    assert "Nothing has changed" in second
    assert "Left out: target-000 (160 of 160 signals are not finite)" in second


def test_changed_signals_are_audited_again(run):
    audit(run, "--attacks", "global_threshold")
    before, members = read_csv(run), run.membership()
    target = run.names()[12]
    path = run.signals(target, "nearest-w2")
    change(path, phi=members[12].float().expand(2, -1).clone())  # gives it all away
    output = audit(run, "--attacks", "global_threshold")
    assert "Nothing has changed" not in output
    *same, after = read_csv(run)
    assert same == before[:-1]
    phi = load_file(run.signals(run.names()[13], "nearest-w2"))["phi"]
    other = roc_auc_score(members[13], phi.double().mean(0))
    assert after["auc"] == pytest.approx((1 + other) / 2)
    assert after["auc"] > before[-1]["auc"] + 0.1


def test_other_attacks_are_computed(run):
    audit(run, "--attacks", "global_threshold")
    assert {line["attack"] for line in read_csv(run)} == {"global_threshold"}
    audit(run, "--attacks", "lira_offline_carlini", "global_threshold")
    attacks = {line["attack"] for line in read_csv(run)}
    assert attacks == {"lira_offline_carlini", "global_threshold"}


def test_an_interrupted_audit_is_finished(run):
    """results.json is written last: without it nothing is taken for done."""
    audit(run, *QUICK)
    (run.path / "audit" / "results.json").unlink()
    (run.path / "audit" / "report.html").unlink()
    assert "Nothing has changed" not in audit(run, *QUICK)
    assert {file.name for file in (run.path / "audit").iterdir()} == FILES


def layer_lines(run, monkeypatch):
    """Audit, and read the figure of the layers back."""
    drawn = []

    def keep(made):
        drawn.append(layers_chart(made))
        return drawn[0]

    monkeypatch.setattr("reporting.illustrate.layers_chart", keep)
    audit(run, *QUICK)
    return [[list(one.y) for one in panel.series] for row in drawn[0].panels for panel in row]


def test_records_are_averaged_over_the_audited_models(fabricated, monkeypatch):
    run = fabricated(targets=3)
    write_records(run)
    records = {
        variant: [json.loads(run.record(name, variant).read_text()) for name in run.names()[10:]]
        for variant in ("nearest-w4", "nearest-w2")
    }
    left, right = layer_lines(run, monkeypatch)

    def mean(key):
        by_model = [[layer[key] for layer in one["layers"]] for one in records["nearest-w2"]]
        return pytest.approx(np.mean(by_model, 0))

    assert left == [mean("flipped")]  # `nearest-w4` moved nothing
    assert right == [mean("error_before"), mean("error_after")]
    seconds = {v: np.mean([one["seconds"] for one in some]) for v, some in records.items()}
    for line in read_csv(run):
        wanted = seconds.get(line["variant"])
        assert line["seconds"] == (wanted and pytest.approx(wanted))
    results = json.loads((run.path / "audit" / "results.json").read_text())
    assert {row["variant"]: row["seconds"] for row in results["rows"]} == {
        "full": None,
        **{variant: pytest.approx(value) for variant, value in seconds.items()},
    }
    page = (run.path / "audit" / "report.html").read_text()
    table = page[page.index("How each precision was made") :].split("</table>")[0]
    for text in ("squared error of blocks", "members, 1,024 images", "4 blocks, 2 layers"):
        assert f">{text}<" in table
    assert table.count(", ".join(UNITS)) == 2
    assert [f">{value:.1f}</td>" in table for value in seconds.values()] == [True, True]
    assert "mean over 3 audited models" in page


def test_the_figure_of_layers_comes_and_goes_with_the_records(fabricated):
    """As other figures it is whole, comes back, and makes a second call do nothing."""
    run = fabricated()
    audit(run, *QUICK)  # as in folders of older versions
    folder = run.path / "audit"
    assert {file.name for file in folder.iterdir()} == FILES
    assert "How each precision was made" not in (folder / "report.html").read_text()
    assert {line["seconds"] for line in read_csv(run)} == {None}
    write_records(run)
    assert "Nothing has changed" not in audit(run, *QUICK)
    assert {file.name for file in folder.iterdir()} == FILES | {"layers.png"}
    before, drawn = states(run), (folder / "layers.png").read_bytes()
    assert drawn.endswith(b"IEND\xaeB`\x82")
    assert "Nothing has changed" in audit(run, *QUICK)
    assert states(run) == before
    (folder / "layers.png").unlink()
    assert "Nothing has changed" not in audit(run, *QUICK)
    assert (folder / "layers.png").read_bytes() == drawn
    write_records(run, seconds=77.0)
    assert "Nothing has changed" not in audit(run, *QUICK)
    assert {line["seconds"] for line in read_csv(run)} == {None, 77}
    for path in run.path.glob("models/*/*.json"):
        path.unlink()
    audit(run, *QUICK)
    assert {file.name for file in folder.iterdir()} == FILES
    assert "Nothing has changed" in audit(run, *QUICK)


def test_rounding_to_nearest_alone_has_a_table_and_no_figure(fabricated):
    run = fabricated()
    write_records(run, ["nearest-w4"])
    audit(run, *QUICK)
    assert not (run.path / "audit" / "layers.png").exists()
    assert "How each precision was made" in (run.path / "audit" / "report.html").read_text()
    assert "Nothing has changed" in audit(run, *QUICK)


def test_models_without_a_record_or_left_out_do_not_count(fabricated):
    run = fabricated(targets=4)
    write_records(run)
    names = run.names()
    run.record(names[10], "nearest-w2").unlink()
    path = run.signals(names[11], "full")
    change(path, phi=load_file(path)["phi"] * torch.nan)
    audit(run, *QUICK)
    cost = {
        variant: [2.5**i for i in which]
        for variant, which in (("nearest-w4", (0, 2, 3)), ("nearest-w2", (2, 3)))
    }
    found = {line["variant"]: line["seconds"] for line in read_csv(run)}
    assert found.pop("full") is None
    assert found == {variant: pytest.approx(np.mean(some)) for variant, some in cost.items()}
    page = (run.path / "audit" / "report.html").read_text()
    assert "mean over 2 to 3 audited models" in page


def test_signals_that_changed_are_named(fabricated):
    run = fabricated()
    name, path = run.names()[1], run.signals(run.names()[1], "nearest-w2")
    seal(run.model(name))
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(SystemExit, match=rf"{path} is not what was written.*train.py .*`--repair`"):
        audit(run, *QUICK)
    path.write_bytes(content)
    audit(run, *QUICK)


def test_a_damaged_record_is_named(fabricated):
    run = fabricated()
    write_records(run)
    run.record(run.names()[11], "nearest-w2").write_text("{")
    with pytest.raises(SystemExit, match=r"target-001/nearest-w2\.json is not a whole record"):
        audit(run, *QUICK)
    assert not (run.path / "audit").exists()


def test_hostile_names_in_records(fabricated):
    run = fabricated()
    name = "<script>alert('1')</script> $x^{$"
    layers = [{"name": name, "flipped": 0.5, "error_before": 1.0, "error_after": 0.5}]
    write_records(run, objective=name, units=[name] * 7, layers=layers)
    audit(run, *QUICK)
    page = (run.path / "audit" / "report.html").read_text()
    assert name not in page
    # a row a variant: the objective, and each unit
    assert page.count("&lt;script&gt;alert(&#39;1&#39;)") == 2 * (1 + 7)


@pytest.mark.parametrize("name", ["<script>", "a & 'b' \"c\"", "[red]brackets[bold]"])
def test_hostile_names_of_experiments(fabricated, name):
    run = fabricated(name, shadows=4, targets=1)
    output = audit(run, "--attacks", "global_threshold")
    page = (run.path / "audit" / "report.html").read_text()
    assert f"<title>BitLeak: {escape(name)}" in page
    assert name in output.splitlines()[1]  # the title of the table, after a note
    assert f"Report: {run.path}" in output


def test_wandb_offline_holds_the_audit(run, read_wandb):
    write_records(run, ["nearest-w2"])
    audit(run)  # an audit that is there does not keep W&B from getting it
    audit(run, "--wandb", "offline")
    (folder,) = (run.path / "wandb").glob("offline-run-*")
    offline, lines = read_wandb(folder), read_csv(run)
    identity = run.read()["id"]
    assert (offline.run.display_name, offline.run.job_type) == ("audit", "audit")
    assert (offline.run.run_group, offline.run.project) == (run.path.name, "bitleak")
    assert offline.run.run_id == f"{identity}-audit"
    assert offline.config["config"] == run.read()["config"]
    for line in lines:
        key = f"{line['knowledge']}/{line['attack']}/{line['variant']}"
        for metric in ESTIMATES[1:]:
            assert offline.summary[f"{key}/{metric}"] == line[metric]
        name = line["variant"].replace("-", "_")
        assert offline.summary[f"test_accuracy/{name}"] == line["accuracy"]
        if line["strongest"] == "True":
            assert offline.summary[f"risk/auc/{name}"] == line["auc"]
    assert "matched/lira_online/nearest-w2/auc" in offline.summary

    def stored(key):
        return json.loads((folder / "files" / offline.summary[f"{key}.path"]).read_text())

    table = stored("audit/table")
    found = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [{k: row[k] for k in ESTIMATES} for row in found] == [
        {k: line[k] for k in ESTIMATES} for line in lines
    ]
    assert [row["attack"] for row in found] == [line["attack"] for line in lines]
    assert [row["seconds"] for row in found] == [line["seconds"] for line in lines]
    (history,) = offline.history
    results = json.loads((run.path / "audit" / "results.json").read_text())
    bounds = next(t for t in results["tables"] if t["title"] == "Lower bounds on epsilon")
    assert stored("findings/lower-bounds-on-epsilon")["data"] == bounds["rows"]
    assert sum(key.startswith("findings/") for key in offline.history[0]) >= len(results["tables"])
    for attack in ("none/global_threshold", "matched/lira_online", "full/lira_online"):
        path = folder / "files" / history[f"roc/{attack}_table.path"]
        curve = json.loads(path.read_text())
        kind, name = attack.split("/")
        wanted = [
            [fpr, row["variant"], tpr]
            for row in results["rows"]
            if (row["knowledge"], row["attack"]) == (kind, name)
            for fpr, tpr in zip(results["fpr"], row["tpr"], strict=True)
        ]
        order = [curve["columns"].index(column) for column in ("step", "lineKey", "lineVal")]
        assert sorted([row[i] for i in order] for row in curve["data"]) == sorted(wanted)
    for metric in ESTIMATES[1:]:
        chart = offline.config[f"_wandb.visualize.plane/{metric}"]
        assert chart["panel_config"]["fieldSettings"] == {"x": "accuracy", "y": metric}
    for name in ("roc", "plane", "convergence", "layers"):
        image = folder / "files" / history[f"figures/{name}.path"]
        assert image.read_bytes().startswith(b"\x89PNG")


def test_the_report_says_how_to_make_the_same_models(toy_run, tmp_path):
    folder = Path(shutil.copytree(toy_run, tmp_path / "run"))
    main(["--run_dir", str(folder), *QUICK])
    page = (folder / "audit" / "report.html").read_text()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(html.unescape(page.rsplit("<pre>", 1)[1].split("</pre>")[0]))
    train.main(["--config", str(recipe), "--run_dir", str(tmp_path / "again")])
    for path in folder.glob("models/*/full.safetensors"):
        again = tmp_path / "again" / path.relative_to(folder)
        assert again.read_bytes() == path.read_bytes()


def test_wandb_online_without_a_key(run, monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SystemExit, match=r"needs an API key and found none\. Run `wandb login`"):
        audit(run, "--wandb", "online")
    assert not (run.path / "audit").exists()


@pytest.mark.slow
def test_real_digits_leak_and_random_labels_do_not(tmp_path):
    """From images to the table; 8 targets, for Student's t makes little of 2."""
    run = RunFolder(tmp_path / "digits")
    options = "--data Digits --data.pool_size 600 --data.batch_size 32 --model.network convnet"
    options += " --model.lr 0.1 --trainer.accelerator cpu --trainer.max_epochs 15 --threads 1"
    options += " --fleet.shadows 16 --fleet.targets 8"
    train.main(["--run_dir", str(run.path), *options.split()])
    audit(run)
    lines = {(e["variant"], e["knowledge"], e["attack"]): e for e in read_csv(run)}
    assert len(lines) == 10 + 3 * 17
    for attack in DEFAULT_ATTACKS:
        kind = "matched" if ATTACKS[attack].shadows else "none"
        assert lines["full", kind, attack]["auc_low"] > 0.5, attack
    assert lines["full", "matched", "lira_online"]["auc_low"] > 0.58
    assert lines["full", "none", "global_threshold"]["accuracy"] > 0.93
    sizes = {line["variant"]: line["bytes"] for line in lines.values()}
    assert sizes["adaround-w1.58"] < sizes["adaround-w2"] < sizes["adaround-w4"] < sizes["full"]

    members = run.membership()
    order = torch.rand(members.shape, generator=torch.Generator().manual_seed(1)).argsort(1)
    shuffled = members.gather(1, order)
    shuffled[1:16:2] = ~shuffled[:16:2]
    files = [load_file(run.signals(name, "full")) for name in run.names()]
    keys = ("phi", "hinge", "population", "population_hinge")
    data = Digits(pool_size=600)
    data.setup("fit")
    signals = (torch.stack([file[key] for file in files]) for key in keys)
    seen = Observed(*signals, make_features(*data.pool, *data.test))
    found = score(DEFAULT_ATTACKS, seen, seen, shuffled, make_cases(16, 8))
    for attack, scores in found.items():
        auc = summarise(scores, shuffled[16:]).auc
        assert auc.low <= 0.5 <= auc.high, attack
        assert delong(scores[0], shuffled[16]).value == pytest.approx(0.5, abs=0.08)
