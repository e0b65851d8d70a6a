"""What is installed and released agrees with what is in the folder."""

import re
import runpy
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
CONFIGURATION = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, INSTALLED = CONFIGURATION["project"], CONFIGURATION["tool"]["setuptools"]
RELEASES = re.findall(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
NEW_PATHS = re.findall(r"^\| .* \| (.+) \|$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_every_file_names_the_same_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["version"] == citation["version"] == RELEASES[0]


def test_every_package_is_installed():
    folders = {path.parent for path in ROOT.glob("*/**/__init__.py")}
    ours = {folder for folder in folders if folder.relative_to(ROOT).parts[0][0] != "."}
    modules = {".".join(folder.relative_to(ROOT).parts) for folder in ours}
    beside = ("docs", "benchmarks", "examples")  # which are run from a checkout
    assert set(INSTALLED["packages"]) == {name for name in modules if not name.startswith(beside)}


def test_files_beside_the_code_are_installed():
    for package, patterns in INSTALLED["package-data"].items():
        folder = ROOT / package
        files = {path.name for path in folder.iterdir() if path.suffix not in (".py", "")}
        assert files == {path.name for pattern in patterns for path in folder.glob(pattern)}


def test_a_start_imports_nothing_that_only_some_options_need():
    """Each takes tenths of a second at every start, or is an extra that may be missing."""
    unused = {"wandb", "wandb_workspaces", "ray", "onnx", "onnxscript", "torchao", "pydantic"}
    code = f"import sys, train, audit; print(sorted({unused} & sys.modules.keys()))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert run.stdout.decode().split() == ["[]"]


@pytest.mark.parametrize("command", PROJECT["scripts"])
def test_a_console_script_is_a_command_line(command, capsys):
    module, _, function = PROJECT["scripts"][command].partition(":")
    with pytest.raises(SystemExit) as stopped:
        getattr(import_module(module), function)(["--help"])
    assert stopped.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_the_lowest_versions_are_those_that_the_requirements_begin_at():
    script = runpy.run_path(str(ROOT / ".github" / "lowest_versions.py"))
    requirements = script["requirements_of"](PROJECT)
    pinned = [Requirement(line) for line in script["lowest_versions"](requirements)]
    lowest = {pin.name: next(iter(pin.specifier)).version for pin in pinned}
    claimed = [Requirement(requirement) for requirement in requirements]
    bounds = {r.name: {s.operator: s.version for s in r.specifier} for r in claimed}
    assert lowest == {name: bound[">="] for name, bound in bounds.items() if ">=" in bound}
    assert {"torch", "onnx", "ray", "pytest"} <= lowest.keys()


def test_ci_runs_on_every_python_that_is_promised():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    tested = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    prefix = "Programming Language :: Python :: "
    promised = [text.removeprefix(prefix) for text in PROJECT["classifiers"] if prefix in text]
    assert tested == promised
    assert PROJECT["requires-python"] == f">={tested[0]}"


@pytest.mark.parametrize("cell", NEW_PATHS[2:])  # below the heading and the line under it
def test_the_new_import_paths_of_the_changelog_exist(cell):
    for path in re.findall(r"`(\w+\.[\w.]+)`", cell):
        if not is_module(path):
            module, _, attribute = path.rpartition(".")
            assert hasattr(import_module(module), attribute), path


def is_module(path: str) -> bool:
    """Whether a dotted path is a module, not something in one."""
    try:
        return find_spec(path) is not None
    except ModuleNotFoundError:  # what is before the last dot is no package
        return False
