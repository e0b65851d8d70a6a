"""The acceptance run: its steps, how each is run, its table and its exit code."""

import time
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as acceptance
from benchmarks.gpu.commands import command, digests
from benchmarks.gpu.fleets import read_plan
from benchmarks.gpu.noise import draw
from benchmarks.gpu.step import Missed, Result, Step, exit_code, run, table

OUTCOMES = {
    "passes": ("passed", "3 of 3"),
    "misses": ("missed", "2 of | 3"),
    "raises": ("failed", "ValueError: no such kernel"),
    "skips": ("skipped", "needs Ray"),
    "dies": ("failed", "its process ended with exit code 7"),
}


@pytest.fixture
def measures(monkeypatch):
    """The module `measures`, under a name that a step's process can import."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return import_module("measures")


@pytest.mark.parametrize("name", OUTCOMES)
def test_a_step_is_run_in_a_process_of_its_own(measures, name):
    result = run("step", Step(60, 0, "3 of 3", getattr(measures, name)), gpus=0)
    assert (result.outcome, result.measured) == OUTCOMES[name]
    assert result.name == "step"


def test_a_step_that_hangs_is_ended_with_what_it_started(measures, monkeypatch, tmp_path):
    monkeypatch.setattr("benchmarks.gpu.step.START", 2)
    note = tmp_path / "note"
    result = run("step", Step(0, 0, "an end", partial(measures.hangs, str(note))), gpus=0)
    assert (result.outcome, result.measured) == ("missed", "no end after 2 s")
    time.sleep(4)
    assert not note.exists()


@pytest.mark.parametrize(("needed", "reason"), [(1, "needs 1 GPU"), (2, "needs 2 GPUs")])
def test_a_step_without_its_gpus_is_skipped_by_name(needed, reason):
    result = run("speed", Step(1, needed, "much", lambda: "never"), gpus=needed - 1)
    assert result == Result("speed", "skipped", 0.0, reason)


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [("passed skipped", 0), ("passed missed", 1), ("failed skipped", 1), ("skipped", 0)],
)
def test_a_miss_or_a_failure_is_exit_code_1(outcomes, code):
    assert exit_code([Result("step", outcome, 1.0, "") for outcome in outcomes.split()]) == code


def test_the_table_has_a_line_per_step_and_no_stray_bars():
    steps = {"one": Step(1, 0, "3 of 3", str), "two": Step(1, 1, "much", str)}
    results = [Result("one", "missed", 1.6, "2 of | 3\n"), Result("two", "skipped", 0.0, "no")]
    assert table(results, steps).splitlines()[2:] == [
        "| one | missed | 2 | 3 of 3 | 2 of \\| 3 |",
        "| two | skipped | 0 | much | no |",
    ]


def test_the_command_names_what_missed_and_what_was_skipped(monkeypatch, capsys):
    outcomes = {"plan": "passed", "speed": "missed", "nccl": "failed", "packed": "skipped"}
    monkeypatch.setattr(acceptance, "run", lambda name, *_: Result(name, outcomes[name], 1.0, "-"))
    assert acceptance.main(["--step", *outcomes]) == 1
    output = capsys.readouterr().out
    assert output.splitlines()[-1] == "1 passed; missed or failed: speed, nccl; skipped: packed"
    assert "PyTorch" in output
    assert "| speed | missed | 1 |" in output


def test_every_step_is_run_unless_some_are_named(capsys):
    assert acceptance.parse([]) == list(acceptance.STEPS)
    assert acceptance.parse(["--step", "bits"]) == ["bits"]
    with pytest.raises(SystemExit):
        acceptance.parse(["--step", "bit"])
    assert "invalid choice: 'bit'" in capsys.readouterr().err


def test_all_steps_fit_in_their_time_on_one_gpu():
    assert sum(step.seconds for step in acceptance.STEPS.values() if step.gpus < 2) <= 900
    assert {"emulated", "plan", "bits-cpu"} == {
        name for name, step in acceptance.STEPS.items() if not step.gpus
    }


def test_the_folder_is_the_last_option_because_a_recipe_names_one(tmp_path):
    line = command(tmp_path, "--config recipes/digits.yaml --seed 1")
    assert line[-2:] == ["--run_dir", str(tmp_path)]
    assert line[-6:-2] == ["--config", "recipes/digits.yaml", "--seed", "1"]


def test_digests_are_of_weights_and_signals_alone(tmp_path):
    model = tmp_path / "models" / "shadow-000"
    (model / "signals").mkdir(parents=True)
    for name in ("full.safetensors", "last.ckpt", "signals/full.safetensors"):
        (model / name).write_bytes(b"abc")
    (tmp_path / "membership.safetensors").write_bytes(b"abc")
    # SHA-256 of "abc", FIPS 180-2, appendix B.1
    sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    names = ("full.safetensors", "signals/full.safetensors")
    assert digests(tmp_path) == {f"models/shadow-000/{name}": sha for name in names}


def test_a_plan_without_a_forecast_is_a_miss():
    plan = "Models: 3\nTime: 6.3 min with 4 at once, if they do not slow each other down."
    assert read_plan(plan) == "6.3 min with 4 at once"
    with pytest.raises(Missed, match="no forecast in 'Models: 3'"):
        read_plan("Models: 3")


def test_noise_is_drawn_as_bytes(rng):
    images, labels = draw(2000, rng)
    assert images.shape == (2000, 3, 32, 32)
    assert images.float().mean().item() == pytest.approx(127.5, abs=1)  # 128, rounded down
    assert images.float().std().item() == pytest.approx(62, abs=2)  # 64, but for the clipped tails
    assert labels.unique().tolist() == list(range(10))
