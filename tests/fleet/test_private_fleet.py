"""Fleets that are trained by DP-SGD: resumed, repaired, audited; and one that only says so."""

import json
import re
import shutil

import numpy as np
import opacus.optimizers.optimizer
import pytest
import torch

import train
from lightning_modules.accountant import Mechanism, spend
from lightning_modules.private import PrivateClassifier
from storage.names import fleet_names
from storage.run_folder import RunFolder

NAMES = fleet_names(4, 1)
PRIVATE = (
    "--model.network convnet_gn --model.dp.noise 1.5 --data.batch_size 4 --quantize nearest-w2"
)


@pytest.fixture(scope="module")
def private_run(toy, tmp_path_factory):
    """A finished private fleet, to be read or copied."""
    folder = tmp_path_factory.mktemp("runs") / "private"
    train.main(toy(folder, PRIVATE))
    return folder


def records_of(folder):
    """Every record of training, by file."""
    paths = [*folder.glob("models/*/full.json"), *folder.glob("models/*/epoch-*.json")]
    return {str(path.relative_to(folder)): json.loads(path.read_text()) for path in paths}


@pytest.mark.fleet
def test_each_state_of_training_is_recorded_with_its_steps_and_epsilon(private_run):
    records, mechanism = records_of(private_run), Mechanism(1.5, 4 / 32, 0.01)
    assert len(records) == 2 * len(NAMES)
    for path, record in records.items():
        steps = 8 if "epoch-01" in path else 24  # of 8 in each of 3 epochs
        assert record == {
            **{"noise": 1.5, "sample_rate": 0.125, "delta": 0.01, "clip": 1.0, "steps": steps},
            **spend(mechanism, steps)._asdict(),
        }
    run = RunFolder(private_run)
    assert run.is_finished(NAMES[0], run.read().variants)
    sums = (run.model(NAMES[0]) / "SHA256SUMS").read_text()
    assert "  full.json\n" in sums
    assert "  epoch-01.json\n" in sums


@pytest.mark.fleet
def test_a_killed_private_fit_ends_bit_for_bit_the_same(
    toy, private_run, tmp_path, monkeypatch, tensors, last_epochs
):
    """Batches, noise and the accountant go on where they were."""
    folder, served = tmp_path / "run", []
    real = PrivateClassifier.training_step

    def step(self, batch, batch_idx):
        if len(served) in (10, 40):  # in the second epoch of a model, and within the next model
            served.append("killed")
            raise SystemExit("killed")
        served.append(batch)
        return real(self, batch, batch_idx)

    monkeypatch.setattr(PrivateClassifier, "training_step", step)
    for _ in range(2):
        with pytest.raises(SystemExit, match="killed"):
            train.main(toy(folder, PRIVATE))
    train.main(toy(folder, PRIVATE))
    assert tensors(folder) == tensors(private_run)
    assert records_of(folder) == records_of(private_run)
    assert last_epochs(folder) == last_epochs(private_run)


@pytest.mark.fleet
@pytest.mark.parametrize("damaged", ["full.json", "epoch-01.json"])
def test_a_damaged_record_is_made_again(toy, private_run, copied, damaged, tensors):
    path = copied / "models" / str(NAMES[-1]) / damaged
    path.write_text(path.read_text().replace('"epsilon": ', '"epsilon": 0.'))
    with pytest.raises(SystemExit, match=f"(?s)Damaged since they were written.*{damaged}"):
        train.main(toy(copied, PRIVATE))
    train.main(toy(copied, f"{PRIVATE} --repair"))
    assert records_of(copied) == records_of(private_run)
    assert tensors(copied) == tensors(private_run)


@pytest.fixture
def copied(private_run, tmp_path):
    """The private fleet, free to be changed."""
    return shutil.copytree(private_run, tmp_path / "copy")


@pytest.mark.fleet
def test_the_line_before_training_and_in_a_dry_run(toy, tmp_path, capsys, unwrap):
    options = f"{PRIVATE} --model.dp.noise null --model.dp.epsilon 3 --model.dp.delta 1e-4"
    train.main(toy(tmp_path / "run", f"{options} --fleet.dry_run true"))
    said = unwrap(capsys.readouterr().out)
    line = re.search(
        r"DP-SGD: noise ([\d.]+), clip 1, sampling rate 0\.125, 24 steps: epsilon ([\d.]+) at "
        r"delta 0\.0001 \(PRV\)\.",
        said,
    )
    assert 2.9 < float(line[2]) <= 3
    assert spend(Mechanism(float(line[1]), 0.125, 1e-4), 24).epsilon <= 3
    assert not (tmp_path / "run").exists()
    train.main(toy(tmp_path / "run", f"{options} --fleet.models 4 --quantize"))
    assert line[0] in unwrap(capsys.readouterr().out)
    (record,) = [r for path, r in records_of(tmp_path / "run").items() if "full" in path]
    assert record["noise"] == float(line[1])
    assert RunFolder(tmp_path / "run").read().config["model"]["dp"]["epsilon"] == 3


