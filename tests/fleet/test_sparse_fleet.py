"""Fleets of sparse learners: snapshots are loaded, quantized and measured as those of any other."""

import json

import pytest
from safetensors.torch import load_file

import train
from attacks.metrics.roc import auc, roc
from storage.names import fleet_names
from storage.run_folder import RunFolder

NAMES = fleet_names(2, 0)
LEARNER = (
    "--fleet.shadows 2 --fleet.targets 0 --snapshots --quantize nearest-w2 obc-w3 "
    "--trainer.max_epochs 8 --continual.tasks 3 --continual.backbone_epochs 2 "
    "--continual.learner ssd --continual.sdmlp.hidden 30 --continual.sdmlp.k 4 "
    "--continual.ewc 10 --data.batch_size 8"
)


@pytest.fixture(scope="module")
def sparse(toy, tmp_path_factory):
    """A finished fleet of SSD with EWC on a backbone, to be read or copied."""
    folder = tmp_path_factory.mktemp("runs") / "sparse"
    train.main(toy(folder, LEARNER))
    return folder


@pytest.mark.fleet
def test_signals_are_measured_again_from_snapshots_and_codes_alone(
    toy, sparse, served, tensors, tmp_path
):
    """Whose counts go with them: with other counts, other neurons would be active."""
    run, before = RunFolder(sparse), tensors(sparse)
    for variant in ("task-1", "full", "nearest-w2"):
        run.signals(NAMES[0], variant).unlink()
    run.weights(NAMES[1], "obc-w3").unlink()
    served.clear()
    train.main(toy(sparse, LEARNER))
    assert not served
    assert tensors(sparse) == before


@pytest.mark.fleet
def test_a_killed_fleet_ends_bit_for_bit_the_same(toy, sparse, tmp_path, killed, tensors, records):
    """In the backbone's training, in the first task, and where a teacher and a Fisher hold."""
    folder = tmp_path / "run"
    killed(toy(folder, LEARNER), [2, 8, 16])
    assert tensors(folder) == tensors(sparse)
    assert records(folder) == records(sparse)


def test_records_say_how_sparse_a_head_is(sparse):
    run = RunFolder(sparse)
    for name in NAMES:
        stages = json.loads(run.record(name, "full").read_text())["stages"]
        assert [stage["k"] for stage in stages] == [4, 4, 4]
        assert len({stage["switch"] for stage in stages}) == 1
        assert all(len(set(stage["subnetwork"])) == 4 for stage in stages)
        assert ["alive" in stage for stage in stages] == [False, True, True]


def test_the_fisher_of_each_stage_tells_who_it_was_measured_on(sparse):
    """Members never exceed it but for rounding, and where it is solved they come out on top."""
    run = RunFolder(sparse)
    for name, members in run.membership().items():
        for number in (1, 2, 3):
            file = load_file(run.task(name, number))
            assert (file["fisher_excess"][members] < 1e-3).all()
            own = file["fisher_excess"] != 0
            assert auc(roc(file["fisher_solved"][own].double(), members[own])).item() > 0.9
            assert not file["fisher_solved"][~own].any()


@pytest.mark.fleet
def test_inhibition_that_came_late_is_said_after_training(toy, tmp_path, capsys, unwrap):
    late = "--continual.learner sdmlp --continual.sdmlp.switch 1e6 --trainer.max_epochs 5"
    options = LEARNER.replace("--continual.ewc 10", "").replace("nearest-w2 obc-w3", "")
    train.main(toy(tmp_path / "run", f"{options} {late} --fleet.models 0"))
    told = unwrap(capsys.readouterr().out)
    assert "The inhibition of 1 model was not complete after the first task" in told
    assert "Lower `--continual.sdmlp.switch`" in told
