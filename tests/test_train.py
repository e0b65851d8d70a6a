import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from PIL import Image
from safetensors.torch import load_file, save_file

import train
from datamodules.digits import Digits
from datamodules.images import ImageDataModule, Images
from datamodules.membership import membership
from datamodules.seeds import derive_seed
from datamodules.views import augment, normalise
from lightning_modules.classifier import Classifier
from lightning_modules.networks import NETWORKS
from quantization.calibration import Calibration
from quantization.quantize import quantize_network
from quantization.variant import Variant
from storage.names import ModelName, fleet_names
from storage.run_folder import RunFolder
from storage.saved_signals import load_signals
from storage.weights import load_quantized, load_weights

ROOT = Path(train.__file__).parent
NAMES = [*(ModelName("shadow", number) for number in range(4)), ModelName("target", 0)]
VARIANTS = ["full", "nearest-w2", "nearest-w1.58-last8", "adaround-w1.58-last8"]


def tensors(folder):
    """Every safetensors file of a run folder: name -> content."""
    paths = sorted(folder.rglob("*.safetensors"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def records(folder):
    """Every record of a quantization but for the time that it took: name -> content."""

    def without_seconds(record):
        layers = [{k: v for k, v in layer.items() if k != "seconds"} for layer in record["layers"]]
        return {k: v for k, v in record.items() if k != "seconds"} | {"layers": layers}

    paths = folder.glob("models/*/*-w*.json")
    return {
        str(path.relative_to(folder)): without_seconds(json.loads(path.read_text()))
        for path in paths
    }


def of_model(files, *names):
    return {key: value for key, value in files.items() if any(f"{n}/" in key for n in names)}


def words(text):
    """Text as it was before the console wrapped it."""
    return " ".join(text.split())


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
def finished(toy_run, tmp_path):
    """A copy of the finished run, to be gone on with."""
    return Path(shutil.copytree(toy_run, tmp_path / "finished"))


@pytest.fixture
def no_training(monkeypatch):
    monkeypatch.setattr(Classifier, "training_step", lambda *_: pytest.fail("trained"))


@pytest.fixture
def served(monkeypatch):
    """What is trained on: (model's seed, epoch, indices), step by step."""
    served = []
    real = Classifier.training_step

    def step(self, batch, batch_idx):
        served.append((self.seed, self.current_epoch, batch.indices.tolist()))
        return real(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", step)
    return served


# Killed and resumed


def count(folder):
    return sum(1 for path in folder.glob("models/**/*") if path.suffix in (".safetensors", ".ckpt"))


def epochs(folder):
    """The last finished epoch of every model that has one."""
    return {
        path.parent.name: torch.load(path, weights_only=True)["epoch"]
        for path in folder.glob("models/*/last.ckpt")
    }


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_fleet_that_is_killed_again_and_again_ends_bit_for_bit_the_same(
    toy, toy_run, start, tmp_path, seed
):
    rng, folder = random.Random(seed), tmp_path / "run"
    last: dict[str, int] = {}
    kills = [signal.SIGKILL] * 6 + [signal.SIGINT, signal.SIGTERM]
    for goal in sorted(rng.sample(range(count(toy_run)), len(kills))):
        process = start(toy(folder))
        while process.is_alive() and count(folder) < goal:
            time.sleep(0.001)
        time.sleep(0.05 * rng.random())
        number = kills.pop(rng.randrange(len(kills)))
        os.kill(process.pid, number)
        process.join(20)
        assert process.exitcode in (-number, 130, 1, 0)  # 1: before `main` got anywhere
        now = epochs(folder)
        assert all(now[name] >= epoch for name, epoch in last.items())
        last = now
    process = start(toy(folder))
    process.join(60)
    assert process.exitcode == 0
    assert tensors(folder) == tensors(toy_run)
    assert records(folder) == records(toy_run)
    assert epochs(folder) == epochs(toy_run)
    names = {path.relative_to(folder) for path in folder.rglob("*")}
    assert names == {path.relative_to(toy_run) for path in toy_run.rglob("*")}


def test_ctrl_c_says_how_to_go_on(toy, toy_run, tmp_path):
    """A process started as users do, without anything imported before."""
    folder = tmp_path / "run"
    command = [sys.executable, "train.py", *toy(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while process.poll() is None and count(folder) < 8:
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 130
    assert "Stopped. The same command goes on from the last finished epoch." in words(output)
    assert "Traceback" not in output
    assert "Warning" not in output
    assert not list(folder.rglob("*.partial"))
    train.main(toy(folder))
    assert tensors(folder) == tensors(toy_run)


def test_ctrl_c_that_a_library_makes_an_error_of_stops_as_well(toy, tmp_path, monkeypatch, capsys):
    def step(self, batch, batch_idx):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise ValueError("as safetensors has it") from error

    monkeypatch.setattr(Classifier, "training_step", step)
    with pytest.raises(SystemExit) as stopped:
        train.main(toy(tmp_path / "run"))
    assert stopped.value.code == 130
    assert "The same command goes on" in words(capsys.readouterr().out)


def test_only_the_epoch_in_progress_is_trained_again(toy, toy_run, tmp_path, served, monkeypatch):
    folder = tmp_path / "run"
    real = Classifier.training_step

    def step(self, batch, batch_idx):
        if len(served) == 6 + 3:  # the second model, in the middle of its second epoch
            raise SystemExit("killed")
        return real(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", step)
        with pytest.raises(SystemExit, match="killed"):
            train.main(toy(folder))
    before = list(served)
    served.clear()
    train.main(toy(folder))
    assert before[8] == served[0]  # the step that was lost
    assert before[8][1] == 1
    whole = before[:8] + served
    assert len(whole) == 5 * 6
    assert [epoch for _, epoch, _ in whole] == [0, 0, 1, 1, 2, 2] * 5
    assert tensors(folder) == tensors(toy_run)


@pytest.mark.parametrize("left", [1, 4, 5, 8])
def test_what_a_kill_between_two_files_left_is_completed(toy, toy_run, finished, left, no_training):
    """All files of the last model but the first `left`, and halves of the others."""
    name = NAMES[-1]
    run = RunFolder(finished)
    order = [run.checkpoint(name), *(run.weights(name, variant) for variant in VARIANTS)]
    order += [run.signals(name, variant) for variant in VARIANTS]
    for path in order[left:]:
        path.with_name(f"{path.name}.partial").write_bytes(path.read_bytes()[:100])
        path.unlink()
    run.path.joinpath("experiment.yaml.partial").write_text("config:")
    train.main(toy(finished))
    assert tensors(finished) == tensors(toy_run)
    assert not list(finished.rglob("*.partial"))


# One model does not depend on the others


@pytest.mark.parametrize("position", [0, 3, 4])
def test_a_model_trained_alone_is_the_one_of_the_whole_fleet(toy, toy_run, tmp_path, position):
    torch.manual_seed(position)  # must not matter
    train.main(toy(tmp_path / "run", f"--fleet.models {position}"))
    alone = of_model(tensors(tmp_path / "run"), *NAMES)
    assert alone == of_model(tensors(toy_run), NAMES[position])
    assert len(alone) == 8


def test_slices_in_two_processes_at_once_make_one_fleet(toy, toy_run, tmp_path, start):
    folder = tmp_path / "run"
    processes = [start(toy(folder, f"--fleet.models {text}")) for text in ("0,3", "1-2,4")]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert tensors(folder) == tensors(toy_run)


# Growing


def test_a_rerun_trains_nothing_and_says_so(toy, finished, snapshot, no_training, capsys):
    before = snapshot(finished / "models")
    experiment = (finished / "experiment.yaml").read_bytes()
    train.main(toy(finished))
    assert snapshot(finished / "models") == before
    assert (finished / "experiment.yaml").read_bytes() == experiment
    output = words(capsys.readouterr().out)
    assert f"All 5 models in {finished} are finished: nothing to train." in output
    assert f"Next: python audit.py --run_dir {finished}" in output
    sizes = [RunFolder(finished).weights(NAMES[0], v).stat().st_size for v in VARIANTS]
    text = ", ".join(f"{v} {size:,}" for v, size in zip(VARIANTS, sizes, strict=True))
    assert f"Bytes of a model on disk: {text}." in output


def test_more_shadows_leave_the_old_models_as_they_are(
    toy, toy_run, finished, snapshot, tmp_path, served, capsys
):
    before = snapshot(finished / "models")
    train.main(toy(finished, "--fleet.shadows 6"))
    after = snapshot(finished / "models")
    assert {key: after[key] for key in before} == before
    new = {key.split("/")[0] for key in after.keys() - before.keys()}
    assert new == {"shadow-004", "shadow-005"}
    assert {seed for seed, _, _ in served} == {derive_seed(0, "shadow", i, 0) for i in (4, 5)}
    assert "Finished 2 models" in capsys.readouterr().out
    train.main(toy(tmp_path / "big", "--fleet.shadows 6 --fleet.models 4-5"))
    assert of_model(tensors(tmp_path / "big"), *new) == of_model(tensors(finished), *new)
    assert torch.equal(RunFolder(finished).membership(), membership(0, 6, 1, 64))
    whole = membership(0, 4, 1, 64)
    assert torch.equal(RunFolder(finished).membership()[[0, 1, 2, 3, 6]], whole)


def test_another_precision_adds_its_files_only(toy, finished, snapshot, no_training):
    before = snapshot(finished / "models")
    train.main(toy(finished, "--quantize nearest-w4"))
    after = snapshot(finished / "models")
    changed = {key.split("/")[1] for key in before if after[key] != before[key]}
    assert changed == {"SHA256SUMS", "progress.json"}
    assert after.keys() - before.keys() == {
        f"{name}/{file}"
        for name in NAMES
        for file in ("nearest-w4.safetensors", "nearest-w4.json", "signals/nearest-w4.safetensors")
    }
    run = RunFolder(finished)
    assert run.read()["config"]["quantize"] == [*VARIANTS[1:], "nearest-w4"]
    network = Classifier(10, 1, 0, "convnet").network
    network.load_state_dict(load_file(run.weights(NAMES[1], "full")))
    expected = quantize_network(network, Variant.parse("nearest-w4"))[0].state_dict()
    found = load_weights(run.weights(NAMES[1], "nearest-w4"))
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_precision_named_twice_is_one(toy, tmp_path, capsys):
    train.main(toy(tmp_path / "run", "--quantize nearest-w2 nearest-w2 --fleet.models 0"))
    assert RunFolder(tmp_path / "run").read()["config"]["quantize"] == ["nearest-w2"]
    assert words(capsys.readouterr().out).count("nearest-w2") == 1


# Another experiment


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ("--data.flip false", "data.init_args.flip: True in the folder, False asked"),
        ("--data.batch_size 8", "data.init_args.batch_size: 16 in the folder, 8 asked"),
        ("--data.pool_size 66", "data.init_args.pool_size: 64 in the folder, 66 asked"),
        ("--data.pool_seed 1", "data's fingerprint: '.{16}' in the folder, '.{16}' asked"),
        ("--seed 1", "seed: 0 in the folder, 1 asked"),
        ("--model.lr 0.2", "model.lr: 0.1 in the folder, 0.2 asked"),
        ("--model.network resnet8", "model.network: 'convnet' in the folder, 'resnet8' asked"),
        ("--trainer.max_epochs 4", "trainer.max_epochs: 3 in the folder, 4 asked"),
        ("--trainer.precision bf16-true", "trainer.precision: None in .*, 'bf16-true' asked"),
        ("--fleet.shadows 2", "fleet.shadows: 4 in the folder, 2 asked"),
        ("--fleet.targets 0", "fleet.targets: 1 in the folder, 0 asked"),
        ("--calibration.images 8", "calibration.images: 1024 in the folder, 8 asked"),
        ("--calibration.rounds 2", "calibration.rounds: 0 in the folder, 2 asked"),
        ("--layer_bits '{\"fc\": 4}'", "layer_bits.fc: None in the folder, 4 asked"),
        ("--queries identity", r"queries: \['identity', 'mirror'.* in .*, \['identity'\] asked"),
    ],
)
def test_another_experiment_stops_with_both_values_and_the_ways_out(
    toy, toy_run, snapshot, options, difference
):
    before = snapshot(toy_run)
    with pytest.raises(SystemExit) as stopped:
        train.main(toy(toy_run, options))
    message = stopped.value.code
    assert message.startswith(f"train.py: {toy_run} holds another experiment:")
    assert re.search(difference, message)
    assert "train into a new one with `--run_dir`" in message
    assert snapshot(toy_run) == before


@pytest.mark.parametrize(
    "options",
    [
        "--trainer.devices 1",
        "--trainer.benchmark false",
        "--trainer.strategy ddp",
        "--threads 2",
        "--fleet.models 2",
        "--fleet.retrain_failed false",
        "--wandb offline",
    ],
)
def test_hardware_and_places_may_differ(toy, finished, no_training, capsys, options):
    train.main([*toy(finished, options)])
    assert "are finished: nothing to train" in words(capsys.readouterr().out)
    torch.set_num_threads(1)


def images(folder, shade):
    for kind in range(2):
        (folder / str(kind)).mkdir(parents=True)
        for number in range(40):
            colour = (shade + 40 * kind, 3 * number, 200)
            Image.new("RGB", (8, 8), colour).save(folder / str(kind) / f"{number}.png")


def test_the_same_data_elsewhere_is_the_same_and_other_data_is_not(toy, tmp_path, capsys):
    folder = tmp_path / "run"
    for place, shade in (("here", 0), ("there", 0), ("changed", 1)):
        images(tmp_path / place, shade)

    def main(place):
        arguments = toy(folder, "--fleet.shadows 2 --fleet.targets 0")
        first, last = arguments.index("--data"), arguments.index("--model.network")
        data = ["--data", "ImageFolder", "--data.root", str(tmp_path / place)]
        train.main([*arguments[:first], *data, "--data.image_size", "8", *arguments[last:]])

    main("here")
    main("there")
    assert "nothing to train" in words(capsys.readouterr().out)
    with pytest.raises(SystemExit, match=r"data's fingerprint: '.{16}' in the folder"):
        main("changed")


# What a user can get wrong


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--quantize nearest-w5", r"Bits must be one of 8, 4, 3, 2, 1\.58, got 5"),
        ("--quantize full", "A variant is named METHOD-wBITS.*got `full`"),
        ("--quantize best-w4", "method must be one of nearest.*got `best`"),
        ("--quantize adaround-w5", r"Bits must be one of 8, 4, 3, 2, 1\.58, got 5"),
        ("--quantize brecq-w2-folded-bn", "`brecq-w2-folded-bn`: .*Remove `-bn` or `-folded`"),
        ("--quantize nearest-w2 obc-w2-heldout", "`obc-w2-heldout`: .* got 0 outside .*members or"),
        ("--quantize nearest-w2-nonmembers", "looks at no images; remove `-nonmembers`"),
        (
            "--quantize adaround-w2-paper --data.pool_size 60",
            "`adaround-w2-paper` needs at least 32 calibration images .*got 30. Enlarge the pool",
        ),
        (
            "--quantize nearest-w2-bn --calibration.images 1",
            "`nearest-w2-bn` needs at least 2 .*got 1. Enlarge .* raise `--calibration.images`",
        ),
        ("--calibration.images 0", "`calibration.images` must be 1 or more, got 0"),
        ("--calibration.rounds -1", r"`calibration.rounds` must be 0 .*or more, got -1"),
        (
            "--layer_bits '{\"nothing*\": 4}'",
            r"`layer_bits` has `nothing\*`, .*It has layer1.0, layer2.0, layer3.0, fc\.",
        ),
        (
            "--layer_bits '{\"fc\": 7}'",
            r"`layer_bits` must give `fc` one of 8, .* or 32 .*, got 7",
        ),
        ("--queries sideways", "A query is `identity`, `mirror`, a shift.*got `sideways`"),
        ("--queries identity identity", "Every query counts once"),
        ("--queries", "at least one query, got none"),
        ("--queries random-0 --data.flip false --data.crop 0", "A random query draws a flip and"),
        ("--queries identity shift+8+0", r"`shift\+8\+0` moves images of 8 x 8 .*out of sight"),
        ("--model.network resnet99", "Network must be one of resnet18.*got `resnet99`"),
        ("--model.network no.such.Net", "`no.such.Net` cannot be imported"),
        ("--model.network torch.nn.Flatten", "optimizer got an empty parameter list"),
        ("--model.network torchvision.ops.MLP", "`torchvision.ops.MLP` takes"),
        ("--model.lr -1", "Invalid learning rate: -1.0"),
        ("--fleet.shadows 3", "`shadows` must be even.*got 3. Take 4"),
        ("--fleet.shadows 0 --fleet.targets 0", "A fleet needs a model"),
        ("--fleet.models 3-5", r"must lie within 0-4, got 3-5"),
        ("--fleet.models some", "takes positions like 0-7,12, got 'some'"),
        ("--trainer.max_epochs null", "pass `--trainer.max_epochs 30`"),
        ("--trainer.max_epochs 0", "`max_epochs` must be 1 or more, got 0"),
        ("--trainer.max_epochs -1", "`max_epochs` must be 1 or more, got -1"),
        ("--trainer.strategy fast", "invalid strategy name: `strategy='fast'`"),
        ("--trainer.accelerator abacus", "invalid accelerator name: `accelerator='abacus'`"),
        ("--trainer.devices 0", r"`Trainer\(devices='?0'?\)` value is not a valid input"),
        ("--trainer.strategy fsdp", "must keep a whole model on each device.*got fsdp"),
        ("--trainer.check_val_every_n_epoch 0", "`check_val_every_n_epoch` must be 1 or more"),
        ("--trainer.accumulate_grad_batches 0", "`accumulate_grad_batches` must be 1 or more"),
        ("--fleet.workers 0", "`fleet.workers` must be 1 or more, got 0"),
        ("--fleet.gpus_per_model 2", "`fleet.gpus_per_model` must be 0 to 1, got 2"),
        (
            "--fleet.workers 2 --trainer.num_nodes 2 --trainer.strategy ddp",
            "must be 1 with `--fleet.workers`, got auto and 2",
        ),
        ("--fleet.gpus_per_model 0.5", "`fleet.gpus_per_model` needs `--fleet.workers` of 2"),
        (
            "--fleet.workers 2 --trainer.devices 2",
            "`trainer.devices` and .* must be 1 with `--fleet.workers`, got 2 and 1",
        ),
        ("--threads 0", "`threads` must be 1 or more, got 0"),
        ("--fleet.dry_run true --repair", "`--repair` deletes damaged files and .* Leave one"),
        ("--fleet.dry_run true --fleet.models 3-5", r"must lie within 0-4, got 3-5"),
        ("--data.pool_size 1797", "1 to test, got 1797 and 0"),
        ("--data.pool_size 9999", "`pool_size` must be 2 to"),
        ("--data.crop 8", "`crop` must be less than the images' 8 x 8 pixels, got 8"),
    ],
)
def test_an_error_of_the_user_is_told_before_anything_is_made(toy, tmp_path, options, message):
    with pytest.raises(SystemExit) as stopped:
        train.main(toy(tmp_path / "run", options))
    assert re.search(f"^train.py: .*{message}", words(stopped.value.code))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--model.netwrk convnet", "netwrk"),
        ("--trainer.callbacks null", "callbacks"),
        ("--data.batchsize 3", "batchsize"),
        ("--data NoSuchData", "NoSuchData"),
        ("--seed one", "seed"),
        ("--calibration.images 1.5", "calibration.images"),
        ("--layer_bits '{\"fc\": many}'", "layer_bits"),
        ("--wandb maybe", "wandb"),
        ("--model.schedule linear", "schedule"),
        ("--config missing.yaml", "missing.yaml"),
    ],
)
def test_a_misspelt_option_is_named(toy, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as stopped:
        train.main(toy(tmp_path / "run", options))
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_missing_data_says_where_it_was_sought(tmp_path):
    options = ["--run_dir", str(tmp_path / "run"), "--trainer.max_epochs", "1"]
    sought = ["--data", "CIFAR10", "--data.root", str(tmp_path / "nowhere")]
    with pytest.raises(SystemExit, match=r"(?s)^train.py: .*nowhere.*--data.download true"):
        train.main([*options, *sought])
    assert not (tmp_path / "run").exists()


def test_without_a_length_of_training_it_says_so(tmp_path):
    with pytest.raises(SystemExit, match="How long to train is not said"):
        train.main(["--run_dir", str(tmp_path / "run"), "--data", "Digits"])
    assert not (tmp_path / "run").exists()


def test_a_data_set_keeps_its_own_defaults():
    config = train.make_parser().parse_args(["--run_dir", "x", "--data", "CIFAR10"])
    options = config.data.init_args
    assert (options.pool_size, options.batch_size) == (None, 128)
    assert (options.flip, options.crop) == (True, 4)


def test_without_a_data_set_it_is_digits(tmp_path):
    arguments = "--model.network convnet --trainer.max_epochs 1 --fleet.shadows 2 --fleet.targets 0"
    train.main(["--run_dir", str(tmp_path / "run"), *arguments.split(), "--threads", "1"])
    config = RunFolder(tmp_path / "run").read()["config"]
    assert config["data"]["class_path"] == "datamodules.digits.Digits"
    assert config["data"]["init_args"]["pool_size"] == 600


def test_a_new_precision_is_of_the_stored_weights_even_without_a_checkpoint(toy, toy_run, tmp_path):
    folder = Path(shutil.copytree(toy_run, tmp_path / "run"))
    run = RunFolder(folder)
    for name in run.names():
        run.checkpoint(name).unlink()
    name = run.names()[0]
    state = {key: tensor + 1 for key, tensor in load_file(run.weights(name, "full")).items()}
    save_file(state, run.weights(name, "full"))  # weights that no training of ours ends in
    (run.model(name) / "SHA256SUMS").unlink()
    before = run.weights(name, "full").read_bytes()
    train.main(toy(folder, "--quantize nearest-w8"))
    assert run.weights(name, "full").read_bytes() == before
    assert not run.checkpoint(name).exists()
    weights = load_weights(run.weights(name, "nearest-w8"))
    for key in ("fc.weight", "layer1.0.weight"):
        step = (state[key].amax() - state[key].amin().clamp(max=0)) / 255
        assert (weights[key] - state[key]).abs().max() <= step


@pytest.mark.parametrize("dry", ["false", "true"])
def test_a_run_folder_that_is_a_file(toy, tmp_path, dry):
    (tmp_path / "run").write_text("no folder")
    with pytest.raises(SystemExit, match=r"File exists.*run"):
        train.main(toy(tmp_path / "run", f"--fleet.dry_run {dry}"))


@pytest.mark.parametrize("file", ["last.ckpt", "signals/full.safetensors"])
def test_a_truncated_file_is_named_with_the_way_out(toy, finished, file):
    path = finished / "models" / "shadow-001" / file
    path.write_bytes(path.read_bytes()[:-100])
    (finished / "models" / "shadow-001" / "full.safetensors").unlink()
    with pytest.raises(SystemExit, match=rf"(?s)Damaged .*shadow-001/{file}\nPass `--repair`"):
        train.main(toy(finished))


# Several processes


def test_a_fleet_that_grows_meanwhile_moves_no_row(toy, tmp_path, served, monkeypatch):
    """The target is row 4 of 4 shadows and row 6 of 6: this process keeps what it began with."""
    folder, real = tmp_path / "run", train.fit

    def fit(job, name):
        if name == NAMES[1]:
            monkeypatch.setattr(train, "fit", real)
            train.main(toy(folder, "--fleet.shadows 6 --fleet.models 5"))
        real(job, name)

    monkeypatch.setattr(train, "fit", fit)
    train.main(toy(folder, "--fleet.models 0,1,4"))
    seeds = {derive_seed(0, "target", 0, 0), *(derive_seed(0, "shadow", i, 0) for i in (0, 1, 5))}
    assert {seed for seed, _, _ in served} == seeds
    drawn = membership(0, 6, 1, 64)
    for name, row in zip(RunFolder(folder).names(), drawn, strict=True):
        seed = derive_seed(0, name.role, name.number, 0)
        indices = {index for own, _, batch in served if own == seed for index in batch}
        assert indices in (set(), set(row.nonzero().flatten().tolist()))


def test_a_model_in_another_hand_is_passed_over(toy, tmp_path, capsys):
    folder = tmp_path / "run"
    (folder / "models" / "shadow-002").mkdir(parents=True)
    with FileLock(folder / "models" / "shadow-002" / ".lock"):
        train.main(toy(folder))
    output = words(capsys.readouterr().out)
    assert "3 of 5: shadow-002 passed over, another process is at it" in output
    assert "0 were before; 1 passed over." in output
    assert "Finished 4 models" in output
    assert not (folder / "models" / "shadow-002" / "full.safetensors").exists()
    train.main(toy(folder))
    assert "Finished 1 models" in words(capsys.readouterr().out)


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_every_precision_of_training_ends_in_float32_signals(toy, tmp_path, precision):
    options = f"--trainer.precision {precision} --fleet.models 0 --trainer.max_epochs 1"
    train.main(toy(tmp_path / "run", options))
    signals = load_file(tmp_path / "run" / "models" / "shadow-000" / "signals/full.safetensors")
    assert signals["phi"].dtype == torch.float32
    assert signals["phi"].isfinite().all()


def test_a_network_whose_code_changed_is_another_experiment(toy, finished, monkeypatch):
    monkeypatch.setitem(NETWORKS, "convnet", NETWORKS["resnet8"])
    with pytest.raises(SystemExit, match=r"network's fingerprint: '.{16}' in the folder"):
        train.main(toy(finished, "--fleet.shadows 6"))


def test_other_versions_are_told(toy, finished, capsys):
    file = finished / "experiment.yaml"
    file.write_text(re.sub("torch: .*", "torch: '1.0'", file.read_text()))
    train.main(toy(finished))
    assert "Note: begun with {'torch': '1.0'" in words(capsys.readouterr().out)


# What was trained on is what is stored


def test_the_stored_row_is_what_the_loader_served(toy, tmp_path, served):
    folder = tmp_path / "run"
    train.main(toy(folder))
    rows = RunFolder(folder).membership()
    stored = load_file(folder / "membership.safetensors")
    assert torch.equal(rows, torch.cat([stored["shadows"], stored["targets"]]))
    assert torch.equal(rows, membership(0, 4, 1, 64))
    seeds = [derive_seed(0, name.role, name.number, 0) for name in NAMES]
    assert list(dict.fromkeys(seed for seed, _, _ in served)) == seeds
    for seed, row in zip(seeds, rows, strict=True):
        orders = []
        for epoch in range(3):
            steps = [indices for s, e, indices in served if (s, e) == (seed, epoch)]
            assert [len(indices) for indices in steps] == [16, 16]
            orders.append([index for indices in steps for index in indices])
            assert sorted(orders[-1]) == row.nonzero().flatten().tolist()
        assert orders[0] != orders[1] != orders[2]
    # members are better known than the others, so the row is also that of the signals
    for name, row in zip(NAMES, rows, strict=True):
        loss = load_file(RunFolder(folder).signals(name, "full"))["loss"][0]
        assert loss[row].mean() < loss[~row].mean()


# A user's own network


def test_own_networks_are_trained_resumed_and_quantized(toy, tmp_path, own_networks, monkeypatch):
    options = "--model.network own_networks.Perceptron --fleet.models 0-1"
    train.main(toy(tmp_path / "whole", options))
    real, calls = Classifier.training_step, []

    def step(self, batch, batch_idx):
        calls.append(self.current_epoch)
        if len(calls) in (4, 8):
            raise SystemExit("killed")
        return real(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", step)
        for _ in range(2):
            with pytest.raises(SystemExit, match="killed"):
                train.main(toy(tmp_path / "killed", options))
    train.main(toy(tmp_path / "killed", options))
    assert tensors(tmp_path / "killed") == tensors(tmp_path / "whole")
    run, data = RunFolder(tmp_path / "whole"), Digits(pool_size=64)
    data.setup("fit")
    pool = data.pool
    shown = ((pool.images.float() / 255 - 0.3053) / 0.3759).flatten(1)
    for variant in VARIANTS:
        weights = load_weights(run.weights(NAMES[0], variant))
        hidden = (shown @ weights["first.weight"].T + weights["first.bias"]).relu()
        log_p = (hidden @ weights["second.weight"].T + weights["second.bias"]).log_softmax(1)
        loss = -log_p[torch.arange(64), pool.labels]
        stored = load_file(run.signals(NAMES[0], variant))
        torch.testing.assert_close(stored["loss"][0], loss, atol=1e-4, rtol=1e-4)
        values = [len(row.unique()) for row in weights["first.weight"]]
        most = {"full": 64, "nearest-w2": 4}.get(variant, 3)
        assert max(values) <= most
        assert max(values) > most / 2


# What quantizers look at


@pytest.fixture(scope="module")
def adjusted(toy, tmp_path_factory):
    """Two models, with bits of some layers and few images, augmented twice."""
    folder = tmp_path_factory.mktemp("runs") / "adjusted"
    options = "--fleet.models 1,4 --quantize gptq-w2 obc-w2-nonmembers --calibration.rounds 2"
    bits = '{"fc": 8, "layer1.*": 4}'
    train.main([*toy(folder, f"{options} --calibration.images 20"), "--layer_bits", bits])
    return RunFolder(folder)


@pytest.mark.parametrize("variant", ["gptq-w2", "obc-w2-nonmembers"])
def test_layers_have_the_bits_that_were_asked_for(adjusted, variant):
    path = adjusted.weights(NAMES[1], variant)
    weights, record = load_quantized(path).weights, adjusted.read_record(NAMES[1], variant)
    bits = {"layer1.0": 4, "layer2.0": 2, "layer3.0": 2, "fc": 8}
    assert {layer["name"]: layer["bits"] for layer in record["layers"]} == bits
    assert weights.keys() == {f"{name}.weight" for name in bits}
    for name, some in bits.items():
        codes, grid, _ = weights[f"{name}.weight"]
        assert grid.levels == 2**some
        # a layer of 9 or 64 columns does not use all levels of a row, but some row the ends
        assert (codes.min(), codes.max()) == (0, 2**some - 1)
    assert max(len(row.unique()) for row in weights["fc.weight"].codes) > 32
    content, rows = load_file(path), {"layer1.0": 16, "layer2.0": 32, "layer3.0": 64, "fc": 10}
    columns = {"layer1.0": 9, "layer2.0": 144, "layer3.0": 288, "fc": 64}
    for name, some in bits.items():
        (packed,) = (v for k, v in content.items() if name in k and k.endswith("codes"))
        assert packed.numel() == rows[name] * -(-columns[name] * some // 8)


@pytest.mark.parametrize(("variant", "member"), [("gptq-w2", True), ("obc-w2-nonmembers", False)])
def test_the_images_on_record_are_of_that_model(adjusted, variant, member):
    used = {}
    for position in (1, 4):
        name, row = NAMES[position], adjusted.membership()[position]
        calibration = adjusted.read_record(name, variant)["calibration"]
        used[position] = calibration["indices"]
        assert len(set(used[position])) == len(used[position]) == calibration["images"] == 20
        assert calibration["source"] == ("members" if member else "nonmembers")
        assert (row[used[position]] == member).all()
    assert set(used[1]) != set(used[4])


@pytest.mark.parametrize("variant", ["gptq-w2", "obc-w2-nonmembers"])
def test_images_are_augmented_in_rounds_as_in_training(adjusted, variant):
    data, name = Digits(pool_size=64), NAMES[4]
    data.setup("fit")
    used = adjusted.read_record(name, variant)["calibration"]
    seed, source = derive_seed(0, "target", 0, 0), used["source"]
    indices = torch.tensor(used["indices"])

    def augmented(number):
        rng = torch.Generator().manual_seed(derive_seed(seed, "calibration", source, number))
        changed = augment(data.pool.images[indices], flip=True, crop=1, generator=rng)
        return normalise(changed, data.mean, data.std)

    network = Classifier(10, 1, 0, "convnet").network
    network.load_state_dict(load_file(adjusted.weights(name, "full")))
    patterns, found = {"fc": 8, "layer1.*": 4}, load_weights(adjusted.weights(name, variant))
    same = {}
    for rounds in (1, 2):
        images = Calibration(augmented(0), augmented, indices, source, seed, rounds)
        made, _ = quantize_network(network, Variant.parse(variant), images, patterns)
        expected = made.state_dict()
        same[rounds] = all(torch.equal(found[key], expected[key]) for key in expected)
    assert same == {1: variant == "gptq-w2", 2: True}  # which sees the first round alone


def test_a_precision_added_later_is_the_one_made_with_the_others(toy, toy_run, tmp_path):
    folder = tmp_path / "run"
    train.main(toy(folder, "--fleet.models 1,4 --quantize nearest-w2"))
    train.main(toy(folder, "--fleet.models 1,4 --quantize adaround-w1.58-last8"))
    later, files = of_model(tensors(folder), *NAMES), of_model(tensors(toy_run), NAMES[1], NAMES[4])
    assert later == {key: files[key] for key in files if "nearest-w1.58-last8" not in key}
    whole = records(toy_run)
    assert all(record == whole[key] for key, record in records(folder).items())
    assert len(records(folder)) == 4


@pytest.mark.parametrize(
    ("network", "variant", "message"),
    [
        (
            "Forgetful",
            "adaround-w1.58-last8",
            r"`spare`: .*Forgetful does not call.*`--layer_bits '{\"spare\": 32}'`",
        ),
        ("Perceptron", "nearest-w2-bn", "Perceptron has no BatchNorm .*Remove `-bn`"),
        ("Perceptron", "brecq-w2-folded", "Perceptron has no BatchNorm .*`-folded` from"),
    ],
)
def test_what_an_own_network_lacks_is_told_before_anything_is_made(
    toy, tmp_path, own_networks, network, variant, message
):
    options = f"--model.network own_networks.{network} --quantize {variant}"
    with pytest.raises(SystemExit) as stopped:
        train.main(toy(tmp_path / "run", options))
    assert re.search(f"^train.py: .*{message}", words(stopped.value.code))
    assert not (tmp_path / "run").exists()


def test_a_layer_that_is_never_called_can_be_left_as_it_is(toy, tmp_path, own_networks):
    options = "--model.network own_networks.Forgetful --fleet.models 0 --quantize adaround-w2"
    train.main([*toy(tmp_path / "run", options), "--layer_bits", '{"spare": 32}'])
    run = RunFolder(tmp_path / "run")
    found, full = (load_weights(run.weights(NAMES[0], name)) for name in ("adaround-w2", "full"))
    assert torch.equal(found["spare.weight"], full["spare.weight"])
    assert max(len(row.unique()) for row in found["first.weight"]) <= 4
    record = run.read_record(NAMES[0], "adaround-w2")
    assert [layer["name"] for layer in record["layers"]] == ["first", "second"]


# Models that diverge


@pytest.fixture
def sabotage(monkeypatch):
    """Make first trainings of shadow 0 (labels shuffled) and of shadow 1 (learning rate) fail."""
    shuffled, exploding = (derive_seed(0, "shadow", number, 0) for number in (0, 1))
    configure, step = Classifier.configure_optimizers, Classifier.training_step

    def explode(self):
        self.lr = 1e30 if self.seed == exploding else self.lr
        return configure(self)

    def shuffle(self, batch, batch_idx):
        if self.seed == shuffled:
            batch = batch._replace(labels=(batch.labels + batch.indices) % 10)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "configure_optimizers", explode)
    monkeypatch.setattr(Classifier, "training_step", shuffle)


def test_failed_models_are_reported_and_trained_again_when_asked(
    toy, tmp_path, sabotage, snapshot, capsys
):
    folder, options = tmp_path / "run", "--trainer.max_epochs 15 --data.flip false --data.crop 0"
    run = RunFolder(folder)
    with pytest.raises(SystemExit) as ended:
        train.main(toy(folder, options))
    assert ended.value.code == train.FAILED
    first = snapshot(folder / "models")
    output = words(capsys.readouterr().out)
    assert re.search(r"shadow-000 failed: training accuracy 0\.\d+, its peers' median", output)
    assert "shadow-001 failed: 64 of 64 signals are not finite. The audit leaves" in output
    assert output.count("failed: ") == 2
    sizes = [run.weights(NAMES[2], variant).stat().st_size for variant in VARIANTS]
    assert ", ".join(f"{v} {size:,}" for v, size in zip(VARIANTS, sizes, strict=True)) in output
    for variant in VARIANTS:
        assert load_file(run.signals(NAMES[1], variant))["phi"].isnan().all()
    with pytest.raises(SystemExit) as ended:
        train.main(toy(folder, options))
    assert ended.value.code == train.FAILED
    assert epochs(folder)["shadow-001"] < epochs(folder)["shadow-000"] == 14  # stopped
    assert snapshot(folder / "models") == first
    output = words(capsys.readouterr().out)
    assert "nothing to train" in output
    assert output.count("failed: ") == 2

    train.main(toy(folder, f"{options} --fleet.retrain_failed true"))
    output = words(capsys.readouterr().out)
    assert re.search(r"shadow-000 failed \(training.*\): kept in shadow-000.failed-0\.", output)
    assert "Finished 2 models" in output
    assert "failed: " not in output
    second = snapshot(folder / "models")
    for key, file in first.items():
        name, rest = key.split("/", 1)
        place = f"{name}.failed-0/{rest}" if name in ("shadow-000", "shadow-001") else key
        assert second[place] == file
    for name in NAMES[:2]:
        assert load_file(run.signals(name, "full"))["phi"].isfinite().all()
        known = load_file(run.signals(name, "full"))["correct"][0]
        row = run.membership()[NAMES.index(name)]
        assert known[row].float().mean() > 0.8
    assert torch.equal(run.membership(), membership(0, 4, 1, 64))
    train.main(toy(folder, f"{options} --fleet.retrain_failed true"))
    assert snapshot(folder / "models") == second


def test_a_model_trained_again_has_another_start(toy, toy_run, finished, snapshot, monkeypatch):
    before = of_model(tensors(finished), *NAMES)
    health = train.HEALTH._replace(behind=lambda *_: {2: "so says the test"})
    monkeypatch.setattr(train, "HEALTH", health)
    train.main(toy(finished, "--fleet.retrain_failed true"))
    after = of_model(tensors(finished), *NAMES)
    others = [name for name in NAMES if name != NAMES[2]]
    assert of_model(after, *others) == of_model(before, *others)
    ours, theirs = of_model(after, NAMES[2]), of_model(before, NAMES[2])
    assert ours.keys() == theirs.keys()
    assert all(ours[key] != theirs[key] for key in ours)
    train.main(toy(finished, "--fleet.models 0-1 --fleet.retrain_failed true"))
    assert of_model(tensors(finished), *NAMES) == after  # the failed one is not of this slice


# On several devices


@pytest.mark.parametrize("later", [False, True])
def test_all_variants_of_a_model_are_asked_the_same_random_queries(toy, tmp_path, later):
    options = "--queries random-0 random-1 --layer_bits '{\"*\": 32}' --fleet.models 3-4 --quantize"
    if later:
        train.main(toy(tmp_path / "run", options))
    train.main(toy(tmp_path / "run", f"{options} nearest-w2"))  # of which no layer is quantized
    run = RunFolder(tmp_path / "run")
    one, other = (load_signals([run.signals(n, "full")], "phi")[0] for n in run.names()[3:])
    for name, phi in zip(run.names()[3:], (one, other), strict=True):
        assert torch.equal(load_signals([run.signals(name, "nearest-w2")], "phi")[0], phi)
        assert not torch.equal(phi[0], phi[1])


def test_two_processes_share_a_model(toy, tmp_path, own_networks, monkeypatch):
    network = "--model.network own_networks.Perceptron --model.network_args.dropout 0 "
    options = network + "--fleet.shadows 2 --fleet.targets 0"
    seen = {}
    for processes, devices in ((1, "--trainer.devices 1"), (2, "--trainer.devices 2")):
        (notes := tmp_path / f"seen-{processes}").mkdir()
        arguments = toy(tmp_path / str(processes), f"{options} {devices}")
        if processes == 1:
            with monkeypatch.context() as patch:
                patch.setenv("SEEN", str(notes))
                train.main(arguments)
        else:
            done = subprocess.run(
                [sys.executable, "train.py", *arguments, "--trainer.strategy", "ddp"],
                cwd=ROOT,
                env=os.environ | {"SEEN": str(notes), "PYTHONPATH": str(own_networks)},
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.returncode == 0, done.stderr
            assert words(done.stdout).count("Finished 2 models") == 1
            assert "Warning" not in done.stderr
        ranks = {path.name.split("-")[0] for path in notes.iterdir()}
        seen[processes] = [
            [torch.load(path) for path in sorted(notes.glob(f"{rank}-*"))] for rank in ranks
        ]
    ((alone,), (one, other)) = seen[1], seen[2]
    assert len(alone) == len(one) == len(other) == 2 * 3 * 2  # models, epochs, steps
    if not torch.equal(torch.cat([one[0], other[0]]), alone[0]):
        one, other = other, one
    for whole, first, second in zip(alone, one, other, strict=True):
        assert len(first) == len(second) == 8
        assert torch.equal(torch.cat([first, second]), whole)
    ours, theirs = (tensors(tmp_path / str(processes)) for processes in (1, 2))
    assert ours.keys() == theirs.keys()
    assert ours["membership.safetensors"] == theirs["membership.safetensors"]
    runs = [RunFolder(tmp_path / str(processes)) for processes in (1, 2)]
    for name in NAMES[:2]:
        weights = [load_file(run.weights(name, "full")) for run in runs]
        signals = [load_file(run.signals(name, "full")) for run in runs]
        for key in weights[0]:
            torch.testing.assert_close(weights[0][key], weights[1][key], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(signals[0]["phi"], signals[1]["phi"], rtol=1e-3, atol=1e-3)
        assert signals[1]["test_correct"].shape == (1797 - 64,)


def test_another_process_of_a_model_leaves_the_last_word_to_the_first(
    toy, tmp_path, monkeypatch, capsys
):
    """Which may be quantizing still, so that there are no files to speak of."""
    monkeypatch.setattr(train, "fit", lambda *_: None)
    monkeypatch.setattr("lightning.fabric.utilities.rank_zero.rank_zero_only.rank", 1)
    train.main(toy(tmp_path / "run"))
    assert capsys.readouterr().out == ""


def test_the_record_of_an_experiment_is_no_recipe(toy_run, tmp_path, capsys):
    with pytest.raises(SystemExit):
        train.main(["--config", str(toy_run / "experiment.yaml"), "--run_dir", str(tmp_path / "r")])
    said = words(capsys.readouterr().err)
    assert "experiment.yaml records an experiment, and is no recipe" in said
    assert f"with `--run_dir {toy_run}`" in said
    (tmp_path / "experiment.yaml").write_text("fleet: {shadows: many}")  # of no run folder
    with pytest.raises(SystemExit):
        train.main(["--config", str(tmp_path / "experiment.yaml"), "--run_dir", "r"])
    assert "fleet.shadows" in capsys.readouterr().err


# A dry run

FILES = ("*.safetensors", "signals/*.safetensors", "last.ckpt")


def planned(output):
    """Label -> how often, from the table; and all else that was printed."""
    rows = re.findall(r"│ (\S[^│]*?) +│[^│]*│ +(\d+) │", output)
    return {label: int(count) for label, count in rows}, words(output)


def test_a_dry_run_writes_nothing_and_says_what_would_be_done(toy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train.main(toy(tmp_path / "run", "--fleet.dry_run true --fleet.models 1-3 --fleet.shadows 8"))
    counts, said = planned(capsys.readouterr().out)
    assert list(tmp_path.iterdir()) == []
    assert counts == {
        "training, 3 epochs": 3,
        "signals of a variant": 12,
        "nearest-w2": 3,
        "nearest-w1.58-last8": 3,
        "adaround-w1.58-last8": 3,
    }
    assert "3 to be made, 0 finished" in said
    assert "3 epochs of 2 steps over 32 images; 4 precisions; identity, mirror, shift-1+0" in said


def test_a_dry_run_of_a_finished_folder(toy, finished, snapshot, capsys):
    before = snapshot(finished)
    train.main(toy(finished, "--fleet.dry_run true --quantize nearest-w8 --fleet.shadows 6"))
    counts, said = planned(capsys.readouterr().out)
    assert snapshot(finished) == before
    assert counts["training, 3 epochs"] == counts["nearest-w2"] == 2
    assert counts["nearest-w8"] == 7
    assert counts["signals of a variant"] == 5 + 2 * 5
    assert "5 finished models" in said
    folder = finished / "models" / "shadow-000"
    sizes = {name: sum(path.stat().st_size for path in folder.glob(name)) for name in FILES}
    train.main(toy(finished, "--fleet.dry_run true"))
    said = words(capsys.readouterr().out)
    assert "0 to be made, 5 finished" in said
    assert f"{sizes['*.safetensors']:,} of weights" in said
    assert f"{sizes['last.ckpt']:,} of its checkpoint" in said
    kept = int(re.search(r"([\d,]+) of signals", said)[1].replace(",", ""))
    assert kept == pytest.approx(sizes["signals/*.safetensors"], abs=4 * 16)


def test_a_dry_run_finds_what_stops_a_real_one(toy, finished, snapshot):
    before = snapshot(finished)
    with pytest.raises(SystemExit, match=r"model\.lr: 0\.1 in the folder, 0\.2 asked"):
        train.main(toy(finished, "--fleet.dry_run true --model.lr 0.2"))
    assert snapshot(finished) == before


# What is printed


def test_the_whole_output_away_from_a_terminal(toy, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / "run[red]"  # no markup
    train.main(toy(folder, "--fleet.models 1,4"))
    captured = capsys.readouterr()
    lines = [re.sub(r"[\d.]+ s\b", "T s", line) for line in captured.out.splitlines()]
    lines = [line for line in lines if " failed: " not in line and line[:5] != "parti"]
    assert lines[:3] == [
        "1 of 2: shadow-001 finished in T s",
        "2 of 2: target-000 finished in T s",
        "Finished 2 models in T s; 0 were before.",
    ]
    assert lines[-2].startswith("Bytes of a model on disk: full ")
    assert lines[-1] == "3 of the fleet's 5 models are still to be finished."
    assert captured.err == ""
    train.main(toy(folder))
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"Next: python audit.py --run_dir {folder}"


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit) as stopped:
        train.main(["--help"])
    assert stopped.value.code == 0
    output = capsys.readouterr().out
    options = re.findall(r"^  (--[\w.]+) (?:[A-Z{\[].*)?\n?((?:   .*\n)*)", output, re.MULTILINE)
    assert {"--run_dir", "--fleet.shadows", "--model.lr", "--trainer.devices"} <= dict(
        options
    ).keys()


# Recipes


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_can_be_prepared(recipe, tmp_path, monkeypatch):
    def read(self):
        size, channels = (self.pool_size or 0) + 1100, len(self.mean)
        images = torch.zeros(size, channels, 32, 32, dtype=torch.uint8)
        self.num_classes = getattr(self, "num_classes", 10)  # TinyImageNet counts them
        return Images(images, torch.arange(size) % 10), Images(images[:50], torch.arange(50) % 10)

    for subclass in ImageDataModule.__subclasses__():
        if subclass is not Digits:
            monkeypatch.setattr(subclass, "read", read)
            monkeypatch.setattr(subclass, "fetch", lambda self: None)
    parser = train.make_parser()
    config = parser.parse_args(["--config", str(recipe), "--run_dir", str(tmp_path / "run")])
    made = parser.instantiate(config)
    job = train.prepare(config, made.fleet, made.data, train.Console(quiet=True))
    assert job.chosen == fleet_names(config.fleet.shadows, config.fleet.targets)
    assert job.variants == ["full", *map(str, map(Variant.parse, config.quantize))]
    assert job.run.membership().shape == (len(job.chosen), job.data.pool_size)
    default = parser.parse_args(["--config", str(recipe)]).run_dir
    assert default == Path("runs") / recipe.relative_to(ROOT / "recipes").with_suffix("")


def test_compiling_says_how_long_it_took(toy, tmp_path, monkeypatch, capsys):
    # without its code generation, which takes half a minute
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    train.main(toy(tmp_path / "run", "--fleet.models 4 --model.compile true --quantize"))
    assert re.search(
        r"finished in \d+\.\d s, \d+\.\d s of them in torch\.compile",
        words(capsys.readouterr().out),
    )
    assert RunFolder(tmp_path / "run").read()["config"]["model"]["compile"]


@pytest.mark.parametrize("emulates", [True, False])
def test_a_cpu_that_is_slow_in_bfloat16_is_told(toy, tmp_path, monkeypatch, capsys, emulates):
    monkeypatch.setattr(train, "emulates_bfloat16", lambda: emulates)
    train.main(toy(tmp_path / "run", "--fleet.models 4 --quantize --trainer.precision bf16-mixed"))
    assert ("this CPU emulates bf16" in words(capsys.readouterr().out)) == emulates
