"""The report as one HTML page that needs no network: rows and figures in, text out."""

import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jinja2 import Environment
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from attacks.evaluate import Row, strongest
from attacks.figures import FEW, MARK
from attacks.making import Precision, count_units
from attacks.sections import Section
from attacks.show import show

COLUMNS = ("shadows", "attack", "AUC", "balanced acc.", "TPR at 1% FPR", "TPR at 0.1% FPR")
BEST = "★"
SHADOWS = {"matched": "matched shadows", "full": "full shadows", "none": "no shadows"}
NOTES = (
    "AUC: the chance that a random member gets a higher score than a random non-member; 0.5 is "
    "guessing. TPR at 1% FPR: the share of members found when 1% of the non-members are accused "
    "wrongly.",
    f"In brackets: 95% intervals; behind ±: the standard deviation over targets. {BEST} is the "
    "strongest attack on a variant, by AUC: the variant's risk, and slightly too high, for it is "
    f"the largest of several uncertain numbers. {MARK} rests on fewer than {FEW} false positives "
    "and proves little.",
    "Shadows: matched are quantized like the target; full are not quantized, as in the paper's "
    "code, which can understate the risk. Balanced accuracy is the best over all thresholds, so "
    "that guessing exceeds 0.5 by 0.43 sqrt(1 / members + 1 / non-members).",
)


def cells(row: Row, best: bool) -> tuple[str, ...]:
    """One row of the table, under `COLUMNS`."""
    summary = row.summary
    mark_1pct = MARK if summary.false_positives_1pct < FEW else ""
    mark_01pct = MARK if summary.false_positives_01pct < FEW else ""
    return (
        "-" if row.knowledge == "none" else row.knowledge,
        f"{row.attack} {BEST}" if best else row.attack,
        show(summary.auc, spread=summary.targets > 1),
        show(summary.balanced_accuracy),
        show(summary.tpr_1pct, percent=True) + mark_1pct,
        show(summary.tpr_01pct, percent=True) + mark_01pct,
    )


def sections(rows: Sequence[Row]) -> dict[str, list[tuple[str, ...]]]:
    """The cells of the table, by variant; the strongest attack on each is marked."""
    table: dict[str, list[tuple[str, ...]]] = {}
    for row in rows:
        best = row is strongest(rows, row.variant)
        table.setdefault(row.variant, []).append(cells(row, best))
    return table


def as_svg(figure: Figure, caption: str) -> Markup:
    """A figure to put straight into a page; `caption` keeps its ids apart from other figures'."""
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": caption}):  # random otherwise: a new file every time
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return Markup(svg[svg.index("<svg") :])


def headings(precisions: Mapping[str, Precision]) -> dict[str, str]:
    """What stands above each variant's part of the table."""
    return {
        variant: f"{variant}: test accuracy {show(accuracy, percent=True)}"
        + (f", {size:,} bytes" if size else "")
        for variant, (accuracy, size, *_) in precisions.items()
    }


class MakingCells(NamedTuple):
    """One row of the table of how each precision was made."""

    variant: str
    objective: str
    calibration: str
    kinds: str
    units: list[str]
    seconds: str


def makings(precisions: Mapping[str, Precision]) -> list[MakingCells]:
    """How each precision was made, of those that left it on record."""
    return [
        MakingCells(
            variant,
            made.objective,
            made.calibration or "-",
            count_units(made),
            made.units,
            f"{made.seconds:.1f}" if made.seconds >= 1 else f"{made.seconds:.2g}",
        )
        for variant, known in precisions.items()
        if (made := known.made) is not None
    ]


def render(
    title: str,
    rows: Sequence[Row],
    precisions: Mapping[str, Precision],
    figures: Mapping[str, Figure],
    basis: Mapping[str, str],
    recipe: str,
    comparisons: Sequence[str],
    summary: Section,
    tables: Sequence[Section],
) -> str:
    """Fill the page.

    Args:
        title: the experiment's name.
        rows: of the table.
        precisions: what else is known, by variant.
        figures: by caption.
        basis: what the numbers rest on, by label.
        recipe: the options that make them again, as YAML; empty where nothing can.
        comparisons: the differences between precisions, in sentences.
        summary: a line a variant.
        tables: of the findings.
    """
    return PAGE.render(
        title=title,
        columns=COLUMNS,
        notes=NOTES,
        headings=headings(precisions),
        sections=sections(rows),
        figures={caption: as_svg(figure, caption) for caption, figure in figures.items()},
        basis=basis,
        recipe=recipe,
        best=BEST,
        makings=makings(precisions),
        comparisons=comparisons,
        summary=summary,
        tables=tables,
    )


