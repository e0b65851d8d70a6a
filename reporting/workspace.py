"""One W&B view per experiment: the audit, what quantization did, and training curves by role.

`python -m reporting.workspace runs/NAME --entity TEAM` saves it for runs that were logged
offline, once `wandb sync` has uploaded them; `audit.py --wandb online` does it by itself.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import wandb
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces import expr

from attacks.metrics.measures import Metric
from reporting.answer import QUESTIONS
from reporting.results import METRICS, Results
from reporting.results_json import read_results
from reporting.text import NAMES
from reporting.wandb_keys import audit_id, figure_key, finding_key, risk_key, roc_key
from storage.command_line import make_command_line
from storage.files import as_unicode, write_text
from storage.wandb_project import PROJECT, accuracy_key, check_key

CURVES = ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "train/learning_rate")
STEP = "trainer/global_step"  # Lightning logs the learning rate without its epoch


def make_workspace(entity: str, name: str, results: Results) -> ws.Workspace:
    """Make the view of one experiment; nothing is sent.

    Args:
        entity: the W&B user or team that owns the project.
        name: name of the view, that of the experiment.
        results: results of the audit, which determine every key that it logs.
    """
    variants = list(results.variants)
    ends: tuple[Metric, ...] = ("auc", results.tail)
    risks = {end: [risk_key(end, variant) for variant in variants] for end in ends}
    # audits from before there were snapshots have three statements
    answer = [f"**{q}** {s}" for q, s in zip(QUESTIONS, results.answer, strict=False)]
    planes = [
        _chart(f"plane/{metric}", "scatter", {"x": "accuracy", "y": metric}, title=metric)
        for metric in METRICS
    ]
    axes = {axis: axis for axis in ("step", "lineKey", "lineVal")}
    rocs = [
        _chart(key, "lineseries", axes, title=key, xname="false positive rate")
        for key in dict.fromkeys(map(roc_key, results.rows))
    ]
    pictures = [
        wr.MediaBrowser(title=key, media_keys=[key], num_columns=1)
        for key in map(figure_key, results.figures)
    ]
    tables = [wr.WeavePanelSummaryTable(table_name=finding_key(t)) for t in results.tables]
    bars = [_bars(f"{NAMES[end]}, highest of all attacks", keys) for end, keys in risks.items()]
    bars.append(_bars("test accuracy", [accuracy_key(v) for v in variants]))
    # not by W&B's group, the folder's name, which another experiment may share
    if results.experiment:
        mine = expr.Config("id") == results.experiment.id
    else:  # trained elsewhere: the audit is the only run
        mine = expr.Metric("ID") == audit_id(results)
    sections = [
        _section("Answer", [wr.MarkdownPanel(markdown="\n\n".join(answer))], columns=1),
        _section("Audit", [wr.WeavePanelSummaryTable(table_name="audit/table")], columns=1),
        _section("Figures", pictures, columns=2),
        _section("Leakage and accuracy", [*planes, *bars], columns=2),
        _section("Training, by role", [_curve(key) for key in CURVES], columns=3),
        _section("Findings", tables, columns=1, is_open=False),
        _section("ROC curves", rocs, columns=3, is_open=False),
    ]
    return ws.Workspace(
        entity=entity,
        project=PROJECT,
        name=name,
        sections=[section for section in sections if section.panels],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=100),
        runset_settings=ws.RunsetSettings(
            filters=expr.And(mine),
            groupby=[expr.Metric("JobType")],
            order=[expr.Ordering(expr.Metric("Name"))],
        ),
    )


def _section(name: str, panels: Sequence[Any], columns: int, is_open: bool = True) -> ws.Section:
    layout = ws.SectionLayoutSettings(columns=columns, rows=max(1, -(-len(panels) // columns)))
    return ws.Section(name=name, panels=list(panels), is_open=is_open, layout_settings=layout)


def _chart(key: str, kind: str, fields: dict[str, str], **strings: str) -> wr.CustomChart:
    """A chart over the table that `wandb.plot` logged for it."""
    return wr.CustomChart(
        query={"summaryTable": {"tableKey": f"{key}_table"}},
        chart_name=f"wandb/{kind}/v0",
        chart_fields=fields,
        chart_strings=strings,
    )


def _bars(title: str, keys: Sequence[str]) -> wr.BarPlot:
    return wr.BarPlot(title=title, metrics=list(keys), groupby="JobType")


def _curve(key: str) -> wr.LinePlot:
    """Mean over the models of a role, with their range."""
    style = {"groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
    return wr.LinePlot(title=key, x=STEP, y=[key], groupby="JobType", **style)


def save_view(run_dir: Path, entity: str, results: Results) -> str:
    """Save the view of an experiment, or update the view that was saved before.

    Returns:
        The URL of the view, which is also kept in the run folder.

    Raises:
        ValueError: W&B does not find the view that was saved before.
    """
    made, place = (
        make_workspace(entity, as_unicode(run_dir.resolve().name), results),
        run_dir / "wandb.url",
    )
    if place.exists():
        try:
            before = ws.Workspace.from_url(place.read_text(encoding="utf-8").strip())
        except ValueError as error:
            raise ValueError(
                f"{place} names a view that is not found ({error}). Delete it for a new view."
            ) from error
        before.sections, before.runset_settings = made.sections, made.runset_settings
        made = before
    url: str = made.save().url
    write_text(place, url + "\n")
    return url


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = make_command_line("python -m reporting.workspace", __doc__)
    parser.add_argument("run_dir", type=Path, help="folder whose runs and audit are in W&B")
    parser.add_argument("--entity", type=str, required=True, help="W&B user or team")
    config = parser.read(arguments)
    try:
        results = read_results(config.run_dir)
        check_key("online")
        print(f"View: {save_view(config.run_dir, config.entity, results)}")
    except (ValueError, OSError, wandb.Error) as error:
        sys.exit(f"workspace: {error}")


if __name__ == "__main__":
    main()
