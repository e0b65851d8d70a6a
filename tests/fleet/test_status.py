import io
from datetime import timedelta

import pytest
import yaml
from filelock import FileLock
from rich.console import Console

from fleet.engine import Outcome
from fleet.failed import Failed
from fleet.status import Call, ModelStatus, find_status, show_status, summarise, time_left
from lightning_modules.callbacks.progress import Progress, SaveProgress
from storage.experiment import Experiment
from storage.files import save_whole
from storage.names import ModelName
from storage.run_folder import RunFolder

SHADOWS = [ModelName("shadow", number) for number in range(4)]


@pytest.fixture
def run(tmp_path):
    """Four shadows: finished, failed, half way, untouched; one variant beside full."""
    run = RunFolder(tmp_path / "run[red]")
    config = {"fleet": {"shadows": 4, "targets": 0}, "quantize": ["nearest-w2"]}
    config |= {"trainer": {"max_epochs": 9}, "queries": ["identity"]}
    experiment = Experiment(config, input={}, fingerprints={}, versions={}, places={}, id="x")
    run.path.mkdir()
    run.experiment_file.write_text(yaml.safe_dump(experiment.as_dict()))
    for variant in ("full", "nearest-w2"):
        save_whole(run.weights(SHADOWS[0], variant), {})
        save_whole(run.signals(SHADOWS[0], variant), {})
    for name, stage, epoch, seconds in zip(
        SHADOWS, ("finished", "training", "training"), (9, 2, 3), (18.0, 4.0, 6.0), strict=False
    ):
        progress = SaveProgress(run.progress(name))
        progress.epoch, progress.before = epoch, Progress(stage, epoch, seconds)
        progress.note(stage)
    run.error(SHADOWS[1]).write_text("Traceback\n  File\nValueError: [red] is wrong\n")
    return run


def test_every_state_is_found(run):
    models = find_status(run, {})
    assert [model.state for model in models] == ["finished", "failed", "waiting", "waiting"]
    assert [model.name for model in models] == SHADOWS
    assert models[1].reason == f"ValueError: [red] is wrong ({run.error(SHADOWS[1])})"
    assert models[2].progress.epoch == 3
    assert models[3].progress is None
    with FileLock(run.lock(SHADOWS[2])):
        assert [model.state for model in find_status(run, {})][2] == "running"
    assert find_status(run, {})[2].state == "waiting"  # a lock file that nobody holds says nothing
    diverged = find_status(run, {SHADOWS[0]: "not finite"})[0]
    assert (diverged.state, diverged.reason) == ("failed", "not finite")


def test_the_table_shows_states_progress_and_time_left(run):
    with FileLock(run.lock(SHADOWS[2])):
        models = find_status(run, {})
        file = io.StringIO()
        Console(file=file, width=200).print(show_status(run, models))
    text = " ".join(file.getvalue().split())
    assert "run[red]" in text
    assert "finished │ 1 │ 18 to 18 s each, 18 s in all" in text
    assert "running │ 1 │ shadow-002 epoch 3 of 9" in text
    assert "failed │ 1 │ shadow-001: ValueError: [red] is wrong" in text
    assert "waiting │ 1 │" in text
    assert "about 0:00:30 left, 1 at a time" in text


def status(state, epoch, seconds):
    progress = Progress("training", epoch, seconds) if seconds else None
    return ModelStatus(SHADOWS[0], state, progress)


def test_time_left_worked_by_hand():
    done, fresh = status("finished", 10, 20.0), status("waiting", 0, 0.0)
    half, other = status("running", 5, 8.0), status("running", 1, 2.0)
    assert time_left([done, fresh, fresh], 10) == timedelta(seconds=40)
    assert time_left([done, half, other, fresh], 10) == timedelta(seconds=(12 + 18 + 20) / 2)
    assert time_left([half, fresh], 10) == timedelta(seconds=8 + 16)  # by epochs
    assert time_left([fresh], 10) is None
    assert time_left([done], 10) == timedelta(0)
    late = status("running", 9, 30.0)
    assert time_left([done, late], 10) == timedelta(0)


def test_a_summary_says_what_became_of_every_model(run):
    outcomes = [
        Outcome(SHADOWS[1], "finished", 3.0),
        Outcome(SHADOWS[2], "failed", 1.0, "KeyError: [red]"),
        Outcome(SHADOWS[3], "busy", 1.0),
    ]
    diverged = {SHADOWS[1]: "not finite", ModelName("target", 0): "weak"}
    call = Call(run, SHADOWS, ["full", "nearest-w2"], SHADOWS, outcomes, 61.2)
    lines = list(summarise(call, Failed(diverged, set(), ["Not judged."])))
    assert lines[0] == "Finished 1 model in 61 s; 1 finished before; 1 failed; 1 passed over."
    assert lines[1].startswith(
        r"[bold red]shadow-002 failed[/]: KeyError: \[red]. The same command tries it again; the"
    )
    assert "excludes it with its partner; `--fleet.retrain_failed true`" in lines[2]
    assert "weak. The audit excludes it; " in lines[3]
    assert lines[4] == "Not judged."
    assert lines[5].startswith("Bytes of a model on disk: full ")
    assert lines[6] == "3 of the fleet's 4 models are still to be finished."


def test_a_summary_of_a_finished_fleet_says_what_comes_next(run):
    lines = list(
        summarise(Call(run, SHADOWS[:1], ["full"], SHADOWS[:1], [], 0.1), Failed({}, set()))
    )
    assert lines[0].endswith(r"run\[red] are finished: nothing to train.")
    assert lines[0].startswith("All 1 models in ")
    assert lines[-1].startswith("Next: python audit.py --run_dir ")
