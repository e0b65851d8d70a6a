"""A fit in miniature before the run folder is created, in a real run and in a dry one."""

import re

import pytest
import torch

import train
from datamodules import Digits
from fleet.checks import Devices
from fleet.options import FleetOptions, parse
from fleet.rehearsal import rehearse_fit
from lightning_modules.classifier import Classifier
from lightning_modules.options import ModelOptions

QUICK = "--trainer.max_epochs 1 --snapshots --fleet.shadows 2 --fleet.targets 0 --fleet.workers 1 "


@pytest.mark.parametrize("dry", ["false", "true"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--model.network own_networks.Auxiliary",
            "Auxiliary returns `Outputs` with logits, aux_logits in training mode",
        ),
        (
            "--model.network own_networks.InPlace",
            r"InPlace fails in the backward pass of a training step on 16 images, at line \d+ of "
            "own_networks.py: RuntimeError: .*inplace operation",
        ),
        ("--data.pool_size 3", "got batches of 1 from the 1 examples .*, enlarge the pool.$"),
        (
            "--data.pool_size 6 --data.batch_size 2",
            "got batches of 1 from the 3 .*, enlarge the pool, or raise `--data.batch_size`.$",
        ),
    ],
)
def test_what_would_fail_in_every_model_is_one_line(
    toy, tmp_path, own_networks, dry, options, message, unwrap
):
    with pytest.raises(SystemExit) as stopped:
        train.main(toy(tmp_path / "run", f"{QUICK} --fleet.dry_run {dry} {options}"))
    assert re.search(f"^train.py: .*{message}", unwrap(stopped.value.code))
    assert not (tmp_path / "run").exists()


def test_a_network_that_returns_a_dictionary_gives_the_files_of_one_that_does_not(
    toy, tmp_path, own_networks, tensors, audit
):
    files = []
    for name in ("Perceptron", "InADictionary"):
        train.main(toy(tmp_path / name, f"{QUICK} --model.network own_networks.{name}"))
        files.append(tensors(tmp_path / name))
    assert files[0] == files[1]
    assert len(files[0]) > 10


def test_the_rehearsal_changes_no_model(toy, tmp_path, own_networks, tensors, monkeypatch):
    """Dropout and augmentation draw random numbers, and BatchNorm keeps statistics."""
    options = f"{QUICK} --model.network own_networks.Small --quantize nearest-w2"
    train.main(toy(tmp_path / "with", options))
    monkeypatch.setattr("fleet.prepare.rehearse_fit", lambda *_: [])
    train.main(toy(tmp_path / "without", options))
    assert tensors(tmp_path / "with") == tensors(tmp_path / "without")


def test_a_layer_that_is_never_called_is_noted(toy, tmp_path, own_networks, capsys, unwrap):
    options = f"{QUICK} --model.network own_networks.Forgetful --quantize nearest-w2"
    train.main(toy(tmp_path / "run", options))
    said = "Note: training leaves spare.weight, spare.bias as drawn"
    assert said in unwrap(capsys.readouterr().out)


@pytest.fixture
def rehearsed(toy, monkeypatch):
    """Rehearse a fit on some devices: the batches, and the trainer's precision."""

    def run(devices, options=""):
        seen = []
        monkeypatch.setattr(
            "fleet.rehearsal.rehearse",
            lambda _, batches, trainer: seen.append((batches, trainer.precision)) or ["fc.bias"],
        )
        _, config = parse(toy("nowhere", f"--trainer.precision bf16-mixed {options}"))
        data = Digits(pool_size=300, batch_size=40)
        data.setup("fit")
        classifier = Classifier.for_data(data, 0, ModelOptions("convnet"))
        fleet = FleetOptions(shadows=2)
        notes = rehearse_fit(config, fleet, devices, classifier, data, [149, 150])
        ((batches, precision),) = seen
        pool = next(data.pool_batches("identity"))
        for images, labels, indices, _ in batches:
            assert torch.equal(images, pool.images[: len(images)])
            assert torch.equal(labels, pool.labels[: len(images)])
            assert torch.equal(indices, torch.arange(len(images)))
        return [len(batch.labels) for batch in batches], precision, notes

    return run


def test_batches_are_the_largest_and_the_smallest_of_a_fit(rehearsed):
    sizes, precision, notes = rehearsed(Devices("CPU"))
    assert (sizes, precision, len(notes)) == ([38, 37], "bf16-mixed", 1)  # 150 and 149 in 4


def test_each_of_several_processes_has_its_share(rehearsed):
    spare = "--trainer.strategy ddp_find_unused_parameters_true"
    assert rehearsed(Devices("CPU", 3, 3), spare)[:2] == ([13, 12], "bf16-mixed")
    with pytest.raises(ValueError, match="whose gradients 3 processes would"):
        rehearsed(Devices("CPU", 3, 3))


def test_a_cpu_stands_in_for_several_gpus_with_few_images(rehearsed):
    spare = "--trainer.strategy ddp_find_unused_parameters_true"
    assert rehearsed(Devices("GPU", 2, 2), spare)[:2] == ([8, 8], "32-true")
