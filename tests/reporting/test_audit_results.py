"""What an audit writes, against attacks computed from the same files by other means."""

import csv
import html
import json
import re
from statistics import fmean

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score, roc_curve

from attacks import ATTACKS
from attacks.cases import make_cases
from attacks.evaluate import score
from attacks.game import FULL, Game, ModelSignals, Shadows
from attacks.metrics.exposure import exposure
from attacks.metrics.intervals import mean_accuracy, summarise
from attacks.quantile import make_features
from datamodules import Digits
from reporting.findings import FINDINGS
from storage.names import snapshot_name
from storage.run_folder import RunFolder

ALONE, SHADOWED = 2, 7  # default attacks on a run without images
KINDS = 3  # of shadows against a quantized variant
FPRS = {"tpr_1pct": 0.01, "tpr_01pct": 0.001}
ESTIMATES = ("accuracy", "auc", "balanced_accuracy", "tpr_1pct", "tpr_01pct")


def read_signals(run, variant):
    """Signals of all models of the toy run, with the images, by other means than the audit."""
    files = [load_file(run.signals(name, variant)) for name in run.read().names]
    keys = ("phi", "hinge", "population", "population_hinge")
    data = Digits(pool_size=64)
    data.setup("fit")
    signals = (torch.stack([file[key] for file in files]) for key in keys)
    features, labels = make_features(*data.pool, *data.test), (data.pool.labels, data.test.labels)
    (target,) = (run.embeddings(name, variant) for name in run.read().names[4:])
    own = (load_file(target)[key] for key in ("embeddings", "population"))  # no shadow has any
    embedded = (torch.stack([*torch.full((4, *rows.shape), torch.nan), rows]) for rows in own)
    return ModelSignals(*signals, features, labels, *embedded), data.pool


def balanced_accuracies(scores, members):
    """Each of two targets at the threshold that is best on the other."""
    values = []
    for row, inside, other, known in zip(scores, members, scores[::-1], members[::-1], strict=True):
        fpr, tpr, thresholds = roc_curve(known, other, drop_intermediate=False)
        accused = row >= thresholds[(tpr - fpr).argmax()]
        values.append((accused[inside].mean() + 1 - accused[~inside].mean()) / 2)
    return values


def chances(scores, known, fpr):
    """How likely a test that is exact at a level accuses each score, given some non-members."""
    above = (known > scores[:, None]).sum(1)
    tied = (known == scores[:, None]).sum(1)
    return np.clip((fpr * (len(known) + 1) - above) / (tied + 1), 0, 1)


def tail_rates(scores, members, fpr):
    """Each of two targets at the other's threshold, less what its surplus of accusations is worth.

    The worth is the slope of the joint ROC between half of the FPR and twice of it.
    """
    together = scores[members], scores[~members]
    found = [chances(*together, level).mean() for level in (2 * fpr, fpr / 2)]
    slope = (found[0] - found[1]) / (1.5 * fpr)
    values = []
    for row, inside, other, known in zip(scores, members, scores[::-1], members[::-1], strict=True):
        accused = chances(row, other[~known], fpr)
        values.append(accused[inside].mean() - slope * (accused[~inside].mean() - fpr))
    return values


