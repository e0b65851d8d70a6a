"""The page's figures: heat maps of accuracy and leakage, how both change, and the risk map."""

from collections.abc import Sequence

from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.colors import to_hex
from scipy.stats import t as student
from torch import Tensor

from attacks.metrics.intervals import CONFIDENCE, Estimate
from docs.continual.fleets import Fleet, Fleets
from docs.continual.measures import ACCURACY
from docs.continual.numbers import LOSS, STRONGEST, Side, can_attack, values
from reporting.charts import Axis, Chart, Guide, Panel, Series
from reporting.continual_charts import tasks_chart

BESIDE = 3  # learners beside each other in the figure of heat maps
MAPS = "accuracy", "AUC"  # what the first panels of a learner's own figure show


def all_of(fleets: Fleets) -> dict[str, Chart]:
    """Every figure, by name."""
    figures = {"changes": changes(fleets), "maps": maps(fleets)}
    mapped = [name for name, fleet in fleets.items() if fleet.leak.risk_map is not None]
    return figures | ({"risk": risk(fleets, mapped)} if mapped else {})


def changes(fleets: Fleets) -> Chart:
    """How accuracy and leakage of earlier tasks change, by the strongest attack and by a loss."""
    panels = []
    for attack, title in ((STRONGEST, "the strongest attack"), (LOSS, "a loss attack")):
        shown = [name for name in fleets if can_attack(fleets, Side(name, "end", attack))]
        series = [_point(fleets[name], name, attack, [*fleets].index(name)) for name in shown]
        axes = Axis("change of test accuracy of earlier tasks"), Axis("change of their AUC")
        panels.append(Panel(series, *axes, title, "", [Guide(y=0.0), Guide(x=0.0)]))
    legend = [
        line._replace(x=(), y=(), x_interval=None, y_interval=None) for line in panels[0].series
    ]
    return Chart([panels], (12, 4.6), legend=legend, share_y="all")


def risk(fleets: Fleets, names: Sequence[str]) -> Chart:
    """AUC that leverages let expect, and AUC that paired LiRA finds, by groups of examples."""
    panels = []
    for name in names:
        known = fleets[name].leak.risk_map
        if known is None:
            continue
        found = [group.found for group in known.groups]
        points = Series(
            known.attack,
            [group.expected for group in known.groups],
            [estimate.value for estimate in found],
            y_interval=([e.low for e in found], [e.high for e in found]),
            marker="o",
        )
        axes = Axis("AUC expected from leverages, one column"), Axis("AUC found")
        panels.append(Panel([points], *axes, name, "", [Guide()]))
    return Chart([panels], (4.2 * len(panels), 3.6), share_y="all")


def maps(fleets: Fleets) -> Chart:
    """Accuracy and leakage of every task after every stage, side by side for each learner."""
    panels = list[Panel | None]()
    for name, fleet in fleets.items():
        chart = tasks_chart(fleet.leak)
        for kind, panel in zip(MAPS, chart.panels[0] if chart else (), strict=False):
            if panel is not None:
                panels.append(panel._replace(title=f"{name}: {kind}"))
    width = 2 * min(BESIDE, len(fleets))
    panels += [None] * (-len(panels) % width)
    rows = [panels[start : start + width] for start in range(0, len(panels), width)]
    return Chart(rows, (2.6 * width, 2.6 * len(rows)))


def _point(fleet: Fleet, name: str, attack: str, place: int) -> Series:
    x = _mean(values(fleet, Side(name, "change", ACCURACY), ACCURACY))
    y = _mean(values(fleet, Side(name, "change", attack), "auc"))
    colour = to_hex(colormaps["tab20"](place))
    marker = "osD^vP*X<>h"[place % 11]
    bars = _bar(x), _bar(y)
    return Series(name, [x.value], [y.value], *bars, colour=colour, marker=marker)


def _mean(differences: Float[Tensor, " targets"]) -> Estimate:
    """Mean over targets with Student's interval, also where all targets differ by the same."""
    count, mean = len(differences), differences.mean().item()
    quantile = float(student.ppf((1 + CONFIDENCE) / 2, count - 1))
    margin = quantile * differences.std().item() / count**0.5
    return Estimate(mean, mean - margin, mean + margin)


def _bar(estimate: Estimate) -> tuple[list[float], list[float]]:
    return [estimate.low], [estimate.high]
