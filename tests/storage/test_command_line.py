import io
import re
import shlex
import sys
from pathlib import Path
from typing import Literal

import pytest
from jsonargparse.typing import path_type

from storage.command_line import (
    answer_help,
    make_command_line,
    pair_options,
    quote,
    recipe_keys,
    show_every_character,
)


@pytest.fixture
def parser():
    parser = make_command_line("demo.py", "A demo.", ("layer_bits",))
    parser.add_argument("--config", action="config", help="recipe")
    parser.add_argument("--run_dir", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layer_bits", type=dict[str, float], default={})
    parser.add_argument("--models.lr", type=float, default=0.1)
    parser.add_argument("--epochs", type=int | None)
    parser.add_argument("--wandb", type=Literal["disabled", "offline", "online"])
    parser.add_argument("--verbose", action="store_true")
    return parser


@pytest.fixture
def refuse(parser, capsys):
    """Read arguments that must be refused; returns the message."""

    def refuse(arguments, further=()):
        with pytest.raises(SystemExit) as stopped:
            parser.read(arguments, further)
        output = capsys.readouterr()
        assert stopped.value.code == 2
        assert output.out == ""
        assert output.err.count("\n") == 1
        assert output.err.startswith("demo.py: ")
        return output.err.removeprefix("demo.py: ").rstrip("\n")

    return refuse


@pytest.fixture
def recipe(tmp_path):
    """Write a recipe; returns its path."""

    def write(text):
        (tmp_path / "recipe.yaml").write_text(text)
        return str(tmp_path / "recipe.yaml")

    return write


def test_options_are_read_in_both_forms(parser, recipe):
    config = parser.read(["--seed=3", "--models.lr", "0.5", "--layer_bits", '{"fc": 8}'])
    assert (config.seed, config.models.lr, config.layer_bits) == (3, 0.5, {"fc": 8})
    config = parser.read(["--config", recipe("seed: 4\nmodels: {lr: 0.2}\n"), "--models.lr", "1"])
    assert (config.seed, config.models.lr) == (4, 1.0)


@pytest.mark.parametrize("arguments", [["--sed", "1"], ["--sed=1"], ["--seed", "1", "--sed", "2"]])
def test_a_misspelt_option_is_one_line_with_the_nearest_name(refuse, arguments):
    assert refuse(arguments) == "There is no option `--sed`. Did you mean `--seed`?"


def test_an_option_unlike_any_other_refers_to_the_help(refuse):
    message = "There is no option `--zzzzzz`. `demo.py --help` lists them."
    assert refuse(["--zzzzzz"]) == message


def test_abbreviations_are_refused(refuse):
    message = "There is no option `--verb`. Did you mean `--verbose`?"
    assert refuse(["--verb"]) == message


@pytest.mark.parametrize("form", ["--config {}", "--config={}"])
def test_a_misspelt_key_of_a_recipe_is_one_line_with_the_nearest_name(refuse, recipe, form):
    path = recipe("seed: 1\nmodels:\n  lrr: 0.1\n")
    assert refuse(form.format(path).split()) == (
        f"{path} sets an unknown option, `models.lrr`. Did you mean `--models.lr`?"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "one"], "`--seed` must be int, got `one`."),
        (["--seed=1.5"], "`--seed` must be int, got `1.5`."),
        (["--models.lr", "fast"], "`--models.lr` must be float, got `fast`."),
        (["--epochs", "many"], "`--epochs` must be int or null, got `many`."),
        (["--wandb", "on"], "`--wandb` must be disabled, offline or online, got `on`."),
    ],
)
def test_a_wrong_type_is_one_line_with_type_and_value(refuse, arguments, message):
    assert refuse(arguments) == message


@pytest.mark.parametrize("text", ["seed: [", "- seed", "seed", ""])
def test_a_file_that_is_no_recipe_is_one_line(refuse, recipe, text):
    path = recipe(text)
    assert refuse(["--config", path]).startswith(f"{path} must be a recipe")


def test_a_missing_recipe_is_one_line(refuse):
    message = refuse(["--config", "missing.yaml"])
    assert message.startswith("`--config`: File does not exist: ")
    assert "missing.yaml" in message


def test_keys_of_a_dictionary_and_options_of_a_class_are_known(parser, refuse):
    assert parser.read(["--layer_bits.fc", "8"]).layer_bits == {"fc": 8}
    message = "There is no option `--data.crop`."
    assert refuse(["--data.crop", "1"]).startswith(message)
    # known by name, though this parser cannot read it
    assert not refuse(["--data.crop", "1"], ["data.crop"]).startswith(message)


