"""Models trained by Ray's processes, which may die; first without a fleet, then with a real one."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import train
from storage.names import ModelName
from storage.run_folder import RunFolder

ROOT = Path(train.__file__).parent
TARGET = ModelName("target", 0)
PATIENCE = 1200  # seconds; only what hangs takes so long

SCRIPT = r"""
import os
from pathlib import Path

import torch

from fleet import workers
from fleet.engine import Outcome, is_first
from fleet.options import Fleet
from fleet.workers import connect, in_workers
from storage.names import ModelName

NAMES = [ModelName("shadow", number) for number in range(4)]


def work(name):
    assert is_first()  # whatever SLURM calls the process that Ray was started in
    if name.number == 1:
        os._exit(9)  # each time that it is tried
    if name.number == 2:
        raise KeyError("an error")
    (Path(os.environ["NOTES"]) / f"{name}-{os.getpid()}").touch()
    return Outcome(name, "finished", float(torch.get_num_threads()))


if __name__ == "__main__":
    try:
        connect(Fleet(workers=2, gpus_per_model=0.25), 1)
    except ValueError as error:
        said = [str(error)]
    fleet, workers.RETRIES = Fleet(workers=2), 1
    connect(fleet, 3)
    begun = []
    for outcome in in_workers(NAMES, work, begun.append, fleet, 3):
        said.append(" ".join(map(str, (len(begun), *outcome))))
    (Path(os.environ["NOTES"]) / "said").write_text("\n".join(said))
"""


@pytest.mark.slow
def test_workers_share_models_and_a_model_that_kills_them_fails_alone(tmp_path):
    (notes := tmp_path / "notes").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        env=os.environ | {"NOTES": str(notes), "SLURM_PROCID": "1", "RAY_ADDRESS": "10.0.0.1:1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    small, *lines = (notes / "said").read_text().splitlines()  # Ray's daemon writes to the screen
    assert small.startswith("2 models at once need 0.5 GPUs, Ray has 0. Lower `--fleet.w")
    assert small.endswith("or lower or leave out `--fleet.gpus_per_model`.")
    begun, ended = zip(*(line.split(" ", 1) for line in lines), strict=True)
    assert list(begun) == ["2", "3", "4", "4"]  # two at a time
    died = [line for line in ended if "given up after 1 retries: The worker died" in line]
    assert "shadow-002 failed 0.0 KeyError: 'an error'" in ended
    assert len(died) == 1
    assert died[0].startswith("shadow-001 failed")
    assert sum("finished 3.0" in line for line in ended) == 2
    assert len(list(notes.glob("shadow-*"))) == 2


# A real fleet


def workers(driver):
    """Processes of Ray that train for `driver`, or could."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
    below, training = [str(driver.pid)], []
    for parent in below:  # which grows
        children = [row for row in rows if row[1] == parent]
        below += [pid for pid, _, _ in children]
        training += [int(pid) for pid, _, title in children if title.startswith("ray::_work")]
    return training


@pytest.mark.fleet
def test_a_fleet_survives_the_death_of_a_worker_and_of_the_driver(
    toy, toy_run, tmp_path, start_command, tensors, wait_for
):
    folder, run = tmp_path / "run", RunFolder(tmp_path / "run")
    driver = start_command(folder, "--fleet.workers 2 --fleet.models 0-2")
    wait_for(lambda: list(folder.glob("models/*/last.ckpt")), driver)
    os.kill(workers(driver)[0], signal.SIGKILL)
    output, _ = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, output
    assert "Finished 3 models" in output

    driver = start_command(folder, "--fleet.workers 2")
    wait_for(run.checkpoint(TARGET).exists, driver)
    orphans = workers(driver)
    assert orphans
    driver.kill()
    driver.communicate()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in orphans))
    train.main(toy(folder))
    assert tensors(folder) == tensors(toy_run)
    assert not list(folder.rglob("*.partial"))
    assert not list(folder.rglob("error.txt"))
    for name in run.read().names:
        progress = json.loads(run.progress(name).read_text())
        assert (progress["stage"], progress["epoch"]) == ("finished", 3)


@pytest.mark.fleet
@pytest.mark.slow
def test_a_cluster_of_two_nodes_trains_the_same_fleet(
    toy_run, tmp_path, start_command, monkeypatch, tensors, unwrap
):
    """Two nodes of one CPU each, on this machine; the workers' folder is not the driver's."""
    from ray.cluster_utils import Cluster

    monkeypatch.chdir(tmp_path)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        for workers, code in ((3, 1), (2, 0)):
            options = f"--fleet.workers {workers} --fleet.address {cluster.address}"
            driver = start_command(os.path.relpath(tmp_path / "run", ROOT), options)
            output, _ = driver.communicate(timeout=PATIENCE)
            assert driver.returncode == code, output
            assert ("3 models at once need 3 CPUs, Ray has 2. Lower" in unwrap(output)) == code
    finally:
        cluster.shutdown()
    assert tensors(tmp_path / "run") == tensors(toy_run)
