"""Fleets trained by Ray's processes, which may die."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

import train
from lightning_modules.callbacks.progress import read_progress

ROOT = Path(train.__file__).parent
PATIENCE = 1200  # seconds; only a hang takes so long


def workers(parent):
    """Processes below a process, which train for Ray, or could."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
    below, training = [str(parent)], []
    for pid in below:  # which grows
        children = [row for row in rows if row[1] == pid]
        below += [pid for pid, _, _ in children]
        training += [int(pid) for pid, _, title in children if title.startswith("ray::_work")]
    return training


def in_training(folder):
    """Number of models that have begun their third epoch."""
    notes = [read_progress(path) for path in folder.glob("models/*/progress.json")]
    return sum(note is not None and note.epoch > 1 for note in notes)


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


@pytest.mark.fleet
@pytest.mark.slow
def test_a_fleet_survives_the_death_of_a_node(
    toy, tmp_path, start_command, tensors, wait_for, monkeypatch
):
    """Two nodes of one CPU each; the driver is on neither, and trains nothing."""
    from ray.cluster_utils import Cluster

    monkeypatch.chdir(tmp_path)
    folder, epochs = tmp_path / "run", "--trainer.max_epochs 100"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        node = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        options = f"{epochs} --fleet.workers 2 --fleet.address {cluster.address}"
        driver = start_command(folder, options)
        wait_for(lambda: in_training(folder) == 2, driver)
        doomed = [node.all_processes["raylet"][0].process.pid]
        doomed += workers(doomed[0])
        assert len(doomed) == 2
        for pid in doomed:  # as when the machine loses its power
            os.kill(pid, signal.SIGKILL)
        assert not list(folder.glob("models/*/full.safetensors"))  # both were in training
        output, _ = driver.communicate(timeout=PATIENCE)
    finally:
        cluster.shutdown()
    assert driver.returncode == 0, output
    assert "Finished 5 models" in output
    train.main(toy(tmp_path / "other", epochs))
    assert tensors(folder) == tensors(tmp_path / "other")
    assert not list(folder.rglob("error.txt"))
