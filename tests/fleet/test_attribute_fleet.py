"""A fleet of federations on a table with an attribute: its record, its audit, its refusals."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import train
from attacks.federated.attributes import find_attribute_leak
from attacks.rounds import SIGNALS
from storage.evidence import gather
from storage.run_folder import RunFolder

OPTIONS = (
    "--threads 1 --model.network mlp --model.network_args.widths [8] --trainer.accelerator cpu "
    "--trainer.max_epochs 2 --fleet.shadows 6 --fleet.targets 1 --quantize --data.batch_size 8 "
    "--federated.clients 5"
)


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Arguments of train.py on a table whose second column has three values."""
    folder, rng = tmp_path_factory.mktemp("table"), np.random.default_rng(0)
    features = rng.normal(size=(140, 4))
    features[:, 1] = rng.choice([0, 1, 5], 140)
    splits = {"x": features[:100], "x_test": features[100:]}
    labels = rng.integers(2, size=140)
    np.savez(folder / "table.npz", **splits, y=labels[:100], y_test=labels[100:])
    data = ["--data", "Arrays", "--data.file", str(folder / "table.npz")]
    return lambda run, *options: ["--run_dir", str(run), *data, *OPTIONS.split(), *options]


@pytest.mark.fleet
def test_candidates_of_a_fleet_are_guessed(command, tmp_path, capsys):
    run = RunFolder(tmp_path / "run")
    train.main(command(run.path, "--federated.attribute", "1"))
    assert "Values of column 1, each tried in these rounds: 0, 1, 5." in capsys.readouterr().out
    assert run.read().attribute == 1
    game = gather(run, allow_partial=False).game
    candidates = game.attribute
    assert candidates.values == [0, 1, 5]
    assert candidates.others.shape == (100, 3)
    for name in SIGNALS:  # with its own value, an example is itself
        for kind in ("uploads", "aggregates"):
            signals = torch.stack([getattr(r, kind)[name] for r in candidates.rounds], -1)
            shape = signals.shape[:-1]
            own = signals.gather(-1, candidates.truth.expand(shape)[..., None])[..., 0]
            assert torch.equal(own, getattr(game.rounds, kind)[name])
            assert (signals.std(-1) > 0).double().mean() > 0.9
    stored = load_file(run.round(run.read().names[0], 2))
    assert stored["attribute_phi"].shape == (3, 5, 100)
    for threat in ("server", "client"):
        leak = find_attribute_leak(game, threat)
        assert [leak.column, leak.values, leak.federations] == [1, [0, 1, 5], 1]
        assert all(0 <= row.members.value <= 1 for row in leak.rows)
    with pytest.raises(SystemExit, match=r"federated.attribute: 1 in the folder, None asked"):
        train.main(command(run.path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--federated.attribute", "0"],
            r"Column 0 .* must have 2 to 20 different values, got 100",
        ),
        (["--federated.attribute", "9"], r"must be 0 to 3, one of the columns, got 9"),
    ],
)
def test_an_attribute_that_cannot_be_guessed_stops_before_training(
    command, tmp_path, options, message
):
    with pytest.raises(SystemExit, match=message):
        train.main(command(tmp_path / "run", *options))
    assert not (tmp_path / "run").exists()
