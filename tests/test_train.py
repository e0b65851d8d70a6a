"""The command line of train.py as a whole; the folders beside this file test its parts."""

import re
import shlex

import pytest

import train


@pytest.mark.fleet
def test_the_whole_output_away_from_a_terminal(toy, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / "run[red]"  # no markup
    train.main(toy(folder, "--fleet.models 1,4"))
    captured = capsys.readouterr()
    lines = [re.sub(r"[\d.]+ s\b", "T s", line) for line in captured.out.splitlines()]
    lines = [line for line in lines if " failed: " not in line and line[:5] != "parti"]
    assert lines[:5] == [
        "Each model trains on one CPU, one model after another.",
        "Read 1,797 images of 10 classes (8x8, 1 channel): 64 in the pool, 0 held out, 1,733 for "
        "testing.",
        "1 of 2: shadow-001 finished in T s",
        "2 of 2: target-000 finished in T s",
        "Finished 2 models in T s; 0 finished before.",
    ]
    assert lines[-2].startswith("Bytes of a model on disk: full ")
    assert lines[-1] == "3 of the fleet's 5 models are still to be finished."
    assert captured.err == ""
    train.main(toy(folder))
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"Next: python audit.py --run_dir {shlex.quote(str(folder))}"
