"""Several processes that train one model together (DDP)."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file

import train
from storage.names import fleet_names
from storage.run_folder import RunFolder

ROOT = Path(train.__file__).parent
NAMES = fleet_names(4, 1)
PATIENCE = 1200  # seconds; only what hangs takes so long


# train.py, with a slow or broken variant, or a late file, in one of two processes.
SCRIPT = r"""
import os
import time
from datetime import timedelta
from pathlib import Path

import lightning.pytorch.strategies.ddp as ddp

import lightning_modules.callbacks.quantize as quantize
import train
from storage.run_folder import RunFolder

if __name__ == "__main__":
    real, init, event = quantize.save_variant, ddp.DDPStrategy.__init__, os.environ["EVENT"]
    rank = os.environ.get("LOCAL_RANK", "0")

    def impatient(self, *arguments, **options):
        options["timeout"] = timedelta(seconds=30)  # as half an hour is to a variant of an hour
        init(self, *arguments, **options)

    def save_variant(network, path, *arguments):
        if event == f"slow in {rank}" and not path.exists():
            time.sleep(50)
        if event == f"broken in {rank}":
            raise ValueError("no grid fits")
        real(network, path, *arguments)

    class Late:
        def exists(self):
            return False

    if event == f"late in {rank}":
        RunFolder.checkpoint = lambda self, name: Late()
    ddp.DDPStrategy.__init__ = impatient
    quantize.save_variant = save_variant
    train.main()
"""


class Trained(NamedTuple):
    """What the processes that trained two models together left."""

    run: RunFolder
    batches: list[list[torch.Tensor]]  # of each process, step by step
    done: subprocess.CompletedProcess | None = None


@pytest.fixture(scope="module")
def trained(toy, own_networks, tmp_path_factory):
    """The same two models trained by one process and by two that share every batch."""
    network = "--model.network own_networks.Perceptron --model.network_args.dropout 0 "
    # the network has no BatchNorm; the option lets one device go on where two began
    options = network + "--trainer.sync_batchnorm true --fleet.shadows 2 --fleet.targets 0"
    folders = [tmp_path_factory.mktemp("run") for _ in range(2)]
    notes = [tmp_path_factory.mktemp("seen") for _ in range(2)]

    def batches(folder):
        processes = {path.name.split("-")[0] for path in folder.iterdir()}
        steps = [sorted(folder.glob(f"{i}-*"))[2:] for i in processes]  # after the rehearsal's
        return [[torch.load(path) for path in paths] for paths in steps]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEEN", str(notes[0]))
        train.main(toy(folders[0], f"{options} --trainer.devices 1"))
    arguments = toy(folders[1], f"{options} --trainer.devices 2 --trainer.strategy ddp")
    done = subprocess.run(
        [sys.executable, "train.py", *arguments],
        cwd=ROOT,
        env=os.environ | {"SEEN": str(notes[1]), "PYTHONPATH": str(own_networks)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    alone = Trained(RunFolder(folders[0]), batches(notes[0]))
    return alone, Trained(RunFolder(folders[1]), batches(notes[1]), done)


@pytest.mark.fleet
def test_two_processes_print_as_one(trained, unwrap):
    done = trained[1].done
    assert done.returncode == 0, done.stderr
    assert unwrap(done.stdout).count("Finished 2 models") == 1
    assert "Warning" not in done.stderr


@pytest.mark.fleet
def test_each_process_trains_on_half_of_every_batch(trained):
    (alone,), (first, second) = (fleet.batches for fleet in trained)
    assert len(alone) == len(first) == len(second) == 2 * 3 * 2  # models, epochs, steps
    if not torch.equal(torch.cat([first[0], second[0]]), alone[0]):
        first, second = second, first
    for batch, half, rest in zip(alone, first, second, strict=True):
        assert len(half) == len(rest) == 8
        assert torch.equal(torch.cat([half, rest]), batch)


@pytest.mark.fleet
def test_two_processes_train_the_models_of_one(trained, tensors):
    runs = [fleet.run for fleet in trained]
    ours, theirs = (tensors(run.path) for run in runs)
    assert ours.keys() == theirs.keys()
    assert ours["membership.safetensors"] == theirs["membership.safetensors"]
    for name in NAMES[:2]:
        weights = [load_file(run.weights(name, "full")) for run in runs]
        signals = [load_file(run.signals(name, "full")) for run in runs]
        for key in weights[0]:
            torch.testing.assert_close(weights[0][key], weights[1][key], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(signals[0]["phi"], signals[1]["phi"], rtol=1e-3, atol=1e-3)
        assert signals[1]["test_correct"].shape == (1797 - 64,)


@pytest.mark.fleet
def test_two_processes_share_the_variants_and_leave_the_bytes_of_one(
    trained, toy, tmp_path, monkeypatch, own_networks, tensors, no_training, records
):
    copy = Path(shutil.copytree(trained[1].run.path, tmp_path / "copy"))
    for path in [*copy.glob("models/*/*-w*"), *copy.glob("models/*/signals/*")]:
        path.unlink()
    options = "--model.network own_networks.Perceptron --model.network_args.dropout 0 "
    options += "--trainer.sync_batchnorm true --fleet.shadows 2 --fleet.targets 0"
    train.main(toy(copy, options))
    assert tensors(copy) == tensors(trained[1].run.path)
    assert records(copy) == records(trained[1].run.path)


@pytest.fixture
def start_two(toy, tmp_path):
    """Start two processes that train one model, in one of which something happens."""
    (tmp_path / "script.py").write_text(SCRIPT)
    options = "--fleet.models 0 --trainer.devices 2 --trainer.strategy ddp"

    def start(event):
        command = [sys.executable, str(tmp_path / "script.py"), *toy(tmp_path / "run", options)]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"EVENT": event, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # so that what is left of it can be found
        )

    return start


@pytest.mark.fleet
@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("event", "said"), [("slow", "Finished 1 model in"), ("broken", "ValueError: no grid fits")]
)
def test_processes_wait_longer_than_any_timeout_and_end_with_one_that_fails(
    start_two, unwrap, wait_for, event, said, rank
):
    process = start_two(f"{event} in {rank}")
    output, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode == 0) == (event == "slow"), output
    assert said in unwrap(output)

    def gone():
        listed = subprocess.run(["ps", "-eo", "sid"], capture_output=True, text=True).stdout
        return str(process.pid) not in listed.split()

    wait_for(gone)


@pytest.mark.fleet
@pytest.mark.slow
def test_processes_that_see_different_files_stop_instead_of_waiting(start_two, tmp_path):
    run = RunFolder(tmp_path / "run")
    process = start_two("slow in 0")
    while not run.checkpoint(NAMES[0]).exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    run.weights(NAMES[0], "full").unlink(missing_ok=True)
    process = start_two("late in 1")
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode not in (0, None)
    assert "from its checkpoint in the first and" in output
    assert "does a network file system show files late?" in output


def test_only_the_first_process_of_a_model_prints_the_summary(toy, tmp_path, monkeypatch, capsys):
    """While the first process is still quantizing, the others would find no files to report."""
    monkeypatch.setattr(train, "fit", lambda *_: None)
    monkeypatch.setattr("lightning.fabric.utilities.rank_zero.rank_zero_only.rank", 1)
    train.main(toy(tmp_path / "run"))
    assert capsys.readouterr().out == ""
