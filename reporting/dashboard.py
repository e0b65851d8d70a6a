"""Weights & Biases, so that its absence or failure never costs a model."""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
from matplotlib.figure import Figure

from storage.names import WandbMode
from storage.wandb_project import PROJECT, SETTINGS, accuracy_key, sortable

METRICS = ("auc", "balanced_accuracy", "tpr_1pct", "tpr_01pct")


def risk_key(metric: str, variant: str) -> str:
    """Of the summary: what the strongest attack on a variant finds."""
    return f"risk/{metric}/{sortable(variant)}"


def finding_key(found: Mapping[str, Any]) -> str:
    """Of one of the tables in results.json."""
    return "findings/" + re.sub(r"\W+", "-", found["title"].lower()).strip("-")


def figure_keys(results: Mapping[str, Any]) -> list[str]:
    """Of the figures that are named in results.json."""
    names = (name.removesuffix(".png") for name in results["files"] if name.endswith(".png"))
    return [f"figures/{name}" for name in names]


def audit_id(results: Mapping[str, Any]) -> str:
    """Of the W&B run that an audit is."""
    experiment = results["experiment"]  # empty for models that were trained elsewhere
    return f"{experiment['id'] if experiment else results['inputs'][:16]}-audit"


def roc_keys(results: Mapping[str, Any]) -> list[str]:
    """Of the ROC curves, one chart an attack and kind of shadows."""
    keys = (f"roc/{row['knowledge']}/{row['attack']}" for row in results["rows"])
    return list(dict.fromkeys(keys))


def log_audit(
    run_dir: Path,
    mode: WandbMode,
    results: dict[str, Any],
    figures: Mapping[str, Figure],
) -> str:
    """Log one audit as one W&B run: its table, ROC curves, planes, figures and summary.

    Args:
        run_dir: the experiment's folder.
        mode: `offline` or `online`.
        results: what results.json holds; docs/dashboard.md names the keys.
        figures: by name.

    Returns:
        The entity that has the run; empty offline.
    """
    experiment, rows = results["experiment"], results["rows"]
    columns = [key for key in rows[0] if key not in ("tpr", "by_target")]
    table = wandb.Table(columns=columns, data=[[row[key] for key in columns] for row in rows])
    charts: dict[str, Any] = {"audit/table": table}
    charts |= {f"figures/{name}": wandb.Image(figure) for name, figure in figures.items()}
    for found in results["tables"]:
        charts[finding_key(found)] = wandb.Table(columns=found["columns"], data=found["rows"])
    for metric in METRICS:
        title = f"test accuracy against {metric}"
        charts[f"plane/{metric}"] = wandb.plot.scatter(table, "accuracy", metric, title)
    summary = {accuracy_key(row["variant"]): row["accuracy"] for row in rows}
    summary |= {
        risk_key(metric, row["variant"]): row[metric]
        for row in rows
        if row["strongest"]
        for metric in METRICS
    }
    curves: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        attack = f"{row['knowledge']}/{row['attack']}"
        curves.setdefault(attack, {})[row["variant"]] = row["tpr"]
        summary |= {f"{attack}/{row['variant']}/{metric}": row[metric] for metric in METRICS}
    for attack, by_variant in curves.items():
        charts[f"roc/{attack}"] = wandb.plot.line_series(
            xs=results["fpr"],
            ys=list(by_variant.values()),
            keys=list(by_variant),
            title=f"ROC of {attack}",
            xname="false positive rate",
        )
    with wandb.init(
        project=PROJECT,
        name="audit",
        id=audit_id(results),
        resume="allow",
        dir=run_dir,
        group=run_dir.resolve().name,
        job_type="audit",
        config=experiment,
        mode=mode,
        settings=SETTINGS,
    ) as run:
        run.log(charts)
        run.summary.update(summary)
    entity: str = run.entity
    return entity


def publish(
    run_dir: Path, mode: WandbMode, results: dict[str, Any], figures: Mapping[str, Figure]
) -> str | None:
    """Log an audit, and save its view where W&B can be reached; a failure only warns.

    Returns:
        The view's URL, if there is one.
    """
    try:
        entity = log_audit(run_dir, mode, results, figures)
        if mode != "online":
            return None
        # imported late: it takes as long again as wandb, and its failure must not cost an audit
        from reporting.workspace import save_view

        return save_view(run_dir, entity, results)
    except Exception as error:
        warnings.warn(f"W&B failed, the audit is there without it: {error!r}", stacklevel=2)
        return None
