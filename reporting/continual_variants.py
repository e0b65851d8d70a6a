"""What is told of the variants of learners of tasks at the end of training: a table, sentences."""

from attacks.continual.leaks import ContinualLeak
from attacks.continual.variants import VariantLeak
from attacks.metrics.intervals import Estimate
from attacks.metrics.measures import Metric
from reporting.continual_sentences import direction
from reporting.tables import DASH, Cell, Table, difference_cells, estimate_cell, number
from reporting.text import NAMES, dagger, extent, listed, show

MOST = 10  # tasks of which every stage has a row; of more, the own stage and the last


def variants_table(leak: ContinualLeak) -> Table:
    """What is found in the variants at the end, task by task."""
    whole = any(found.whole for found in leak.variants)
    rounded = any(found.rounded for found in leak.variants)
    shown = leak.tasks if len(leak.tasks) <= MOST else []
    rows = []
    for found in leak.variants:
        cells = [Cell(found.variant), estimate_cell(found.auc)]
        cells += [rate_cell(leak, found.tpr_1pct, "tpr_1pct"), *difference_cells(found.beyond)]
        if rounded:
            cells += _rounded_cells(found)
        tasks = zip(shown, found.by_task, strict=False)
        rows.append((*cells, *(estimate_cell(estimate) for _, estimate in tasks)))
    columns = ["variant", "AUC", NAMES["tpr_1pct"], "AUC beyond full", "p"]
    if rounded:
        columns += ["AUC, rounded heads", "AUC, shadows", "AUC beyond shadows", "p"]
    columns += [f"AUC, task {task}" for task in shown]
    seen = "attacks on phi and on whole output vectors" if whole else "attacks on phi alone"
    notes = [
        f"Mean over tasks by {seen}, with matched shadows{' or rounded heads' if rounded else ''}: "
        "the strongest on the other half of the targets. Beyond full: by attacks that both are "
        "open to, on the same targets and examples; p is corrected for all variants (Holm)."
    ]
    if rounded:
        notes.append(
            "Rounded heads: solved on random halves of the pool over the target's own features, "
            "with and without each example, each rounded as the variant was; shadows: "
            "residual_lira. Variants without them are those that "
            "`--continual.analytic.quantized_worlds` does not name."
        )
    if not whole:
        notes.append(
            "Whole output vectors of these variants were not recorded, so this understates what "
            "is found of ridge heads: train into a new folder to record them."
        )
    title = "What variants leak at the end, task by task"
    return Table("task_variants", title, tuple(columns), rows, " ".join(notes))


def variant_sentences(leak: ContinualLeak | None) -> list[str]:
    """Whether quantizing lowers what is found task by task, and what rounded heads add.

    Said to if the corrected p of a difference is below 5%.
    """
    variants = [found for found in leak.variants if found.beyond] if leak else []
    if not variants:
        return []
    told = [_protects(variants)]
    rounded = [found for found in variants if found.rounded]
    return told + ([_rounded(rounded)] if rounded else [])


def _protects(variants: list[VariantLeak]) -> str:
    parts = []
    for way, word in ((-1, "less"), (1, "more")):
        shown = [v for v in variants if v.beyond and direction(v.beyond) == way]
        extents = (f"{v.variant} ({extent('auc', v.beyond.estimate)})" for v in shown if v.beyond)
        parts += [f"{word} is found of {listed([*extents])}"] if shown else []
    rest = [v.variant for v in variants if v.beyond and not direction(v.beyond)]
    parts += [f"no difference is shown for {listed(rest)}"] if rest else []
    return f"Task by task, by the strongest attack and beside full, {'; '.join(parts)}."


def _rounded(variants: list[VariantLeak]) -> str:
    parts = []
    for found in variants:
        if found.rounded is not None:
            gain = found.rounded.gain
            change = extent("auc", gain.estimate) if direction(gain) else "no difference shown"
            level = f"AUC {show(found.rounded.worlds)}"
            parts.append(f"of {found.variant} {level} ({change})")
    return (
        "Heads over the target's own features, rounded with and without each example as the "
        f"network was, find, beside LiRA with matched shadows, {listed(parts)}."
    )


def _rounded_cells(found: VariantLeak) -> list[Cell]:
    if found.rounded is None:
        return [DASH] * 4
    levels = found.rounded.worlds, found.rounded.shadows
    return [*map(estimate_cell, levels), *difference_cells(found.rounded.gain)]


def rate_cell(leak: ContinualLeak, rate: Estimate, metric: Metric) -> Cell:
    """A TPR, mean over tasks, marked where it rests on few false positives in some task."""
    return number(rate.value, show(rate, percent=True) + dagger(leak.false_positives[metric]))
