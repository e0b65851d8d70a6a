"""An argument parser whose errors are one line that names the nearest option.

Also what a command prints: any character on any terminal, and names quoted for a shell.
"""

import codecs
import io
import re
import shlex
import sys
from argparse import ArgumentError
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import chdir
from difflib import get_close_matches
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

# jsonargparse's messages: name, type or types, and value
PLAIN = {"NoneType": "null", "collections.abc.Sequence": "a list such as [1,2]"}  # types
MISMATCHES = (
    r'Parser key "([\w.]+)": Expected an? (.+?)\. Got value: (.+?)(?= - |$)',
    r'Parser key "([\w.]+)": Does not validate against any of the Union subtypes '
    r"Subtypes: \[(.+?)\] Errors: .+? Given value: (.+?)(?= - |$)",
)


class CommandLine(ArgumentParser):
    """jsonargparse's parser with one-line errors; make it with `make_command_line`."""

    dictionaries: frozenset[str] = frozenset()  # options whose keys may be set one by one

    def read(
        self,
        arguments: Sequence[str] | None,
        further: Collection[str] = (),
        dropped: Collection[str] = (),
    ) -> Namespace:
        """Parse arguments, or exit with status 2 and one line.

        Args:
            arguments: the arguments after the command's name; those of this process if None.
            further: names of options that a class chosen by these arguments defines, such as
                `data.pool_size`.
            dropped: names that a recipe may set for the class that these arguments replace.
        """
        arguments = list(sys.argv[1:] if arguments is None else arguments)
        try:
            _check_encoding(arguments)
            if ("run_dir", "") in pair_options(arguments):  # a path without a name is this folder
                raise ValueError("`--run_dir` must name a folder, got ``. Write . for this one.")
            self._check_names(arguments, further, dropped)
            return self.parse_args(arguments)
        except (ArgumentError, ValueError, OSError) as error:
            self.exit(2, f"{self.prog}: {_one_line(error)}\n")

    def parse_path(
        self,
        path: str | PathLike[str],
        ext_vars: dict[str, Any] | None = None,
        env: bool | None = None,
        defaults: bool = True,
        **further: Any,  # noqa: ANN401
    ) -> Namespace:
        """Parse a recipe as jsonargparse does, but in UTF-8 whatever the locale."""
        content = Path(path).read_text(encoding="utf-8")
        with chdir(Path(path).parent):  # a path in a recipe is relative to it
            name = Path(path).name
            parsed: Namespace = self.parse_string(content, name, ext_vars, env, defaults, **further)
            return parsed

    def instantiate(self, *args: Any, **further: Any) -> Namespace:  # noqa: ANN401
        """Make what the options name; a constructor's own error is raised, in one line.

        jsonargparse wraps it into a tree of types, because a class that need not be given may be
        null.
        """
        try:
            made: Namespace = super().instantiate(*args, **further)
        except ValueError as error:
            if str(error).startswith("Does not validate") and error.__cause__ is not None:
                raise ValueError(" ".join(str(error.__cause__).split())) from error
            raise
        return made

    def _check_names(
        self, arguments: Sequence[str], further: Collection[str], dropped: Collection[str]
    ) -> None:
        """Raise ValueError for a misspelt option on the command line or in a recipe."""
        options = {option[2:] for option in self._option_string_actions if option[:2] == "--"}
        known = {*options, *further}
        for name, value in pair_options(arguments):
            self._check_name(name, known, f"There is no option `--{name}`.")
            if name == "config" and Path(value).is_file():
                for key in recipe_keys(Path(value)):
                    self._check_name(
                        key, known.union(dropped), f"{value} sets an unknown option, `{key}`."
                    )

    def _check_name(self, name: str, known: set[str], problem: str) -> None:
        if name not in known and not name.startswith(tuple(f"{d}." for d in self.dictionaries)):
            near = get_close_matches(name, known, n=1)
            hint = f"Did you mean `--{near[0]}`?" if near else f"`{self.prog} --help` lists them."
            raise ValueError(f"{problem} {hint}")


