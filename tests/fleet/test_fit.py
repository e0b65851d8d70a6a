"""What one fit trains on and leaves, within the fleet or alone."""

import pytest
import torch
from safetensors.torch import load_file

import train
from datamodules.membership import membership
from datamodules.seeds import derive_seed
from lightning_modules.classifier import Classifier
from storage.names import fleet_names
from storage.run_folder import RunFolder
from storage.saved_signals import load_signals

NAMES = fleet_names(4, 1)


def test_the_stored_membership_is_what_the_loader_served(toy_training):
    folder, served = toy_training
    rows = torch.stack(list(RunFolder(folder).membership().values()))
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
    # the row belongs to the signals as well: members have the smaller loss
    for name, row in zip(NAMES, rows, strict=True):
        loss = load_file(RunFolder(folder).signals(name, "full"))["loss"][0]
        assert loss[row].mean() < loss[~row].mean()


@pytest.mark.parametrize("position", [0, 3, 4])
def test_a_model_trained_alone_equals_the_same_model_of_the_fleet(
    toy, toy_run, tmp_path, position, of_models, tensors
):
    torch.manual_seed(position)  # must not matter
    train.main(toy(tmp_path / "run", f"--fleet.models {position}"))
    alone = of_models(tensors(tmp_path / "run"), *NAMES)
    assert alone == of_models(tensors(toy_run), NAMES[position])
    assert len(alone) == 10


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_every_precision_of_training_ends_in_float32_signals(toy, tmp_path, precision):
    options = f"--trainer.precision {precision} --fleet.models 0 --trainer.max_epochs 1 --snapshots"
    train.main(toy(tmp_path / "run", options))
    signals = load_file(tmp_path / "run" / "models" / "shadow-000" / "signals/full.safetensors")
    assert signals["phi"].dtype == torch.float32
    assert signals["phi"].isfinite().all()


@pytest.mark.fleet
@pytest.mark.parametrize("later", [False, True])
def test_all_variants_of_a_model_get_the_same_random_queries(toy, tmp_path, later):
    options = "--queries random-0 random-1 --layer_bits '{\"*\": 32}' --fleet.models 3-4 --quantize"
    if later:
        train.main(toy(tmp_path / "run", options))
    train.main(toy(tmp_path / "run", f"{options} nearest-w2"))  # every layer stays at 32 bits
    run = RunFolder(tmp_path / "run")
    for name in run.read().names[3:]:
        phi, quantized = (
            load_signals([run.signals(name, variant)], "phi")[0]
            for variant in ("full", "nearest-w2")
        )
        assert torch.equal(quantized, phi)
        assert not torch.equal(phi[0], phi[1])


def test_a_model_trains_through_the_compiler(toy, tmp_path, monkeypatch):
    """Keys of the weights stay as they are, and the compiler really runs."""
    compiled = []
    # without code generation, which takes half a minute
    real = torch.compile

    def compile(*arguments, **options):
        compiled.append(arguments)
        return real(*arguments, **options | {"backend": "aot_eager"})

    monkeypatch.setattr(torch, "compile", compile)
    train.main(toy(tmp_path / "run", "--fleet.models 4 --model.compile true --quantize"))
    run = RunFolder(tmp_path / "run")
    assert compiled
    assert run.read().config["model"]["compile"]
    assert run.is_finished(NAMES[4], ["full"])


def test_the_test_split_is_passed_only_for_weights_and_biases(toy, toy_run, tmp_path, monkeypatch):
    passes, real = [], Classifier.validation_step

    def validate(self, *arguments):
        passes.append(self.current_epoch)
        return real(self, *arguments)

    monkeypatch.setattr(Classifier, "validation_step", validate)
    counts = []
    for mode in ("offline", "disabled"):
        train.main(toy(tmp_path / mode, f"--fleet.models 4 --wandb {mode}"))
        counts.append(len(passes))
        files = [RunFolder(path).weights(NAMES[4], "full") for path in (tmp_path / mode, toy_run)]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert set(passes) == {0, 1, 2}
    assert counts[0] == counts[1]
