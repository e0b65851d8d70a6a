"""What goes wrong in long runs, done for real; the same command then ends as if it had not."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import train
from lightning_modules.classifier import Classifier
from storage.names import ModelName
from storage.run_folder import RunFolder

ROOT = Path(train.__file__).parent
SHADOW, SECOND, TARGET = ModelName("shadow", 1), ModelName("shadow", 2), ModelName("target", 0)


def tensors(folder):
    """Every safetensors file of a run folder: name -> content."""
    paths = sorted(folder.rglob("*.safetensors"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def words(text):
    return " ".join(text.split())


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


@pytest.fixture
def finished(toy_run, tmp_path):
    return Path(shutil.copytree(toy_run, tmp_path / "run"))


@pytest.fixture
def command(toy):
    """train.py in a process of its own, with the toy's arguments."""

    def start(folder, options="", environment=None):
        return subprocess.Popen(
            [sys.executable, "train.py", *toy(folder, options)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | (environment or {}),
        )

    return start


# Files that change behind our back


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("harm", [flip, truncate])
@pytest.mark.parametrize(
    "file",
    [
        "full.safetensors",
        "nearest-w2.safetensors",
        "adaround-w1.58-last8.json",
        "signals/full.safetensors",
        "last.ckpt",
    ],
)
def test_a_damaged_file_is_named_and_made_again_only_when_asked(
    toy, toy_run, finished, snapshot, capsys, file, harm
):
    path = RunFolder(finished).model(SHADOW) / file
    harm(path)
    before = snapshot(finished / "models")
    message = rf"(?s)Damaged since they were written:\n  {path}\nPass `--repair` to make them again"
    with pytest.raises(SystemExit, match=message):
        train.main(toy(finished))
    assert snapshot(finished / "models") == before
    train.main([*toy(finished), "--repair"])
    assert f"{path} was damaged: deleted, to be made again." in capsys.readouterr().out
    assert tensors(finished) == tensors(toy_run)
    train.main(toy(finished))
    assert "nothing to train" in capsys.readouterr().out


def test_a_model_whose_weights_and_checkpoint_are_damaged_is_trained_again(
    toy, toy_run, finished, capsys
):
    run = RunFolder(finished)
    for path in (run.weights(SHADOW, "full"), run.checkpoint(SHADOW)):
        truncate(path)
    train.main([*toy(finished), "--repair"])
    assert "Finished 1 models" in capsys.readouterr().out
    assert tensors(finished) == tensors(toy_run)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save", [pickle.dump, torch.save], ids=["pickle", "archive"])
@pytest.mark.parametrize("file", ["last.ckpt", "full.safetensors", "signals/full.safetensors"])
def test_a_malicious_pickle_is_never_executed(toy, toy_run, finished, tmp_path, save, file):
    run, trace = RunFolder(finished), tmp_path / "executed"
    (run.model(SHADOW) / "SHA256SUMS").unlink()  # as if it had been there before
    run.weights(SHADOW, "full").unlink()
    with (run.model(SHADOW) / file).open("wb") as stream:
        save(Malicious(trace), stream)
    with pytest.raises(SystemExit, match=rf"shadow-001/{file}\nPass `--repair`"):
        train.main(toy(finished))
    train.main([*toy(finished), "--repair"])
    assert tensors(finished) == tensors(toy_run)
    assert not trace.exists()


# One model fails


def test_an_error_stops_one_model_only(toy, toy_run, tmp_path, capsys, monkeypatch):
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
    output, error = words(capsys.readouterr().out), RunFolder(folder).error(SHADOW)
    assert "2 of 5: shadow-001 failed after" in output
    assert "Finished 4 models" in output
    assert "0 were before; 1 failed." in output
    assert "shadow-001 failed: RuntimeError: a [red] kernel failed. The same command" in output
    assert str(error) in output
    assert "in step\n    raise RuntimeError" in error.read_text()
    train.main(["--run_dir", str(folder), "--status"])
    status = words(capsys.readouterr().out)
    assert "failed │ 1 │ shadow-001: RuntimeError: a [red] kernel failed" in status
    train.main(toy(folder))
    assert "Finished 1 models" in capsys.readouterr().out
    assert not error.exists()
    assert tensors(folder) == tensors(toy_run)


# Where the folder is


def test_a_folder_that_was_moved_goes_on(toy, toy_run, tmp_path):
    train.main(toy(tmp_path / "here", "--fleet.models 0-2"))
    shutil.move(tmp_path / "here", tmp_path / "there")
    train.main(toy(tmp_path / "there"))
    assert tensors(tmp_path / "there") == tensors(toy_run)


def mounted(script, *arguments):
    """Run a shell script that may mount, as others would see nothing of."""
    shell = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-euc"]
    if subprocess.run([*shell, "mount -t tmpfs none /mnt"], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    return subprocess.run(
        [*shell, script, "sh", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )


def test_a_full_disk_says_so_and_loses_nothing(toy, toy_run, tmp_path):
    """900 KB hold a model and half of the next."""
    script = """
        folder=$1 result=$2; shift 2
        mount -t tmpfs -o size=900k none "$folder"
        code=0; "$@" || code=$?
        echo "code $code, $(find "$folder" -name '*.partial' | wc -l) partial files"
        mount -o remount,size=50m "$folder"
        "$@"
        cp -r "$folder/run" "$result"
    """
    (disk := tmp_path / "disk").mkdir()
    arguments = [sys.executable, "train.py", *toy(disk / "run")]
    done = mounted(script, disk, tmp_path / "result", *arguments)
    output = words(done.stdout)
    assert done.returncode == 0, done.stdout
    assert "1 of 5: shadow-000 finished in" in output
    assert "2 of 5: shadow-001 stopped after" in output
    assert "Stopped: [Errno 28] No space left on device" in output
    assert "code 1, 0 partial files" in output
    assert "Finished 4 models" in output
    assert "Traceback" not in output
    assert tensors(tmp_path / "result") == tensors(toy_run)


def test_a_read_only_folder_says_so_and_shows_its_status(toy, finished):
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
    output = words(done.stdout)
    assert "train.py: [Errno 30] Read-only file system" in output
    assert "code 1" in output
    assert "finished │ 4 │" in output
    assert "waiting │ 1 │" in output
    assert "Traceback" not in output


# A batch system


@pytest.mark.slow
def test_a_preempted_array_job_goes_on_when_it_is_requeued(toy_run, tmp_path, command):
    """Two tasks at once; one gets the signals of a time limit and of a preemption."""
    folder, run = tmp_path / "run", RunFolder(tmp_path / "run")
    slurm = {"SLURM_JOB_NAME": "fleet", "SLURM_NTASKS": "1", "SLURM_NODELIST": "here"}
    slurm |= {f"SLURM_{key}": "0" for key in ("LOCALID", "PROCID", "NODEID")}
    first = command(folder, "--fleet.models 0-1", slurm | {"SLURM_JOB_ID": "1"})
    second = command(folder, "--fleet.models 2-4", slurm | {"SLURM_JOB_ID": "2"})
    for name, number, code in ((SECOND, signal.SIGUSR1, -10), (TARGET, signal.SIGTERM, 130)):
        wait_for(run.checkpoint(name).exists)
        second.send_signal(number)
        output, _ = second.communicate(timeout=60)
        assert second.returncode == code, output
        assert not list(folder.rglob("hpc_ckpt*"))
        second = command(folder, "--fleet.models 2-4", slurm | {"SLURM_JOB_ID": "2"})
    for process in (first, second):
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
    assert tensors(folder) == tensors(toy_run)


# Several workers


def workers(driver):
    """Processes of Ray that train for `driver`, or could."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
    below, found = [str(driver.pid)], []
    for parent in below:  # which grows
        children = [row for row in rows if row[1] == parent]
        below += [pid for pid, _, _ in children]
        found += [int(pid) for pid, _, title in children if title.startswith("ray::_work")]
    return found


def test_workers_survive_the_death_of_one_and_of_the_driver(toy, toy_run, tmp_path, command):
    folder, run = tmp_path / "run", RunFolder(tmp_path / "run")
    driver = command(folder, "--fleet.workers 2 --fleet.models 0-2")
    wait_for(lambda: list(folder.glob("models/*/last.ckpt")))
    os.kill(workers(driver)[0], signal.SIGKILL)
    output, _ = driver.communicate(timeout=60)
    assert driver.returncode == 0, output
    assert "Finished 3 models" in output

    driver = command(folder, "--fleet.workers 2")
    wait_for(lambda: run.checkpoint(TARGET).exists())
    orphans = workers(driver)
    assert orphans
    driver.kill()
    driver.communicate()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in orphans))
    train.main(toy(folder))
    assert tensors(folder) == tensors(toy_run)
    assert not list(folder.rglob("*.partial"))
    assert not list(folder.rglob("error.txt"))
    for name in run.names():
        progress = json.loads(run.progress(name).read_text())
        assert (progress["stage"], progress["epoch"]) == ("finished", 3)


@pytest.mark.slow
def test_a_cluster_of_two_nodes(toy_run, tmp_path, command, monkeypatch):
    """Two nodes of one CPU each, on this machine; the workers' folder is not the driver's."""
    from ray.cluster_utils import Cluster

    monkeypatch.chdir(tmp_path)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        for workers, code in ((3, 1), (2, 0)):
            options = f"--fleet.workers {workers} --fleet.address {cluster.address}"
            driver = command(os.path.relpath(tmp_path / "run", ROOT), options)
            output, _ = driver.communicate(timeout=120)
            assert driver.returncode == code, output
            assert ("3 models at once need 3 CPUs, Ray has 2. Lower" in words(output)) == code
    finally:
        cluster.shutdown()
    assert tensors(tmp_path / "run") == tensors(toy_run)