def pair_options(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Pair the name of each option with its value, given as `--name value` or `--name=value`.

    The value of an option that takes none is the argument that follows it, or empty.
    """
    pairs = []
    for argument, following in pairwise([*arguments, ""]):
        name, equals, value = argument.partition("=")
        if name.startswith("--"):
            pairs.append((name[2:], value if equals else following))
    return pairs


def _check_encoding(arguments: Sequence[str]) -> None:
    """Raise ValueError for a name in another encoding than the locale's, which YAML cannot read."""
    for argument in arguments:
        if any(0xDC80 <= ord(character) <= 0xDCFF for character in argument):
            encoding = sys.getfilesystemencoding()
            raise ValueError(
                f"Names must be in the locale's encoding, {encoding}, got `{argument}`. Set "
                "PYTHONUTF8=1 if the name is in UTF-8; otherwise rename it."
            )


def _one_line(error: Exception) -> str:
    """Reduce jsonargparse's tree of attempts to the expected types and the given value."""
    text = " ".join(str(error).split())
    if missing := re.fullmatch(r"the following arguments are required: (.+)", text):
        return f"Required options are missing: {missing[1]}."
    if lacks := re.fullmatch(r"argument (--[\w.]+): expected (?:one|at least one) argument", text):
        return (
            f"`{lacks[1]}` needs a value. Write one that begins with a dash as `{lacks[1]}=-value`."
        )
    innermost = text[max(text.rfind('Parser key "'), 0) :]
    for pattern in MISMATCHES:
        if mismatch := re.match(pattern, innermost):
            name, types, value = mismatch.groups()
            outer = re.match(r'Parser key "(\w+)"', text)  # a class with its own parser
            if outer and not name.startswith(outer[1]):
                name = f"{outer[1]}.{name}"
            return f"`--{name}` must be {_name_types(types)}, got `{value}`."
    return re.sub(r'^Parser key "([\w.]+)":', r"`--\1`:", text)


def _name_types(types: str) -> str:
    """Name types for users: `typing.Literal['a', 'b'], <class 'NoneType'>` is a, b or null."""
    names: list[str] = []
    types = re.sub(r"<class '([\w.]+)'>", r"\1", types)
    for kind in re.findall(r"typing\.Literal\[.*?\]|[\w.]+(?:\[.*?\])?", types):
        literal = re.fullmatch(r"typing\.Literal\[(.+)\]", kind)
        names += literal[1].replace("'", "").split(", ") if literal else [kind.partition("[")[0]]
    *names, last = dict.fromkeys(PLAIN.get(name, name) for name in names)
    return f"{', '.join(names)} or {last}" if names else last


def make_command_line(
    program: str, description: str | None, dictionaries: Collection[str] = ()
) -> CommandLine:
    """Make a parser without abbreviations.

    Args:
        program: the command's name in errors and in `--help`.
        description: what the command does.
        dictionaries: options that take a dictionary, whose keys may be set one by one.
    """
    parser = CommandLine(
        prog=program, description=description, allow_abbrev=False, exit_on_error=False
    )
    parser.dictionaries = frozenset(dictionaries)
    return parser


def answer_help(make_parser: Callable[[], CommandLine], *commands: str) -> None:
    """Print the help and exit if this process is one of these commands, called with `--help`.

    Commands call it before they import torch and Lightning, which takes seconds.
    """
    if Path(sys.argv[0]).name in commands and {"-h", "--help"}.intersection(sys.argv):
        make_parser().read(["--help"])


def quote(value: object) -> str:
    """A path, a name or another value as one word of a command that is proposed.

    A path that begins with a dash would be taken for an option.
    """
    if isinstance(value, Path) and str(value).startswith("-"):
        value = f"./{value}"
    return shlex.quote(str(value))


def show_every_character() -> None:
    """Let this process print any character, whatever the encoding of its terminal or log."""
    codecs.register_error("bitleak.show", _show)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="bitleak.show")


def _show(error: UnicodeError) -> tuple[bytes | str, int]:
    """Replace each character by a question mark, but a byte of a file's name by itself.

    So a command that is proposed can be pasted where the locale cannot decode the name.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = map(ord, error.object[error.start : error.end])
    shown = (code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else ord("?") for code in characters)
    return bytes(shown), error.end


def recipe_keys(path: Path) -> list[str]:
    """Names of all options that a recipe sets, as on the command line.

    Raises:
        ValueError: the file is not YAML, or holds no options.
    """
    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} must be a recipe in YAML, got {' '.join(str(error).split())}."
        ) from error
    if not isinstance(options, dict):
        raise ValueError(f"{path} must be a recipe, options and values in YAML, got {options!r}.")
    return _flatten(options)


def _flatten(options: Mapping[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for key, value in options.items():
        name = prefix if key == "init_args" else f"{prefix}{key}."
        nested = isinstance(value, dict) and value
        keys += _flatten(value, name) if nested else [name.removesuffix(".")]
    return keys
