"""A fleet of analytic learners: what it says beforehand, and what it leaves of whom."""

import json
import math
import re

import pytest
import torch
from safetensors.torch import load_file

import train
from storage.names import fleet_names
from storage.run_folder import RunFolder

LEARNER = (
    "--fleet.shadows 2 --fleet.targets 1 --snapshots --quantize nearest-w2 --trainer.max_epochs 3 "
    "--continual.tasks 3 --continual.learner acil --continual.analytic.buffer 40 "
    "--continual.analytic.worlds 2"
)
EXPOSED = {"leverage", "leverage_float16", "leverage_int8", "outside"}
WORLDS = {"world_outputs", "world_leverage", "world_members", "world_seconds"}


@pytest.fixture(scope="module")
def learned(toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "analytic"
    train.main(toy(folder, LEARNER))
    return RunFolder(folder)


def test_a_dry_run_says_that_tasks_are_smaller_than_the_buffer(toy, tmp_path, capsys, unwrap):
    train.main(toy(tmp_path / "run", f"{LEARNER} --fleet.dry_run true"))
    told = unwrap(capsys.readouterr().out)
    assert "In 3 of 3 tasks a model has fewer rows" in told
    assert "who holds R before and after such a task knows each of its rows" in told
    few = LEARNER.replace("buffer 40", "buffer 2")
    train.main(toy(tmp_path / "run", f"{few} --fleet.dry_run true"))
    assert "fewer rows" not in unwrap(capsys.readouterr().out)


def test_every_model_records_its_state_and_audited_ones_worlds(learned):
    for name in fleet_names(2, 1):
        audited = name in learned.read().audited
        for number in (1, 2, 3):
            file = load_file(learned.task(name, number))
            assert {*file} == {
                "outputs",
                "accuracy",
                *EXPOSED,
                *(("solved", *WORLDS) if audited else ()),
            }
            assert all(file[key].shape == (64,) for key in EXPOSED)
            if audited:
                assert file["world_outputs"].shape == (2, 64, 10)
                assert file["world_outputs"].dtype == torch.float32
                assert file["world_members"].sum(1).tolist() == [32, 32]
                assert file["world_seconds"].item() > 0
        record = json.loads(learned.record(name, "full").read_text())
        assert all(stage["columns"] == 40 for stage in record["stages"])
    assert {name.role for name in learned.read().audited} == {"target"}


def test_quantized_heads_round_what_was_solved_for(learned):
    """And the bias keeps classes that no task has had from winning, in snapshots."""
    for name in fleet_names(2, 1):
        first = load_file(learned.weights(name, "task-1"))
        assert first["head.output.bias"].tolist() == [0] * 4 + [-100] * 6
        full = load_file(learned.weights(name, "full"))
        assert full["head.output.bias"].tolist() == [0] * 10
        assert torch.equal(first["head.buffer.weight"], full["head.buffer.weight"])
        bound = full["head.buffer.weight"].abs().max().item()
        assert 0.9 / math.sqrt(64) < bound <= 1 / math.sqrt(64)


def test_a_dry_run_counts_the_bytes_of_what_is_recorded(learned, toy, tmp_path, capsys, unwrap):
    """By the files: those of all tasks, and the outputs of quantized variants."""
    files = [learned.task(name, number) for name in fleet_names(2, 1) for number in (1, 2, 3)]
    train.main(toy(tmp_path / "run", f"{LEARNER} --fleet.dry_run true"))
    told = re.search(r"([\d,]+) of recorded tasks", unwrap(capsys.readouterr().out))
    whole = 4 * 10 * 64 * len(learned.read().quantized)
    written = sum(file.stat().st_size for file in files) / 3 + whole
    assert int(told[1].replace(",", "")) == pytest.approx(written, rel=0.15)  # headers


@pytest.mark.fleet
def test_a_fleet_is_the_same_again_but_for_its_seconds(toy, learned, tmp_path):
    train.main(toy(tmp_path / "again", LEARNER))
    again = RunFolder(tmp_path / "again")
    for name in fleet_names(2, 1):
        for number in (1, 2, 3):
            one, other = (load_file(run.task(name, number)) for run in (learned, again))
            assert one.keys() == other.keys()
            for key in one.keys() - {"world_seconds"}:
                assert torch.equal(one[key], other[key])
