"""The option `--data`: a data set by name or import path, with options of its own."""

import inspect
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

import yaml

from quantization.imported import make_importable
from storage.command_line import CommandLine, pair_options, quote, recipe_keys
from storage.names import EXPERIMENT_FILE, MEMBERSHIP_FILE

DATA = (
    *("Digits", "ImageFolder", "Arrays"),
    *("FashionMNIST", "CIFAR10", "CIFAR100", "TinyImageNet"),
)
EMPTY = inspect.Parameter.empty


def add_data(parser: CommandLine, data: type | None) -> None:
    """Add `--data`, whose options are those of the data set; None for `--help`."""
    if data is None:
        parser.add_argument(
            "--data",
            help=f"{', '.join(DATA)} (default: Digits), or the import path of your own; "
            "`--data.help NAME` lists the options of a data set",
        )
    else:
        parser.add_subclass_arguments(data, "data", required=False)


def find_options(arguments: Sequence[str]) -> tuple[str | None, set[str], set[str]]:
    """The data set of a command, and the options that it has or may lose with another data set.

    Returns:
        Its name, None for the default; all of its options; and those of data sets that recipes
        name.

    Raises:
        ValueError: there is no such data set, it lacks an option, or a recipe is none.
    """
    name = _data_name(arguments)
    known = _data_options(name)
    dropped = {key for data in _recipes_data(arguments) for key in _data_options(data)}
    _check_required(name, known, arguments)
    return name, known, dropped


def _data_name(arguments: Sequence[str]) -> str | None:
    """The data set named on the command line or in a recipe; None for the default."""
    name = None
    for option, value in pair_options(arguments):  # the last one counts, as in the parser
        if option == "config" and Path(value).is_file():
            named = _recipe_data(Path(value))
            name = name if named is None else named
        elif option in ("data", "data.class_path"):
            name = value
    return name


def _recipes_data(arguments: Sequence[str]) -> list[str]:
    """The data sets that the recipes name, whose options another data set need not have."""
    recipes = [Path(value) for option, value in pair_options(arguments) if option == "config"]
    named = [_recipe_data(recipe) for recipe in recipes if recipe.is_file()]
    return [name for name in named if name is not None]


def _recipe_data(path: Path) -> str | None:
    """The data set of a recipe; a run folder's experiment.yaml is refused as one."""
    if path.name == EXPERIMENT_FILE and (path.parent / MEMBERSHIP_FILE).exists():
        raise ValueError(
            f"{path} records an experiment and is no recipe: it lacks the options of this machine "
            "and the place of the images. Repeat the command that began it: its recipe, such as "
            f"`--config recipes/digits.yaml`, with `--run_dir {quote(path.parent)}`. Options that "
            "differ from the record are then named."
        )
    recipe_keys(path)  # raises if the file is no recipe
    data = yaml.safe_load(path.read_text(encoding="utf-8")).get("data")
    name = data.get("class_path") if isinstance(data, dict) else data
    return None if name is None else str(name)


def _data_options(name: str | None) -> set[str]:
    """Names of all options of a data set."""
    names = {*inspect.signature(_find_data(name)).parameters, "class_path", "init_args", "help"}
    return {"data", *(f"data.{option}" for option in names)}


def _check_required(name: str | None, known: set[str], arguments: Sequence[str]) -> None:
    """Raise ValueError if a data set lacks an option that only the user knows, such as its file."""
    given = set[str]()
    for option, value in pair_options(arguments):
        given.add(option.replace(".init_args", ""))
        if option == "config" and Path(value).is_file():
            given |= {*recipe_keys(Path(value))}
    parameters = inspect.signature(_find_data(name)).parameters.items()
    required = {f"data.{key}" for key, parameter in parameters if parameter.default is EMPTY}
    misspelt = {option for option in given if option.startswith("data.")} - known
    if (missing := sorted(required - given)) and not misspelt and "data.help" not in given:
        raise ValueError(
            f"`--data {name}` needs {' and '.join(f'`--{option}`' for option in missing)}. "
            f"`--data.help {name}` lists all of its options."
        )


def _find_data(name: str | None) -> type:
    """The class of a data set.

    Raises:
        ValueError: there is no such data set.
    """
    make_importable()
    base = import_module("datamodules").ImageDataModule
    path = "datamodules.Digits" if name is None else name
    module, _, attribute = (f"datamodules.{name}" if name in DATA else path).rpartition(".")
    try:
        data = getattr(import_module(module), attribute)
        if not isinstance(data, type) or not issubclass(data, base):
            raise ValueError("it is no subclass of ImageDataModule")
    except (ImportError, AttributeError, ValueError) as error:
        near = get_close_matches((name or "").rpartition(".")[2], DATA, n=1, cutoff=0.5)
        hint = f"Did you mean `{near[0]}`?" if near else f"Take one of {', '.join(DATA)}."
        reason = f" ({error})" if "." in (name or "") else ""
        raise ValueError(
            f"`--data` must be a data set or the import path of your own, got `{name}`{reason}. "
            f"{hint}"
        ) from error
    return data
