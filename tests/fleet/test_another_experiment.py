"""What may differ between two commands on the same run folder, and what stops the second."""

import re

import pytest
import torch
from PIL import Image

import train
from lightning_modules.networks import NETWORKS


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
def test_a_changed_option_stops_with_both_values_and_the_ways_out(
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
def test_hardware_and_paths_may_differ(toy, finished, no_training, capsys, options, unwrap):
    train.main([*toy(finished, options)])
    assert "are finished: nothing to train" in unwrap(capsys.readouterr().out)
    torch.set_num_threads(1)


def write_images(folder, shade):
    """Two classes of 40 images each, which `shade` changes."""
    for kind in range(2):
        (folder / str(kind)).mkdir(parents=True)
        for number in range(40):
            colour = (shade + 40 * kind, 3 * number, 200)
            Image.new("RGB", (8, 8), colour).save(folder / str(kind) / f"{number}.png")


@pytest.mark.fleet
def test_data_may_move_but_not_change(toy, tmp_path, capsys, unwrap):
    folder = tmp_path / "run"
    for place, shade in (("here", 0), ("there", 0), ("changed", 1)):
        write_images(tmp_path / place, shade)

    def main(place, options=""):
        arguments = toy(folder, f"--fleet.shadows 2 --fleet.targets 0 {options}")
        first, last = arguments.index("--data"), arguments.index("--model.network")
        data = ["--data", "ImageFolder", "--data.root", str(tmp_path / place)]
        train.main([*arguments[:first], *data, "--data.image_size", "8", *arguments[last:]])

    main("here")
    main("there")
    assert "nothing to train" in unwrap(capsys.readouterr().out)
    file = folder / "experiment.yaml"
    file.write_text(re.sub(" +background: white\n", "", file.read_text()))  # an older folder
    main("here")
    assert "nothing to train" in unwrap(capsys.readouterr().out)
    with pytest.raises(SystemExit, match=r"background: 'white' in the folder, 'black' asked"):
        main("here", "--data.background black")
    with pytest.raises(SystemExit, match=r"data's fingerprint: '.{16}' in the folder"):
        main("changed")


def test_a_network_whose_code_changed_is_another_experiment(toy, finished, monkeypatch):
    monkeypatch.setitem(NETWORKS, "convnet", NETWORKS["resnet8"])
    with pytest.raises(SystemExit, match=r"network's fingerprint: '.{16}' in the folder"):
        train.main(toy(finished, "--fleet.shadows 6"))


def test_other_versions_are_noted(toy, finished, capsys, unwrap):
    file = finished / "experiment.yaml"
    file.write_text(re.sub("torch: .*", "torch: '1.0'", file.read_text()))
    train.main(toy(finished))
    said = unwrap(capsys.readouterr().out)
    assert "Note: this run folder was begun with other versions: torch 1.0 -> " in said
