"""Fixtures for every test."""

import json
import shlex
import signal
import struct
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import train
from attacks.game import ModelSignals

# A shell's background job ignores Ctrl-C, and so would what is tested about it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Networks are initialised from global state, which must not depend on the tests before."""
    torch.manual_seed(0)


@pytest.fixture
def rng() -> torch.Generator:
    """A generator of its own for each test, so that order and selection change nothing."""
    return torch.Generator().manual_seed(0)


class OfflineRun(NamedTuple):
    """What `wandb sync` would upload."""

    run: object  # name, group, job type, as in `RunRecord`
    config: dict
    summary: dict
    history: list[dict]
    folder: Path


@pytest.fixture(scope="session")
def read_wandb():
    """Read what an offline W&B run kept; the keys of nested values are joined by a dot.

    The file is a LevelDB log behind 7 bytes of its own: records, in blocks of 32 KiB, have a
    checksum, a length and a kind (1 whole, 2 first, 3 middle, 4 last part).
    """
    from wandb.proto.wandb_internal_pb2 import Record

    def records(content):
        at, whole = 7, b""
        while at + 7 <= len(content):
            if (left := 32768 - at % 32768) < 7:
                at += left
                continue
            _, size, kind = struct.unpack_from("<IHB", content, at)
            if at + 7 + size > len(content):
                return  # being written
            whole += content[at + 7 : at + 7 + size]
            at += 7 + size
            if kind in (1, 4):
                yield Record.FromString(whole)
                whole = b""

    def values(items):
        return {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}

    def finished(file):
        """All records, once W&B's own process has written the last: `finish` does not wait."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            found = list(records(file.read_bytes()))
            if found and found[-1].WhichOneof("record_type") == "exit":
                return found
            time.sleep(0.05)
        raise TimeoutError(f"{file} has no last record.")

    def read(folder):
        (file,) = folder.glob("*.wandb")
        run, config, summary, history = None, {}, {}, []
        for record in finished(file):
            match record.WhichOneof("record_type"):
                case "run":
                    run = record.run
                    config |= values(record.run.config.update)
                case "config":
                    config |= values(record.config.update)
                case "summary":
                    summary |= values(record.summary.update)
                case "history":
                    history.append(values(record.history.item))
        return OfflineRun(run, config, summary, history, folder)

    return read


@pytest.fixture(scope="session")
def synthetic_fleet():
    """Signals of a fleet that never existed: members' phi is higher by `leak` nats.

    Examples differ in difficulty, so that one threshold for all of them does badly. Signals are
    multiples of 1/64: adding a small whole number is exact.
    """

    def make(shadows=12, targets=2, examples=240, leak=1.5, queries=2, seed=0):
        rng = torch.Generator().manual_seed(seed)
        models = shadows + targets
        half = torch.rand(models, examples, generator=rng).argsort(1) < examples // 2
        pairs = torch.stack([half, ~half], 1).flatten(0, 1)
        members = torch.cat([pairs[:shadows], half[shadows:]])
        difficulty = 2 * torch.randn(examples, generator=rng)
        noise = torch.randn(models, 1, examples, generator=rng)
        noise = noise + 0.3 * torch.randn(models, queries, examples, generator=rng)
        phi = 2 + difficulty + noise + leak * members[:, None]
        return (64 * phi).round() / 64, members

    return make


@pytest.fixture(scope="session")
def observe(synthetic_fleet):
    """All that an attacker may see of a synthetic fleet, whose signals `quantize` changes.

    A hinge is phi. No model trained on the population, and the features tell nothing.
    """

    def make(phi, quantize=lambda signals: signals):
        models, queries, examples = phi.shape
        population, _ = synthetic_fleet(0, models, 100, leak=0, queries=queries, seed=9)
        rng = torch.Generator().manual_seed(9)
        features = torch.randn(examples, 3, generator=rng), torch.randn(100, 3, generator=rng)
        own, others = quantize(phi), quantize(population)
        return ModelSignals(own, own, others, others, features)

    return make


@pytest.fixture(scope="session")
def toy():
    """Arguments of train.py: 4 shadows and a target, 3 epochs of 2 steps, seconds in all."""
    always = (
        "--threads 1 --data datamodules.Digits --data.pool_size 64 --data.batch_size 16 "
        "--data.flip true --data.crop 1 --model.network convnet --trainer.accelerator cpu "
        "--trainer.max_epochs 3 --fleet.shadows 4 --fleet.targets 1 "
        "--quantize nearest-w2 nearest-w1.58-last8 adaround-w1.58-last8"
    )

    def arguments(run_dir, options=""):
        return ["--run_dir", str(run_dir), *always.split(), *shlex.split(options)]

    return arguments


@pytest.fixture(scope="session")
def toy_run(toy, tmp_path_factory):
    """A finished run folder of `toy`, to be read or copied, not changed."""
    folder = tmp_path_factory.mktemp("runs") / "toy"
    train.main(toy(folder))
    return folder


@pytest.fixture(scope="session")
def snapshot():
    """Read every file below a folder: name -> time of its last change, content."""

    def take(folder):
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return {
            str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
            for path in paths
        }

    return take


OWN_NETWORKS = """
import os
from pathlib import Path

import torch
from torch import nn


class Perceptron(nn.Module):
    '''Without BatchNorm, with dropout; notes what it is trained on where $SEEN is a folder.'''

    def __init__(self, num_classes: int, channels: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.first, self.dropout = nn.Linear(64 * channels, 16), nn.Dropout(dropout)
        self.second = nn.Linear(16, num_classes)

    def forward(self, images):
        if self.training and "SEEN" in os.environ:
            folder, process = Path(os.environ["SEEN"]), os.getpid()
            step = len(list(folder.glob(f"{process}-*")))
            torch.save(images, folder / f"{process}-{step:03d}.pt")
        return self.second(self.dropout(self.first(images.flatten(1)).relu()))


class Forgetful(Perceptron):
    '''Has a layer that it never calls.'''

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__(num_classes, channels)
        self.spare = nn.Linear(16, 16)
"""


@pytest.fixture(scope="session")
def own_networks(tmp_path_factory):
    """A folder with a user's `own_networks.py`, on the path of this process."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_networks.py").write_text(OWN_NETWORKS)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
