"""What federated learning refuses before any training, each in one line with the way out."""

import pytest
import torch

import train
from datamodules import Digits
from datamodules.clients import Federation, draw_holders
from fleet.federation import keep_holders
from lightning_modules.federated_options import FederatedOptions
from quantization.updates import UPDATES


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"clients": 0}, r"`federated\.clients` must be 1 to 32767, got 0\. Leave it out"),
        ({"clients": -2}, r"`federated\.clients` must be 1 to 32767, got -2"),
        ({"clients": 40000}, r"must be 1 to 32767, got 40000"),
        ({"clients": 2, "local_epochs": 0}, r"`federated\.local_epochs` must be 1 or more, got 0"),
        ({"clients": 2, "participation": 0.0}, r"participation` must be above 0 and .*, got 0\."),
        (
            {"clients": 2, "participation": 1.5},
            r"participation` must be above 0 and .*, got 1\.5\.",
        ),
        ({"clients": 2, "dirichlet": 0.0}, r"dirichlet` must be above 0, got 0\. Leave it out"),
        ({"clients": 2, "dirichlet": float("inf")}, r"dirichlet` must be above 0, got inf"),
        ({"clients": 2, "error_feedback": True}, r"needs a rounded update, got `full`, which"),
        ({"local_epochs": 2}, r"`federated\.local_epochs` needs `--federated\.clients`, got 2"),
        ({"participation": 0.5}, r"`federated\.participation` needs `--federated\.clients`"),
        ({"dirichlet": 0.5}, r"`federated\.dirichlet` needs `--federated\.clients`, got 0\.5"),
        ({"update": "qsgd-w4"}, r"`federated\.update` needs `--federated\.clients`, got qsgd-w4"),
        ({"error_feedback": True}, r"`federated\.error_feedback` needs `--federated\.clients`"),
        ({"cosine": "all"}, r"`federated\.cosine` needs `--federated\.clients`, got all"),
        ({"adversary": "isolate"}, r"`federated\.adversary` needs `--federated\.clients`"),
        ({"clients": 2, "strength": 0.5}, r"strength` needs `--federated\.adversary`, got 0\.5"),
        ({"clients": 1, "adversary": "ascent"}, r"ascent needs 2 clients or more, got 1: a single"),
        (
            {"clients": 2, "adversary": "isolate", "strength": 1.5},
            r"above 0 and at most 1, a share, with `--federated\.adversary isolate`, got 1\.5",
        ),
        (
            {"clients": 2, "adversary": "ascent", "strength": 0.0},
            r"must be above 0, a step, with `--federated\.adversary ascent`, got 0\. Leave",
        ),
        (
            {"clients": 2, "adversary": "ascent", "strength": float("inf")},
            r"above 0, a step, .* got inf",
        ),
        ({"record": [1]}, r"`federated\.record` needs `--federated\.clients`.*pass for example"),
    ],
)
def test_options_out_of_range_or_that_nothing_reads_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        FederatedOptions(**options)


@pytest.mark.parametrize(
    ("total", "rounds"),
    [
        (1, [1]),
        (3, [1, 2, 3]),
        (10, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (20, [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]),
        (25, [3, 5, 8, 10, 13, 15, 18, 20, 23, 25]),
        (300, [30, 60, 90, 120, 150, 180, 210, 240, 270, 300]),
    ],
)
def test_ten_rounds_are_recorded_or_all_if_there_are_fewer(total, rounds):
    assert FederatedOptions(5).rounds(total) == rounds
    assert FederatedOptions().rounds(total) == []
    assert FederatedOptions(5, record=[total, 1][: min(total, 2)]).rounds(total) == sorted(
        {1, total}
    )


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ([4], r"must be rounds from 1 to 3 \(`--trainer\.max_epochs`\), got 4"),
        ([0], r"must be rounds from 1 to 3 .*, got 0"),
        ([2, 2], r"must name each round once, got 2 twice"),
    ],
)
def test_rounds_that_no_fit_has_are_refused(record, said):
    with pytest.raises(ValueError, match=said):
        FederatedOptions(5, record=record).rounds(3)


def test_nobody_is_isolated_in_a_single_round():
    options = FederatedOptions(2, adversary="isolate")
    assert options.rounds(2) == [1, 2]
    with pytest.raises(ValueError, match=r"isolate needs 2 rounds .* got 1: clients are sent"):
        options.rounds(1)


FEW = "--federated.clients 4 "


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            "--federated.clients 17",
            "`federated.clients` must be at most 16, got 17: a model trains",
        ),
        ("--federated.clients 0", "`federated.clients` must be 1 to 32767, got 0"),
        (FEW + "--federated.participation 0", "`federated.participation` must be above 0"),
        (FEW + "--federated.record [4]", "must be rounds from 1 to 3 (`--trainer.max_epochs`), g"),
        (
            "--federated.clients 14 --federated.dirichlet 0.0001",
            "leaves a client without 2 examples in each of 100",
        ),
        (
            "--federated.clients 6 --data.batch_size 2",
            "`data.batch_size` 2 leaves client 2 of shadow-000 a batch of one of its 5 examples",
        ),
        (FEW + "--federated.update qsgd-w3", f"must be {', '.join(UPDATES[:-1])} or {UPDATES[-1]}"),
        (FEW + "--prune init", "is not supported with `--prune`: nothing defines what clients"),
        (
            FEW + "--model.dp.noise 1 --model.network convnet_gn",
            "is not supported with `--model.dp`: nothing defines",
        ),
        (
            FEW + "--trainer.devices 2 --trainer.strategy ddp",
            "several devices per model (`--trainer.devices`), got 2: clients train one after anoth",
        ),
        (
            FEW + "--trainer.accumulate_grad_batches 2",
            "must be 1 with `--federated.clients`, got 2",
        ),
        (
            FEW + "--trainer.gradient_clip_val 1",
            "`trainer.gradient_clip_val` is not supported with",
        ),
        (
            FEW + "--model.network own_networks.Bilinear --quantize",
            "recorded with the gradient of the last layer, an",
        ),
        ("--federated.update qsgd-w4", "`federated.update` needs `--federated.clients`"),
        ("--federated.client 3", "There is no option `--federated.client`. Did you mean `--fed"),
    ],
)
def test_bad_input_is_one_line(toy, own_networks, tmp_path, capsys, options, said):
    with pytest.raises(SystemExit) as stopped:
        train.main(toy(tmp_path / "run", options))
    told = f"{stopped.value.code} {capsys.readouterr().err}"
    assert said in told
    assert "Traceback" not in told
    assert not (tmp_path / "run").exists()


def test_holders_that_another_draw_gave_are_refused(tmp_path):
    data = Digits(pool_size=40)
    data.setup("fit")
    members = torch.arange(40) < 20
    one, other = (
        Federation(draw_holders(members, data.pool.labels, 3, None, seed), 3) for seed in (1, 2)
    )
    path = tmp_path / "clients.safetensors"
    keep_holders(path, one)
    keep_holders(path, one)
    with pytest.raises(RuntimeError, match=r"differs from what this seed draws for the clients\."):
        keep_holders(path, other)
