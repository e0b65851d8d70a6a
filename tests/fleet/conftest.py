"""Fleets that were trained, and ways to start and to watch training."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import train
from lightning_modules.classifier import Classifier

ROOT = Path(train.__file__).parent
PATIENCE = 1200  # seconds; only what hangs takes so long


@pytest.fixture(scope="session")
def variants():
    """Names of the variants of the toy fleet."""
    return ["full", "epoch-01", "nearest-w2", "nearest-w1.58-last8", "adaround-w1.58-last8"]


@pytest.fixture
def finished(toy_run, tmp_path):
    """A copy of the toy run, free to be changed."""
    return Path(shutil.copytree(toy_run, tmp_path / "finished"))


@pytest.fixture
def no_training(monkeypatch):
    """Fail where anything is trained."""
    monkeypatch.setattr(Classifier, "training_step", lambda *_: pytest.fail("trained"))


@contextmanager
def watched():
    """Note batches trained on: (model's seed, epoch, indices), step by step."""
    batches, real = [], Classifier.training_step

    def step(self, batch, batch_idx):
        batches.append((self.seed, self.current_epoch, batch.indices.tolist()))
        return real(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "training_step", step)
        yield batches


@pytest.fixture
def served():
    """Batches trained on: (model's seed, epoch, indices), step by step."""
    with watched() as batches:
        yield batches


@pytest.fixture(scope="session")
def train_watched(toy):
    """Train a fleet of the toy with options; returns the batches that it was served."""

    def train_fleet(folder, options):
        with watched() as batches:
            train.main(toy(folder, options))
        return batches

    return train_fleet


@pytest.fixture
def killed_after():
    """Train until a callback has done its work at the end of an epoch, and stop there."""

    def kill(callback, epoch, arguments):
        real = callback.on_train_epoch_end

        def end(self, trainer, pl_module):
            real(self, trainer, pl_module)
            if trainer.current_epoch == epoch:
                raise SystemExit("killed")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(callback, "on_train_epoch_end", end)
            with pytest.raises(SystemExit, match="killed"):
                train.main(arguments)

    return kill


@pytest.fixture
def left_as_it_is(no_training, snapshot, capsys):
    """Check that a finished fleet has nothing to train, and that its models are not touched."""

    def check(folder, arguments):
        before = snapshot(folder)
        train.main(arguments)
        assert "nothing to train" in capsys.readouterr().out
        changed = {name for name, state in snapshot(folder).items() if before.get(name) != state}
        assert changed <= {"experiment.yaml", "membership.safetensors"}

    return check


@pytest.fixture(scope="session")
def full_records():
    """Read the record of training of every model, by file."""

    def read(folder):
        paths = folder.glob("models/*/full.json")
        return {str(path.relative_to(folder)): json.loads(path.read_text()) for path in paths}

    return read


@pytest.fixture(scope="session")
def records():
    """Read every record of a quantization except for the time that it took: name -> content."""

    def without_seconds(record):
        layers = [{k: v for k, v in layer.items() if k != "seconds"} for layer in record["layers"]]
        return {k: v for k, v in record.items() if k != "seconds"} | {"layers": layers}

    def read(folder):
        return {
            str(path.relative_to(folder)): without_seconds(json.loads(path.read_text()))
            for path in folder.glob("models/*/*-w*.json")
        }

    return read


@pytest.fixture(scope="session")
def of_models():
    """Select the files of the named models from a dictionary by file name."""

    def select(files, *names):
        return {key: file for key, file in files.items() if any(f"{n}/" in key for n in names)}

    return select


@pytest.fixture(scope="session")
def last_epochs():
    """Read the last finished epoch of every model that has one: name -> epoch."""

    def read(folder):
        return {
            path.parent.name: torch.load(path, weights_only=True)["epoch"]
            for path in folder.glob("models/*/last.ckpt")
        }

    return read


@pytest.fixture(scope="session")
def start():
    """Start train.py's `main` in a process of its own, forked where it is already imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train"])

    def start(arguments):
        process = context.Process(target=train.main, args=(arguments,))
        process.start()
        return process

    return start


@pytest.fixture
def start_command(toy):
    """Start train.py as users do, with the toy's arguments."""

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


@pytest.fixture
def run_script(tmp_path):
    """Run a script in a process of its own; returns the folder $NOTES, and the output."""

    def run(script, **environment):
        (notes := tmp_path / "notes").mkdir()
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env=os.environ | {"NOTES": str(notes)} | environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        return notes, done.stdout

    return run


@pytest.fixture(scope="session")
def wait_for():
    """Wait until a condition holds; fail at once if the process that must bring it about ends."""

    def wait(condition, process=None):
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if process is not None and process.poll() is not None:
                assert condition(), process.communicate()[0]
            assert time.monotonic() < deadline, "it never happened"
            time.sleep(0.005)

    return wait


@pytest.fixture
def killed(monkeypatch):
    """Train, stopping before each of these steps, counted over all models and attempts."""
    served = [0]
    real = Classifier.training_step

    def train_killed(arguments, steps):
        left = list(steps)

        def step(self, batch, batch_idx):
            if left and served[0] == left[0]:
                left.pop(0)
                raise SystemExit("killed")
            served[0] += 1
            return real(self, batch, batch_idx)

        with monkeypatch.context() as patch:
            patch.setattr(Classifier, "training_step", step)
            for _ in steps:
                with pytest.raises(SystemExit, match="killed"):
                    train.main(arguments)
            train.main(arguments)

    return train_killed