def test_the_csv_equals_attacks_computed_from_the_files(audited_run, read_csv, weight_bytes):
    run, _ = audited_run
    members = torch.cat(list(load_file(run.path / "membership.safetensors").values()))
    assert (members[0:12:2] ^ members[1:12:2]).all()  # shadows came first
    folders = sorted((run.path / "models").iterdir())
    seen, correct = {}, {}
    for variant in weight_bytes:
        files = [load_file(folder / "signals" / f"{variant}.safetensors") for folder in folders]
        keys = ("phi", "hinge", "population", "population_hinge")
        seen[variant] = ModelSignals(*(torch.stack([file[key] for file in files]) for key in keys))
        correct[variant] = torch.stack([file["test_correct"] for file in files])[12:]
    lines = read_csv(run)
    # every default attack but quantile regression, which needs the images
    assert len(lines) == ALONE + SHADOWED + 2 * (ALONE + KINDS * SHADOWED)
    for line in lines:
        variant, kind = line["variant"], line["knowledge"]
        with_shadows = seen["full" if kind in ("unquantized", "recalibrated") else variant]
        attack, against = ATTACKS[line["attack"]], with_shadows.of(range(12))
        shadows = Shadows(against, members[:12])
        targets = [seen[variant].of([t]).read() for t in (12, 13)]
        if kind == "recalibrated":
            targets = [shadows.recalibrate(target) for target in targets]
        scores = torch.cat([attack.run(target, shadows) for target in targets])
        pair = scores.numpy(), members[12:].numpy()
        expected = {"auc": list(map(roc_auc_score, *pair[::-1]))}
        expected |= {"balanced_accuracy": balanced_accuracies(*pair)}
        expected |= {key: tail_rates(*pair, fpr) for key, fpr in FPRS.items()}
        summary = summarise(scores, members[12:])
        for metric, values in expected.items():
            mean = np.clip(np.mean(values), 0, 1)  # a corrected rate may be below 0
            assert line[metric] == pytest.approx(mean, abs=1e-12)
            assert line[f"{metric}_spread"] == pytest.approx(np.std(values), abs=1e-12)
            interval = getattr(summary, metric)[1:3]
            assert (line[f"{metric}_low"], line[f"{metric}_high"]) == pytest.approx(interval)
        assert line["accuracy"] == pytest.approx(correct[variant].double().mean().item())
        interval = mean_accuracy(correct[variant])[1:3]
        assert (line["accuracy_low"], line["accuracy_high"]) == pytest.approx(interval)
        assert line["bytes"] == weight_bytes[variant]
        assert (line["targets"], line["non_members"]) == (2, 120)
        assert line["shadows"] == (0 if line["knowledge"] == "none" else 12)
        # 1% of 240 non-members is two, 0.1% is none
        assert (line["false_positives_1pct"], line["false_positives_01pct"]) == (2, 0)


def test_every_number_lies_in_its_interval(audited_run, read_csv):
    for line in read_csv(audited_run[0]):
        for name in ESTIMATES:
            assert 0 <= line[f"{name}_low"] <= line[name] <= line[f"{name}_high"] <= 1


def test_a_shift_misleads_full_precision_shadows(audited_run, read_csv):
    """The shift of the fabricated signals keeps its sign from the files to the table."""
    auc = {(e["variant"], e["knowledge"], e["attack"]): e["auc"] for e in read_csv(audited_run[0])}
    attack = "lira_online"
    matched, misled = auc["nearest-w2", "matched", attack], auc["nearest-w2", "unquantized", attack]
    assert matched == pytest.approx(auc["full", "matched", attack], abs=1e-9)
    assert misled < matched - 0.05


def strongest(rows, metric="auc"):
    """Rows of a CSV that are the strongest by one metric."""
    return [row for row in rows if metric in row["strongest"].split()]


def test_one_row_per_variant_is_the_strongest_at_each_end(audited_run, read_csv, weight_bytes):
    lines = read_csv(audited_run[0])
    ends = {end for line in lines for end in line["strongest"].split()}
    assert ends == {"auc", "tpr_1pct"}  # 0.1% of 240 non-members is no false positive
    for variant in weight_bytes:
        rows = [line for line in lines if line["variant"] == variant]
        for end in ends:
            (best,) = strongest(rows, end)
            assert best[end] == max(line[end] for line in rows)
        assert "" in {line["strongest"] for line in rows}


def test_the_json_holds_the_rows_of_the_csv_and_the_curves(audited_run, read_csv):
    run, _ = audited_run
    results = json.loads((run.path / "audit" / "results.json").read_text())
    assert results["experiment"] == run.read().as_dict()
    for row, line in zip(results["rows"], read_csv(run), strict=True):
        assert len(row.pop("tpr")) == len(results["fpr"])
        by_target = row.pop("by_target")
        # a corrected rate of a target may be below 0, a rate is not
        means = {metric: max(fmean(values), 0) for metric, values in by_target.items()}
        assert means == pytest.approx({metric: row[metric] for metric in by_target})
        assert {key: str(row[key]) for key in ("variant", "knowledge", "attack", "strongest")} == {
            key: line.pop(key) for key in ("variant", "knowledge", "attack", "strongest")
        }
        assert {key: row[key] for key in line} == line


