"""What SLURM and torchrun say of a model's processes, by their environment variables."""

import os
import subprocess
import sys

import pytest
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch import Trainer

from fleet.cluster import check_tasks, ending_together, environment, limit_threads
from fleet.options import FleetOptions

ALONE, PACKED = FleetOptions(), FleetOptions(workers=2)
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "r",
    "RANK": "2",
    "LOCAL_RANK": "2",
    "WORLD_SIZE": "4",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}


@pytest.fixture
def job(monkeypatch):
    """Set the variables of a SLURM job."""

    def start(**variables):
        for key, value in ({"NTASKS": "1", "JOB_NAME": "fleet"} | variables).items():
            monkeypatch.setenv(f"SLURM_{key}", value)

    return start


def test_lightning_hears_of_other_processes_from_slurm_or_from_nobody(job):
    assert environment(ALONE) == []
    job()
    (slurm,) = environment(ALONE)
    assert isinstance(slurm, SLURMEnvironment)
    assert not slurm.auto_requeue
    (alone,) = environment(PACKED)
    assert isinstance(alone, LightningEnvironment)


def test_torchrun_inside_a_job_speaks_for_its_processes(job, monkeypatch):
    job(NTASKS="1", PROCID="0", LOCALID="0")
    for key, value in TORCHRUN.items():
        monkeypatch.setenv(key, value)
    assert environment(ALONE) == []
    check_tasks(ALONE, 4)
    ranks = Trainer(accelerator="cpu", devices=4, strategy="ddp", logger=False)
    assert (ranks.global_rank, ranks.world_size) == (2, 4)


@pytest.mark.parametrize(
    ("variables", "processes", "message"),
    [
        ({}, 1, None),
        ({"NTASKS": "4", "NTASKS_PER_NODE": "4"}, 4, None),
        ({"NTASKS": "4", "NTASKS_PER_NODE": "4", "STEP_NUM_TASKS": "1"}, 1, None),  # srun -n 1
        ({"NTASKS": "4", "NTASKS_PER_NODE": "4"}, 1, "4 SLURM tasks, but 1 processes that tra"),
        (
            {},
            2,
            r"1 SLURM tasks, but 2 .*`srun`.*`--ntasks-per-node`.*array and `--fleet.mod",
        ),
    ],
)
def test_slurm_must_start_every_process_of_a_model(job, variables, processes, message):
    job(**variables)
    check_tasks(PACKED, 1)  # Ray starts its own
    if message is None:
        check_tasks(ALONE, processes)
    else:
        with pytest.raises(ValueError, match=message):
            check_tasks(ALONE, processes)


def test_tasks_that_lightning_cannot_read_are_one_line(job):
    job(NTASKS="4")
    with pytest.raises(ValueError, match=r"4 SLURM tasks by `--ntasks`. Start one task for each"):
        environment(ALONE)


def test_lightning_leaves_the_number_of_threads_alone(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    try:
        limit_threads(before + 2, processes=1)
        assert "OMP_NUM_THREADS" not in os.environ
        monkeypatch.setenv("OMP_NUM_THREADS", "to be put back")
        limit_threads(before + 2, processes=2)
        _set_num_threads_if_needed(num_processes=2)
        assert torch.get_num_threads() == before + 2
        assert os.environ["OMP_NUM_THREADS"] == str(before + 2)
    finally:
        torch.set_num_threads(before)


def test_a_fit_that_fails_ends_the_processes_of_every_fit_before_it():
    def trainer():
        return Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False)

    first, second = trainer(), trainer()
    with ending_together(first):
        started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        first.strategy.launcher.procs = processes = [started]
    assert started.poll() is None
    with pytest.raises(KeyError, match="lost"), ending_together(second):
        raise KeyError("lost")
    assert started.wait(60) == -9
    assert processes == []  # for Lightning, which would kill this process too
