import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import datamodules
import train
from fleet.data_option import DATA
from fleet.options import FleetOptions, make_parser, parse

ROOT = Path(__file__).parents[2]


def test_several_workers_and_a_cluster_train_models_apart():
    assert not FleetOptions().apart
    assert FleetOptions(workers=2).apart
    assert FleetOptions(address="auto").apart


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "`fleet.workers` must be 1 or more, got 0"),
        ({"gpus_per_model": 2.0}, "`fleet.gpus_per_model` must be 0 to 1, got 2.0"),
        ({"gpus_per_model": 0.5}, "`fleet.gpus_per_model` needs `--fleet.workers` of 2 or more"),
    ],
)
def test_counts_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FleetOptions(**options)


def test_the_named_data_sets_are_those_of_datamodules():
    assert {*DATA, "ImageDataModule"} == set(datamodules.__all__)


@pytest.fixture
def refuse(capsys):
    """Parse arguments that must be refused; returns the message."""

    def refuse(*arguments):
        with pytest.raises(SystemExit) as stopped:
            parse(["--run_dir", "x", *arguments])
        output = capsys.readouterr()
        assert stopped.value.code == 2
        assert output.out == ""
        assert output.err.count("\n") == 1
        return output.err.rstrip("\n").removeprefix("train.py: ")

    return refuse


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.netwrk", "convnet"], "There is no option `--model.netwrk`. Did you mean `--mod"),
        (["--data.batchsize=3"], "There is no option `--data.batchsize`. Did you mean `--data.bat"),
        (["--data", "CIFR10"], "`--data` must be a data set or the import path of your own, got `"),
        (["--data", "Digts"], "`--data` must be a data set or the import path of your own, got `D"),
        (["--seed", "one"], "`--seed` must be int, got `one`."),
        (["--data.batch_size", "many"], "`--data.batch_size` must be int, got `many`."),
        (["--calibration.images", "1.5"], "`--calibration.images` must be int, got `1.5`."),
        (["--federated.record", "3"], "`--federated.record` must be a list such as [1,2], g"),
        (["--trainer.max_epochs", "long"], "`--trainer.max_epochs` must be int or null, got `lo"),
        (["--data=CIFAR10", "--data.pool_size=many"], "`--data.pool_size` must be int or null, g"),
        (["--model.schedule", "linear"], "`--model.schedule` must be cosine or one-cycle, got `"),
        (["--layer_bits", '{"fc": many}'], "`--layer_bits` must be int or float, got `many`."),
    ],
)
def test_a_wrong_option_is_one_line(refuse, arguments, message):
    assert refuse(*arguments).startswith(message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Digits", "--data.batch_size", "1"], "`batch_size` must be 2 or more for BatchNorm, got"),
        (["ImageFolder", "--data.root", "x", "--data.background", "12"], "`background` must"),
    ],
)
def test_an_error_of_a_data_set_is_as_it_raised_it(arguments, message):
    parser, config = parse(["--run_dir", "x", "--data", *arguments])
    with pytest.raises(ValueError, match=f"^{message}"):
        parser.instantiate(config)


@pytest.mark.parametrize("name", ["3", "os.path", "no_such_package.Data", "torch.nn.Linear", "''"])
def test_anything_but_a_data_set_is_refused(refuse, tmp_path, name):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"data: {name}\n")
    for arguments in (["--data", name], ["--config", str(recipe)]):
        assert refuse(*arguments).startswith("`--data` must be a data set or the import path of")


@pytest.mark.parametrize(("name", "nearest"), [("CIFR10", "CIFAR10"), ("datamodules.Digts", "Dig")])
def test_a_misspelt_data_set_is_answered_with_the_nearest_name(refuse, name, nearest):
    message = refuse("--data", name)
    assert f"got `{name}`" in message
    assert f"Did you mean `{nearest}" in message


