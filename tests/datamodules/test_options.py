"""Every data set from the command line."""

import pytest
from jsonargparse import ArgumentParser

import datamodules
from datamodules import ImageDataModule

NAMES = [name for name in datamodules.__all__ if name != "ImageDataModule"]


@pytest.fixture
def parser():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ImageDataModule, "data")
    return parser


@pytest.mark.parametrize("name", [name for name in NAMES if name != "Arrays"])
def test_a_data_set_is_made_from_its_name_and_options(parser, name, tmp_path):
    arguments = [f"--data={name}", "--data.pool_size=50", "--data.flip=true", "--data.crop=3"]
    arguments += [] if name == "Digits" else [f"--data.root={tmp_path}"]
    data = parser.instantiate(parser.parse_args(arguments)).data
    assert type(data) is getattr(datamodules, name)
    assert (data.pool_size, data.flip, data.crop) == (50, True, 3)


def test_arrays_are_made_from_their_options(parser, tmp_path):
    arguments = ["--data=Arrays", f"--data.file={tmp_path}/a.npz", "--data.mean=[1, 2.5]"]
    data = parser.instantiate(parser.parse_args(arguments)).data
    assert (data.file, data.given) == (tmp_path / "a.npz", {"mean": [1, 2.5], "std": None})


@pytest.mark.parametrize("name", NAMES)
def test_every_option_has_a_help_text(name):
    parser = ArgumentParser()
    parser.add_class_arguments(getattr(datamodules, name), "data")
    options = [action for action in parser._actions if action.dest.startswith("data.")]
    assert len(options) >= 5
    assert all(option.help for option in options)


def test_a_misspelt_option_stops_before_any_data_is_read(parser):
    with pytest.raises(Exception, match="pool_sise"):
        parser.parse_args(["--data=Digits", "--data.pool_sise=50"])
