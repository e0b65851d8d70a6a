"""Audits that are read again, and folders with the same name."""

import csv
import json
from pathlib import Path

import pytest

from reporting.results import name_apart, read_results, write_csv

ROWS = [{"variant": "full", "auc": 0.6}, {"variant": "w2", "auc": 0.5}]


@pytest.fixture
def audited(tmp_path):
    """A run folder with an audit; fields can be replaced."""

    def make(**fields):
        folder = tmp_path / "run" / "audit"
        folder.mkdir(parents=True)
        results = {key: {} for key in ("experiment", "basis", "files", "tables")} | {"rows": ROWS}
        (folder / "results.json").write_text(json.dumps(results | fields))
        return folder.parent

    return make


def test_what_was_written_is_read(audited):
    assert read_results(audited(), ["variant", "auc"])["rows"] == ROWS


def test_a_folder_without_an_audit(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No audit in .*run: .*audit\.py --run_dir .*run`"):
        read_results(tmp_path / "run", [])


@pytest.mark.parametrize(
    ("fields", "lacking"),
    [({"rows": [*ROWS, {"variant": "w4"}]}, "auc"), ({"rows": []}, "variant, auc")],
)
def test_an_older_version(audited, fields, lacking):
    run = audited(**fields)
    with pytest.raises(ValueError, match=rf"lacks {lacking}: an older version.*audit\.py"):
        read_results(run, ["variant", "auc"])


def test_a_version_before_basis_and_tables(audited):
    run = audited()
    path = run / "audit" / "results.json"
    path.write_text(json.dumps({"experiment": {}, "files": [], "rows": ROWS}))
    with pytest.raises(ValueError, match="lacks basis, tables: an older version"):
        read_results(run, [])


@pytest.mark.parametrize("content", ["{", "[]", '"text"'])
def test_a_damaged_file(audited, content):
    run = audited()
    (run / "audit" / "results.json").write_text(content)
    with pytest.raises(ValueError, match=r"is damaged .*Delete it and run `python audit\.py"):
        read_results(run, [])


def test_names_are_as_short_as_they_can_be():
    assert name_apart([Path("/runs/a"), Path("/runs/b")]) == ["a", "b"]
    assert name_apart([Path("/x/a"), Path("/y/a"), Path("/y/b")]) == ["x/a", "y/a", "y/b"]
    assert name_apart([Path("/a"), Path("/x/a")]) == ["//a", "x/a"]


def test_a_comparison_needs_two_different_folders(tmp_path):
    with pytest.raises(ValueError, match=r"needs two run folders or more, got 1\. Name another"):
        name_apart([tmp_path])
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(ValueError, match=r"is there twice\. Name each run folder once"):
        name_apart([tmp_path, tmp_path / "x" / "..", tmp_path / "link"])


def test_csv_is_read_back(tmp_path):
    write_csv(tmp_path / "some.csv", [{"a": 1, "b": 'x, "y"'}, {"a": None, "b": ""}])
    with (tmp_path / "some.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"a": "1", "b": 'x, "y"'}, {"a": "", "b": ""}]