@pytest.mark.parametrize(
    ("name", "option"), [("Arrays", "file"), ("datamodules.ImageFolder", "root")]
)
def test_a_data_set_without_its_place_is_told_which_option_it_needs(refuse, name, option):
    assert refuse("--data", name, "--data.pool_size", "9") == (
        f"`--data {name}` needs `--data.{option}`. `--data.help {name}` lists all of its options."
    )
    assert "There is no option `--data.rot`" in refuse("--data", name, "--data.rot", "here")


@pytest.mark.parametrize("form", ["--config {}", "--config={}"])
def test_a_misspelt_key_of_a_recipe_is_named(refuse, tmp_path, form):
    path = tmp_path / "recipe.yaml"
    path.write_text("data:\n  class_path: CIFAR10\n  init_args: {bach_size: 3}\n")
    assert refuse(*form.format(path).split()) == (
        f"{path} sets an unknown option, `data.bach_size`. Did you mean `--data.batch_size`?"
    )


@pytest.mark.parametrize("form", ["--config {}", "--config={}"])
def test_options_of_the_data_set_that_a_recipe_names_are_known(tmp_path, form):
    path = tmp_path / "recipe.yaml"
    path.write_text("data:\n  class_path: ImageFolder\n  init_args: {root: photos}\n")
    _, config = parse(["--run_dir", "x", *form.format(path).split(), "--data.image_size", "16"])
    assert config.data.class_path.endswith("ImageFolder")
    assert config.data.init_args.image_size == 16


def test_a_missing_run_folder_is_one_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(["--seed", "1"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "train.py: Required options are missing: run_dir.\n"


def test_the_last_data_set_counts(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("data: CIFAR10\n")
    config = f"--config {path}".split()
    _, last_option = parse(["--run_dir", "x", *config, "--data", "CIFAR100"])
    assert last_option.data.class_path.endswith("CIFAR100")


def test_digits_are_the_default_data_set():
    _, config = parse(["--run_dir", "x"])
    assert config.data.class_path.endswith("Digits")
    assert config.data.init_args.pool_size == 600


def test_the_parser_for_help_has_every_option_of_the_parser():
    bare, full = (make_parser(data).format_help() for data in (None, datamodules.ImageDataModule))
    options = {word for word in full.split() if word.startswith("--") and "data" not in word}
    assert len(options) > 40
    assert options <= set(bare.split())


@pytest.fixture
def without_torch(tmp_path):
    """An environment in which `import torch` and `import lightning` fail."""
    for package in ("torch", "lightning"):
        (tmp_path / f"{package}.py").write_text(f"raise RuntimeError('imported {package}')")
    return os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}


@pytest.mark.parametrize("module", ["fleet.options", "reporting.options"])
def test_making_a_parser_imports_no_torch(without_torch, module):
    script = f"import sys; from {module} import make_parser; make_parser()\n"
    script += "assert not {'torch', 'lightning'} & sys.modules.keys()"
    done = subprocess.run(
        [sys.executable, "-c", script], env=without_torch, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("command", "option"),
    [("train.py", "--fleet.shadows"), ("audit.py", "--compare"), ("-m fleet.export", "--format")],
)
def test_help_imports_no_torch(without_torch, command, option):
    done = subprocess.run(
        [sys.executable, *command.split(), "--help"],
        cwd=ROOT,
        env=without_torch,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert option in done.stdout


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


def test_a_data_set_is_found_in_the_current_folder(tmp_path, monkeypatch):
    """Installed as a command, Python looks in the command's folder instead."""
    (tmp_path / "data_of_mine.py").write_text("from datamodules import Digits as Mine")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", os.getcwd())])
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.chdir(tmp_path)
    _, config = parse(["--run_dir", "x", "--data", "data_of_mine.Mine"])
    assert config.data.class_path == "data_of_mine.Mine"
    sys.modules.pop("data_of_mine")


def test_a_missing_number_of_epochs_is_an_error(tmp_path):
    with pytest.raises(SystemExit, match=r"`--trainer.max_epochs` is missing"):
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
