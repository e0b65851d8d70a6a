"""Files of stages: what is read is what lies there, and what is wrong is named."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

from storage.evidence import gather
from storage.files import save_whole
from storage.names import ModelName
from storage.tasks import LEVERAGES, WORLDS, describe_tasks, read_tasks

FIRST, TARGET = ModelName("shadow", 0), ModelName("target", 0)


@pytest.fixture
def read(task_run):
    """Read one stage, counted from 0, of every model of the run."""

    def call(stage=1, used=None):
        game = gather(task_run, False).game
        names = task_run.read().names
        audited = task_run.read().audited
        tasks = read_tasks(task_run, names if used is None else used, audited, game.tasks.labels)
        return tasks.stages[stage]

    return call


@pytest.fixture
def change(task_run):
    """Replace tensors of a model's file of the second stage."""

    def call(name=FIRST, **tensors):
        path = task_run.task(name, 2)
        content = load_file(path) | tensors
        save_whole(path, {key: tensor for key, tensor in content.items() if tensor is not None})

    return call


def test_every_number_of_the_files_is_in_its_place(task_run, read):
    stage = read()
    for row, name in enumerate(task_run.read().names):
        stored = load_file(task_run.task(name, 2))
        assert torch.equal(stage.outputs[row], stored["outputs"])
        assert torch.equal(stage.accuracy[row].double(), stored["accuracy"].float().double())
        assert torch.equal(stage.outside[row], stored["outside"])
        for form, key in LEVERAGES.items():
            assert torch.equal(stage.leverage[form][row], stored[key])
        if name.role == "target":
            worlds = stage.worlds[row]
            for found, key in zip(worlds[:3], WORLDS, strict=False):
                assert torch.equal(found, stored[key])
            assert worlds.seconds == stored["world_seconds"].item()
    assert stage.worlds.keys() == {8, 9}
    assert stage.exemplars is None


def test_the_game_has_tasks_apart_from_the_variants_that_are_compared(task_run):
    evidence = gather(task_run, False)
    game = evidence.game
    assert game.tasks.classes == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert len(game.tasks.stages) == 3
    assert list(game.by_stage) == ["task-1", "task-2", "full"]
    assert list(game.signals) == list(evidence.variants) == ["full"]
    assert game.snapshots == []
    assert game.curves == []


def test_exemplars_are_read(task_run, read):
    kept = torch.arange(300) % 7 == 0
    for name in task_run.read().names:
        path = task_run.task(name, 2)
        save_whole(path, load_file(path) | {"exemplars": kept})
    assert torch.equal(read().exemplars, kept.expand(10, -1))


def test_what_a_fisher_tells_is_read(task_run, read):
    """Of audited models who was measured, and of every model how far it is exceeded."""
    known = torch.arange(300) / 7
    for row, name in enumerate(task_run.read().names):
        path = task_run.task(name, 2)
        more = {"fisher_solved": known - row} if name.role == "target" else {}
        save_whole(path, load_file(path) | {"fisher_excess": known + row} | more)
    stage = read()
    assert torch.equal(stage.fisher_excess, known + torch.arange(10)[:, None])
    assert torch.equal(stage.fisher_solved[8:], known - torch.arange(8, 10)[:, None])
    assert stage.fisher_solved[:8].isnan().all()
    assert read(0).fisher_excess is None
    for name, key in ((ModelName("shadow", 3), "fisher_excess"), (TARGET, "fisher_solved")):
        path = task_run.task(name, 2)
        whole = load_file(path)
        save_whole(path, {k: v for k, v in whole.items() if k != key})
        with pytest.raises(ValueError, match=rf"{name}.* lacks {key}\. Run"):
            read()
        save_whole(path, whole)


def test_models_that_no_audit_reads_may_lack_everything(task_run):
    labels, names = gather(task_run, False).game.tasks.labels, task_run.read().names
    task_run.task(FIRST, 2).unlink()
    stage = read_tasks(task_run, names[1:], task_run.read().audited, labels).stages[1]
    assert stage.outputs[0].isnan().all()
    assert stage.outputs[1:].isfinite().all()
    with pytest.raises(ValueError, match="unfinished: shadow-000"):
        gather(task_run, False)


def test_models_that_do_not_learn_in_tasks_have_none(make_run):
    run = make_run()
    assert read_tasks(run, [], [], torch.zeros(80).long()) is None
    assert gather(run, False).game.tasks is None


def test_a_damaged_file_is_named(task_run, read):
    path = task_run.task(FIRST, 2)
    path.write_bytes(path.read_bytes()[:99])
    with pytest.raises(ValueError, match=r"02.safetensors is not a whole file.*--repair"):
        read()


@pytest.mark.parametrize(
    ("name", "tensors", "told"),
    [
        (FIRST, {"outputs": None}, r"02.safetensors lacks outputs\. Run train.py again"),
        (ModelName("shadow", 3), {"leverage_int8": None}, r"lacks leverage_int8\. Run"),
        (TARGET, {"world_members": None}, r"target-000.* lacks world_members\. Run"),
        (FIRST, {"outputs": torch.zeros(300, 9)}, r"must have shape \[300, 10\], got \[300, 9\]"),
        (FIRST, {"outside": torch.zeros(299)}, r"`outside` in .* shape \[300\], got \[299\]"),
        (
            TARGET,
            {"world_outputs": torch.zeros(3, 299, 10)},
            r"`world_outputs` .* shape \[worlds, 300, 10\], got \[3, 299, 10\]",
        ),
        (FIRST, {"leverage": torch.full((300,), torch.inf)}, "must be finite, got 300 numbers"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else str(value)[:12],
)
def test_a_file_with_other_content_is_refused(read, change, name, tensors, told):
    change(name, **tensors)
    with pytest.raises(ValueError, match=told):
        read()


def test_a_missing_file_is_named(task_run):
    labels = gather(task_run, False).game.tasks.labels
    names = task_run.read().names
    tasks = read_tasks(task_run, names, task_run.read().audited, labels)
    path = task_run.task(FIRST, 2)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{re.escape(str(path))} is missing.*Run train.py"):
        tasks.stages[1]


def test_a_class_without_a_task_is_named(task_run):
    with pytest.raises(ValueError, match=r"must be in a task, got 11, which is in none of the 3"):
        read_tasks(task_run, [], [], torch.tensor([3, 11]))


def test_tasks_are_described_and_rows_fewer_than_features_are_said(task_run):
    for place, name in enumerate(task_run.read().names):
        stages = [{"rows": 60 + place, "fewer_rows": True}, {"rows": 90}, {"rows": 40}]
        task_run.record(name, "full").write_text(json.dumps({"stages": stages}))
    assert describe_tasks(task_run, task_run.read().audited) == {
        "tasks": "3 of 4, 3, 3 classes, learner acil",
        "members of each task": "68-69, 90, 40",
        "fewer rows than features": "task 1: the head is correct, and R alone tells every member",
    }


def test_without_images_nobody_knows_the_tasks_and_it_is_said(task_run):
    text = task_run.experiment_file.read_text()
    task_run.experiment_file.write_text(text.replace("datamodules.Digits", "nowhere.Digits"))
    evidence = gather(task_run, False)
    assert evidence.game.tasks is None
    assert any("Tasks were not attacked one by one" in told for told in evidence.left_out)
