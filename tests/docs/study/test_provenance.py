"""The commands that the page names, against the results' own options."""

import shlex

from docs.study import provenance
from docs.study.numbers import Study
from fleet.options import parse


def changed(study, **sections):
    config = {**study.config, **sections}
    experiment = study.results.experiment._replace(config=config)
    return Study(study.results._replace(experiment=experiment))


def options(study, keep=""):
    """Each option with its values, as one string."""
    train = provenance.commands(study, keep).split("\n    python audit.py")[0].replace("\\\n", " ")
    parts = (" " + " ".join(shlex.split(train)[2:])).split(" --")[1:]
    return {f"--{option}": values for option, _, values in (part.partition(" ") for part in parts)}


def test_the_data_is_that_of_the_results_and_not_of_the_recipe(study):
    assert options(study) == {
        "--config": "recipes/study/cifar10_small.yaml",
        "--data": "ImageFolder",
        "--data.root": "path/to/images",
        "--data.image_size": "32",
        "--data.channels": "3",
        "--data.test_fraction": "0.2",
        "--data.pool_seed": "0",
        "--snapshots": "",  # the recipe has grown since the first edition
        "--quantize": " ".join(study.config["quantize"]),
    }
    data = provenance.data(study)
    assert data.startswith("`datamodules.image_folder.ImageFolder` (image_size 32,")
    assert "flip false" in data
    assert "not by the recipe's `datamodules.CIFAR10`" in data
    assert provenance.commands(study).endswith("python -m docs.study runs/study/cifar10_small")
    assert "bitleak 0.1.0" in provenance.versions(study)
    assert "fcd5468ada063d3c" in provenance.versions(study)


def test_options_that_differ_from_the_recipe_are_named(study):
    config = study.config
    data = {
        "class_path": "datamodules.cifar.CIFAR10",
        "init_args": {"pool_size": 4000, "flip": False},
    }
    other = changed(
        study,
        data=data,
        trainer={**config["trainer"], "precision": "32-true"},
        fleet={"shadows": 16, "targets": 6},
        quantize=["adaround-w1.58", "obc-w1.58"],
    )
    other = Study(other.results._replace(name="control"))
    text = provenance.commands(other, "--control ")
    assert "--data.pool_size 4000" in text
    assert "--data " not in text
    assert "flip" not in text
    assert "--trainer.precision 32-true" in text
    assert "--fleet.shadows 16" in text
    assert "--fleet.targets 6" in text
    assert "--quantize adaround-w1.58 obc-w1.58" in text
    assert "--run_dir runs/study/control" in text
    assert text.endswith("python -m docs.study --control runs/study/control")
    assert provenance.data(other).endswith(", as in the recipe")
    assert provenance.compare_data(other, study).startswith("images by `datamodules.cifar.CIFAR10`")
    assert provenance.compare_data(study, study) == "the same images by the same options"


def test_unfinished_models_are_counted_and_the_audit_is_partial(study):
    """The study's rows have 32 shadows and 10 targets, whatever was planned."""
    assert provenance.finished(study) == "32 shadows and 10 targets"
    experiment = study.results.experiment
    config = experiment.config | {"fleet": {"shadows": 64, "targets": 10}}
    fewer = Study(study.results._replace(experiment=experiment._replace(config=config)))
    assert provenance.finished(fewer) == "32 of 64 shadows and 10 targets"
    assert "python audit.py --run_dir runs/study/cifar10_small --partial" in (
        provenance.commands(fewer)
    )


def test_a_recipe_lies_in_any_folder(study):
    """Its folder is that of the run; options of pruning are told where the recipe has some."""
    pruned = changed(study, prune={"method": None, "remove": 0.25, "start": 0.1})
    text = provenance.training(pruned, "pruning/cifar10.yaml")
    assert text.startswith("python train.py --config recipes/pruning/cifar10.yaml \\\n")
    assert "--prune.method null" in text
    assert "--prune.remove 0.25" in text
    assert "--prune.start" not in text
    assert text.endswith("--run_dir runs/pruning/cifar10_small")
    assert provenance.auditing(pruned, "pruning/cifar10.yaml") == (
        "python audit.py --run_dir runs/pruning/cifar10_small"
    )


def test_models_from_elsewhere_have_unknown_versions(study):
    assert provenance.versions(Study(study.results._replace(experiment=None))) == "unknown"


def test_the_commands_give_the_options_of_the_results(study):
    """The parser of train.py, from the words of the page to the config that the results hold."""
    words = shlex.split(
        provenance.commands(study).split("\n    python audit.py")[0].replace("\\\n", " ")
    )
    _, config = parse([*words[2:3], str(provenance.RECIPES / provenance.SMALL), *words[4:]])
    kept = study.config
    arguments = config.data.init_args.as_dict()
    assert {key: arguments[key] for key in kept["data"]["init_args"]} == kept["data"]["init_args"]
    assert config.data.class_path.endswith(".ImageFolder")
    model = config.model.as_dict()
    assert {key: model[key] for key in kept["model"]} == kept["model"]
    assert config.snapshots == []
    trainer = config.trainer.as_dict()
    assert {key: trainer[key] for key in kept["trainer"]} == kept["trainer"]
    assert config.quantize == kept["quantize"]
    assert (config.fleet.shadows, config.fleet.targets) == (32, 10)
    assert config.calibration.as_dict() == kept["calibration"]
    assert config.seed == kept["seed"]
