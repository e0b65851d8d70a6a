"""Figures of curves: ROC, layers and convergence; rows, records and findings in, charts out."""

from collections.abc import Mapping, Sequence
from math import ceil, isfinite, nan

from attacks.evaluate import FPR_GRID, Row
from attacks.findings import Convergence
from attacks.game import Knowledge
from attacks.metrics.intervals import Estimate
from reporting.charts import Axis, Chart, Choice, Guide, Panel, Series
from reporting.plane import alternative, attackers, open_to
from reporting.styles import Style, by_method, legend, styles_of
from reporting.text import SHADOWS, TITLES
from storage.records import QuantizationMeans


def roc_chart(rows: Sequence[Row], non_members: int) -> Chart:
    """ROC of the strongest attack on each variant, by AUC, on log axes.

    One row of panels per quantization method, each with full precision for comparison, and one
    column per kind of knowledge.
    """
    shown = styles_of(list(dict.fromkeys(row.variant for row in rows)))
    methods, kinds = by_method(shown), attackers(rows)
    left = max(1 / non_members, FPR_GRID[0].item())  # below one false positive there is no curve
    several = len(methods) > 1
    x = Axis("false positive rate", log=True, limits=(left, 1))
    y = x._replace(label="TPR" if several else "true positive rate")
    guides, grid = [Guide(label="guessing")], FPR_GRID.tolist()

    def panel(method: str, knowledge: Knowledge) -> Panel:
        curves = [
            alternative(row, style, variant)._replace(x=grid, y=row.tpr, dashes=style.dashes)
            for variant, style in shown.items()
            if variant in methods[method]
            for row in open_to(rows, variant, knowledge)
        ]
        title = f"Attacker with {TITLES.get(knowledge, SHADOWS[knowledge])}"
        return Panel(curves, x, y, title, method if several else "", guides, "lower right")

    panels = [[panel(method, knowledge) for knowledge in kinds] for method in methods]
    size = max(7, 5 * len(kinds)), 3.2 * len(methods) if several else 4.6
    return Chart(panels, size, share_x="all", share_y="all")


def layers_chart(made: Mapping[str, QuantizationMeans | None]) -> Chart | None:
    """What became of each layer: share of moved weights, and error before and after.

    One row of panels per scheme. None where there is nothing to show, as in rounding to nearest.
    """
    shown = styles_of(list(made))
    moved = {variant: means for variant, means in made.items() if means and means.moves}
    if not moved:
        return None
    schemes = list(dict.fromkeys(shown[variant].scheme for variant in moved))
    names = list(dict.fromkeys(layer.name for means in moved.values() for layer in means.layers))
    step = ceil(len(names) / 40)  # more names than 40 cannot be read
    x = Axis(ticks=list(enumerate(names))[::step], upright=True)
    titles = (
        "share of weights not at the nearest code",
        "relative error; hollow: nearest codes, filled: chosen ones",
    )
    panels = []
    for scheme in schemes:
        variants = [variant for variant in moved if shown[variant].scheme == scheme]
        shares = [_shares(moved[variant], names, variant, shown[variant]) for variant in variants]
        errors = [
            series
            for variant in variants
            for series in _errors(moved[variant], names, variant, shown[variant])
        ]
        left = Panel(shares, x, Axis(limits=(0, None)), titles[0], scheme)
        panels.append([left, Panel(errors, x, Axis(log=True), titles[1], scheme)])
    entries = [entry for entry in legend(shown, list(moved)) if entry.label not in schemes]
    size = 12, 1.6 + 1.9 * len(schemes)
    return Chart(panels, size, legend=entries, share_x="all", share_y="col")


def _shares(made: QuantizationMeans, names: list[str], variant: str, style: Style) -> Series:
    return Series(
        variant,
        [names.index(layer.name) for layer in made.layers],
        [layer.flipped for layer in made.layers],
        colour=style.colour,
        marker="o",
        size=4,
        dashes=(),
        width=1,
        names=[layer.name for layer in made.layers],
        choice=Choice(variant),
    )


def _errors(made: QuantizationMeans, names: list[str], variant: str, style: Style) -> list[Series]:
    base = _shares(made, names, variant, style)
    before, after = (
        [error if error and isfinite(error) else nan for error in errors]  # 0 has no logarithm
        for errors in zip(*((layer.before, layer.after) for layer in made.layers), strict=True)
    )
    dashed = base._replace(label=f"{variant}, nearest codes", dashes=(3.7, 1.6), filled=False)
    lines = dashed._replace(y=before), base._replace(label=f"{variant}, chosen codes", y=after)
    return [line for line in lines if any(error > 0 for error in line.y)]


def convergence_chart(convergence: Mapping[str, Convergence]) -> Chart:
    """AUC against the number of shadows, of the strongest attack on each variant.

    One panel per quantization method, each with full precision for comparison.
    """
    shown = styles_of(list(convergence))
    counts = sorted({count for _, points in convergence.values() for count in points})
    limits = counts[0] / 1.1, counts[-1] * 1.1
    x = Axis("shadow models", True, limits, [(count, str(count)) for count in counts])
    panels: list[Panel | None] = []
    for method, variants in by_method(shown).items():
        lines = [_line(variant, *convergence[variant], shown[variant]) for variant in variants]
        guides = [Guide(y=0.5)]
        panels.append(Panel(lines, x, Axis("AUC"), method, guides=guides, legend="best"))
    columns = min(3, len(panels))
    rows = ceil(len(panels) / columns)
    panels += [None] * (rows * columns - len(panels))
    grid = [panels[i * columns : (i + 1) * columns] for i in range(rows)]
    return Chart(grid, (max(8, 4 * columns), 3.4 * rows), share_y="all")


def _line(variant: str, attack: str, points: Mapping[int, Estimate], style: Style) -> Series:
    estimates = points.values()
    return Series(
        f"{variant} ({attack})",
        list(points),
        [estimate.value for estimate in estimates],
        y_interval=(
            [estimate.low for estimate in estimates],
            [estimate.high for estimate in estimates],
        ),
        colour=style.colour,
        marker=".",
        dashes=style.dashes,
        band=True,
        choice=Choice(variant, "matched", attack),
    )
