"""What goes wrong in long runs, done for real; the same command then ends as if it had not."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import train
from lightning_modules.classifier import Classifier
from storage.names import ModelName
from storage.run_folder import RunFolder

ROOT = Path(train.__file__).parent
SHADOW, SECOND, TARGET = ModelName("shadow", 1), ModelName("shadow", 2), ModelName("target", 0)
PATIENCE = 1200  # seconds; only what hangs takes so long


@pytest.mark.fleet
def test_an_error_stops_one_model_only(
    toy, toy_run, tmp_path, capsys, monkeypatch, tensors, unwrap
):
    folder, real, seeds = tmp_path / "run", Classifier.training_step, []

    def step(self, batch, batch_idx):
        seeds.append(self.seed)
        if len(set(seeds)) == 2 and self.current_epoch == 1:  # of the second model
            raise RuntimeError("a [red] kernel failed")
        return real(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", step)
        with pytest.raises(SystemExit) as ended:
            train.main(toy(folder))
    assert ended.value.code == train.FAILED
    output, error = unwrap(capsys.readouterr().out), RunFolder(folder).error(SHADOW)
    assert "2 of 5: shadow-001 failed after" in output
    assert "Finished 4 models" in output
    assert "0 finished before; 1 failed." in output
    assert "shadow-001 failed: RuntimeError: a [red] kernel failed. The same command" in output
    assert str(error) in output
    assert "in step\n    raise RuntimeError" in error.read_text()
    train.main(["--run_dir", str(folder), "--status"])
    status = unwrap(capsys.readouterr().out)
    assert "failed │ 1 │ shadow-001: RuntimeError: a [red] kernel failed" in status
    train.main(toy(folder))
    assert "Finished 1 model in" in capsys.readouterr().out
    assert not error.exists()
    assert tensors(folder) == tensors(toy_run)


@pytest.mark.fleet
def test_a_moved_run_folder_is_resumed(toy, toy_run, tmp_path, tensors):
    train.main(toy(tmp_path / "here", "--fleet.models 0-2"))
    shutil.move(tmp_path / "here", tmp_path / "there")
    train.main(toy(tmp_path / "there"))
    assert tensors(tmp_path / "there") == tensors(toy_run)


def mounted(script, *arguments):
    """Run a shell script that may mount file systems, which no other process sees."""
    shell = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-euc"]
    if subprocess.run([*shell, "mount -t tmpfs none /mnt"], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    return subprocess.run(
        [*shell, script, "sh", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )


@pytest.mark.fleet
def test_a_full_disk_is_reported_and_loses_nothing(toy, toy_run, tmp_path, tensors, unwrap):
    """1,100 KB hold one model and half of the next."""
    script = """
        folder=$1 result=$2; shift 2
        mount -t tmpfs -o size=1100k none "$folder"
        code=0; "$@" || code=$?
        echo "code $code, $(find "$folder" -name '*.partial' | wc -l) partial files"
        mount -o remount,size=50m "$folder"
        "$@"
        cp -r "$folder/run" "$result"
    """
    (disk := tmp_path / "disk").mkdir()
    arguments = [sys.executable, "train.py", *toy(disk / "run")]
    done = mounted(script, disk, tmp_path / "result", *arguments)
    output = unwrap(done.stdout)
    assert done.returncode == 0, done.stdout
    assert "1 of 5: shadow-000 finished in" in output
    assert "2 of 5: shadow-001 stopped after" in output
    assert "Stopped: [Errno 28] No space left on device" in output
    assert "code 1, 0 partial files" in output
    assert "Finished 4 models" in output
    assert "Traceback" not in output
    assert tensors(tmp_path / "result") == tensors(toy_run)


def test_a_read_only_folder_is_reported_and_shows_its_status(toy, finished, unwrap):
    script = """
        folder=$1; shift
        mount --bind "$folder" "$folder"
        mount -o remount,ro,bind "$folder"
        code=0; "$@" || code=$?
        echo "code $code"
        "$1" train.py --run_dir "$folder" --status
    """
    run = RunFolder(finished)
    run.weights(SHADOW, "full").unlink()
    done = mounted(script, finished, sys.executable, "train.py", *toy(finished))
    output = unwrap(done.stdout)
    assert "train.py: `--run_dir` must be a folder that can be written to, got" in output
    assert "Read-only file system. Name another, or make room there." in output
    assert "code 1" in output
    assert "finished │ 4 │" in output
    assert "waiting │ 1 │" in output
    assert "Traceback" not in output


@pytest.mark.fleet
@pytest.mark.slow
def test_a_requeued_array_job_resumes(toy_run, tmp_path, start_command, tensors, wait_for):
    """Two tasks at once; the second gets the signals of a time limit and of a preemption."""
    folder, run = tmp_path / "run", RunFolder(tmp_path / "run")
    slurm = {"SLURM_JOB_NAME": "fleet", "SLURM_NTASKS": "1", "SLURM_NODELIST": "here"}
    slurm |= {f"SLURM_{key}": "0" for key in ("LOCALID", "PROCID", "NODEID")}
    first = start_command(folder, "--fleet.models 0-1", slurm | {"SLURM_JOB_ID": "1"})
    second = start_command(folder, "--fleet.models 2-4", slurm | {"SLURM_JOB_ID": "2"})
    for name, number, code in ((SECOND, signal.SIGUSR1, -10), (TARGET, signal.SIGTERM, 130)):
        wait_for(run.checkpoint(name).exists, second)
        second.send_signal(number)
        output, _ = second.communicate(timeout=PATIENCE)
        assert second.returncode == code, output
        assert not list(folder.rglob("hpc_ckpt*"))
        second = start_command(folder, "--fleet.models 2-4", slurm | {"SLURM_JOB_ID": "2"})
    for process in (first, second):
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, output
    assert tensors(folder) == tensors(toy_run)
