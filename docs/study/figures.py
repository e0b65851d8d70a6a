"""The study's figures, as charts."""

from collections.abc import Mapping, Sequence
from typing import Any

from attacks.metrics.intervals import Estimate
from attacks.metrics.measures import Metric
from docs.study.claims import METHODS, TERNARY
from docs.study.numbers import MATCHED_LIRA, PAPERS, Attacker, Study
from reporting.charts import Axis, Chart, Guide, Panel, Series

WIDTHS = ("w4", "w2", "w1.58")
STANDING = ("full", *TERNARY)
LAST = {"ternary": "", "2": "-last2", "4": "-last4", "8": "-last8", "32": "-last32"}
SHADOWS = {
    "matched": "shadows quantized like the target",
    "unquantized": "full-precision shadows",
}
COLOURS = {"adaround": "tab:blue", "brecq": "tab:orange", "obc": "tab:green"}
MARKERS = {"adaround": "o", "brecq": "s", "obc": "D"}


def all_of(study: Study) -> dict[str, Chart]:
    """Every figure, by name."""
    return {
        "plane": plane(study),
        "bits": bits(study),
        "signals": signals(study.results.findings["z_scores"]),
        "last_layer": last_layer(study),
    }


def plane(study: Study) -> Chart:
    """Fig. 1 of arXiv:2512.15335 by both attackers: accuracy against TPR at 0.1% FPR."""
    panels = []
    for attacker in (PAPERS, MATCHED_LIRA):
        series = []
        for method in METHODS:
            variants = ["full", *(f"{method}-{width}" for width in WIDTHS)]
            utility = _numbers(study, variants, attacker, "accuracy")
            leak = _numbers(study, variants, attacker, "tpr_01pct")
            line = _series(method, [accuracy.value for accuracy in utility], leak, method)
            series.append(line._replace(x_interval=_interval(utility)))
        axes = Axis("test accuracy"), Axis("TPR at 0.1% FPR, LiRA online †")
        panels.append(Panel(series, *axes, SHADOWS[attacker.kinds[0]], legend="upper left"))
    title = "from right to left: full precision, 4, 2 and 1.58 bits"
    return Chart([panels], (10, 4.4), title, share_x="all", share_y="all")


def bits(study: Study) -> Chart:
    """AUC and TPR at 1% FPR of LiRA online against bits, one column per method."""
    labels: dict[Metric, str] = {"auc": "AUC", "tpr_1pct": "TPR at 1% FPR"}
    guesses = {"auc": 0.5, "tpr_1pct": 0.01}
    rows = []
    for metric, label in labels.items():
        row = []
        for method in METHODS:
            variants = ["full", *(f"{method}-{width}" for width in WIDTHS)]
            ticks = [(i, variant.split("-w")[-1]) for i, variant in enumerate(variants)]
            axes = Axis("bits of a weight", ticks=ticks), Axis(label)
            series = _both(study, variants, metric, method)
            guides = [Guide(y=guesses[metric], label="guessing")]
            row.append(Panel(series, *axes, method, guides=guides))
        rows.append(row)
    entries = [line._replace(colour="gray", marker="o") for line in rows[0][0].series]
    return Chart(rows, (12.5, 6), "LiRA online", entries, share_x="all", share_y="row")


def signals(z_scores: Mapping[str, Any]) -> Chart:
    """Where members and others stand, and where each kind of shadows expects them."""
    sides = {
        "non_members": ("shadows_out", "non-members", "tab:blue"),
        "members": ("shadows_in", "members", "tab:red"),
    }
    rows = []
    for knowledge, name in (
        ("unquantized", "full-precision shadows"),
        ("matched", "matched shadows"),
    ):
        row = []
        for variant in STANDING:
            by_knowledge = z_scores[variant]
            scores = by_knowledge.get(knowledge, by_knowledge["matched"])
            series = []
            for targets, (shadows, label, colour) in sides.items():
                there, expected = ([*scores[s]["heights"], 0.0] for s in (targets, shadows))
                line = Series(
                    f"targets: {label}", scores["edges"], there, colour=colour, steps=True
                )
                area = [0.0] * len(there), there
                series.append(line._replace(label="", y_interval=area, band=True))
                series.append(line._replace(dashes=()))
                line = line._replace(label=f"expected: {label}", y=expected, colour="black")
                series.append(line._replace(dashes=(2.0, 1.5), width=1.2))
            axes = Axis("z", limits=(-5.0, 7.0)), Axis("density")
            row.append(Panel(series, *axes, variant, name))
        rows.append(row)
    entries = [line for line in rows[0][0].series if line.label]
    return Chart(rows, (14, 6), legend=entries, share_x="all", share_y="all")


def last_layer(study: Study) -> Chart:
    """Accuracy and AUC against the bits of the last layer, at a ternary body."""
    x = Axis("bits of the last layer, the others ternary", ticks=list(enumerate(LAST)))
    row, lines = [], []
    for method in METHODS:
        variants = [f"{method}-w1.58{last}" for last in LAST.values()]
        leaks = _both(study, variants, "auc", method)
        row.append(Panel(leaks, x, Axis("AUC, LiRA online"), method, legend="lower right"))
        accuracy = _numbers(study, variants, MATCHED_LIRA, "accuracy")
        lines.append(_series(method, range(len(LAST)), accuracy, method))
    row.append(Panel(lines, x, Axis("test accuracy"), "utility", legend="lower right"))
    return Chart([row], (14, 3.8), share_x="all")


def _both(study: Study, variants: Sequence[str], metric: Metric, method: str) -> list[Series]:
    """LiRA online with both kinds of shadows: full-precision hollow, matched filled."""
    lines = []
    for attacker, dashes in ((PAPERS, (4.0, 2.0)), (MATCHED_LIRA, ())):
        estimates = _numbers(study, variants, attacker, metric)
        line = _series(SHADOWS[attacker.kinds[0]], range(len(variants)), estimates, method)
        lines.append(line._replace(dashes=dashes, filled=attacker is MATCHED_LIRA))
    return lines


def _numbers(
    study: Study, variants: Sequence[str], attacker: Attacker, metric: str
) -> list[Estimate]:
    if metric == "accuracy":
        return [study.results.variants[variant].accuracy for variant in variants]
    rows = [study.best(variant, attacker) for variant in variants]
    return [getattr(row.summary, metric) for row in rows]


def _interval(estimates: Sequence[Estimate]) -> tuple[list[float], list[float]]:
    return [e.low for e in estimates], [e.high for e in estimates]


def _series(label: str, x: Sequence[float], y: Sequence[Estimate], method: str) -> Series:
    return Series(
        label,
        x,
        [estimate.value for estimate in y],
        y_interval=_interval(y),
        colour=COLOURS[method],
        marker=MARKERS[method],
        dashes=(),
    )
