"""An audit as W&B receives it, without W&B."""

import pytest
import wandb

from attacks.evaluate import FPR_GRID
from reporting.dashboard import _charts, _summary, publish
from reporting.results import METRICS, flatten


@pytest.fixture(scope="module")
def charts(results):
    return _charts(results, {})


def test_the_table_has_every_row_with_its_numbers(charts, results):
    table = charts["audit/table"]
    lines = [flatten(row, results.variants[row.variant]) for row in results.rows]
    assert table.columns == list(lines[0])
    assert [dict(zip(table.columns, line, strict=True)) for line in table.data] == lines


def test_every_finding_has_its_table(charts, results):
    assert len(results.tables) > 5
    for table in results.tables:
        logged = charts[f"findings/{table.key}"]
        assert logged.columns == list(table.columns)
        assert logged.data == [[cell.text for cell in row] for row in table.rows]


def test_curves_of_one_attack_stand_together(charts, results):
    keys = {key for key in charts if key.startswith("roc/")}
    assert keys == {f"roc/{row.knowledge}/{row.attack}" for row in results.rows}
    curves = {row.variant: row.tpr for row in results.rows if row[1:3] == ("matched", "attack_r")}
    data = charts["roc/matched/attack_r"].table.data
    assert len(data) == len(curves) * len(FPR_GRID)
    for variant, tpr in curves.items():
        assert [y for _, name, y in data if name == variant] == tpr


def test_the_summary_has_accuracies_risks_and_every_number(results):
    summary = _summary(results)
    for variant, facts in results.variants.items():
        key = variant.replace("-", "_")
        assert summary[f"test_accuracy/{key}"] == facts.accuracy.value
        for metric in METRICS:
            rows = [row for row in results.rows if row.variant == variant]
            highest = max(getattr(row.summary, metric).value for row in rows)
            assert summary[f"risk/{metric}/{key}"] == highest
        for end in ("auc", results.tail):
            marked = getattr(results.strongest(end)[variant].summary, end).value
            assert summary[f"risk/{end}/{key}"] == marked
    statements = [summary[f"answer/{key}"] for key in ("leak", "variants", "knowledge", "frontier")]
    assert statements == results.answer
    for row in results.rows:
        key = f"{row.knowledge}/{row.attack}/{row.variant}/auc"
        assert summary[key] == row.summary.auc.value
    assert len(summary) == 4 + 3 + 3 * len(METRICS) + len(results.rows) * len(METRICS)


def test_the_summary_has_every_attack_on_rounds(results):
    line = {"attack": "lda", "knowledge": "matched", "auc": {"value": 0.7}}
    line |= {"tpr_1pct": {"value": 0.05}, "tpr_01pct": {"value": 0.01}}
    leak = {"threat": "server", "rows": [line]}
    summary = _summary(results._replace(findings=results.findings | {"federated_server": leak}))
    key = "federated/server/matched/lda"
    assert [summary[f"{key}/{m}"] for m in ("auc", "tpr_1pct", "tpr_01pct")] == [0.7, 0.05, 0.01]


def test_a_failure_warns_and_the_audit_stands(results, tmp_path, monkeypatch):
    def fail(**_):
        raise wandb.errors.CommError("timed out")

    monkeypatch.setattr(wandb, "init", fail)
    with pytest.warns(UserWarning, match="W&B failed, the audit stands without it: .*timed out"):
        assert publish(tmp_path, "online", results) is None


def test_the_summary_has_what_tasks_leak_by_the_strongest_attack(results):
    """Neither a control nor what needs more than one snapshot counts."""
    rows = [
        {"holds": holds, "control": control, "summary": {
            metric: {"value": value} for metric in ("auc", "tpr_1pct", "tpr_01pct")}}
        for holds, control, value in (
            ("snapshot", False, 0.6), ("snapshot", False, 0.7), ("snapshot", True, 0.8),
            ("state", False, 0.9),
        )
    ]  # fmt: skip
    held = {metric: {"value": 0.75} for metric in ("auc", "tpr_1pct", "tpr_01pct")}
    leak = {
        "cells": [{"task": 1, "stage": 2, "rows": rows}],
        "transfers": [{"attack": "loss", "by_metric": {"auc": {"estimate": {"value": -0.1}}}}],
        "attackers": [{"holds": "snapshots", **held}],
    }
    summary = _summary(results._replace(findings=results.findings | {"continual": leak}))
    assert summary["continual/task-1/after-2/auc"] == 0.7
    assert summary["continual/transfer/loss/auc"] == -0.1
    assert summary["continual/holds/snapshots/tpr_01pct"] == 0.75
