"""What a user can get wrong is an error before anything is written or trained."""

import re
from pathlib import Path

import pytest
import torch
from rich.console import Console

import train
from datamodules.digits import Digits
from datamodules.images import ImageDataModule, Images
from fleet.options import parse
from fleet.prepare import prepare
from quantization.variant import Variant
from storage.names import fleet_names, snapshot_name

ROOT = Path(train.__file__).parent


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
        ("--model.network torch.nn.Flatten", "Flatten must have parameters that train, got none"),
        ("--model.network torchvision.ops.MLP", "`torchvision.ops.MLP` takes"),
        ("--model.lr -1", "Invalid learning rate: -1.0"),
        ("--fleet.shadows 3", "`shadows` must be even.*got 3. Take 4"),
        ("--fleet.shadows 0 --fleet.targets 0", "A fleet needs a model"),
        ("--data.batch_size 1", r"`batch_size` must be 2 or more for BatchNorm, got 1\.$"),
        ("--fleet.models 3-5", r"must lie within 0-4, got 3-5"),
        ("--fleet.models some", "takes positions like 0-7,12, got 'some'"),
        ("--trainer.max_epochs null", "`--trainer.max_epochs` is missing; pass for example 30"),
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
            "must be 1 with `--fleet.workers`, got 1 and 2",
        ),
        ("--fleet.gpus_per_model 0.5", "`fleet.gpus_per_model` needs `--fleet.workers` of 2"),
        (
            "--fleet.workers 2 --trainer.devices 2",
            "`trainer.devices` and .* must be 1 with `--fleet.workers`, got 2 and 1",
        ),
        ("--threads 0", "`threads` must be 1 or more, got 0"),
        ("--fleet.dry_run true --repair", "`--repair` deletes damaged files, but .* Leave out one"),
        ("--fleet.dry_run true --fleet.models 3-5", r"must lie within 0-4, got 3-5"),
        ("--data.pool_size 1797", "1 to test, got 1797 and 0"),
        ("--data.pool_size 9999", "`pool_size` must be 2 to"),
        ("--data.crop 8", "`crop` must be less than the images' 8 x 8 pixels, got 8"),
    ],
)
def test_a_wrong_option_is_an_error_before_anything_is_written(
    toy, tmp_path, options, message, unwrap
):
    with pytest.raises(SystemExit) as stopped:
        train.main(toy(tmp_path / "run", options))
    assert re.search(f"^train.py: .*{message}", unwrap(stopped.value.code))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("network", "variant", "message"),
    [
        (
            "Forgetful",
            "adaround-w1.58-last8",
            r"Forgetful has layers without inputs.*`spare`: not called.*`--layer_bits '{\"spare\": "
            r"32}'`",
        ),
        ("Perceptron", "nearest-w2-bn", "Perceptron has no BatchNorm .*Remove `-bn`"),
        ("Perceptron", "brecq-w2-folded", "Perceptron has no BatchNorm .*`-folded` from"),
    ],
)
def test_a_network_that_cannot_be_quantized_is_an_error_before_anything_is_written(
    toy, tmp_path, own_networks, network, variant, message, unwrap
):
    options = f"--model.network own_networks.{network} --quantize {variant}"
    with pytest.raises(SystemExit) as stopped:
        train.main(toy(tmp_path / "run", options))
    assert re.search(f"^train.py: .*{message}", unwrap(stopped.value.code))
    assert not (tmp_path / "run").exists()


def test_missing_data_names_the_folder(tmp_path):
    options = ["--run_dir", str(tmp_path / "run"), "--trainer.max_epochs", "1"]
    sought = ["--data", "CIFAR10", "--data.root", str(tmp_path / "nowhere")]
    with pytest.raises(SystemExit, match=r"(?s)^train.py: .*nowhere.*--data.download true"):
        train.main([*options, *sought])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("dry", ["false", "true"])
def test_a_run_folder_that_is_a_file_is_an_error(toy, tmp_path, dry):
    (tmp_path / "run").write_text("no folder")
    with pytest.raises(SystemExit, match=r"`--run_dir` must be .*run: File exists. Name another"):
        train.main(toy(tmp_path / "run", f"--fleet.dry_run {dry}"))


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_can_be_prepared(recipe, tmp_path, monkeypatch):
    def read(self):
        size, channels = (self.pool_size or 0) + 1100, len(self.mean)
        images = torch.zeros(size, channels, 32, 32, dtype=torch.uint8)
        self.num_classes = getattr(self, "num_classes", 10)  # TinyImageNet counts them
        return Images(images, torch.arange(size) % 10), Images(images[:50], torch.arange(50) % 10)

    # steps of these networks take seconds; `tests/fleet/test_rehearsal.py` has them
    monkeypatch.setattr("fleet.prepare.rehearse_fit", lambda *_: [])
    for subclass in ImageDataModule.__subclasses__():
        if subclass is not Digits:
            monkeypatch.setattr(subclass, "read", read)
            monkeypatch.setattr(subclass, "fetch", lambda self: None)
    parser, config = parse(["--config", str(recipe), "--run_dir", str(tmp_path / "run")])
    made = parser.instantiate(config)
    job = prepare(config, made.fleet, made.data, Console(quiet=True))
    assert job.chosen == fleet_names(config.fleet.shadows, config.fleet.targets)
    quantized = map(str, map(Variant.parse, config.quantize))
    federated = config.federated.clients is not None
    snapshots = [snapshot_name(epoch, federated) for epoch in config.snapshots]
    snapshots += [f"task-{number}" for number in range(1, config.continual.tasks or 1)]
    assert job.experiment.variants == ["full", *snapshots, *quantized]
    assert torch.stack(list(job.members.values())).shape == (len(job.chosen), job.data.pool_size)
    assert job.run.membership().keys() == job.members.keys()
    default = parser.parse_args(["--config", str(recipe)]).run_dir
    assert default == Path("runs") / recipe.relative_to(ROOT / "recipes").with_suffix("")


@pytest.mark.parametrize("emulates", [True, False])
def test_a_cpu_that_emulates_bfloat16_is_noted(
    toy, tmp_path, monkeypatch, capsys, emulates, unwrap
):
    monkeypatch.setattr("fleet.checks.emulates_bfloat16", lambda: emulates)
    options = "--fleet.models 4 --quantize --trainer.precision bf16-mixed"
    options += " --trainer.max_epochs 1 --snapshots"
    train.main(toy(tmp_path / "run", options))
    assert ("this CPU emulates bf16" in unwrap(capsys.readouterr().out)) == emulates
