"""What learning in tasks refuses before any training, each in one line with the way out."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

import train
from continual.ridge import LARGEST_ERROR
from datamodules import Digits
from datamodules.tasks import TaskStream
from fleet.continual import TRIED, check_tasks, rehearse_regression
from lightning_modules.analytic import rows_of
from lightning_modules.analytic_options import AnalyticOptions
from lightning_modules.continual_options import ContinualOptions
from lightning_modules.learners import make_classifier
from lightning_modules.options import ModelOptions
from storage.names import fleet_names

FIVE = {"tasks": 5}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tasks": 1}, r"`continual\.tasks` must be 2 or more, got 1"),
        (FIVE | {"base_classes": 1}, r"`continual\.base_classes` must be 2 or more, got 1"),
        (FIVE | {"replay": -1}, r"`continual\.replay` must be 0 or more, got -1"),
        (FIVE | {"ewc": -1.0}, r"`continual\.ewc` must be 0 \(none\) or more, got -1"),
        (FIVE | {"ewc": float("inf")}, r"`continual\.ewc` must be 0 \(none\) or more, got inf"),
        (FIVE | {"ewc": 1.0, "ewc_scale": 0.0}, r"`continual\.ewc_scale` must be above 0, got 0"),
        (FIVE | {"ewc_scale": 1.0}, r"`continual\.ewc_scale` needs `--continual\.ewc`, got 1 with"),
        (FIVE | {"joint": True, "replay": 3}, r"leaves nothing to replay .* got `.*replay` 3 and"),
        (FIVE | {"joint": True, "ewc": 1.0}, r"leaves nothing to replay or to hold, got .* 1\."),
        (FIVE | {"backbone_epochs": 2}, r"must be 0 with `finetune`, which trains all .*, got 2"),
        (
            FIVE | {"learner": "acil", "replay": 1},
            r"`continual\.replay` needs a learner that takes",
        ),
        (FIVE | {"learner": "acil", "ewc": 1.0}, r"`continual\.ewc` needs a .*, got `acil`, which"),
        (
            FIVE | {"learner": "acil", "joint": True},
            r"`continual\.joint` needs a learner that takes",
        ),
        ({"replay": 2}, r"`continual\.replay` needs `--continual\.tasks`, got 2 without tasks\. L"),
        ({"learner": "acil"}, r"`continual\.learner` needs `--continual\.tasks`, got acil without"),
        ({"order_seed": 0}, r"`continual\.order_seed` needs `--continual\.tasks`, got 0 without"),
    ],
)
def test_options_out_of_range_or_that_nothing_reads_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        ContinualOptions(**options)


@pytest.mark.parametrize(
    ("options", "epochs", "ends"),
    [
        ({}, 7, []),
        ({"tasks": 5}, 5, [1, 2, 3, 4, 5]),
        ({"tasks": 3}, 12, [4, 8, 12]),
        ({"tasks": 2, "learner": "relu", "backbone_epochs": 3}, 7, [5, 7]),
        ({"tasks": 2, "learner": "acil", "backbone_epochs": 3}, 5, [4, 5]),
        ({"tasks": 2, "learner": "acil"}, 2, [1, 2]),
    ],
)
def test_stage_ends_by_hand(options, epochs, ends):
    assert ContinualOptions(**options).stage_ends(epochs) == ends


@pytest.mark.parametrize(
    ("options", "epochs", "said"),
    [
        ({}, 7, r"each of 5 tasks as many epochs, got 7\. Pass 5 or 10\."),
        ({}, 13, r"got 13\. Pass 10 or 15\."),
        ({}, 4, r"got 4\. Pass 5 or 10\."),
        (
            {"learner": "relu", "backbone_epochs": 3},
            9,
            r"after 3 of the backbone, got 9\. Pass 8 or",
        ),
        (
            {"learner": "acil"},
            10,
            r"must be 5 with .* acil`, which sees each of 5 tasks once, got 10",
        ),
        (
            {"learner": "acil", "backbone_epochs": 3},
            5,
            r"must be 8 with .* once after 3 of the backbone, got 5",
        ),
    ],
)
def test_epochs_that_do_not_divide_over_stages_are_refused(options, epochs, said):
    with pytest.raises(ValueError, match=said):
        ContinualOptions(**FIVE, **options).stage_ends(epochs)


SIX = "--snapshots --quantize --trainer.max_epochs 6 --continual.tasks 3 "


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--trainer.max_epochs 5", "each of 3 tasks as many epochs, got 5. Pass 3 or 6."),
        ("--continual.tasks 6", "got 2, 2, 2, 2, 1, 1 of 10 classes with `--continual.tasks` 6"),
        ("--continual.base_classes 8", "got 8, 1, 1 of 10 classes with `--continual.tasks` 3 and"),
        (
            "--snapshots 2",
            "`--snapshots` must be empty with `--continual.tasks`, got 2: the end of",
        ),
        ("--prune init", "`--continual.tasks` is not supported with `--prune`: nothing defines"),
        ("--model.dp.noise 1 --model.network convnet_gn", "is not supported with `--model.dp`: no"),
        ("--federated.clients 2", "is not supported with `--federated.clients`: nothing defines"),
        (
            "--trainer.devices 2 --trainer.strategy ddp",
            "not supported with several devices per model (`--trainer.devices`), got 2.",
        ),
        ("--trainer.accumulate_grad_batches 2", "must be 1 with `--continual.tasks`, got 2"),
        (
            "--trainer.gradient_clip_val 1",
            "`trainer.gradient_clip_val` is not supported with `--con",
        ),
        ("--continual.learner finetun", "must be finetune"),
        ("--data.pool_size 12", "needs 2 members or more of each model, got "),
        (
            "--continual.sdmlp.hidden 20",
            "`continual.sdmlp.hidden` needs `--continual.learner` relu",
        ),
        (
            "--continual.learner acil --trainer.max_epochs 3 --continual.analytic.gamma 1e-12",
            "`gamma` 1e-12 is too small for float64: beside rows whose squares sum to",
        ),
        (
            "--continual.learner acil --trainer.max_epochs 3 --continual.analytic.worlds 1",
            "`continual.analytic.worlds` must be 0 (none), or 2 or more, got 1",
        ),
        (
            "--continual.learner real --continual.backbone_epochs 1 --continual.analytic.beta 2",
            "`continual.analytic.beta` needs `--continual.analytic.distill_epochs`, got 0.",
        ),
        (
            "--continual.learner ssd --continual.sdmlp.alpha 1 --continual.sdmlp.lam 0.5",
            "`continual.sdmlp.lam` needs `--continual.sdmlp.alpha` below 1, got 1, which distils",
        ),
        ("--continual.base_classes 11", "Pass `--continual.base_classes` 6 or less."),
        ("--continual.base_classes 0", "`continual.base_classes` must be 2 or more, got 0."),
        (
            "--continual.analytic.gamma 2",
            "`continual.analytic.gamma` needs `--continual.learner` ac",
        ),
        (
            "--continual.task 3",
            "There is no option `--continual.task`. Did you mean `--continual.t",
        ),
    ],
)
def test_bad_input_is_one_line(toy, tmp_path, capsys, options, said):
    with pytest.raises(SystemExit) as stopped:
        train.main(toy(tmp_path / "run", SIX + options))
    told = f"{stopped.value.code} {capsys.readouterr().err}"
    assert said in told
    assert "Traceback" not in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("learner", ["acil", "dsal"])
def test_gamma_is_refused_beforehand_where_rows_are_known(learner):
    """Against the squares of all rows, of which half belong to a model."""
    data = Digits(pool_size=2 * TRIED, batch_size=4)
    data.setup("fit")
    options = AnalyticOptions(buffer=32)
    classifier = make(data, ContinualOptions(2, learner=learner, analytic=options))
    batches = data.pool_batches("identity")
    rows = [rows_of(classifier.network, batch).joined() for batch in batches]
    energy = torch.cat(rows).square().sum().item() / 2
    smallest = torch.finfo(torch.float64).eps * energy / LARGEST_ERROR
    for gamma, fits in ((1.1 * smallest, True), (0.9 * smallest, False)):
        analytic = replace(options, gamma=gamma)
        classifier = make(data, ContinualOptions(2, learner=learner, analytic=analytic))
        refused = pytest.raises(ValueError, match=r"Raise it to .*e-.* or more \(`--continual\.an")
        with nullcontext() if fits else refused:
            rehearse_regression(classifier, data, TRIED)
    backbone = ContinualOptions(2, learner=learner, backbone_epochs=1, analytic=analytic)
    rehearse_regression(make(data, backbone), data, TRIED)  # not known before it is trained


def make(data, continual):
    return make_classifier(data, 0, ModelOptions(network="mlp"), None, continual)


def test_a_model_without_members_in_a_task_is_named():
    data = Digits(pool_size=12, batch_size=4)
    data.setup("fit")
    (one, other), task = fleet_names(2, 0), torch.arange(12) // 6
    stream = TaskStream(task, data.pool.labels, [1, 2], 0)
    both, none = torch.arange(12) % 2 == 0, torch.arange(12) < 7
    classes = [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert check_tasks(stream, classes, data, {one: both}) == [3]
    with pytest.raises(ValueError, match=r"got 1 in task 2 of shadow-001\. Enlarge the pool, or t"):
        check_tasks(stream, classes, data, {one: both, other: none})
    replay = stream._replace(joint=True)
    assert check_tasks(replay, classes, data, {one: both}) == [3, 6]
    data.test = data.test.take((data.test.labels < 5).nonzero().flatten())
    with pytest.raises(ValueError, match=r"none of task 2 \(classes 5, 6, 7, 8, 9\)\. Take fewer"):
        check_tasks(stream, classes, data, {one: both})
