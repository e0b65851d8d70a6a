"""All figures of the report, with their captions."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from attacks.findings import Convergence
from attacks.frontier import Frontier
from reporting.charts import Chart
from reporting.continual_charts import CAPTION as TASKS
from reporting.continual_charts import tasks_chart
from reporting.cost import bits_chart, choice_chart, cost_chart
from reporting.federated import ATTACKERS
from reporting.federated_chart import CAPTION as ROUNDS
from reporting.federated_chart import rounds_chart
from reporting.figures import convergence_chart, layers_chart, roc_chart
from reporting.gallery import Pictures, gallery_figure
from reporting.matplotlib_charts import draw
from reporting.plane import plane_chart
from reporting.pruning import CAPTION, pruning_chart
from reporting.results import Results

CAPTIONS = {
    "plane": "Test accuracy against risk at both ends, each by the attack that is strongest there, "
    "with 95% intervals. Dotted: guessing. An arrow names a point that lies beyond the edge."
    "{curves}",
    "roc": "ROC curves of the strongest attack on each variant by AUC, mean over targets. Each "
    "target has its own thresholds; in the tables, targets with fewer than 2 false positives share "
    "them.",
    "convergence": "AUC of the strongest attack with matched shadows against the number of its "
    "shadows, from the same fleet, with 95% intervals over the targets. Where a curve still rises, "
    "more shadows would find more.",
    "gallery": "The most exposed training images of each variant, all by the same attack: position "
    "in the pool, and the share of a target's non-members that score lower, mean over the targets "
    "that trained on the image.",
    "layers": "What quantization did to each layer, in the network's order, mean over {models} "
    "audited models. Left: the share of its weights that are not at the code nearest to the "
    "trained weight. Right: the squared error of its output, or of the output of the block it was "
    "reconstructed with, over the squared full-precision output, on the calibration "
    "images. Rounding to nearest, which moves no weight, is not shown.",
    "cost": "What a variant costs against its risk at both ends, by the strongest attack there, "
    "with 95% intervals: bytes of its weights with scales and zero points, and arithmetic "
    "intensity, the FLOPs of its layers over the bytes of their weights and activations. Both are "
    "counted, not measured.",
    "bits": "Bits of each layer, in the network's order, in each audited model, where every model "
    "chose its own.",
    "choice": "The best trade-offs of bytes against expected loss in the first audited model, over "
    "all allocations of bits, and the one that each variant took. Expected is the sum of what each "
    "layer loses alone on calibration images.",
    "pruning": CAPTION,
    "rounds": ROUNDS,
    "tasks": TASKS,
}
CURVES = (
    " Lines: other ways to trade accuracy for leakage, by the strongest attack on each variant, "
    "with a band of 95% intervals. What lies below the line of early stopping leaks less, by "
    "estimate, than a network of equal accuracy that was stopped early."
)


class Drawing(NamedTuple):
    """A figure for papers, and the chart that it was drawn from; the gallery has none."""

    caption: str
    figure: Figure
    chart: Chart | None = None


def illustrate(
    results: Results,
    findings: Mapping[str, Any],
    pictures: Pictures | None,
) -> dict[str, Drawing]:
    """Draw the figures in `CAPTIONS` that have something to show, by name.

    Args:
        results: results of the audit.
        findings: values by key.
        pictures: images at some positions of the pool; None if the data is no images, or not there.
    """
    rows, variants = results.rows, results.variants
    accuracy = {variant: facts.accuracy for variant, facts in variants.items()}
    quantizations = {variant: facts.quantization for variant, facts in variants.items()}
    convergence: dict[str, Convergence] = findings["convergence"]
    frontiers: dict[str, Frontier] = findings["frontier"]
    curves = {name: frontier.variants for name, frontier in frontiers.items()}
    charts = {
        "plane": plane_chart(rows, accuracy, curves),
        "roc": roc_chart(rows, rows[0].summary.non_members),
        "convergence": convergence_chart(convergence) if convergence else None,
        "layers": layers_chart(quantizations),
        "cost": cost_chart(rows, variants),
        "bits": bits_chart(variants),
        "choice": choice_chart(variants),
        "pruning": pruning_chart(results.pruned) if results.pruned else None,
        "rounds": rounds_chart([findings[f"federated_{threat}"] for threat in ATTACKERS]),
        "tasks": tasks_chart(findings["continual"]),
    }
    counts = sorted({made.models for made in quantizations.values() if made})
    models = " to ".join(dict.fromkeys(map(str, counts[:1] + counts[-1:])))
    words = CURVES if curves else ""
    drawings = {}
    for name, caption in CAPTIONS.items():
        caption, chart = caption.format(models=models, curves=words), charts.get(name)
        if chart is not None:
            drawings[name] = Drawing(caption, draw(chart), chart)
        elif name == "gallery" and pictures is not None:
            drawings[name] = Drawing(caption, gallery_figure(pictures, findings["exposure"]))
    return drawings
