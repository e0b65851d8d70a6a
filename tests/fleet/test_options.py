import os

import pytest
import torch
from jsonargparse import Namespace
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

from fleet.options import Fleet, check_options, choose_threads, environment


def options(**trainer):
    defaults = {"accelerator": "cpu", "strategy": "auto", "devices": 1, "num_nodes": 1}
    defaults |= {"max_epochs": 3, "check_val_every_n_epoch": 1, "accumulate_grad_batches": 1}
    return Namespace(threads=None, trainer=Namespace(**(defaults | trainer)))


@pytest.mark.parametrize(
    ("devices", "nodes", "expected"), [(1, 1, 1), ("auto", 1, 1), (2, 1, 2), (2, 3, 6)]
)
def test_how_many_processes_train_a_model(devices, nodes, expected):
    strategy = "auto" if expected == 1 else "ddp"
    asked = options(devices=devices, num_nodes=nodes, strategy=strategy)
    assert check_options(asked, Fleet()) == expected


def test_workers_on_gpus_must_say_how_much_of_one(monkeypatch):
    monkeypatch.setattr("fleet.options.CUDAAccelerator", object)  # any is one
    with pytest.raises(ValueError, match=r"`--fleet.gpus_per_model` must say .*0\.25 to pack four"):
        check_options(options(), Fleet(workers=2))
    assert check_options(options(), Fleet(workers=2, gpus_per_model=0.25)) == 1


def test_threads_are_a_fair_share(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert choose_threads(options(), Fleet()) == torch.get_num_threads()
    assert choose_threads(options(), Fleet(workers=3)) == 2
    assert choose_threads(options(), Fleet(workers=9)) == 1
    assert choose_threads(options(), Fleet(workers=2, address="auto")) == 1  # not this machine
    monkeypatch.delattr(os, "sched_getaffinity")  # where there is none
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert choose_threads(options(), Fleet(workers=2)) == 3
    asked = options()
    asked.threads = 5
    assert choose_threads(asked, Fleet(workers=3)) == 5


def test_who_tells_lightning_of_other_processes(monkeypatch):
    assert environment(Fleet()) == []
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_JOB_NAME", "fleet")
    (slurm,) = environment(Fleet())
    assert isinstance(slurm, SLURMEnvironment)
    assert not slurm.auto_requeue
    (alone,) = environment(Fleet(workers=2))
    assert isinstance(alone, LightningEnvironment)
