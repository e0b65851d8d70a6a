"""What learning in tasks leaks: tables."""

from collections.abc import Sequence

from attacks.continual.comparisons import ENDS, STRONGEST
from attacks.continual.leaks import ContinualLeak
from attacks.metrics.intervals import Estimate
from attacks.metrics.measures import Metric
from reporting.continual_precisions import holders_table, precisions_table
from reporting.continual_sentences import HOLDERS, show_mean
from reporting.continual_variants import MOST, rate_cell, variants_table
from reporting.tables import DASH, Cell, Table, difference_cells, estimate_cell, metric_cell, number
from reporting.text import AUC_NOTE, INTERVAL_NOTE, MARK_NOTE, NAMES, listed

DOCS = "docs/continual_audit.md says what each attack is."


def continual_tables(leak: ContinualLeak | None) -> list[Table]:
    """All tables on learning in tasks that have rows; none of other models."""
    if leak is None:
        return []
    tables = [
        *(_matrix(leak), _transfers(leak), _attackers(leak)),
        *(_state(leak), _risk(leak), variants_table(leak)),
        *(precisions_table(leak), holders_table(leak)),
    ]
    return [table for table in tables if table.rows]


def _matrix(leak: ContinualLeak) -> Table:
    """Accuracy and leakage of each task after each stage."""
    rows = []
    last = len(leak.stages)
    for cell in sorted(leak.cells, key=lambda cell: (cell.task, cell.stage)):
        if len(leak.classes) > MOST and cell.stage not in (cell.task, last):
            continue
        best = [(metric, cell.strongest(metric)) for metric in ENDS]
        risk = [part for m, row in best for part in (metric_cell(row.summary, m), Cell(row.attack))]
        loss = cell.named("loss")
        rows.append(
            (
                Cell(str(cell.task), cell.task),
                Cell(str(cell.stage), cell.stage),
                _mean_cell(leak.utility.matrix[cell.stage - 1][cell.task - 1], percent=True),
                *risk,
                metric_cell(cell.strongest("tpr_01pct").summary, "tpr_01pct"),
                estimate_cell(loss.summary.auc) if loss else DASH,
            )
        )
    columns = (
        *("task", "after stage", "test accuracy", "AUC", "strongest by AUC", NAMES["tpr_1pct"]),
        *("strongest by TPR", NAMES["tpr_01pct"], "AUC of the loss attack"),
    )
    utility = leak.utility
    told = [
        "An attacker who holds the snapshot after a stage, on a task's examples alone, over "
        f"{leak.targets} audited models with {leak.shadows} shadows against each.",
        *(
            [
                f"{leak.worlds} heads over each audited model's own features stand in for shadows "
                f"in residual_lira_worlds; one takes {leak.world_seconds:.2g} s."
            ]
            if leak.worlds
            else []
        ),
        f"Accuracy on all classes: {show_mean(utility.average)} on average over stages, "
        f"{show_mean(utility.last)} at the end.",
        *(_shown_stages(leak)),
        *(AUC_NOTE, INTERVAL_NOTE, MARK_NOTE),
        "The strongest is the maximum of several estimates, and biased slightly upward.",
        DOCS,
    ]
    return Table("tasks", "What each task leaks as others come", columns, rows, " ".join(told))


def _shown_stages(leak: ContinualLeak) -> list[str]:
    if len(leak.classes) <= MOST:
        return []
    return ["Of each task, its own stage and the last are shown; the figure has the others."]


def _transfers(leak: ContinualLeak) -> Table:
    """How leakage changes while other tasks come."""
    rows = []
    for transfer in leak.transfers:
        name = f"{transfer.attack} (control)" if transfer.control else transfer.attack
        cells = (
            cell
            for metric in ENDS
            for cell in difference_cells(transfer.by_metric[metric], percent=metric != "auc")
        )
        rows.append((Cell(name), *cells))
    for difference, task in zip(leak.by_task, leak.tasks, strict=False):
        rows.append(
            (Cell(f"{STRONGEST}, task {task} alone"), *difference_cells(difference), DASH, DASH)
        )
    return Table(
        "task_transfers",
        "Does leakage of a task rise or fall as others come?",
        ("attack", "AUC at the end - right after", "p", f"{NAMES['tpr_1pct']}, points", "p"),
        rows,
        "Privacy backward transfer: what an attack on one snapshot finds of a task at the end, "
        "minus what it finds right after the task; mean over all tasks but the last, on the same "
        "targets and examples. Above 0, leakage rises. The strongest attack is chosen, for each "
        "half of the targets, on the other half. The control looks at the columns of a task's own "
        "classes alone. Intervals are over targets (Student's t), for these shadows; p is "
        "corrected for both metrics of the strongest and the loss attack together, for those of "
        "the other attacks, and for single tasks (Holm).",
    )


