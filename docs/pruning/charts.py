"""The page's figures: what is left of each layer, and leakage against accuracy."""

from docs.pruning.fleets import Fleets
from reporting.charts import Chart, Panel
from reporting.compare import enter
from reporting.compare_figure import comparison_chart
from reporting.pruning import pruning_chart

KINDS = ("matched", "none")  # of shadows that the plane shows, so that each network has one point


def all_of(fleets: Fleets) -> dict[str, Chart]:
    """Every figure, by name."""
    return {"plane": plane(fleets), "widths": layers(fleets)}


def plane(fleets: Fleets) -> Chart:
    """Accuracy against leakage at both ends: a colour per fleet, early stopping as a curve."""
    results = {
        name: fleets.of(name).results._replace(
            rows=[row for row in fleets.of(name).results.rows if row.knowledge in KINDS]
        )
        for name in fleets.names
    }
    chart = comparison_chart(enter(results))
    return chart._replace(panels=chart.panels[:1], size=(13, 5.5))


def layers(fleets: Fleets) -> Chart:
    """Outputs of each layer by method, and how stable the channels were where that was asked."""
    widths, stability = list[Panel](), list[Panel]()
    for method, study in fleets.pruned.items():
        if study.results.pruned is None:  # is refused where fleets are kept
            continue
        for row in pruning_chart(study.results.pruned).panels:
            own, *more = (panel for panel in row if panel is not None)
            widths.append(own._replace(title=method, legend=""))
            stability += [panel._replace(title=f"{method}: stability") for panel in more]
    panels = [*widths, *stability]
    return Chart([panels], (3.6 * len(panels), 4))
