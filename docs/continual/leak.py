"""What an audit finds of learners in tasks, as it is kept and as it is read back."""

from collections.abc import Mapping, Sequence
from typing import Any

from attacks.continual.comparisons import Attacker, StateLeak, Transfer
from attacks.continual.leaks import ContinualLeak, TaskCell
from attacks.continual.precisions import Holder, PrecisionLeak
from attacks.continual.risk_map import RiskGroup, RiskMap
from attacks.continual.rows import TaskRow
from attacks.continual.utility import Utility
from attacks.continual.variants import VariantLeak
from attacks.metrics.differences import Difference
from attacks.metrics.intervals import Estimate, Summary
from attacks.metrics.measures import Metric
from docs.continual.measures import MEASURES


def shorten(found: Mapping[str, Any]) -> dict[str, Any]:
    """A finding with what the page reads of it.

    That is attacks on one network, and numbers by target right after a task and at the end.
    """
    ends, cells = len(found["stages"]), []
    for cell in found["cells"]:
        whole = cell["stage"] in (cell["task"], ends)
        rows = (row for row in cell["rows"] if row["holds"] == "snapshot")
        cells.append(cell | {"rows": [_shorten(row, MEASURES if whole else ()) for row in rows]})
    return {**found, "cells": cells}


def parse_leak(found: Mapping[str, Any]) -> ContinualLeak:
    """What learning in tasks leaks, from results.json."""
    read = _read(found)
    read["cells"] = [_cell(cell) for cell in read["cells"]]
    read["utility"] = Utility(**read["utility"])
    read["transfers"] = [Transfer(**transfer) for transfer in read["transfers"]]
    read["attackers"] = [Attacker(**attacker) for attacker in read["attackers"]]
    read["state"] = [StateLeak(**leak) for leak in read["state"]]
    read["variants"] = [VariantLeak(**leak) for leak in read["variants"]]
    read["precisions"] = [_precision(leak) for leak in read.get("precisions", ())]
    if read["risk_map"] is not None:
        groups = [RiskGroup(**group) for group in read["risk_map"]["groups"]]
        read["risk_map"] = RiskMap(**{**read["risk_map"], "groups": groups})
    return ContinualLeak(**read)


def _precision(leak: Mapping[str, Any]) -> PrecisionLeak:
    return PrecisionLeak(**{**leak, "holders": [Holder(**known) for known in leak["holders"]]})


def _cell(cell: Mapping[str, Any]) -> TaskCell:
    rows = [TaskRow(**{**row, "summary": Summary(**row["summary"])}) for row in cell["rows"]]
    return TaskCell(**{**cell, "rows": rows})


def _shorten(row: Mapping[str, Any], measures: Sequence[Metric]) -> dict[str, Any]:
    return {**row, "by_target": {metric: row["by_target"][metric] for metric in measures}}


def _read(value: Any) -> Any:  # noqa: ANN401
    """The same with estimates and differences wherever a value is one."""
    if isinstance(value, list):
        return [_read(item) for item in value]
    if not isinstance(value, dict):
        return value
    read = {key: _read(item) for key, item in value.items()}
    for kind in (Estimate, Difference):
        if {*read} == {*kind._fields}:
            return kind(**read)
    return read