def _attackers(leak: ContinualLeak) -> Table:
    """What one finds at the end who holds more."""
    rows = []
    for attacker in leak.attackers:
        rates: list[tuple[Estimate, Metric]] = [
            (attacker.tpr_1pct, "tpr_1pct"),
            (attacker.tpr_01pct, "tpr_01pct"),
        ]
        rows.append(
            (
                Cell(HOLDERS[attacker.holds]),
                estimate_cell(attacker.auc),
                *(rate_cell(leak, *rate) for rate in rates),
                *difference_cells(attacker.gain),
                Cell(_name_some(attacker.attacks)),
            )
        )
    return Table(
        "task_attackers",
        "What one finds at the end who holds more",
        (
            *("holds", "AUC", NAMES["tpr_1pct"], NAMES["tpr_01pct"]),
            *("AUC beyond the row above", "p", "by"),
        ),
        rows,
        "Mean over tasks, at the end of training, of the attack that is strongest on the other "
        "half of the targets. Who holds all snapshots may attack right after a task too, and sums "
        "log-likelihood ratios over snapshots. Intervals are over targets and examples, for these "
        f"shadows; p is corrected for the number of rows (Holm). {MARK_NOTE}",
    )


def _name_some(attacks: Sequence[str]) -> str:
    """Names of a few attacks, and how many more there are."""
    shown = list(attacks[:3])
    more = len(attacks) - len(shown)
    return listed([*shown, f"{more} more"] if more else shown)


def _state(leak: ContinualLeak) -> Table:
    """What the learner's state gives away."""
    rows = []
    for found in leak.state:
        cells = []
        for auc, tpr in ((found.auc, found.tpr_1pct), (found.auc_at_end, found.tpr_1pct_at_end)):
            cells += [DASH if auc is None else estimate_cell(auc)]
            cells += [DASH if tpr is None else rate_cell(leak, tpr, "tpr_1pct")]
        rows.append((Cell(found.attack), *cells))
    rate = NAMES["tpr_1pct"]
    kept = ""
    if leak.exemplars is not None:
        share = show_mean(leak.exemplars, percent=True)
        kept = f" Of the members of earlier tasks, {share} are kept."
    note = (
        "Attacks on what a learner keeps to go on learning, mean over tasks: on the matrix R of a "
        "ridge head as it is (float64) and stored in fewer bits, on the Fisher diagonal of elastic "
        "weight consolidation, and on exemplars kept for replay. "
        f"range_test and leverage need no shadows.{kept} normal_equations holds no state: it "
        "solves for members from the weight of the head, and takes candidates that hold every "
        "training example, here the pool. fisher_equations holds the Fisher, and likewise takes "
        f"candidates, here the pool's examples of the task. {DOCS}"
    )
    return Table(
        "task_state",
        "What a learner's state gives away",
        (
            *("attack", "AUC right after each task", f"{rate} right after"),
            *("AUC at the end", f"{rate} at the end"),
        ),
        rows,
        note,
    )


def _risk(leak: ContinualLeak) -> Table:
    """Whether leverages alone tell who is exposed."""
    title = "Who is at risk, from leverages alone"
    columns = (
        *("examples", "mean leverage", "AUC to expect of one column"),
        *(f"{NAMES['tpr_1pct']} to expect of one column", "AUC found"),
    )
    if leak.risk_map is None:
        return Table("task_risk", title, columns, [], "")
    rows = [
        (
            Cell(str(group.examples), group.examples),
            number(group.leverage, f"{group.leverage:.3f}"),
            number(group.expected, f"{group.expected:.3f}"),
            number(group.expected_tpr_1pct, f"{group.expected_tpr_1pct:.2%}"),
            estimate_cell(group.found),
        )
        for group in leak.risk_map.groups
    ]
    return Table(
        "task_risk",
        title,
        columns,
        rows,
        "Examples of all tasks at the end of training, in groups of ascending leverage, which "
        "needs neither shadows nor labels; a true non-member counts with the leverage that it "
        "would have as a member. To expect: of one column of pure noise, so the order of groups "
        f"is what it tells, and not the level. Found: by {leak.risk_map.attack}. Rank correlation "
        "of both AUCs over groups, mean over targets: "
        f"{show_mean(leak.risk_map.correlation)}.",
    )


def _mean_cell(estimate: Estimate, percent: bool = False) -> Cell:
    return number(estimate.value, show_mean(estimate, percent))
