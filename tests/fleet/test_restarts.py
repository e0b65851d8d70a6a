"""Models whose weights are gone: found by hand, told before their files are deleted."""

import json

import pytest
import torch

from fleet.engine import Task, complete
from fleet.restarts import announce, find_lost, made_by
from storage.experiment import Experiment
from storage.files import save_whole
from storage.names import ModelName
from storage.run_folder import RunFolder

NAME, OTHER = ModelName("shadow", 3), ModelName("target", 0)
CONFIG = {"quantize": ["nearest-w2"], "snapshots": [2, 4], "fleet": {"shadows": 4, "targets": 1}}
EXPERIMENT = Experiment(CONFIG, {}, {}, {}, {}, "")
FILES = ["epoch-02", "epoch-04", "full", "nearest-w2", "signals/full", "embeddings/full"]


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path)


def make(run, name=NAME, files=FILES, epoch=None):
    """Write a model's files, and the checkpoint after an epoch."""
    for file in files:
        save_whole(run.model(name) / f"{file}.safetensors", {"weight": torch.ones(1)})
    run.model(name).mkdir(parents=True, exist_ok=True)
    run.progress(name).write_text(json.dumps({"stage": "finished", "epoch": 6, "seconds": 7.0}))
    if "nearest-w2" in files:
        run.record(name, "nearest-w2").write_text("{}")
    if epoch is not None:
        torch.save({"epoch": epoch - 1}, run.checkpoint(name))


@pytest.mark.parametrize(
    ("files", "epoch", "lost"),
    [
        (FILES, 6, []),
        (FILES, None, []),  # its weights are there
        (["epoch-04", "full"], 6, ["epoch-02"]),
        (["full"], None, ["epoch-02", "epoch-04"]),
        (["epoch-02", "epoch-04"], 6, []),  # the end follows from the checkpoint
        (["epoch-02"], 3, []),  # training has not passed the other yet
        (["epoch-02"], 4, ["epoch-04"]),
        ([], 3, ["epoch-02"]),
        (["epoch-02", "epoch-04", "nearest-w2"], None, ["full"]),
        ([], None, ["full", "epoch-02", "epoch-04"]),  # it was never begun
    ],
)
def test_what_only_training_from_the_start_makes(run, files, epoch, lost):
    make(run, files=files, epoch=epoch)
    assert find_lost(run, EXPERIMENT, NAME) == lost


@pytest.mark.parametrize("dry_run", [False, True])
def test_what_is_deleted_is_told_with_the_loss_and_the_ways_out(run, dry_run):
    for name in (NAME, OTHER):
        make(run, name, [file for file in FILES if file != "epoch-02"], epoch=6)
    (sentence,) = announce(run, EXPERIMENT, [NAME, OTHER], dry_run)
    are = "would be" if dry_run else "are"
    assert sentence == (
        f"shadow-003, target-000 {are} trained again from the start (14 s of one process so far), "
        "because no other file can bring back epoch-02: 14 files (weights, records, signals, "
        f"checkpoints) {are} deleted first. Put the lost files back to keep these, or leave the "
        "models out by `--fleet.models`."
    )
    (sentence,) = announce(run, EXPERIMENT, [NAME], dry_run)
    is_ = "would be" if dry_run else "is"
    assert f"shadow-003 {is_} trained again from the start (7 s" in sentence


@pytest.mark.parametrize("files", [[], ["epoch-02"]], ids=["new", "killed"])
def test_a_model_without_a_checkpoint_begins_without_a_word(run, files):
    make(run, files=files)
    assert announce(run, EXPERIMENT, [NAME], dry_run=False) == []


def test_models_are_told_apart_by_what_they_lost(run):
    make(run, NAME, FILES[:2] + FILES[3:])
    make(run, OTHER, FILES[1:])
    first, second = announce(run, EXPERIMENT, [NAME, OTHER], dry_run=False)
    assert "shadow-003 is" in first
    assert "back full:" in first
    assert "target-000 is" in second
    assert "back epoch-02:" in second


def test_what_is_told_is_what_is_deleted(run):
    """All but the progress, before the model is trained; nothing else, if nothing was lost."""
    make(run, epoch=6)
    kept, began = made_by(run, NAME), []

    def fit(name):
        began.append([path for path in kept if path.exists()])
        make(run, epoch=6)
        for variant in EXPERIMENT.variants:
            save_whole(run.signals(NAME, variant), {})

    assert len(kept) == 8
    task = Task(run, EXPERIMENT, 1, {})
    assert complete(task, fit, NAME).state == "finished"
    run.weights(NAME, "epoch-02").unlink()
    assert run.progress(NAME).exists()
    assert complete(task, fit, NAME).state == "finished"
    assert began == [kept, []]
