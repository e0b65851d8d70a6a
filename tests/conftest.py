"""Fixtures for every test."""

import csv
import io
import json
import shlex
import shutil
import signal
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

import train
from attacks import ATTACKS
from attacks.game import ModelSignals
from audit import main as audit_command
from benchmarks import synthetic_tasks
from benchmarks.synthetic_federations import Options, write_federations
from lightning_modules.classifier import Classifier
from quantization.own import load_own, try_method
from reporting.charts import Chart, Panel
from storage.experiment import Experiment
from storage.files import save_whole
from storage.run_folder import RunFolder

# A shell's background job ignores Ctrl-C, and then so would the tests of Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Keep decoded images out of the cache of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Seed the global state that initialises networks, whatever tests ran before."""
    torch.manual_seed(0)


@pytest.fixture
def rng() -> torch.Generator:
    """A new generator per test, so that their order and selection change nothing."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def synthetic_fleet():
    """Make up the signals of a fleet: members' phi is higher by `leak` nats.

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
def write_dump():
    """Train one federation by plain FedAvg, and write it as another framework's server would.

    A table's even rows are held in turn by all clients, and odd rows by nobody.
    """

    def write(folder, features, labels, build, clients=6, rounds=2, seed=0):
        torch.manual_seed(seed)
        network, examples = build(), torch.arange(len(labels))
        holder = (examples // 2 % clients).where(examples % 2 == 0, -1)
        for number in range(1, rounds + 2):
            sent = {key: value.clone() for key, value in network.state_dict().items()}
            save_whole(folder / f"round-{number:04d}" / "global.safetensors", sent)
            uploads = []
            for client in range(clients) if number <= rounds else ():
                own, mine = build(), holder == client
                own.load_state_dict(sent)
                optimizer = torch.optim.SGD(own.parameters(), 0.5)
                for _ in range(5):
                    optimizer.zero_grad()
                    cross_entropy(own(features[mine]), labels[mine]).backward()
                    optimizer.step()
                uploads.append(own.state_dict())
                path = folder / f"round-{number:04d}" / f"client-{client:03d}.safetensors"
                save_whole(path, uploads[-1])
            if uploads:
                means = {key: sum(state[key] for state in uploads) / clients for key in sent}
                network.load_state_dict(means)
        np.savez(folder / "holders.npz", holder=holder.numpy())
        return folder

    return write


@pytest.fixture(scope="session")
def observe(synthetic_fleet):
    """All that an attacker may see of a synthetic fleet whose signals `quantize` changes.

    The hinge is phi. No model trained on the population; features, classes and embeddings carry no
    information.
    """

    def make(phi, quantize=lambda signals: signals):
        models, queries, examples = phi.shape
        population, _ = synthetic_fleet(0, models, 100, leak=0, queries=queries, seed=9)
        rng = torch.Generator().manual_seed(9)
        features = torch.randn(examples, 3, generator=rng), torch.randn(100, 3, generator=rng)
        own, others = quantize(phi), quantize(population)
        labels = torch.arange(examples) % 3, torch.arange(100) % 3
        embeddings = (torch.randn(models, 4, count, generator=rng) for count in (examples, 100))
        return ModelSignals(own, own, others, others, features, labels, *embeddings)

    return make


@pytest.fixture(scope="session")
def toy():
    """Arguments of train.py: 4 shadows and a target, 3 epochs of 2 steps, seconds in all."""
    always = (
        "--threads 1 --checkpoint_every 0 --data datamodules.Digits --data.pool_size 64 "
        "--data.batch_size 16 --data.flip true --data.crop 1 --model.network convnet "
        "--trainer.accelerator cpu --trainer.max_epochs 3 --fleet.shadows 4 --fleet.targets 1 "
        "--snapshots 1 --quantize nearest-w2 nearest-w1.58-last8 adaround-w1.58-last8"
    )

    def arguments(run_dir, options=""):
        return ["--run_dir", str(run_dir), *always.split(), *shlex.split(options)]

    return arguments


@pytest.fixture(scope="session")
def toy_training(toy, tmp_path_factory):
    """A finished run folder of `toy`, and its batches: (model's seed, epoch, indices) per step."""
    folder, batches = tmp_path_factory.mktemp("runs") / "toy", []
    real = Classifier.training_step

    def step(self, batch, batch_idx):
        batches.append((self.seed, self.current_epoch, batch.indices.tolist()))
        return real(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "training_step", step)
        train.main(toy(folder))
    return folder, batches


@pytest.fixture(scope="session")
def toy_run(toy_training):
    """A finished run folder of `toy`, to be read or copied, not changed."""
    return toy_training[0]


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


@pytest.fixture(scope="session")
def own_networks():
    """The folder with a user's `own_networks.py`, on the path of this process."""
    folder = Path(__file__).parent / "own"
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture
def forget_own():
    """Forget a user's quantizers and modules, which a process imports and tries once."""
    used = set()

    def forget(*modules):
        used.update(modules)
        for module in used:
            sys.modules.pop(module, None)
        load_own.cache_clear()
        try_method.cache_clear()

    yield forget
    forget()


@pytest.fixture(scope="session")
def tensors():
    """Read every safetensors file of a run folder: name -> content."""

    def read(folder):
        paths = sorted(folder.rglob("*.safetensors"))
        return {str(path.relative_to(folder)): path.read_bytes() for path in paths}

    return read


@pytest.fixture(scope="session")
def unwrap():
    """Text as it was before the console wrapped it."""
    return lambda text: " ".join(text.split())


# Audits


@pytest.fixture(scope="session")
def audit():
    """Run audit.py on a run folder and return what it prints."""

    def call(run, *options):
        with redirect_stdout(io.StringIO()) as output:
            audit_command(["--run_dir", str(run.path), *options])
        return output.getvalue()

    return call


@pytest.fixture(scope="session")
def quick_audit(audit):
    """The same with two attacks, one without shadows and one with."""
    attacks = ("--attacks", "global_threshold", "lira_online_fixed")
    return lambda run, *options: audit(run, *options, *attacks)


@pytest.fixture(scope="session")
def read_csv():
    """Rows of results.csv, their numbers as numbers."""
    words = ("variant", "knowledge", "attack", "strongest")

    def read(run):
        with (run.path / "audit" / "results.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        return [
            {k: v if k in words else float(v) if v else None for k, v in row.items()}
            for row in rows
        ]

    return read


@pytest.fixture(scope="session")
def results_of():
    """The content of results.json."""
    return lambda run: json.loads((run.path / "audit" / "results.json").read_text())


@pytest.fixture(scope="session")
def audit_files():
    """Names of the files of an audit without images and records."""
    figures = {"roc.png", "plane.png", "convergence.png"}
    return figures | {"table.txt", "results.csv", "exposure.csv", "results.json", "report.html"}


@pytest.fixture(scope="session")
def audit_states():
    """Names and times of every file of an audit."""

    def read(run):
        files = sorted((run.path / "audit").iterdir())
        return [(file.name, file.stat().st_mtime_ns, file.stat().st_ino) for file in files]

    return read


@pytest.fixture(scope="session")
def change_signals():
    """Replace tensors of a signal file."""
    return lambda path, **tensors: save_whole(path, load_file(path) | tensors)


@pytest.fixture(scope="session")
def weight_bytes():
    """Size on disk of each variant of a fabricated model."""
    return {"full": 4000, "nearest-w4": 700, "nearest-w2": 420}


@pytest.fixture(scope="session")
def fabricate(weight_bytes):
    """Write what train.py would have: `nearest-w2` loses 8 nats, and a third of its accuracy.

    The images are nowhere; an audit does without.
    """
    config = {
        "seed": 0,
        "data": {"class_path": "nowhere.Images", "init_args": {"root": "/nowhere"}},
        "model": {"network": "nowhere.Network"},
        "trainer": {"max_epochs": 1},
        "queries": ["identity", "mirror"],
        "quantize": ["nearest-w4", "nearest-w2"],
    }
    fingerprints = {"data": "00ff", "network": "ff00"}
    versions = {"torch": "1", "lightning": "2", "bitleak": "3", "threads": 1}

    def make(path, phi, members, targets, population):
        fleet = {"shadows": len(members) - targets, "targets": targets}
        options = config | {"fleet": fleet}
        experiment = Experiment(options, {}, fingerprints, versions, {}, "01234567")
        run, names = RunFolder(path), experiment.names
        run.open(experiment, members)
        for name, own, inside, others in zip(names, phi, members, population, strict=True):
            for variant, shift in (("full", 0), ("nearest-w4", 1), ("nearest-w2", 8)):
                save_whole(run.weights(name, variant), {})
                run.weights(name, variant).write_bytes(bytes(weight_bytes[variant]))
                rng = torch.Generator().manual_seed(int(own.abs().nan_to_num().sum()) + shift)
                signals = {"phi": own - shift, "hinge": own - shift, "loss": (shift - own).exp()}
                signals |= {"population": others - shift, "population_hinge": others - shift}
                signals["correct"] = inside | (torch.rand(own.shape, generator=rng) < 0.8)
                signals["test_correct"] = torch.rand(150, generator=rng) < 0.9 - shift / 26
                save_whole(run.signals(name, variant), signals)
        return run

    return make


@pytest.fixture(scope="session")
def audited_run(synthetic_fleet, observe, fabricate, audit, tmp_path_factory):
    """A run of 12 shadows and 2 targets audited by the default attacks; and what was printed.

    To be read or copied, not changed.
    """
    phi, members = synthetic_fleet(shadows=12, targets=2, examples=240)
    folder = tmp_path_factory.mktemp("runs") / "demo"
    run = fabricate(folder, phi, members, 2, observe(phi).population)
    return run, audit(run)


@pytest.fixture
def demo_run(audited_run, tmp_path):
    """The same run, free to be changed, not audited yet."""
    copy = RunFolder(tmp_path / "demo")
    shutil.copytree(audited_run[0].path, copy.path, ignore=shutil.ignore_patterns("audit"))
    return copy


@pytest.fixture
def empty_figures(monkeypatch):
    """Leave the figures of an audit empty, because drawing them takes most of its time."""
    for name in ("plane_chart", "roc_chart", "convergence_chart"):
        monkeypatch.setattr(
            f"reporting.illustrate.{name}", lambda *_: Chart([[Panel([])]], (1.0, 1.0))
        )


@pytest.fixture
def make_run(synthetic_fleet, observe, fabricate, tmp_path, empty_figures):
    """Make a small run, whose figures are empty; models `without` never existed."""

    def make(name="small", shadows=10, targets=2, without=(), **options):
        phi, members = synthetic_fleet(shadows=shadows, targets=targets, examples=80, **options)
        kept = [i for i in range(len(members)) if i not in without]
        remaining = sum(i >= shadows for i in kept)
        population = observe(phi).population[kept]
        return fabricate(tmp_path / name, phi[kept], members[kept], remaining, population)

    return make


@pytest.fixture(scope="session")
def federations(tmp_path_factory):
    """Eight small federations of a plain FedAvg loop, to be read or copied, not changed."""
    options = Options(pool=240, clients=5, rounds=4, record=(2, 4), local_epochs=3)
    return write_federations(tmp_path_factory.mktemp("runs") / "federations", options)


@pytest.fixture
def federated_run(federations, tmp_path):
    """The same run, free to be changed."""
    copy = RunFolder(tmp_path / "federations")
    shutil.copytree(federations.path, copy.path)
    return copy


@pytest.fixture(scope="session")
def task_learners(tmp_path_factory):
    """Eight shadows and two targets that learn three tasks, to be read or copied, not changed."""
    options = synthetic_tasks.Options(pool=300, width=80, worlds=3)
    return synthetic_tasks.write_tasks(tmp_path_factory.mktemp("runs") / "learners", options)


@pytest.fixture
def task_run(task_learners, tmp_path):
    """The same run, free to be changed."""
    copy = RunFolder(tmp_path / "learners")
    shutil.copytree(task_learners.path, copy.path)
    return copy


@pytest.fixture(scope="session")
def toy_audit(toy, toy_run, audit, tmp_path_factory):
    """The toy run audited by every attack there is, and what was printed; not to be changed."""
    run = RunFolder(tmp_path_factory.mktemp("audits") / "toy")
    shutil.copytree(toy_run, run.path)
    train.main(toy(run.path, "--record_embeddings true"))
    return run, audit(run, "--attacks", *ATTACKS)
