"""Snapshots of several precisions: against attacks made by hand, and where the answer is known."""

import pytest
import torch

from attacks.continual import ATTACKS
from attacks.continual.cell import make_cell
from attacks.continual.leaks import find_continual_leak
from attacks.continual.precisions import attack_precisions, lacking_outputs
from attacks.game import keep_examples
from attacks.metrics.measures import measure
from attacks.tasks import Stage

TASKS = [0, 1, 2]


def rounded(outputs, step):
    return outputs if step == 0 else (outputs / step).round() * step


@pytest.fixture(scope="module")
def shipped(learners):
    """The same learners, whose snapshots are also given as they are, and with outputs rounded."""
    quantized, outputs = {}, {}
    for name, step in (("same-w8", 0.0), ("coarse-w1", 1.5)):
        quantized[name] = {}
        for place, (stage, signals) in enumerate(learners.by_stage.items()):
            own = name if stage == "full" else f"{stage}-{name}"
            phi = signals.phi if step == 0 else torch.zeros_like(signals.phi)
            quantized[name][own] = signals if step == 0 else signals._replace(phi=phi)
            outputs[own] = rounded(learners.tasks.stages[place].outputs, step)
    tasks = learners.tasks._replace(outputs=outputs)
    return learners._replace(quantized_stages=quantized, tasks=tasks)


@pytest.fixture(scope="module")
def found(shipped):
    return {leak.precision: leak for leak in attack_precisions(shipped, shipped.tasks, TASKS)}


def test_a_precision_that_changes_nothing_leaks_the_same(found):
    assert [*found] == ["full", "same-w8", "coarse-w1"]
    assert found["same-w8"].auc == found["full"].auc
    assert [len(row) for row in found["full"].auc] == [1, 2, 3]
    for holder, other in zip(found["same-w8"].holders, found["full"].holders, strict=True):
        assert holder[:3] == other[:3]
        assert other.beyond is None
        assert holder.beyond.estimate.value == 0


def test_the_last_snapshot_and_all_of_them_tell_what_sums_by_hand_say(shipped, found):
    """Of rounded outputs whose phi says nothing, by `residual_lira` and its sum over stages."""
    members = shipped.audited
    names = shipped.quantized_stages["coarse-w1"]
    by_task = {}
    for place, name in enumerate(names):
        stage = Stage(shipped.tasks.outputs[name], shipped.tasks.stages[place].accuracy)
        for task in range(place + 1):
            cell = make_cell(shipped.tasks, place, stage, task, shipped.members, shipped.cases)
            by_task.setdefault(task, []).append(ATTACKS["residual_lira"].run(cell))
    sums = []
    for task in (0, 1):
        inside = members[:, shipped.tasks.task == task]
        sums.append(measure(sum(by_task[task]), inside)["auc"].values.mean().item())
        last = measure(by_task[task][-1], inside)["auc"].values.mean().item()
        assert last < found["full"].auc[-1][task].value
    last, everything = found["coarse-w1"].holders
    assert (last.holds, everything.holds) == ("snapshot", "snapshots")
    assert everything.auc.value >= last.auc.value
    assert everything.auc.value == pytest.approx(sum(sums) / 2, abs=0.05)


def test_gains_are_differences_of_what_holders_find(found):
    for holder, other in zip(found["coarse-w1"].holders, found["full"].holders, strict=True):
        change = holder.auc.value - other.auc.value
        assert holder.beyond.estimate.value == pytest.approx(change)
        assert change < 0


def test_a_precision_without_outputs_is_left_out_and_named(shipped):
    outputs = {k: v for k, v in shipped.tasks.outputs.items() if k != "task-2-same-w8"}
    game = shipped._replace(tasks=shipped.tasks._replace(outputs=outputs))
    assert lacking_outputs(game, game.tasks) == {"same-w8": ["task-2-same-w8"]}
    leak = find_continual_leak(game)
    assert [known.precision for known in leak.precisions] == ["full", "coarse-w1"]
    assert leak.left_out == [
        "Snapshots by same-w8 were not attacked, because whole outputs of task-2-same-w8 were not "
        "recorded. Delete these files in each model's `signals`, and run train.py again."
    ]


def test_there_is_nothing_to_say_without_quantized_snapshots(learners, shipped):
    assert attack_precisions(learners, learners.tasks, TASKS) == []
    assert attack_precisions(shipped, shipped.tasks, [2]) == []  # no earlier task


def test_signals_on_some_examples_are_those_of_the_whole(shipped):
    usable = torch.arange(450) % 5 != 0
    part = keep_examples(shipped, usable).quantized_stages["coarse-w1"]
    for name, known in shipped.quantized_stages["coarse-w1"].items():
        whole = known.on(usable.nonzero().flatten()).read()
        assert torch.equal(part[name].read().phi, whole.phi)