def cells_of(page):
    """Cells of the table of all attacks: (variant, knowledge, attack) -> texts."""
    rows = re.findall(
        r'<tr data-variant="([^"]*)" data-knowledge="([^"]*)" data-attack="([^"]*)".*?>(.*?)</tr>',
        page,
        re.S,
    )
    return {
        tuple(labels): re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", cells) for *labels, cells in rows
    }


def test_the_table_and_the_page_show_each_row_of_the_csv(audited_run, read_csv, weight_bytes):
    run, output = audited_run
    table = (run.path / "audit" / "table.txt").read_text()
    page = (run.path / "audit" / "report.html").read_text()
    lines, cells = read_csv(run), cells_of(page)
    for line in lines:
        auc = f"{line['auc']:.3f}±{line['auc_spread']:.3f}"
        shadows = "-" if line["knowledge"] == "none" else line["knowledge"]
        row = cells[line["variant"], line["knowledge"], line["attack"]]
        assert row[:3] == [line["variant"], shadows, line["attack"]]
        assert row[3].startswith(f"{auc} (")
        stars = [cell.endswith("★") for cell in row]
        ends = line["strongest"].split()
        assert stars == [end in ends for end in ("", "", "", *ESTIMATES[1:])]
        if ends:
            assert f"{line['variant']} " in table
            assert line["attack"] in table
        if "auc" in ends:
            assert f"{line['auc']:.3f} (" in table
    for variant, size in weight_bytes.items():
        accuracy = next(100 * line["accuracy"] for line in lines if line["variant"] == variant)
        assert f"{size:,}" in table
        assert f">{accuracy:.1f}% (" in page
        assert f"{accuracy:.1f}% (" in output
    for fact in ("nowhere.Images, 240 examples, fingerprint 00ff", "12 against each"):
        assert fact in page
    assert "120 per target; over all targets a TPR at 1% FPR rests on 2 false positives" in page


def test_marks_depend_on_the_false_positives(
    synthetic_fleet, observe, tmp_path, audit, fabricate, read_csv
):
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


def others_of(results):
    """The variants beside `full`."""
    config = results["experiment"]["config"]
    return [*map(snapshot_name, config["snapshots"]), *config["quantize"]]


def test_an_audit_with_images_has_every_attack_and_a_gallery(
    toy_audit, audit_files, read_csv, results_of
):
    run, output = toy_audit
    files = audit_files | {"gallery.png", "layers.png", "cost.png"}
    assert {file.name for file in (run.path / "audit").iterdir()} == files
    drawn = {file.removesuffix(".png") for file in files if file.endswith(".png")}
    assert set(results_of(run)["figures"]) == drawn
    assert "Note: " not in output
    lines = read_csv(run)
    shadowed = sum(attack.shadows for attack in ATTACKS.values())
    # a snapshot and three quantized variants are attacked with three kinds of shadows
    assert len(lines) == 5 * (len(ATTACKS) - shadowed) + (1 + 4 * 3) * shadowed
    full, _ = read_signals(run, "full")
    members = torch.stack(list(run.membership().values()))
    game = Game({FULL: full}, members, make_cases(4, 1))
    by_attack = score(list(ATTACKS), game, FULL)
    for line in [line for line in lines if line["variant"] == "full"]:
        (scores,) = by_attack[line["attack"]]
        assert line["auc"] == pytest.approx(roc_auc_score(members[4], scores), abs=1e-12)


