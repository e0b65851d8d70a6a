"""The images that a fleet was trained on, found again."""

from argparse import ArgumentError
from collections.abc import Mapping
from typing import Any

from jsonargparse import ArgumentParser

from datamodules.images import ImageDataModule


def load_stored(
    config: Mapping[str, Any], places: Mapping[str, str], fingerprint: str
) -> ImageDataModule:
    """Read the images as they were when the fleet was trained; nothing is downloaded.

    Args:
        config: `class_path` and `init_args` of the data module.
        places: where its files are.
        fingerprint: of the images.

    Raises:
        ValueError: they are not there, or are others; the message is a line.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ImageDataModule, "data")
    options = dict(config) | {"init_args": config["init_args"] | places}
    try:
        data: ImageDataModule = parser.instantiate(parser.parse_object({"data": options})).data
        data.setup("fit")
    except (OSError, ValueError, RuntimeError, ArgumentError) as error:  # torchvision: the third
        raise ValueError(" ".join(str(error).split())) from error  # jsonargparse's is a tree
    if data.fingerprint() != fingerprint:
        raise ValueError("they are not those that the fleet was trained on")
    return data
