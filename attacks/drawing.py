"""All figures of the report, with their captions."""

from collections.abc import Mapping, Sequence

from jaxtyping import UInt8
from matplotlib.figure import Figure
from torch import Tensor

from attacks.evaluate import Row
from attacks.figures import layers_figure, plane_figure, roc_figure
from attacks.findings import Findings
from attacks.findings_figures import convergence_figure, gallery_figure
from attacks.making import Precision

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


def draw(
    rows: Sequence[Row],
    precisions: Mapping[str, Precision],
    found: Findings,
    images: UInt8[Tensor, "examples channels height width"] | None,
) -> tuple[dict[str, Figure], dict[str, str]]:
    """Figures and their captions, by name: those in `CAPTIONS` that there is something to draw for.

    Args:
        rows: what every attack achieves.
        precisions: what else is known, by variant.
        found: what follows.
        images: of the pool, if they are at hand.
    """
    accuracy = {variant: known.accuracy for variant, known in precisions.items()}
    figures = {
        "plane": plane_figure(rows, accuracy),
        "roc": roc_figure(rows, rows[0].summary.non_members),
    }
    if found.convergence:
        figures["convergence"] = convergence_figure(found.convergence)
    if images is not None:
        figures["gallery"] = gallery_figure(images, found.exposures)
    made = {variant: known.made for variant, known in precisions.items()}
    layers = layers_figure(made)
    if layers is not None:
        figures["layers"] = layers
    counts = sorted({making.models for making in made.values() if making})
    models = " to ".join(dict.fromkeys(map(str, counts[:1] + counts[-1:])))
    return figures, {name: CAPTIONS[name].format(models=models) for name in figures}
