"""Files of an audit: whole, written again where they are missing, and left alone otherwise."""

import errno
import io
import os
import shutil
from contextlib import redirect_stdout

import pytest
import torch
from markupsafe import escape
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

from audit import main
from storage.run_folder import RunFolder


def test_every_file_is_written_and_whole(audited_run, audit_files, unwrap):
    run, output = audited_run
    assert {file.name for file in (run.path / "audit").iterdir()} == audit_files
    for name in ("roc.png", "plane.png", "convergence.png"):
        content = (run.path / "audit" / name).read_bytes()
        assert content.startswith(b"\x89PNG\r\n\x1a\n")
        assert content.endswith(b"IEND\xaeB`\x82")
    table = (run.path / "audit" / "table.txt").read_text()
    assert unwrap(table) in unwrap(output)  # the file wraps the answer, the terminal by itself
    assert output.rstrip().endswith(f"Report: {run.path / 'audit' / 'report.html'}")


def test_a_second_call_does_nothing_and_says_so(demo_run, audit_states, quick_audit):
    first = quick_audit(demo_run)
    before = audit_states(demo_run)
    second = quick_audit(demo_run)
    assert audit_states(demo_run) == before
    assert "Nothing has changed since this audit." in second
    assert "Nothing has changed" not in first
    assert (demo_run.path / "audit" / "table.txt").read_text().strip() in second
    # train.py with nothing to train opens the folder once more
    experiment = demo_run.read()
    demo_run.open(experiment, torch.stack(list(demo_run.membership().values())))
    assert "Nothing has changed" in quick_audit(demo_run)
    assert audit_states(demo_run) == before


def test_a_second_call_still_names_the_excluded_models(make_run, change_signals, quick_audit):
    run = make_run()
    path = run.signals(run.read().names[10], "full")
    change_signals(path, phi=load_file(path)["phi"] * torch.nan)
    line = (
        "target-000 is excluded: 160 of 160 signals are not finite. `train.py "
        "--fleet.retrain_failed true` trains it from another start.\n"
    )
    assert line in quick_audit(run)
    second = quick_audit(run)
    assert "Nothing has changed" in second
    assert line in second


class Full(io.StringIO):
    """A screen that cannot be written to, as `audit.py > /dev/full` has it."""

    def write(self, text):
        if text:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return 0


def test_a_screen_that_cannot_be_written_to_costs_no_file(make_run, audit_files):
    run = make_run()
    with pytest.raises(SystemExit, match="No space left"), redirect_stdout(Full()):
        main(["--run_dir", str(run.path), "--attacks", "gap"])
    written = {file.name for file in (run.path / "audit").iterdir()}
    assert written == audit_files - {"convergence.png"}  # which an attack without shadows lacks


def test_a_folder_that_cannot_be_written_to_costs_no_table(make_run, capsys):
    run = make_run()
    (run.path / "audit").touch()
    with pytest.raises(SystemExit, match=r"audit\.py: .*File exists"):
        main(["--run_dir", str(run.path), "--attacks", "gap"])
    assert "No leak of full is shown" in capsys.readouterr().out


@pytest.fixture(scope="module")
def quick_run(audited_run, quick_audit, tmp_path_factory):
    """The same run audited by two attacks; a test that changes it restores it."""
    run = RunFolder(tmp_path_factory.mktemp("quick") / "demo")
    shutil.copytree(audited_run[0].path, run.path, ignore=shutil.ignore_patterns("audit"))
    quick_audit(run)
    return run


@pytest.mark.parametrize("lost", ["table.txt", "report.html", "plane.png"])
def test_a_deleted_file_is_written_again(quick_run, lost, quick_audit):
    path = quick_run.path / "audit" / lost
    before = path.read_bytes()
    path.unlink()
    assert "Nothing has changed" not in quick_audit(quick_run)
    assert path.read_bytes() == before


def test_an_interrupted_audit_is_repeated(demo_run, empty_figures, audit_files, quick_audit):
    """results.json is written last: without it nothing is taken for done."""
    quick_audit(demo_run)
    (demo_run.path / "audit" / "results.json").unlink()
    (demo_run.path / "audit" / "report.html").unlink()
    assert "Nothing has changed" not in quick_audit(demo_run)
    assert {file.name for file in (demo_run.path / "audit").iterdir()} == audit_files


def test_an_attack_asked_for_twice_runs_once(demo_run, empty_figures, audit, read_csv):
    audit(demo_run, "--attacks", "global_threshold", "global_threshold")
    assert [line["attack"] for line in read_csv(demo_run)] == ["global_threshold"] * len(
        {line["variant"] for line in read_csv(demo_run)}
    )


def test_changed_signals_are_audited_again(
    demo_run, empty_figures, audit, change_signals, read_csv
):
    audit(demo_run, "--attacks", "global_threshold")
    before, members = read_csv(demo_run), demo_run.membership()
    target = demo_run.read().names[12]
    path = demo_run.signals(target, "nearest-w2")
    change_signals(path, phi=members[target].float().expand(2, -1).clone())  # gives it all away
    output = audit(demo_run, "--attacks", "global_threshold")
    assert "Nothing has changed" not in output
    *same, after = read_csv(demo_run)
    assert same == before[:-1]
    second = demo_run.read().names[13]
    phi = load_file(demo_run.signals(second, "nearest-w2"))["phi"]
    other = roc_auc_score(members[second], phi.double().mean(0))
    assert after["auc"] == pytest.approx((1 + other) / 2)
    assert after["auc"] > before[-1]["auc"] + 0.1


def test_other_attacks_replace_the_results(demo_run, empty_figures, audit, read_csv):
    audit(demo_run, "--attacks", "global_threshold")
    assert {line["attack"] for line in read_csv(demo_run)} == {"global_threshold"}
    audit(demo_run, "--attacks", "lira_offline_carlini", "global_threshold")
    attacks = {line["attack"] for line in read_csv(demo_run)}
    assert attacks == {"lira_offline_carlini", "global_threshold"}


@pytest.mark.parametrize("name", ["<script>", "a & 'b' \"c\"", "[red]brackets[bold]"])
def test_hostile_experiment_names_are_escaped(make_run, name, audit):
    run = make_run(name, shadows=4, targets=1)
    output = audit(run, "--attacks", "global_threshold")
    page = (run.path / "audit" / "report.html").read_text()
    assert f"<title>BitLeak: {escape(name)}" in page
    assert name in output.splitlines()[0]  # the title of the table
    assert f"Report: {run.path}" in output
