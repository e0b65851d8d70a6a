"""What pruning removed, as a table and as a figure."""

from attacks.architecture import ArchitectureLeak
from reporting.charts import Axis, Chart, Guide, Panel, Series
from reporting.tables import DASH, Body, Cell, Table, estimate_cell, number
from reporting.text import NAMES
from storage.pruning import PruningMeans

CAPTION = (
    "Left: outputs of each layer after pruning (filled), mean over the audited models with the "
    "fewest and the most of any of them, and in the dense network (hollow). Right: the Jaccard "
    "index of the channels that each audited model would keep after an epoch and after the one "
    "before, until its cut."
)
NOTE = (
    "Means over the audited models. Multiply-accumulates are those of convolutions and linear "
    "layers per image; accuracy is on the test split, which selects nothing."
)


def pruning_table(pruned: PruningMeans) -> Table:
    """The size before and after, the epoch of the cut, and the accuracy around it."""
    before, after, end = pruned.accuracy
    first, last = min(pruned.cut_after), max(pruned.cut_after)
    epochs = str(first) if first == last else f"{first} to {last}"
    rows = [(Cell("method"), Cell(f"{pruned.method}, {pruned.remove:.0%} to remove"))]
    for label, (dense, small) in (
        ("multiply-accumulates", pruned.macs),
        ("parameters", pruned.parameters),
    ):
        text = f"{small:,.0f} of {dense:,.0f} ({small / dense:.1%})"
        rows.append((Cell(label), number(small, text)))
    rows.append((Cell("cut after epoch"), Cell(epochs, first)))
    if pruned.stable is not None:
        text = f"{pruned.stable} of {pruned.models} models"
        rows.append((Cell("stable at the cut"), Cell(text, pruned.stable)))
    for label, accuracy in (
        ("accuracy before the cut", before),
        ("accuracy after the cut", after),
        ("accuracy at the end", end),
    ):
        rows.append((Cell(label), number(accuracy, f"{accuracy:.1%}")))
    return Table("pruning", "Pruning", ("quantity", "value"), rows, f"{pruned.describe()} {NOTE}")


def architecture_table(value: ArchitectureLeak | None) -> Body:
    """What the widths of pruned networks tell; without rows for dense ones."""
    rows = []
    if value is not None:
        summary = value.summary
        rates = (estimate_cell(rate, True) for rate in (summary.tpr_1pct, summary.tpr_01pct))
        rows.append((Cell("the example"), estimate_cell(summary.auc), *rates))
        if value.by_class is not None:
            rows.append((Cell("its class"), estimate_cell(value.by_class), DASH, DASH))
    varying = f"{value.varying} of {value.groups}" if value else "0"
    return Body(
        ("scored", "AUC", NAMES["tpr_1pct"], NAMES["tpr_01pct"]),
        rows,
        "An attacker who knows how many channels of each group pruning kept, and no weight or "
        "output: Fisher's linear discriminant between the shadows that trained on an example and "
        "the others, and its mean over the example's class. Which channels were kept tells nothing "
        "between networks that began from different weights. A leak is shown where the interval "
        f"lies above guessing (AUC 0.5). {varying} groups have different widths among shadows; "
        "the others tell nothing.",
    )


def pruning_chart(pruned: PruningMeans) -> Chart:
    """The width of each layer, and how stable the kept channels were."""
    names = [width.layer for width in pruned.widths]
    places = list(range(len(names)))
    x = Axis(ticks=list(enumerate(names)), upright=True)
    dense = Series("dense", places, [w.dense for w in pruned.widths], marker="o", filled=False)
    small = Series(
        "pruned",
        places,
        [width.mean for width in pruned.widths],
        y_interval=([w.fewest for w in pruned.widths], [w.most for w in pruned.widths]),
        marker="o",
        names=[f"{w.layer}: {w.mean:.1f} of {w.dense}" for w in pruned.widths],
    )
    widths = Panel([dense, small], x, Axis("outputs", limits=(0, None)), "Width", legend="best")
    curves = [
        Series(
            "", range(pruned.first + 1, pruned.first + 1 + len(curve)), curve, dashes=(), width=1
        )
        for curve in pruned.stability
        if curve
    ]
    if not curves:
        return Chart([[widths]], (7, 4))
    y = Axis("Jaccard index", limits=(None, 1.02))
    stability = Panel(curves, Axis("epoch"), y, "Stability", guides=[Guide(y=1.0)])
    return Chart([[widths, stability]], (11, 4))
