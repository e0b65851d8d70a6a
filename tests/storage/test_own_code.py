"""Functions by import path, and fingerprints of their source."""

import sys

import pytest

from quantization.imported import is_own
from storage.own_code import digest, load

SOURCE = "def mine(weight, grid):\n    return weight\n\nnumber = 3\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current folder, with modules of a user that are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    (tmp_path / "package_of_mine").mkdir()
    (tmp_path / "package_of_mine" / "inner.py").write_text(SOURCE)
    (tmp_path / "broken_of_mine.py").write_text("import torch\n\nraise KeyError('no\\nway')\n")
    (tmp_path / "quits_of_mine.py").write_text("raise SystemExit(3)")
    return tmp_path


def test_functions_are_found_in_the_current_folder(place):
    names = ["gap", "package_of_mine.inner.mine", "default"]
    found = load(names, "--attacks")
    assert list(found) == ["package_of_mine.inner.mine"]
    assert found["package_of_mine.inner.mine"](5, 6) == 5
    assert [is_own(name) for name in names] == [False, True, False]


def test_a_fingerprint_changes_with_the_file_and_with_nothing_else(place):
    path, file = "package_of_mine.inner.mine", place / "package_of_mine" / "inner.py"
    first = digest(path, "--attacks")
    assert (len(first), digest(path, "--quantize")) == (16, first)
    (place / "package_of_mine" / "other.py").write_text("x = 1")
    assert digest(path, "--attacks") == first
    file.write_text(SOURCE.replace("3", "4"))
    assert digest(path, "--attacks") != first
    file.write_text(SOURCE)
    assert digest(path, "--attacks") == first


@pytest.mark.parametrize(
    "line",
    [
        "from .inner import mine",
        "from functools import partial\nfrom . import inner\nmine = partial(inner.mine, grid=3)",
    ],
)
def test_a_fingerprint_changes_with_the_file_behind_a_package(place, line):
    path, package = "package_of_mine.mine", place / "package_of_mine"
    (package / "__init__.py").write_text(line)
    first = digest(path, "--quantize")
    (package / "inner.py").write_text(SOURCE.replace("3", "4"))
    second = digest(path, "--quantize")
    (package / "__init__.py").write_text(f"{line}\n")
    assert (
        len({first, second, digest(path, "--quantize"), digest("package_of_mine.inner.mine", "")})
        == 4
    )


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere_of_mine.attack", "cannot be imported (ModuleNotFoundError: No module named"),
        ("broken_of_mine.attack", "cannot be imported (KeyError: 'no\\nway'). Modules are looked "),
        (
            "package_of_mine.inner.nine",
            "inner.py has none of that name. Did you mean `package_of_mine.inner.mine`?",
        ),
        ("package_of_mine.inner.number", "must be a function or a class, and"),
        ("quits_of_mine.attack", "cannot be imported (SystemExit: 3). Modules are looked"),
    ],
)
def test_what_cannot_be_imported_is_one_line_with_the_way_out(place, path, message):
    with pytest.raises(ValueError, match=f"^`--attacks`: `{path}` ") as error:
        load([path], "--attacks")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_function_without_source_has_no_fingerprint():
    with pytest.raises(ValueError, match=r"`math.sqrt` must be in a module with a source file"):
        digest("math.sqrt", "--quantize")
