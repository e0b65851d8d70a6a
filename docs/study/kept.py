"""What is kept of an audit's results, as JSON beside the page."""

import json
from typing import Any

from docs.study.claims import TERNARY
from docs.study.control import RECALIBRATED, variants_of
from docs.study.figures import STANDING
from docs.study.fleets import FLEETS
from docs.study.numbers import DIGITS, Study
from reporting.results import Results
from reporting.results_json import as_json


def keep(results: Results) -> str:
    """What the first edition rests on, rounded: no curves, and only what its figures draw."""
    scores = results.findings["z_scores"]
    findings = {"z_scores": {variant: scores[variant] for variant in STANDING}}
    findings |= {key: results.findings[key] for key in ("joint_lira", "calibration")}
    return as_kept(results, findings)


def keep_control(results: Results) -> str:
    """What the first edition rests on of its control: the rows.

    Raises:
        ValueError: it has no attack with recalibrated shadows, or no ternary variant of the study.
    """
    if not any(row.knowledge == RECALIBRATED for row in results.rows):
        raise ValueError(
            f"A control needs attacks with {RECALIBRATED} shadows, {results.name} has "
            f"none. Run `python audit.py` on its run folder again, and then this command."
        )
    if not variants_of(Study(results)):
        raise ValueError(
            f"A control needs {' or '.join(TERNARY)}, {results.name} has none. Train it with "
            "`--quantize` for them."
        )
    return as_kept(results, {})


def keep_fleet(name: str, results: Results) -> str:
    """What the second edition rests on of one fleet: the rows, and bounds on epsilon.

    Raises:
        ValueError: the fleet lacks what its section is about.
    """
    if missing := FLEETS[name].lacks(Study(results)):
        raise ValueError(f"`--{name}` needs {missing[0]}, {results.name} has none. {missing[1]}")
    private = any(facts.proven for facts in results.variants.values())
    return as_kept(results, {"epsilon": results.findings["epsilon"]} if private else {})


def as_kept(results: Results, findings: dict[str, Any]) -> str:
    """Results as JSON, rounded, with these findings alone and without curves."""
    variants = {v: facts._replace(quantization=None) for v, facts in results.variants.items()}
    rows = [row._replace(tpr=[]) for row in results.rows]
    kept = results._replace(
        variants=variants,
        rows=rows,
        findings=findings,
        tables=[],
        sentences=[],
        answer=[],
        figures=(),
    )
    text = json.dumps(_rounded(json.loads(as_json(kept))), separators=(",", ":"))
    return text.replace('{"variant"', '\n{"variant"')  # one line per row, to compare versions by


def _rounded(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