def test_options_of_privacy_come_from_a_recipe_too(toy, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model:\n  dp:\n    noise: 2.5\n    clip: 0.5\n")
    options = f"--config {recipe} --model.network convnet_gn --fleet.dry_run true"
    train.main(toy(tmp_path / "run", options))
    assert "DP-SGD: noise 2.5, clip 0.5, sampling rate 0.5," in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--model.network convnet",
            "needs a network without BatchNorm, which mixes the examples of a batch, got layer1.1,"
            r" layer2.1, layer3.1\. Take convnet_gn or resnet8_gn, or GroupNorm in your own",
        ),
        ("--data.batch_size 33", "`data.batch_size` must be at most the 32 examples .*got 33"),
        ("--model.dp.noise 0", "`model.dp.noise` must be above 0, got 0"),
        ("--model.dp.noise -1", "`model.dp.noise` must be above 0, got -1"),
        ("--model.dp.clip 0", "`model.dp.clip` must be above 0, got 0"),
        ("--model.dp.delta 1", "`model.dp.delta` must be between 0 and 1, got 1"),
        ("--model.dp.epsilon 8", "`model.dp.noise` and `model.dp.epsilon` follow from each other"),
        (
            "--model.dp.noise null --model.dp.epsilon 0.001 --model.dp.delta 1e-5",
            "`model.dp.epsilon` of 0.001 cannot be met in 24 steps at a sampling rate of 0.125",
        ),
        (
            "--trainer.devices 2 --trainer.strategy ddp",
            "trains each model on one device, got 2: .*`--fleet.workers` trains several",
        ),
        ("--trainer.accumulate_grad_batches 2", "`trainer.accumulate_grad_batches` must be 1"),
        ("--trainer.gradient_clip_val 1", "`--model.dp.clip` sets that norm"),
        ("--trainer.precision bf16-mixed", "must be 32-true with `--model.dp`, got bf16-mixed"),
        ("--model.compile true", "compile true` gains nothing with `--model.dp`"),
        ("--model.tf32 true", "tf32 true` rounds the factors by which `--model.dp` clips"),
    ],
)
def test_what_cannot_be_private_is_an_error_before_anything_is_written(
    toy, tmp_path, options, message, unwrap
):
    with pytest.raises(SystemExit) as stopped:
        train.main(toy(tmp_path / "run", f"{PRIVATE} {options}"))
    assert re.search(f"^train.py: .*{message}", unwrap(stopped.value.code))
    assert not (tmp_path / "run").exists()


def test_without_opacus_the_way_out_is_named(toy, tmp_path, monkeypatch):
    monkeypatch.setattr("fleet.privacy.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"needs Opacus, .*`pip install -e '\.\[dp\]'`"):
        train.main(toy(tmp_path / "run", PRIVATE))


# A negative control: noise labels, which a network can only know by heart


@pytest.fixture
def by_heart(tmp_path):
    """Arguments that train on labels without a rule, by options that say epsilon is 0.5."""
    rng, file = np.random.default_rng(0), tmp_path / "noise.npz"
    arrays = {
        "x": rng.standard_normal((240, 20)).astype("float32"),
        "y": rng.integers(0, 2, 240),
        "x_test": rng.standard_normal((60, 20)).astype("float32"),
        "y_test": rng.integers(0, 2, 60),
    }
    np.savez(file, **arrays)
    options = (
        f"--threads 1 --data Arrays --data.file {file} --data.batch_size 24 --model.network mlp "
        '--model.network_args {"widths":[64]} --model.lr 0.5 --model.weight_decay 0 '
        "--model.dp.epsilon 0.5 --model.dp.delta 1e-5 --trainer.accelerator cpu "
        "--trainer.max_epochs 40 --fleet.shadows 4 --fleet.targets 2 --quantize nearest-w4"
    )
    return lambda folder: ["--run_dir", str(folder), *options.split()]


@pytest.mark.fleet
@pytest.mark.parametrize("silent", [True, False], ids=["no-noise", "noise"])
def test_noise_that_is_silently_left_out_is_caught(
    by_heart, tmp_path, monkeypatch, silent, audit, results_of, empty_figures
):
    run = RunFolder(tmp_path / "run")
    with monkeypatch.context() as patch:
        if silent:  # the accountant knows nothing of it

            def nothing(std, reference, *_, **__):
                return torch.zeros_like(reference)

            patch.setattr(opacus.optimizers.optimizer, "_generate_noise", nothing)
        train.main(by_heart(run.path))
    said, results = audit(run), results_of(run)
    page = (run.path / "audit" / "report.html").read_text()
    for variant, bounds in results["findings"]["epsilon"].items():
        assert 0.45 < bounds["proven"]["epsilon"] <= 0.5
        lower = max(bounds["one_run"], bounds["tested"]["epsilon"])
        assert (lower > 2 * bounds["proven"]["epsilon"]) == silent
        sentence = f"The audit of {variant} found more than the proof allows"
        for view in (said, page, (run.path / "audit" / "table.txt").read_text()):
            assert (sentence in " ".join(view.split())) == silent
    assert len(results["warnings"]) == 2 * silent
    assert page.count('class="warning"') == 2 * silent
