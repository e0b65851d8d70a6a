"""Accuracy and leakage of each task after each stage, side by side, as matrices in colours."""

from collections.abc import Callable
from math import isnan, nan

from attacks.continual.leaks import ContinualLeak, TaskCell
from attacks.metrics.intervals import Estimate
from attacks.metrics.measures import Metric
from reporting.charts import Axis, Chart, Heat, Panel
from reporting.continual_sentences import show_mean
from reporting.text import NAMES

MOST = 12  # tasks whose cells have room for a number
CAPTION = (
    "Learning in tasks: each row is a task, each column the end of a stage, numbered from 1. From "
    "left to right: accuracy on the task's test examples, of all classes; AUC and TPR at 1% FPR of "
    "the strongest attack by one who holds that snapshot alone; AUC of the loss attack, "
    "in the same colours. Accuracy and TPR are in percent. Of few non-members a TPR is uncertain: "
    "the table has its interval."
)


def tasks_chart(leak: ContinualLeak | None) -> Chart | None:
    """The matrices of accuracy and leakage; None for models that do not learn in tasks."""
    if leak is None:
        return None

    def risk(metric: Metric) -> Callable[[TaskCell], Estimate | None]:
        return lambda cell: getattr(cell.strongest(metric).summary, metric)

    def loss(cell: TaskCell) -> Estimate | None:
        row = cell.named("loss")
        return row.summary.auc if row else None

    highest = max(cell.strongest("tpr_1pct").summary.tpr_1pct.value for cell in leak.cells)
    shares: list[tuple[str, Heat]] = [
        ("test accuracy", _accuracy(leak)),
        ("AUC, strongest attack", _leakage(leak, risk("auc"), (0.5, 1.0))),
        (
            f"{NAMES['tpr_1pct']}, strongest attack",
            _leakage(leak, risk("tpr_1pct"), (0.0, max(highest, 0.02)), percent=True),
        ),
        ("AUC, loss attack", _leakage(leak, loss, (0.5, 1.0))),
    ]
    x, y = _axis("after stage", len(leak.stages)), _axis("task", len(leak.classes), down=True)
    panels = [Panel([], x, y, title, heat=heat) for title, heat in shares]
    return Chart([panels], (4 * 3.3, 3.4))


def _axis(label: str, count: int, down: bool = False) -> Axis:
    ends = (0.5, count + 0.5)
    step = max(1, count // 10)
    ticks = [(number, str(number)) for number in range(1, count + 1, step)]
    return Axis(label, limits=ends[::-1] if down else ends, ticks=ticks)


def _accuracy(leak: ContinualLeak) -> Heat:
    def of(task: int, stage: int) -> Estimate | None:
        return leak.utility.matrix[stage - 1][task - 1] if task <= stage else None

    return _heat(leak, of, (0.0, 1.0), percent=True)


def _leakage(
    leak: ContinualLeak,
    measure: Callable[[TaskCell], Estimate | None],
    limits: tuple[float, float],
    percent: bool = False,
) -> Heat:
    def of(task: int, stage: int) -> Estimate | None:
        cell = leak.cell(task, stage)
        return None if cell is None else measure(cell)

    return _heat(leak, of, limits, percent)


def _heat(
    leak: ContinualLeak,
    of: Callable[[int, int], Estimate | None],
    limits: tuple[float, float],
    percent: bool,
) -> Heat:
    values, texts = [], []
    for task in range(1, len(leak.classes) + 1):
        row = [of(task, stage) for stage in range(1, len(leak.stages) + 1)]
        values.append([nan if estimate is None else estimate.value for estimate in row])
        texts.append(
            [
                ""
                if e is None or isnan(e.value)
                else f"task {task} after stage {stage}: {show_mean(e, percent)}"
                for stage, e in enumerate(row, start=1)
            ]
        )
    decimals = None if len(leak.stages) > MOST else 0 if percent else 2
    return Heat(values, limits, texts, decimals, percent)
