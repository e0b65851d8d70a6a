"""An audit as a Weights & Biases run, whose failure never costs the audit."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from attacks.evaluate import FPR_GRID
from reporting.results import METRICS, Results, flatten
from reporting.tables import find_strongest
from reporting.wandb_keys import (
    ANSWER_KEYS,
    FEDERATED,
    audit_id,
    federated_key,
    figure_key,
    finding_key,
    holder_key,
    precision_key,
    risk_key,
    roc_key,
    task_key,
    transfer_key,
)
from reporting.workspace import save_view
from storage.names import WandbMode
from storage.wandb_project import PROJECT, accuracy_key, choose_folders, group_name, make_settings


def log_audit(run_dir: Path, mode: WandbMode, results: Results) -> str:
    """Log one audit as one W&B run: its table, ROC curves, planes, figures and summary.

    Args:
        run_dir: the experiment's folder.
        mode: `offline` or `online`.
        results: results of the audit, whose figures are in the folder; docs/dashboard.md lists the
            keys.

    Returns:
        The entity that owns the run; empty offline.
    """
    experiment = results.experiment
    choose_folders(run_dir)
    with wandb.init(
        project=PROJECT,
        name="audit",
        id=audit_id(results),
        resume="allow",
        dir=run_dir,
        group=group_name(run_dir),
        job_type="audit",
        config=experiment.as_dict() if experiment else {},
        mode=mode,
        settings=make_settings(),
    ) as run:
        figures = {name: run_dir / "audit" / f"{name}.png" for name in results.figures}
        run.log(_charts(results, figures))
        told = {"left_out": list(results.left_out), "warnings": list(results.warnings)}
        run.summary.update(_summary(results) | told)
    entity: str = run.entity
    return entity


def _charts(results: Results, figures: Mapping[str, Path]) -> dict[str, Any]:
    lines = [flatten(row, results.variants[row.variant]) for row in results.rows]
    table = wandb.Table(columns=list(lines[0]), data=[list(line.values()) for line in lines])
    charts: dict[str, Any] = {"audit/table": table}
    charts |= {figure_key(name): wandb.Image(str(path)) for name, path in figures.items()}
    for finding in results.tables:
        rows = [[cell.text for cell in row] for row in finding.rows]
        charts[finding_key(finding)] = wandb.Table(columns=list(finding.columns), data=rows)
    for metric in METRICS:
        title = f"test accuracy against {metric}"
        charts[f"plane/{metric}"] = wandb.plot.scatter(table, "accuracy", metric, title)
    curves: dict[str, dict[str, list[float]]] = {}
    for row in results.rows:
        curves.setdefault(roc_key(row), {})[row.variant] = row.tpr
    for key, by_variant in curves.items():
        charts[key] = wandb.plot.line_series(
            xs=FPR_GRID.tolist(),
            ys=list(by_variant.values()),
            keys=list(by_variant),
            title=f"ROC of {key.removeprefix('roc/')}",
            xname="false positive rate",
        )
    return charts


def _summary(results: Results) -> dict[str, float | str]:
    summary: dict[str, float | str] = dict(zip(ANSWER_KEYS, results.answer, strict=True))
    for name, facts in results.variants.items():
        summary[accuracy_key(name)] = facts.accuracy.value
        for metric in METRICS:
            best = find_strongest(results.rows, name, metric=metric)
            if best is not None:
                summary[risk_key(metric, name)] = getattr(best.summary, metric).value
    for row in results.rows:
        for metric in METRICS:
            value = getattr(row.summary, metric).value
            summary[f"{row.knowledge}/{row.attack}/{row.variant}/{metric}"] = value
    for finding in FEDERATED:
        leak = results.findings[finding]  # None of models without clients
        for line in leak["rows"] if leak else ():
            for metric in ("auc", "tpr_1pct", "tpr_01pct"):
                key = federated_key(leak["threat"], line["knowledge"], line["attack"], metric)
                summary[key] = line[metric]["value"]
    return summary | _summary_of_tasks(results.findings["continual"])


def _summary_of_tasks(leak: dict[str, Any] | None) -> dict[str, float | str]:
    """What learning in tasks leaks; empty for other models."""
    summary: dict[str, float | str] = {}
    for cell in leak["cells"] if leak else ():
        rows = [r for r in cell["rows"] if r["holds"] == "snapshot" and not r["control"]]
        for metric in ("auc", "tpr_1pct", "tpr_01pct"):
            key = task_key(cell["task"], cell["stage"], metric)
            summary[key] = max(row["summary"][metric]["value"] for row in rows)
    for transfer in leak["transfers"] if leak else ():
        for metric, difference in transfer["by_metric"].items():
            key = transfer_key(transfer["attack"], metric)
            summary[key] = difference["estimate"]["value"]
    for attacker in leak["attackers"] if leak else ():
        for metric in ("auc", "tpr_1pct", "tpr_01pct"):
            summary[holder_key(attacker["holds"], metric)] = attacker[metric]["value"]
    for found in leak.get("precisions", ()) if leak else ():  # older audits have none
        for stage, row in enumerate(found["auc"], 1):
            for task, auc in zip(leak["tasks"] if leak else (), row, strict=False):
                key = precision_key(found["precision"], f"task-{task}", f"after-{stage}")
                summary[key] = auc["value"]
        for holder in found["holders"]:
            key = precision_key(found["precision"], "holds", holder["holds"])
            summary[key] = holder["auc"]["value"]
    return summary


def publish(run_dir: Path, mode: WandbMode, results: Results) -> str | None:
    """Log an audit, and save its view where W&B can be reached; a failure only warns.

    Returns:
        The view's URL, if there is one.
    """
    try:
        entity = log_audit(run_dir, mode, results)
        return save_view(run_dir, entity, results) if mode == "online" else None
    except Exception as error:
        warnings.warn(f"W&B failed, the audit stands without it: {error!r}", stacklevel=2)
        return None