def test_a_recipe_is_utf_8_and_its_paths_are_relative_to_it(parser, tmp_path, monkeypatch):
    parser.add_argument("--title", type=str)
    parser.add_argument("--words", type=path_type("fr"))
    (tmp_path / "recipe.yaml").write_bytes("title: caf\u00e9 \u4e2d\nwords: words.txt\n".encode())
    (tmp_path / "words.txt").write_text("one\ntwo\n")
    monkeypatch.setattr(
        "jsonargparse._paths.Path.read_text", None
    )  # reads in the locale's encoding
    assert parser.read(["--config", str(tmp_path / "recipe.yaml")]).title == "caf\u00e9 \u4e2d"


def test_a_name_in_another_encoding_is_one_line_with_the_ways_out(parser, monkeypatch):
    """Python keeps the bytes that it cannot decode as surrogates."""
    monkeypatch.setattr(sys, "stderr", stream := io.TextIOWrapper(io.BytesIO(), "utf-8"))
    show_every_character()
    with pytest.raises(SystemExit):
        parser.read(["--run_dir", b"caf\xe9".decode("utf-8", "surrogateescape")])
    stream.flush()
    assert stream.buffer.getvalue() == (
        b"demo.py: Names must be in the locale's encoding, utf-8, got `caf\xe9`. Set PYTHONUTF8=1 "
        b"if the name is in UTF-8; otherwise rename it.\n"
    )


@pytest.mark.parametrize("name", ["runs/digits", "my runs/one #1", "it's", "$HOME", "a\\b", "[x]*"])
def test_a_quoted_name_is_one_word_of_a_shell(name):
    assert shlex.split(f"audit.py --run_dir {quote(Path(name))}", comments=True)[2:] == [name]


def test_a_path_that_begins_with_a_dash_is_no_option(parser):
    words = shlex.split(f"--run_dir {quote(Path('-x y'))}")
    assert parser.read(words).run_dir.resolve() == Path("-x y").resolve()
    assert quote("-sym") == "-sym"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run_dir", "-x"], "`--run_dir` needs a value. Write one .* as `--run_dir=-value`."),
        (["--run_dir", ""], "`--run_dir` must name a folder, got ``. Write . for this one."),
        (["--run_dir="], "`--run_dir` must name a folder, got ``"),
    ],
)
def test_a_folder_without_a_name_is_one_line(refuse, arguments, message):
    assert re.match(message, refuse(arguments))


def test_a_plain_path_needs_no_quotes():
    assert quote(Path("runs/digits-2_b.x")) == "runs/digits-2_b.x"


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", b"0.65 ? 0.02 ? caf\xc3\xa9"),
        ("latin-1", b"0.65 \xb1 0.02 ? caf\xc3\xa9"),
        ("cp1252", b"0.65 \xb1 0.02 ? caf\xc3\xa9"),
        ("utf-8", b"0.65 \xc2\xb1 0.02 \xe2\x94\x81 caf\xc3\xa9"),
    ],
)
def test_what_a_terminal_cannot_show_is_replaced(monkeypatch, encoding, shown):
    """But the bytes of a file's name, which Python keeps as surrogates, are printed as they are."""
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding) for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    show_every_character()
    for stream in streams.values():
        print("0.65 \u00b1 0.02 \u2501", "caf\udcc3\udca9", end="", file=stream, flush=True)
        assert stream.buffer.getvalue() == shown


class Optional:
    def __init__(self, size: int = 1):
        if size < 1:
            raise ValueError(f"`size` must be 1 or more,\ngot {size}.")


def test_what_an_optional_object_refuses_is_one_line(parser):
    parser.add_subclass_arguments(Optional, "thing", required=False)
    config = parser.read(
        ["--thing", f"{__name__}.Optional", "--thing.size", "0"], {"thing", "thing.size"}
    )
    with pytest.raises(ValueError, match=r"^`size` must be 1 or more, got 0\.$"):
        parser.instantiate(config)


def test_values_are_paired_with_their_options():
    arguments = ["run", "--seed", "1", "--lr=0.5", "--verbose", "--name", "a=b"]
    assert pair_options(arguments) == [
        ("seed", "1"), ("lr", "0.5"), ("verbose", "--name"), ("name", "a=b")
    ]  # fmt: skip


def test_keys_of_a_recipe_are_named_as_on_the_command_line(recipe):
    text = "seed: 1\ndata:\n  class_path: Digits\n  init_args: {crop: 1}\nlayer_bits: {}\n"
    assert recipe_keys(Path(recipe(text))) == ["seed", "data.class_path", "data.crop", "layer_bits"]


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_is_answered_by_the_named_commands_only(parser, capsys, monkeypatch, option):
    monkeypatch.setattr("sys.argv", ["/bin/demo.py", "--seed", "1", option])
    answer_help(lambda: parser, "other.py")
    with pytest.raises(SystemExit) as stopped:
        answer_help(lambda: parser, "demo.py", "demo")
    assert stopped.value.code == 0
    assert "A demo." in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["/bin/demo.py", "--seed", "1"])
    answer_help(lambda: parser, "demo.py")
