"""What is told of learners of tasks whose snapshots are quantized: tables, and sentences."""

from attacks.continual.leaks import ContinualLeak
from attacks.continual.precisions import Holder, PrecisionLeak
from attacks.game import FULL
from reporting.continual_sentences import HOLDERS, direction
from reporting.continual_variants import MOST, rate_cell
from reporting.tables import Cell, Table, difference_cells, estimate_cell
from reporting.text import AUC_NOTE, INTERVAL_NOTE, NAMES, extent, show


def precisions_table(leak: ContinualLeak) -> Table:
    """AUC of each task after each stage, by the precision of the snapshots."""
    last, rows = len(leak.stages), []
    for place, task in enumerate(leak.tasks):
        for stage in range(task, last + 1):
            if len(leak.classes) > MOST and stage not in (task, last):
                continue
            cells = [estimate_cell(found.auc[stage - 1][place]) for found in leak.precisions]
            rows.append((Cell(str(task), task), Cell(str(stage), stage), *cells))
    return Table(
        "task_precisions",
        "What each task leaks where snapshots are quantized",
        ("task", "after stage", *(f"AUC, {found.precision}" for found in leak.precisions)),
        rows if leak.precisions else [],
        "An attacker who holds the snapshot after a stage, as it is (full) or quantized, on "
        "examples of a task that was learned by then; shadows went through the same. All by the "
        "same attacks, on phi and on whole output vectors, without leverages: the strongest on the "
        f"other half of the targets. {AUC_NOTE} {INTERVAL_NOTE}",
    )


def holders_table(leak: ContinualLeak) -> Table:
    """What one finds of earlier tasks at the end who holds the last or all, by precision."""
    rows = [
        (
            Cell(found.precision),
            Cell(HOLDERS[holder.holds]),
            estimate_cell(holder.auc),
            rate_cell(leak, holder.tpr_1pct, "tpr_1pct"),
            *difference_cells(holder.beyond),
        )
        for found in leak.precisions
        for holder in found.holders
    ]
    return Table(
        "task_precision_holders",
        "Does shipping only quantized snapshots protect earlier tasks?",
        ("snapshots", "holds", "AUC", NAMES["tpr_1pct"], "AUC beyond full", "p"),
        rows,
        "What is found at the end of all tasks but the last, mean over them, by the strongest "
        "attack on the other half of the targets. Who holds all snapshots of a precision may "
        "attack right after a task too, and sums log-likelihood ratios over snapshots. Beyond "
        "full: minus what as many unquantized snapshots tell, on the same targets and examples; p "
        "is corrected for all rows (Holm).",
    )


def precision_sentences(leak: ContinualLeak | None) -> list[str]:
    """Whether shipping only quantized snapshots protects earlier tasks, one sentence per quantizer.

    What a holder finds is said to be less or more if the corrected p of the difference to
    unquantized snapshots is below 5%. Members are said to be found all the same if the interval of
    the AUC of one who holds all quantized snapshots lies above 0.5.
    """
    precisions = leak.precisions if leak else ()
    return [_protects(found) for found in precisions if found.precision != FULL]


def _protects(found: PrecisionLeak) -> str:
    told = "; ".join(f"{HOLDERS[holder.holds]}: {_change(holder)}" for holder in found.holders)
    everything = found.holders[-1]
    auc = show(everything.auc)
    rest = (
        f"All snapshots still find members of earlier tasks, by AUC {auc}."
        if everything.auc.low > 0.5
        else f"All snapshots are not shown to find members of earlier tasks (AUC {auc})."
    )
    return (
        f"Of earlier tasks, one who only ever gets {found.precision} finds at the end, beside one "
        f"who gets unquantized networks: {told}. {rest}"
    )


def _change(holder: Holder) -> str:
    if holder.beyond is None or not direction(holder.beyond):
        return "no difference is shown"
    return extent("auc", holder.beyond.estimate)
