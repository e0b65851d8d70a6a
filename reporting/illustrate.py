"""All figures of the report, with their captions."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxtyping import UInt8
from matplotlib.figure import Figure
from torch import Tensor

from attacks.evaluate import Row
from attacks.findings import Findings
from reporting.charts import Chart
from reporting.figures import layers_chart, plane_chart, roc_chart
from reporting.findings_figures import convergence_chart, gallery_figure
from reporting.matplotlib_charts import draw
from storage.records import Precision

CAPTIONS = {
    "plane": "Test accuracy against leakage by the strongest attack, with 95% intervals.",
    "roc": "ROC curves of the strongest attack on each variant, mean over targets.",
    "convergence": "AUC of the strongest attack with matched shadows against the number of shadows "
    "that it has, from the same fleet, with 95% intervals over the targets. Where a curve still "
    "rises, more shadows would find more.",
    "gallery": "The most exposed training images of each variant, by one attack: position in the "
    "pool, and the share of a target's non-members that score lower, mean over the targets trained "
    "on it.",
    "layers": "What became of each layer, in the network's order, mean over {models} audited "
    "models. Left: the share of its weights that are not at the code nearest to the "
    "trained weight. Right: the squared error of its output, or of the block's that it "
    "was reconstructed with, over the squared full-precision output, on the calibration "
    "images. Rounding to nearest, which moves no weight, is left out.",
}


class Drawing(NamedTuple):
    """A figure for papers, and the chart that it was drawn from, if there is one."""

    caption: str
    figure: Figure
    chart: Chart | None = None


def illustrate(
    rows: Sequence[Row],
    precisions: Mapping[str, Precision],
    found: Findings,
    images: UInt8[Tensor, "examples channels height width"] | None,
) -> dict[str, Drawing]:
    """Figures by name: those in `CAPTIONS` that there is something to draw for.

    Args:
        rows: what every attack achieves.
        precisions: what else is known, by variant.
        found: what follows.
        images: of the pool, if they are at hand.
    """
    accuracy = {variant: known.accuracy for variant, known in precisions.items()}
    made = {variant: known.made for variant, known in precisions.items()}
    charts = {
        "plane": plane_chart(rows, accuracy),
        "roc": roc_chart(rows, rows[0].summary.non_members),
        "convergence": convergence_chart(found.convergence) if found.convergence else None,
        "layers": layers_chart(made),
    }
    counts = sorted({making.models for making in made.values() if making})
    models = " to ".join(dict.fromkeys(map(str, counts[:1] + counts[-1:])))
    drawings = {}
    for name, caption in CAPTIONS.items():
        caption, chart = caption.format(models=models), charts.get(name)
        if chart is not None:
            drawings[name] = Drawing(caption, draw(chart), chart)
        elif name == "gallery" and images is not None:
            drawings[name] = Drawing(caption, gallery_figure(images, found.exposures))
    return drawings
