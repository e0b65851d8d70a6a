"""The figures of the report as data: rows and records in, charts out."""

from collections.abc import Mapping, Sequence
from math import ceil, isfinite, nan

from attacks.evaluate import FPR_GRID, Metric, Row
from attacks.game import Knowledge
from attacks.metrics.intervals import Estimate
from reporting.charts import Axis, Chart, Guide, Panel, Series
from reporting.styles import Look, by_method, legend, looks
from reporting.text import FEW, MARK, TITLES
from storage.records import Making


def _open_to(rows: Sequence[Row], variant: str, knowledge: Knowledge) -> list[Row]:
    """Attacks with one kind of shadows or none; against `full` both kinds are one."""
    kinds = ("none", "matched" if variant == "full" else knowledge)
    return [row for row in rows if row.variant == variant and row.knowledge in kinds]


def _alternative(row: Row, look: Look, group: str, metric: Metric = "auc") -> Series:
    """A series of one attack, still without points; of its group the strongest is drawn."""
    estimate: Estimate = getattr(row.summary, metric)
    return Series(
        f"{row.variant} ({row.attack})",
        colour=look.colour,
        variant=row.variant,
        knowledge=row.knowledge,
        attack=row.attack,
        group=group,
        rank=estimate.value,
    )


def roc_chart(rows: Sequence[Row], non_members: int) -> Chart:
    """ROC of the strongest attack on each variant, on log axes.

    A row of panels a quantization method, in each of which full precision is drawn again, and a
    column a kind of knowledge.
    """
    shown = looks(list(dict.fromkeys(row.variant for row in rows)))
    methods = by_method(shown)
    left = max(1 / non_members, FPR_GRID[0].item())  # below one false positive there is no curve
    several = len(methods) > 1
    x = Axis("false positive rate", log=True, limits=(left, 1))
    y = x._replace(label="TPR" if several else "true positive rate")
    guides, grid = [Guide(label="guessing")], FPR_GRID.tolist()

    def panel(method: str, knowledge: Knowledge) -> Panel:
        curves = [
            _alternative(row, look, variant)._replace(x=grid, y=row.curve, dashes=look.dashes)
            for variant, look in shown.items()
            if variant in methods[method]
            for row in _open_to(rows, variant, knowledge)
        ]
        title = f"Attacker with {TITLES[knowledge]}"
        return Panel(curves, x, y, title, method if several else "", guides, "lower right")

    panels = [[panel(method, knowledge) for knowledge in TITLES] for method in methods]
    height = 3.2 * len(methods) if several else 4.6
    return Chart(panels, (10, height), share_x="all", share_y="all")


def plane_chart(rows: Sequence[Row], accuracy: Mapping[str, Estimate]) -> Chart:
    """Utility against leakage, as Fig. 1 of arXiv:2512.15335, for both kinds of attacker."""
    few = min(row.summary.false_positives_01pct for row in rows) < FEW
    shown = looks(list(accuracy))
    x = Axis("test accuracy")
    at_01pct = Axis("TPR at 0.1% FPR" + (f" {MARK}" if few else ""))
    left = Panel(_points(rows, accuracy, shown, "auc"), x, Axis("AUC"), guides=[Guide(y=0.5)])
    right = Panel(_points(rows, accuracy, shown, "tpr_01pct"), x, at_01pct)
    title = "filled: shadows quantized like the target; hollow: full-precision shadows"
    return Chart([[left, right]], (11.5, 4.8), title, legend(shown, list(accuracy)))


def _points(
    rows: Sequence[Row],
    accuracy: Mapping[str, Estimate],
    shown: Mapping[str, Look],
    metric: Metric,
) -> list[Series]:
    size, bars = (8.0, 0.8) if len(accuracy) < 8 else (6.5, 0.4)
    points = []
    for variant, utility in accuracy.items():
        kinds: list[Knowledge] = ["matched"] if variant == "full" else ["matched", "full"]
        for knowledge in kinds:
            for row in _open_to(rows, variant, knowledge):
                leak: Estimate = getattr(row.summary, metric)
                series = _alternative(row, shown[variant], f"{variant} {knowledge}", metric)
                points.append(
                    series._replace(
                        x=[utility.value],
                        y=[leak.value],
                        x_interval=([utility.low], [utility.high]),
                        y_interval=([leak.low], [leak.high]),
                        marker=shown[variant].marker,
                        filled=knowledge == "matched",
                        size=size,
                        bars=bars,
                    )
                )
    return points


def layers_chart(made: Mapping[str, Making | None]) -> Chart | None:
    """What became of each layer: share of moved weights, and error before and after.

    A row of panels a recipe. None where there is nothing to see, as in rounding to nearest.
    """
    shown = looks(list(made))
    moved = {variant: making for variant, making in made.items() if making and making.moves}
    if not moved:
        return None
    recipes = list(dict.fromkeys(shown[variant].recipe for variant in moved))
    names = list(dict.fromkeys(layer.name for making in moved.values() for layer in making.layers))
    step = ceil(len(names) / 40)  # more names than that cannot be read
    x = Axis(ticks=list(enumerate(names))[::step], upright=True)
    titles = (
        "share of weights not at the nearest code",
        "relative error; hollow: nearest codes, filled: chosen ones",
    )
    panels = []
    for recipe in recipes:
        some = [variant for variant in moved if shown[variant].recipe == recipe]
        shares = [_shares(moved[variant], names, variant, shown[variant]) for variant in some]
        errors = [
            series
            for variant in some
            for series in _errors(moved[variant], names, variant, shown[variant])
        ]
        left = Panel(shares, x, Axis(limits=(0, None)), titles[0], recipe)
        panels.append([left, Panel(errors, x, Axis(log=True), titles[1], recipe)])
    entries = [one for one in legend(shown, list(moved)) if one.label not in recipes]
    size = 12, 1.6 + 1.9 * len(recipes)
    return Chart(panels, size, legend=entries, share_x="all", share_y="col")


def _shares(made: Making, names: list[str], variant: str, look: Look) -> Series:
    return Series(
        variant,
        [names.index(layer.name) for layer in made.layers],
        [layer.flipped for layer in made.layers],
        colour=look.colour,
        marker="o",
        size=4,
        dashes=(),
        width=1,
        names=[layer.name for layer in made.layers],
        variant=variant,
    )


def _errors(made: Making, names: list[str], variant: str, look: Look) -> list[Series]:
    base = _shares(made, names, variant, look)
    before, after = (
        [error if error and isfinite(error) else nan for error in errors]  # nought has no logarithm
        for errors in zip(*((layer.before, layer.after) for layer in made.layers), strict=True)
    )
    dashed = base._replace(label=f"{variant}, nearest codes", dashes=(3.7, 1.6), filled=False)
    lines = dashed._replace(y=before), base._replace(label=f"{variant}, chosen codes", y=after)
    return [line for line in lines if any(error > 0 for error in line.y)]
