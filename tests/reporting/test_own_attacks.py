"""`audit.py --attacks my.attack`: in every view like ours, and computed anew when it is edited."""

import sys

import pytest

from attacks import ATTACKS

SOURCE = """
def {name}(target, shadows, included):
    out = ~included[:, None]
    return (target - (shadows * out).sum(0) / out.sum(0)).mean(0)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Write a user's module of attacks into the current folder; forgets it afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = dict(ATTACKS)

    def write(content):
        sys.modules.pop("attacks_of_mine", None)
        (tmp_path / "attacks_of_mine.py").write_text(content)

    write(SOURCE.format(name="calibrated"))
    yield write
    sys.modules.pop("attacks_of_mine", None)
    ATTACKS.clear()
    ATTACKS.update(before)


def test_an_own_attack_is_in_every_view(make_run, audit, own, read_csv, results_of):
    run = make_run()
    options = ("--attacks", "attacks_of_mine.calibrated", "global_threshold")
    output = audit(run, *options)
    rows = [row for row in read_csv(run) if row["attack"] == "calibrated"]
    assert {row["knowledge"] for row in rows} == {"matched", "unquantized", "recalibrated"}
    assert all(row["shadows"] == 10 for row in rows)
    assert "calibrated" in output
    folder = run.path / "audit"
    for view in ("table.txt", "report.html", "results.json"):
        assert "calibrated" in (folder / view).read_text()
    line = results_of(run)["basis"]["own attacks"]
    assert line.startswith("calibrated: attacks_of_mine.calibrated, source ")
    assert line in (folder / "report.html").read_text()


def test_an_edited_attack_is_computed_anew(make_run, audit, own, results_of):
    run, options = make_run(), ("--attacks", "attacks_of_mine.calibrated", "global_threshold")
    audit(run, *options)
    before = results_of(run)["basis"]["own attacks"]
    assert "Nothing has changed" in audit(run, *options)
    own(SOURCE.format(name="calibrated").replace("target -", "2 * target -"))
    assert "Nothing has changed" not in audit(run, *options)
    assert results_of(run)["basis"]["own attacks"] != before


def test_a_wrong_attack_stops_before_anything_is_read(make_run, audit, own):
    run = make_run()
    own("def calibrated(target):\n    return target[0]\n")
    with pytest.raises(SystemExit, match=r"audit.py: `--attacks`: `attacks_of_mine.calib"):
        audit(run, "--attacks", "default", "attacks_of_mine.calibrated")
    with pytest.raises(SystemExit, match=r"none of that name. Did you mean `attacks_of_mine"):
        audit(run, "--attacks", "attacks_of_mine.calibrate")
    assert not (run.path / "audit").exists()
