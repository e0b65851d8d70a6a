"""What an audit logs to Weights & Biases, read from its offline file."""

import json
import os
import shutil
from typing import Any, NamedTuple

import numpy as np
import pytest

from storage.run_folder import RunFolder

METRICS = ("auc", "balanced_accuracy", "tpr_1pct", "tpr_01pct")


class Logged(NamedTuple):
    """An audit, and what W&B kept of it."""

    run: RunFolder
    rows: list[dict]
    results: dict
    offline: Any  # as `read_wandb` returns it

    def stored(self, key):
        """The content of a table."""
        path = self.offline.summary[f"{key}.path"]
        return json.loads((self.offline.folder / "files" / path).read_text())


@pytest.fixture(scope="module")
def logged(audited_run, write_records, audit, read_csv, results_of, read_wandb, tmp_path_factory):
    """The second audit of a run: results that are already there do not keep W&B from them."""
    run = RunFolder(tmp_path_factory.mktemp("logged") / "demo")
    shutil.copytree(audited_run[0].path, run.path, ignore=shutil.ignore_patterns("audit"))
    write_records(run, ["nearest-w2"])
    audit(run)
    audit(run, "--wandb", "offline")
    (folder,) = (run.path / "wandb").glob("offline-run-*")
    return Logged(run, read_csv(run), results_of(run), read_wandb(folder))


def test_the_run_belongs_to_the_experiment(logged):
    run, offline = logged.run, logged.offline
    assert (offline.run.display_name, offline.run.job_type) == ("audit", "audit")
    assert (offline.run.run_group, offline.run.project) == (run.path.name, "bitleak")
    assert offline.run.run_id == f"{run.read().id}-audit"
    assert offline.config["config"] == run.read().config


def test_the_summary_holds_every_row(logged):
    summary = logged.offline.summary
    for row in logged.rows:
        key = f"{row['knowledge']}/{row['attack']}/{row['variant']}"
        for metric in METRICS:
            assert summary[f"{key}/{metric}"] == row[metric]
        name = row["variant"].replace("-", "_")
        assert summary[f"test_accuracy/{name}"] == row["accuracy"]
        for end in row["strongest"].split():
            assert summary[f"risk/{end}/{name}"] == row[end]
    assert "matched/lira_online/nearest-w2/auc" in summary
    keys = [f"answer/{key}" for key in ("leak", "variants", "knowledge", "frontier")]
    assert [summary[key] for key in keys] == logged.results["answer"]


def test_the_table_holds_every_row(logged):
    table, rows = logged.stored("audit/table"), logged.rows
    stored = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    keys = ("accuracy", *METRICS, "attack", "seconds")
    assert [{k: row[k] for k in keys} for row in stored] == [
        {k: row[k] for k in keys} for row in rows
    ]


def test_every_finding_is_a_table(logged):
    tables, (history,) = logged.results["tables"], logged.offline.history
    bounds = next(table for table in tables if table["key"] == "epsilon")
    texts = [[text for text, _ in row] for row in bounds["rows"]]
    assert logged.stored("findings/epsilon")["data"] == texts
    assert sum(key.startswith("findings/") for key in history) >= len(tables)


@pytest.mark.parametrize(
    "curve", ["none/global_threshold", "matched/lira_online", "unquantized/lira_online"]
)
def test_a_roc_curve_holds_every_point(logged, curve):
    results, (history,) = logged.results, logged.offline.history
    path = logged.offline.folder / "files" / history[f"roc/{curve}_table.path"]
    table = json.loads(path.read_text())
    knowledge, attack = curve.split("/")
    points = [
        [fpr, row["variant"], tpr]
        for row in results["rows"]
        if (row["knowledge"], row["attack"]) == (knowledge, attack)
        for fpr, tpr in zip(results["fpr"], row["tpr"], strict=True)
    ]
    order = [table["columns"].index(column) for column in ("step", "lineKey", "lineVal")]
    assert sorted([row[i] for i in order] for row in table["data"]) == sorted(points)


def test_each_metric_is_plotted_over_the_accuracy(logged):
    for metric in METRICS:
        chart = logged.offline.config[f"_wandb.visualize.plane/{metric}"]
        assert chart["panel_config"]["fieldSettings"] == {"x": "accuracy", "y": metric}


def test_the_figures_are_images(logged):
    (history,) = logged.offline.history
    for name in ("roc", "plane", "convergence", "layers"):
        image = logged.offline.folder / "files" / history[f"figures/{name}.path"]
        assert image.read_bytes().startswith(b"\x89PNG")


def test_an_audit_of_external_signals_is_logged(
    synthetic_fleet, tmp_path, read_wandb, read_csv, results_of, quick_audit
):
    """External signals have no experiment, whose identity the W&B run would take."""
    phi, members = (tensor.numpy() for tensor in synthetic_fleet(shadows=4, targets=1, examples=64))
    members[:4, 9] = False  # no shadow trained on it
    np.savez(
        tmp_path / "theirs.npz",
        **{"shadow_members": members[:4], "target_members": members[4:]},
        **{"full/shadow_phi": phi[:4], "full/target_phi": phi[4:]},
    )
    external = RunFolder(tmp_path / "out")
    quick_audit(external, "--signals", str(tmp_path / "theirs.npz"), "--wandb", "offline")
    (folder,) = (external.path / "wandb").glob("offline-run-*")
    offline = read_wandb(folder)
    assert offline.run.run_id == f"{results_of(external)['inputs'][:16]}-audit"
    assert offline.summary["none/global_threshold/full/auc"] == read_csv(external)[0]["auc"]
    accuracy, sentence = offline.summary["left_out"]
    assert accuracy.startswith("Training accuracy was not judged")
    assert sentence.startswith("1 example is in no shadow's training set")
    assert results_of(external)["left_out"] == [accuracy, sentence]


def test_online_logging_without_a_key_is_an_error(demo_run, monkeypatch, tmp_path, audit):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SystemExit, match=r"needs an API key and found none\. Run `wandb login`"):
        audit(demo_run, "--wandb", "online")
    assert not (demo_run.path / "audit").exists()
