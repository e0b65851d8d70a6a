"""Write docs/study.md and its figures from an audit's results.

    python -m docs.study runs/study/cifar10_small   # keeps the results beside the document
    python -m docs.study                            # from those that are kept

Every number, verdict and figure in the document is computed here; none is typed.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from attacks.metrics.intervals import Estimate
from attacks.metrics.measures import Metric
from docs.study import figures
from docs.study.numbers import (
    ATTACKERS,
    MARGIN,
    MATCHED_BEST,
    MATCHED_LIRA,
    PAPERS,
    UNQUANTIZED_BEST,
    Compared,
    Study,
    compare,
)
from reporting.matplotlib_charts import draw
from reporting.results import Results, as_json, parse_results, read_results
from reporting.text import show, show_difference
from storage.files import write_whole

HERE = Path(__file__).parent
KEPT = HERE / "results.json"
DIGITS = 5  # of what is kept
METHODS = ("adaround", "brecq", "obc")
MARKS = {"alike": "≈", "less": "↓", "more": "↑", "unclear": "?"}
# Fig. 1 of arXiv:2512.15335, CIFAR-100, ResNet-18, LiRA online: TPR at 0.1% FPR
PAPERS_TPR = {
    **{"full": 0.3683, "adaround-w4": 0.3712, "adaround-w2": 0.2009, "adaround-w1.58": 0.0028},
    **{"brecq-w4": 0.3650, "brecq-w2": 0.2934, "brecq-w1.58": 0.0011},
    **{"obc-w4": 0.3647, "obc-w2": 0.2288, "obc-w1.58": 0.0189},
}


def keep(results: Results) -> str:
    """What the page rests on, as JSON, rounded: no curves, and only the pictures that it draws."""
    scores = results.findings["z_scores"]
    findings = {"z_scores": {variant: scores[variant] for variant in figures.STANDING}}
    findings |= {key: results.findings[key] for key in ("joint_lira", "calibration")}
    variants = {v: facts._replace(quantization=None) for v, facts in results.variants.items()}
    rows = [row._replace(tpr=[]) for row in results.rows]
    kept = results._replace(
        variants=variants, rows=rows, findings=findings, tables=[], sentences=[], figures=()
    )
    text = json.dumps(_rounded(json.loads(as_json(kept))), separators=(",", ":"))
    return text.replace('{"variant"', '\n{"variant"')  # one line per row, to compare versions by


def _rounded(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def points(estimate: Sequence[float]) -> str:
    """A difference of shares in percentage points, with its sign."""
    value, low, high = (100 * number for number in estimate[:3])
    return f"{value:+z.1f} ({low:+z.1f} to {high:+z.1f})"


def share(estimate: Estimate | None) -> str:
    """A share of a gain, which may be below none and above all of it."""
    if estimate is None:
        return "no gain shown"
    value, low, high = (100 * number for number in estimate[:3])
    return f"{value:.0f}% ({low:.0f} to {high:.0f})"


def mark(compared: Compared, metric: Metric = "auc") -> str:
    """A difference with its interval, and a sign for what it shows."""
    if metric == "auc":
        return f"{MARKS[compared.verdict()]} {show_difference(compared.estimate)}"
    return f"{MARKS[compared.verdict(0)]} {points(compared.estimate)}"


def everything(study: Study) -> str:
    """All variants, as a table of levels."""
    rows = []
    for variant in study.variants:
        best = [study.best(variant, attacker) for attacker in ATTACKERS.values()]
        papers = PAPERS_TPR.get(variant)
        rows.append(
            (
                variant,
                show(study.results.variants[variant].accuracy, percent=True),
                *(show(row.summary.auc) for row in best),
                *(show(row.summary.tpr_01pct, percent=True) for row in best[:2]),
                "unknown" if papers is None else f"{100 * papers:.1f}%",
            )
        )
    columns = (
        *("variant", "test accuracy", *(f"AUC, {name}" for name in ATTACKERS)),
        *("TPR at 0.1% FPR†, LiRA online, full-precision shadows", "the same, matched shadows"),
        "the paper's, full-precision shadows",
    )
    return table(columns, rows)


def against(study: Study, pairs: Sequence[tuple[str, str]], metric: Metric = "auc") -> str:
    """How much more accurate the first is than the second, and how much more it leaks."""
    columns = [study.leaks(pairs, attacker, metric) for attacker in ATTACKERS.values()]
    accuracy = compare([study.accuracies(a) - study.accuracies(b) for a, b in pairs])
    names = [a if b == "full" else f"{a} beyond {b}" for a, b in pairs]
    rows = [
        (name, points(accuracy[i].estimate), *(mark(column[i], metric) for column in columns))
        for i, name in enumerate(names)
    ]
    return table(("variant", "test accuracy", *ATTACKERS), rows)


def tally(study: Study, pairs: Sequence[tuple[str, str]]) -> str:
    """How many of the first of each pair leak less than, more than, or like the second."""
    words = {"alike": f"within ±{MARGIN}", "less": "less", "more": "more", "unclear": "unclear"}
    lines = []
    for name, attacker in ATTACKERS.items():
        verdicts = Counter(compared.verdict() for compared in study.leaks(pairs, attacker))
        counts = [f"{count} {words[verdict]}" for verdict, count in verdicts.most_common()]
        lines.append(f"- {name}: {', '.join(counts)}.")
    return "\n".join(lines)


def hidden(study: Study, variants: Sequence[str]) -> str:
    """What full-precision shadows do not see."""
    attacks = PAPERS, None
    areas = [study.shadows(variants, attack) for attack in attacks]
    rates = study.shadows(variants, PAPERS, "tpr_1pct")
    rows = []
    for i, variant in enumerate(variants):
        lira, best = (
            (mark(area[i]), share(study.mismatch(variant, attack)))
            for area, attack in zip(areas, attacks, strict=True)
        )
        rows.append((variant, *lira, mark(rates[i], "tpr_1pct"), *best))
    columns = (
        *("variant", "AUC, LiRA online", "share of the gain that was mismatch"),
        "TPR at 1% FPR, LiRA online",
        *("AUC, strongest attack", "share of the gain that was mismatch"),
    )
    return table(columns, rows)


def versions(study: Study) -> str:
    """What an attacker gains who holds several versions."""
    rows = []
    for held in study.results.findings["joint_lira"]:
        names, gain = held["variants"], held["gain"]
        compared = Compared(Estimate(**gain["estimate"]), gain["p"], gain["p_holm"])
        text = " + ".join(names) if len(names) < 4 else f"all {len(names)}"
        rows.append((text, show(Estimate(**held["summary"]["auc"])), held["best"], mark(compared)))
    columns = "versions", "AUC, joint LiRA", "leaks most alone", "beyond its strongest attack"
    return table(columns, rows)


def calibration(study: Study) -> str:
    """Whether calibration images are told from other members."""
    areas = study.results.findings["calibration"].items()
    return table(("variant", "AUC"), [(name, show(Estimate(**area))) for name, area in areas])


def finding(study: Study) -> str:
    """The study in two sentences, which the README repeats."""
    ternary = [f"{method}-w1.58" for method in METHODS]
    shares = [study.mismatch(variant, PAPERS) for variant in ternary]
    hidden = [100 * share.value for share in shares if share is not None]
    leaks = study.leaks([(variant, "full") for variant in ternary], MATCHED_LIRA)
    gains = [-compared.estimate.value for compared in leaks]
    return (
        "Ternary weights look more private than they are. Between "
        f"{min(hidden):.0f}% and {max(hidden):.0f}% of the gain\n"
        "that the paper's attack sees vanishes once the attacker quantizes its shadow models too;\n"
        f"the real gain is {min(gains):.2f} to {max(gains):.2f} AUC."
    )


def render(study: Study) -> str:
    """Fill the document."""
    pages = Environment(
        loader=FileSystemLoader(HERE),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    tables = (finding, everything, against, tally, hidden, versions, calibration)
    functions = {table.__name__: partial(table, study) for table in tables}
    page = pages.get_template("study.md.jinja")
    return page.render(
        study=study,
        methods=METHODS,
        margin=MARGIN,
        matched=MATCHED_BEST,
        unquantized=UNQUANTIZED_BEST,
        **functions,
    )


def main(arguments: Sequence[str]) -> None:
    """Keep the results of a run, if one is named, and write the page and its figures."""
    try:
        if arguments:
            text = keep(read_results(Path(arguments[0])))
            write_whole(KEPT, lambda kept: kept.write_text(text))
        study = Study(parse_results(KEPT, "Name the run folder that they come from"))
    except (ValueError, OSError) as error:
        sys.exit(f"docs.study: {error}")
    for name, chart in figures.all_of(study).items():
        figure = draw(chart)
        write_whole(KEPT.with_name(f"{name}.png"), partial(figure.savefig, format="png", dpi=110))
    page = render(study)
    write_whole(HERE.parent / "study.md", lambda document: document.write_text(page))