PAGE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
{% macro section(table) %}
<h2>{{ table.title }}</h2>
<div class="scroll"><table>
<thead><tr>
{% for column in table.columns %}<th scope="col">{{ column }}</th>{% endfor %}
</tr></thead>
<tbody>
{% for line in table.rows %}
<tr>{% for cell in line %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table></div>
<p class="note">{{ table.note }}</p>
{% endmacro %}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>BitLeak: {{ title }}</title>
<style>
:root { --line: #ddd; --soft: #f5f5f7; --ink: #1d1d1f; --dim: #595959; --risk: #b00020; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff;
       margin: 0 auto; padding: 1rem; max-width: 68rem; }
h1 { font-size: 1.6rem; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin-top: 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem .25rem .4rem; text-align: left; white-space: nowrap; }
thead th { border-bottom: 2px solid var(--ink); }
tbody th { background: var(--soft); border-top: 1px solid var(--line); }
.made td, .made th { vertical-align: top; }
.made td:nth-child(2), .made td:nth-child(4) { white-space: normal; min-width: 15rem; }
tr.best td { font-weight: 600; color: var(--risk); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; }
dt { color: var(--dim); }
dd { margin: 0; overflow-wrap: anywhere; }
pre { background: var(--soft); padding: .75rem; overflow-x: auto; font-size: .8rem; }
figure { margin: 1rem 0; }
figure svg { width: 100%; min-width: 40rem; height: auto; }
details > summary { cursor: pointer; margin: .5rem 0; }
figcaption, .note { color: var(--dim); font-size: .875rem; }
@media (max-width: 40rem) {
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .5rem; }
}
</style>
</head>
<body>
<h1>{{ title }}: what an attacker can still tell</h1>
<ul>
{% for sentence in comparisons %}
<li>{{ sentence }}</li>
{% endfor %}
</ul>
{{ section(summary) }}
<details><summary>Every attack</summary>
<div class="scroll"><table>
<thead><tr>{% for column in columns %}<th scope="col">{{ column }}</th>{% endfor %}</tr></thead>
{% for variant, lines in sections.items() %}
<tbody>
<tr><th colspan="{{ columns | length }}">{{ headings[variant] }}</th></tr>
{% for line in lines %}
<tr{% if best in line[1] %} class="best"{% endif %}>
{% for cell in line %}<td>{{ cell }}</td>{% endfor %}
</tr>
{% endfor %}
</tbody>
{% endfor %}
</table></div>
{% for note in notes %}
<p class="note">{{ note }}</p>
{% endfor %}
</details>
<h2>Figures</h2>
{% for caption, svg in figures.items() %}
<figure><div class="scroll">{{ svg }}</div><figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
{% for table in tables %}
{{ section(table) }}
{% endfor %}
{% if makings %}
<h2>How each precision was made</h2>
<div class="scroll"><table class="made">
<thead><tr><th scope="col">variant</th><th scope="col">what was minimised</th>
<th scope="col">calibration</th><th scope="col">units reconstructed</th>
<th scope="col">seconds a model</th></tr></thead>
<tbody>
{% for made in makings %}
<tr><th scope="row">{{ made.variant }}</th><td>{{ made.objective }}</td>
<td>{{ made.calibration }}</td>
<td>
{% if made.units | length > 4 %}
<details><summary>{{ made.kinds }}</summary>{{ made.units | join(", ") }}</details>
{% else %}
{{ made.units | join(", ") or "-" }}
{% endif %}
</td><td>{{ made.seconds }}</td></tr>
{% endfor %}
</tbody>
</table></div>
<p class="note">Mean seconds over the audited models, of wall time while they were made.</p>
{% endif %}
<h2>What the numbers rest on</h2>
<dl>
{% for label, text in basis.items() %}
<dt>{{ label }}</dt><dd>{{ text }}</dd>
{% endfor %}
</dl>
{% if recipe %}
<h2>How to reproduce it</h2>
<p>Save the options below as recipe.yaml and run the commands, with <code>--data.root</code> where
your data is elsewhere. On the same hardware, accelerator and <code>--threads</code> every model is
the same bit for bit.</p>
<pre>python train.py --config recipe.yaml --run_dir runs/again
python audit.py --run_dir runs/again</pre>
<pre>{{ recipe }}</pre>
{% endif %}
</body>
</html>
""")
