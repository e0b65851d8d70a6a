"""results.json: the results of an audit, written and read back."""

import json
from collections.abc import Mapping
from math import nan
from pathlib import Path
from typing import Any

from attacks.evaluate import FPR_GRID, Row
from attacks.game import Proven
from attacks.metrics.intervals import Estimate, Summary
from reporting.results import COUNTS, METRICS, Results, flatten, plain
from reporting.tables import Cell, Table
from storage.command_line import quote
from storage.experiment import Experiment, check_format
from storage.pruning import LayerWidth, PruningMeans
from storage.records import LayerMeans, QuantizationMeans, VariantFacts
from storage.searches import CostMeans, SearchMeans

FORMAT = 2
RESULTS = "results.json"


def as_json(results: Results) -> str:
    """The content of results.json."""
    experiment = results.experiment
    rows = []
    for row in results.rows:
        facts = results.variants[row.variant]
        by_target = row.by_target | {"accuracy": list(facts.accuracy_by_target)}
        lists = {"tpr": row.tpr, "by_target": by_target, "halves": row.halves}
        rows.append(flatten(row, facts) | plain(lists))
    return json.dumps(
        {
            "format": FORMAT,
            "name": results.name,
            "inputs": results.inputs,
            "experiment": experiment and experiment.as_dict(),
            "basis": results.basis,
            "fpr": FPR_GRID.tolist(),
            "variants": plain(results.variants),
            "rows": rows,
            "findings": results.findings,
            "tables": [table._asdict() for table in results.tables],
            "tail": results.tail,
            "answer": results.answer,
            "sentences": results.sentences,
            "figures": list(results.figures),
            "left_out": list(results.left_out),
            "audited": dict(results.audited),
            "seconds": dict(results.seconds),
            "warnings": list(results.warnings),
            "pruned": plain(results.pruned),
        },
        indent=1,
        allow_nan=False,
    )


def read_results(run_dir: Path) -> Results:
    """The audit of a run folder.

    Raises:
        FileNotFoundError: there is no audit in the folder.
        ValueError: the file is damaged, or another version of BitLeak wrote it.
    """
    path, again = run_dir / "audit" / RESULTS, f"`python audit.py --run_dir {quote(run_dir)}`"
    if not path.exists():
        raise FileNotFoundError(f"No audit in {run_dir}: no audit/{RESULTS} there. Run {again}.")
    return parse_results(path, f"Run {again} again")


def parse_results(path: Path, way_out: str) -> Results:
    """Read a file of results, wherever it lies.

    Raises:
        ValueError: the file is damaged, or another version of BitLeak wrote it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        content = error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged ({content}). Delete it. {way_out}.")
    check_format(path, content.get("format", 0), FORMAT, way_out)
    try:
        return _from_json(content)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}. Delete it. {way_out}.") from error


def _from_json(content: Mapping[str, Any]) -> Results:
    experiment = content["experiment"]
    return Results(
        name=content["name"],
        inputs=content["inputs"],
        experiment=experiment
        and Experiment(**{field: experiment[field] for field in Experiment._fields}),
        basis=content["basis"],
        variants={name: _read_facts(facts) for name, facts in content["variants"].items()},
        rows=[_read_row(line) for line in content["rows"]],
        findings=content["findings"],
        tables=[_read_table(table) for table in content["tables"]],
        answer=content["answer"],
        sentences=content["sentences"],
        figures=tuple(content["figures"]),
        left_out=tuple(content["left_out"]),
        audited=content.get("audited", {}),  # older files lack it
        seconds=content.get("seconds", {}),  # and it
        warnings=tuple(content.get("warnings", ())),  # unknown to older audits
        pruned=_read_pruned(content.get("pruned")),  # likewise
    )


def _read_pruned(pruned: Mapping[str, Any] | None) -> PruningMeans | None:
    if pruned is None:
        return None
    return PruningMeans(**{**pruned, "widths": [LayerWidth(**w) for w in pruned["widths"]]})


def _read_table(table: Mapping[str, Any]) -> Table:
    rows = [tuple(Cell(*cell) for cell in row) for row in table["rows"]]
    return Table(**{**table, "columns": tuple(table["columns"]), "rows": rows})


def _read_facts(facts: Mapping[str, Any]) -> VariantFacts:
    made = facts["quantization"]
    if made is not None:
        layers = [LayerMeans(**layer) for layer in made["layers"]]
        made = QuantizationMeans(**{**made, "layers": layers})
    accuracy = Estimate(**{key: _number(v) for key, v in facts["accuracy"].items()})
    proven = facts.get("proven")  # unknown to older audits
    known = proven and Proven(**proven)
    cost, search = facts.get("cost"), facts.get("search")  # and these
    return VariantFacts(
        accuracy,
        facts["bytes"],
        made,
        facts["accuracy_by_target"],
        known,
        cost and CostMeans(**cost),
        search and SearchMeans(**search),
    )


def _read_row(line: Mapping[str, Any]) -> Row:
    summary: dict[str, Any] = {key: line[key] for key in COUNTS}
    for metric in METRICS:
        ends = (_number(line[f"{metric}{end}"]) for end in ("", "_low", "_high", "_spread"))
        summary[metric] = Estimate(*ends)
    return Row(
        variant=line["variant"],
        knowledge=line["knowledge"],
        attack=line["attack"],
        summary=Summary(**summary),
        shadows=line["shadows"],
        tpr=line["tpr"],
        by_target={metric: line["by_target"][metric] for metric in METRICS},
        strongest=tuple(line["strongest"].split()),
        halves=line.get("halves", {}),  # older files lack them
    )


def _number(value: float | None) -> float:
    return nan if value is None else value
