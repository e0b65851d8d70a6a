"""Whether an audit is that of its inputs: their content counts, not their dates."""

import json
import os
import shutil

import pytest

from attacks.rmia import DEFAULT, RmiaOptions
from reporting import inputs
from reporting.inputs import FILES, digest_inputs, is_done


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A copy of the code that an audit runs."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(inputs.HOME / "audit.py", home)
    ignore = shutil.ignore_patterns("__pycache__")
    for floor in inputs.FLOORS:
        shutil.copytree(inputs.HOME / floor, home / floor, ignore=ignore)
    monkeypatch.setattr(inputs, "HOME", home)
    return home


@pytest.fixture
def run(toy_run, tmp_path):
    """A copy of a finished run folder."""
    return shutil.copytree(toy_run, tmp_path / "run")


def digest(run, signals=None, attacks=None, partial=False, rmia=DEFAULT, shadows=None):
    return digest_inputs(run, signals, shadows, attacks, partial, rmia)


def flip(path):
    """Change the last byte of a file, but neither its size nor its dates."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_dates_do_not_count(code, run):
    before = digest(run)
    for path in [*code.rglob("*"), *run.rglob("*")]:
        os.utime(path, (0, 0))
    assert digest(run) == before


@pytest.mark.parametrize(
    "file",
    [
        "models/shadow-000/signals/full.safetensors",
        "models/target-000/signals/nearest-w2.safetensors",
        "models/shadow-003/adaround-w1.58-last8.json",
        "membership.safetensors",
    ],
)
def test_the_content_of_the_run_folder_counts(code, run, file):
    before = digest(run)
    flip(run / file)
    assert digest(run) != before
    flip(run / file)
    assert digest(run) == before


def test_embeddings_count(code, run):
    without, path = digest(run), run / "models/target-000/embeddings/full.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"00")
    before = digest(run)
    assert before != without
    flip(path)
    assert digest(run) not in (before, without)


def test_the_options_of_the_experiment_count(code, run):
    before, path = digest(run), run / "experiment.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: 1"))
    assert digest(run) != before


def test_progress_does_not_count(code, run):
    before = digest(run)
    (run / "models" / "shadow-000" / "progress.json").write_text("{}")
    assert digest(run) == before
    (run / "models" / "shadow-000" / "new-w2.json").write_text("{}")
    assert digest(run) != before


@pytest.mark.parametrize(
    "file",
    [
        *("audit.py", "attacks/lira.py", "attacks/metrics/roc.py", "datamodules/images.py"),
        *("quantization/rounding/grid.py", "storage/evidence.py", "reporting/report.html"),
        *("reporting/report.css", "reporting/report.js"),
    ],
)
def test_the_content_of_the_code_counts(code, run, file):
    before = digest(run)
    with (code / file).open("a") as appended:
        appended.write("\n")
    assert digest(run) != before


def test_options_count(code, run):
    digests = [
        digest(run),
        digest(run, attacks=["gap"]),
        digest(run, attacks=["gap", "attack_r"]),
        digest(run, partial=True),
        digest(run, rmia=RmiaOptions("pool")),
        digest(run, rmia=RmiaOptions(a=0.5)),
        digest(run, rmia=RmiaOptions(tune=True)),
    ]
    assert len(set(digests)) == len(digests)
    assert digest(run) == digests[0]


def test_signals_from_elsewhere_count_by_content(code, tmp_path):
    folder = tmp_path / "signals"
    (folder / "w2").mkdir(parents=True)
    for name in ("members.npy", "w2/logits.npy"):
        (folder / name).write_bytes(name.encode())
    before = digest(tmp_path / "run", folder)
    os.utime(folder / "members.npy", (0, 0))
    assert digest(tmp_path / "run", folder) == before
    flip(folder / "w2" / "logits.npy")
    assert digest(tmp_path / "run", folder) != before
    single = tmp_path / "signals.npz"
    single.write_bytes(b"one")
    before = digest(tmp_path / "run", single)
    flip(single)
    assert digest(tmp_path / "run", single) != before


def test_a_folder_without_an_experiment(code, tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        digest(tmp_path / "none")


@pytest.fixture
def audit(tmp_path):
    """The folder of a finished audit."""
    for name in (*FILES, "plane.png"):
        (tmp_path / name).touch()
    content = {"inputs": "the digest", "figures": ["plane"]}
    (tmp_path / "results.json").write_text(json.dumps(content))
    return tmp_path


def test_a_whole_audit_of_the_same_inputs_is_done(audit):
    assert is_done(audit, "the digest")
    assert not is_done(audit, "another digest")
    assert not is_done(audit / "none", "the digest")


@pytest.mark.parametrize("file", [*FILES, "plane.png", "results.json"])
def test_an_audit_without_one_of_its_files_is_not_done(audit, file):
    (audit / file).unlink()
    assert not is_done(audit, "the digest")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"inputs": "the digest"}'])
def test_a_damaged_audit_is_not_done(audit, content):
    (audit / "results.json").write_text(content)
    assert not is_done(audit, "the digest")


def test_the_shadows_of_another_experiment_count(code, run, tmp_path):
    lender = shutil.copytree(run, tmp_path / "lender")
    alone, before = digest(run), digest(run, shadows=lender)
    assert before != alone
    flip(lender / "models" / "shadow-000" / "signals" / "full.safetensors")
    assert digest(run) == alone
    assert digest(run, shadows=lender) != before
