"""Reloading the images that a fleet was trained on."""

from argparse import ArgumentError
from collections.abc import Mapping
from typing import Any

from jsonargparse import ArgumentParser

from datamodules.images import ImageDataModule


def load_stored(
    config: Mapping[str, Any], places: Mapping[str, str], fingerprint: str
) -> ImageDataModule:
    """Read the images that the fleet was trained on, without downloading.

    Args:
        config: `class_path` and `init_args` of the data module.
        places: options that say where its files are, such as `root`.
        fingerprint: fingerprint of the images at training.

    Raises:
        ValueError: the images are missing or differ; the message is one line.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ImageDataModule, "data")
    options = dict(config) | {"init_args": config["init_args"] | places}
    try:
        data: ImageDataModule = parser.instantiate(parser.parse_object({"data": options})).data
        data.setup("fit")
    except (OSError, ValueError, RuntimeError, ArgumentError) as error:
        # torchvision raises RuntimeError; a message of jsonargparse has many lines
        raise ValueError(" ".join(str(error).split())) from error
    if data.fingerprint() != fingerprint:
        raise ValueError("they are not those that the fleet was trained on")
    return data
