import os
import re

import pytest
import torch
from jsonargparse import Namespace
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

import train
from fleet.options import Fleet, check_options, choose_threads, environment, parse
from storage.run_folder import RunFolder


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--model.netwrk convnet", "netwrk"),
        ("--trainer.callbacks null", "callbacks"),
        ("--data.batchsize 3", "batchsize"),
        ("--data NoSuchData", "NoSuchData"),
        ("--seed one", "seed"),
        ("--calibration.images 1.5", "calibration.images"),
        ("--layer_bits '{\"fc\": many}'", "layer_bits"),
        ("--wandb maybe", "wandb"),
        ("--model.schedule linear", "schedule"),
        ("--config missing.yaml", "missing.yaml"),
    ],
)
def test_a_misspelt_option_is_named(toy, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as stopped:
        train.main(toy(tmp_path / "run", options))
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_help_lists_every_option(capsys):
    with pytest.raises(SystemExit) as stopped:
        train.main(["--help"])
    assert stopped.value.code == 0
    output = capsys.readouterr().out
    options = re.findall(r"^  (--[\w.]+) (?:[A-Z{\[].*)?\n?((?:   .*\n)*)", output, re.MULTILINE)
    assert {"--run_dir", "--fleet.shadows", "--model.lr", "--trainer.devices"} <= dict(
        options
    ).keys()


def test_a_data_set_keeps_its_own_defaults():
    _, config = parse(["--run_dir", "x", "--data", "CIFAR10"])
    options = config.data.init_args
    assert (options.pool_size, options.batch_size) == (None, 128)
    assert (options.flip, options.crop) == (True, 4)


def test_digits_are_the_default_data(tmp_path):
    arguments = "--model.network convnet --trainer.max_epochs 1 --fleet.shadows 2 --fleet.targets 0"
    train.main(
        ["--run_dir", str(tmp_path / "run"), *arguments.split(), "--threads", "1", "--quantize"]
    )
    config = RunFolder(tmp_path / "run").read().config
    assert config["data"]["class_path"] == "datamodules.digits.Digits"
    assert config["data"]["init_args"]["pool_size"] == 600


def test_a_missing_number_of_epochs_is_an_error(tmp_path):
    with pytest.raises(SystemExit, match="`--trainer.max_epochs` is missing"):
        train.main(["--run_dir", str(tmp_path / "run"), "--data", "Digits"])
    assert not (tmp_path / "run").exists()


def test_experiment_yaml_is_refused_as_a_recipe(toy_run, tmp_path, capsys, unwrap):
    with pytest.raises(SystemExit):
        train.main(["--config", str(toy_run / "experiment.yaml"), "--run_dir", str(tmp_path / "r")])
    said = unwrap(capsys.readouterr().err)
    assert "experiment.yaml records an experiment and is no recipe" in said
    assert f"with `--run_dir {toy_run}`" in said
    (tmp_path / "experiment.yaml").write_text("fleet: {shadows: many}")  # of no run folder
    with pytest.raises(SystemExit):
        train.main(["--config", str(tmp_path / "experiment.yaml"), "--run_dir", "r"])
    assert "fleet.shadows" in capsys.readouterr().err