def test_the_exposure_of_each_example_is_that_to_the_strongest_attack(toy_audit, read_csv):
    """The strongest on full precision, whatever the variant."""
    run, _ = toy_audit
    with (run.path / "audit" / "exposure.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["example"] for line in lines] == [str(index) for index in range(64)]
    members = torch.stack(list(run.membership().values()))
    for variant in RunFolder(run.path).read().variants:
        observed, pool = read_signals(run, variant)
        rows = [line for line in read_csv(run) if line["variant"] == "full"]
        (attack,) = (row["attack"] for row in strongest(rows))
        game = Game({variant: observed}, members, make_cases(4, 1))
        scores = score([attack], game, variant)[attack]
        expected = exposure(scores, members[4:])
        assert [line["label"] for line in lines] == [str(label) for label in pool.labels.tolist()]
        values = torch.tensor(  # unknown exposures are empty
            [float(line[variant] or "nan") for line in lines], dtype=torch.float64
        )
        torch.testing.assert_close(values, expected, rtol=0, atol=1e-12, equal_nan=True)
        assert torch.equal(values.isnan(), ~members[4])  # one target knows only its members


def test_differences_are_between_the_strongest_attacks(toy_audit, read_csv, results_of):
    run, _ = toy_audit
    results, rows = results_of(run), read_csv(run)
    findings = results["findings"]["differences"]
    assert findings["reference"] == "full"
    best = {row["variant"]: row["auc"] for row in strongest(rows)}
    against = findings["against_reference"]["auc"]
    assert list(against) == others_of(results)
    for variant, difference in against.items():
        expected = best[variant] - best["full"]
        assert difference["estimate"]["value"] == pytest.approx(expected, abs=1e-12)
    for variant, difference in findings["beyond_gap"].items():
        (gap,) = (e["auc"] for e in rows if (e["variant"], e["attack"]) == (variant, "gap"))
        assert difference["estimate"]["value"] == pytest.approx(best[variant] - gap, abs=1e-12)


def test_convergence_ends_at_the_row_of_all_shadows(toy_audit, read_csv, results_of):
    run, _ = toy_audit
    rows = {(e["variant"], e["knowledge"], e["attack"]): e for e in read_csv(run)}
    for variant, curve in results_of(run)["findings"]["convergence"].items():
        attack, points = curve["attack"], curve["points"]
        assert list(points) in (["2", "4"], ["4"])
        assert points["4"]["value"] == rows[variant, "matched", attack]["auc"]


def test_one_target_bounds_epsilon_by_half_of_its_examples(toy_audit, results_of):
    """64 examples, half of them members: 16 of each in either half."""
    results = results_of(toy_audit[0])
    bounds = results["findings"]["epsilon"]
    assert bounds.keys() == {"full", *others_of(results)}
    for bound in bounds.values():
        assert (bound["tested"]["members"], bound["tested"]["non_members"]) == (16, 16)
        assert bound["guesses"] == 2  # a tenth of 32, even


def test_the_page_shows_the_tables_of_findings_in_order(toy_audit, results_of):
    run, _ = toy_audit
    tables, page = results_of(run)["tables"], (run.path / "audit" / "report.html").read_text()
    titles = [table["title"] for table in tables]
    keys = [table["key"] for table in tables]
    assert keys == [*[key for key in FINDINGS if key in keys], "cost"]
    # it is not pruned, was not trained by clients, and no other experiment's shadows attack it
    absent = {"calibration", "convergence", "architecture", "other_shadows", "continual"}
    threats = ("server", "client", "subtracting")
    absent |= {f"{kind}_{threat}" for kind in ("federated", "attribute") for threat in threats}
    assert {*FINDINGS} - absent <= set(keys)
    positions = [page.index(f"<h2>{title}</h2>") for title in titles]
    assert positions == sorted(positions)
    for table in tables:
        assert all(f">{html.escape(text)}</td>" in page for row in table["rows"] for text, _ in row)


def test_a_sentence_per_variant_is_printed_and_on_the_page(toy_audit, results_of):
    run, output = toy_audit
    variants = others_of(results_of(run))
    page = (run.path / "audit" / "report.html").read_text()
    lines = output.splitlines()
    first = lines.index(results_of(run)["answer"][0])
    assert lines[first : first + 4] == results_of(run)["answer"]
    sentences = lines[first + 5 : first + 5 + len(variants)]
    for variant, sentence in zip(variants, sentences, strict=True):
        assert sentence.startswith((f"{variant} leaks ", f"{variant} and full: no difference"))
        assert f"<li>{html.escape(sentence)}</li>" in page
