"""The end of each task, quantized: what is made of what, grown, killed, refused and deployed."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import train
from datamodules.digits import Digits
from datamodules.seeds import derive_seed
from datamodules.tasks import TaskStream, tasks_of
from fleet.export import export
from fleet.variants import check_stages
from lightning_modules.callbacks import quantize
from lightning_modules.networks import build_network
from lightning_modules.options import CalibrationOptions
from quantization.calibration import Calibration
from quantization.quantize import quantize_network
from quantization.variant import Variant
from storage.names import fleet_names
from storage.run_folder import RunFolder
from storage.weights import load_into, load_quantized

NAMES = fleet_names(2, 1)
ENDS = (
    "--fleet.shadows 2 --fleet.targets 1 --snapshots --trainer.max_epochs 6 --continual.tasks 3 "
    "--continual.replay 2 --data.batch_size 8 --quantize adaround-w2 adaround-w2-noise"
)
LEARNER = f"{ENDS} --quantize_snapshots true"
CLASSES = [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
MADE = [f"task-{n}-{name}" for n in (1, 2) for name in ("adaround-w2", "adaround-w2-noise")]


@pytest.fixture(scope="module")
def learned(toy, tmp_path_factory):
    """A finished fleet; to be read or copied."""
    folder = tmp_path_factory.mktemp("runs") / "learned"
    train.main(toy(folder, LEARNER))
    return folder


@pytest.fixture
def copied(learned, tmp_path):
    return Path(shutil.copytree(learned, tmp_path / "copied"))


@pytest.fixture(scope="module")
def data():
    data = Digits(pool_size=64)
    data.setup("fit")
    return data


def test_variants_are_in_the_order_of_training(learned):
    experiment = RunFolder(learned).read()
    assert experiment.variants == [
        *("full", "task-1", *MADE[:2], "task-2", *MADE[2:], "adaround-w2", "adaround-w2-noise"),
    ]
    assert experiment.compared == ["full", "adaround-w2", "adaround-w2-noise"]
    for name in NAMES:
        folder = RunFolder(learned).model(name)
        for variant in MADE:
            assert (folder / f"{variant}.safetensors").exists()
            outputs = load_file(folder / "signals" / f"{variant}.safetensors")["outputs"]
            assert outputs.shape == (64, 10)


def test_a_quantized_snapshot_is_the_stored_snapshot_quantized_by_hand(learned, data):
    """From the indices in its record, bit for bit."""
    run = RunFolder(learned)
    for name in NAMES:
        for number in (1, 2):
            path = run.weights(name, f"task-{number}-adaround-w2")
            record = json.loads(path.with_suffix(".json").read_text())
            indices = torch.tensor(record["calibration"]["indices"])
            network = build_network("convnet", 10, 1, {}, (1, 8, 8)).eval()
            load_into(network, run.weights(name, f"task-{number}"))
            images = data.calibration_images("members", indices)
            seed = derive_seed(0, name.role, name.number, 0)
            calibration = Calibration(images, lambda _: images, indices, "members", seed)  # noqa: B023
            variant = Variant.parse("adaround-w2")
            expected, _ = quantize_network(network, variant, calibration, seed=seed)
            stored = load_quantized(path)
            assert stored.weights.keys() == expected.weights.keys()
            for key, weight in expected.weights.items():
                assert torch.equal(stored.weights[key].codes, weight.codes)
                assert torch.equal(stored.weights[key].dequantize(), weight.dequantize())
            for key, tensor in expected.rest.items():
                assert torch.equal(stored.rest[key], tensor)


def test_calibration_images_are_what_the_stage_served(learned, data):
    run, labels = RunFolder(learned), data.pool.labels
    for name, members in run.membership().items():
        kept = set()
        for number in (1, 2):
            record = json.loads(run.record(name, f"task-{number}-adaround-w2").read_text())
            group = torch.tensor(CLASSES[number - 1])
            own = (members & torch.isin(labels, group)).nonzero().flatten().tolist()
            assert sorted(record["calibration"]["indices"]) == sorted({*own} | kept)
            exemplars = load_file(run.task(name, number))["exemplars"]
            kept = set(exemplars.nonzero().flatten().tolist())
            assert kept <= set(members.nonzero().flatten().tolist())


def test_nonmembers_are_of_the_own_task(data):
    task = tasks_of(data.pool.labels, CLASSES)
    stream = TaskStream(task, data.pool.labels, [2, 4, 6], 0)
    members = torch.arange(64) % 3 == 0
    for stage in range(3):
        row = stream.at_hand(members, stage, "nonmembers")
        expected = [i for i in range(64) if i % 3 and task[i] == stage]
        assert (~row).nonzero().flatten().tolist() == expected


@pytest.mark.fleet
def test_a_finished_fleet_gets_them_too(toy, learned, tmp_path, no_training, tensors):
    """The same as if they had been asked for at once; and what was asked for stays asked for."""
    folder = Path(shutil.copytree(learned, tmp_path / "run"))
    for path in folder.glob("models/*/**/task-?-*"):
        path.unlink()
    text = (folder / "experiment.yaml").read_text()
    changed = text.replace("quantize_snapshots: true", "quantize_snapshots: false")
    assert changed != text
    (folder / "experiment.yaml").write_text(changed)
    train.main(toy(folder, LEARNER))
    assert tensors(folder) == tensors(learned)
    train.main(toy(folder, ENDS))
    assert RunFolder(folder).read().quantized_snapshots == MADE


@pytest.mark.fleet
def test_a_kill_between_two_quantized_snapshots(toy, learned, tmp_path, monkeypatch, tensors):
    folder, real = tmp_path / "run", quantize.save_variant

    def save(network, path, *rest):
        if path.stem == "task-2-adaround-w2":
            raise SystemExit("killed")
        real(network, path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(quantize, "save_variant", save)
        with pytest.raises(SystemExit, match="killed"):
            train.main(toy(folder, LEARNER))
    model = RunFolder(folder).model(NAMES[0])
    assert {path.stem for path in model.glob("task-?-*.safetensors")} == {*MADE[:2]}
    train.main(toy(folder, LEARNER))
    assert tensors(folder) == tensors(learned)


def test_a_lost_snapshot_is_named_with_the_way_out(toy, copied, capsys):
    RunFolder(copied).weights(NAMES[1], "task-2").unlink()
    RunFolder(copied).weights(NAMES[1], MADE[2]).unlink()
    train.main(toy(copied, f"{LEARNER} --fleet.dry_run true"))
    told = " ".join(capsys.readouterr().out.split())
    assert "no other file can bring back task-2:" in told
    assert "Put the lost files back to keep these" in told


def test_a_dry_run_counts_them(toy, tmp_path, capsys):
    train.main(toy(tmp_path / "run", f"{LEARNER} --fleet.dry_run true"))
    told = " ".join(capsys.readouterr().out.split())
    assert "; 9 variants;" in told
    assert all(name in told for name in MADE)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--quantize nearest-w4", r"needs `--continual.tasks`, got none: .* Leave it out;"),
        ("--continual.tasks 3 --quantize", r"needs a name in `--quantize`, got none\. Pass"),
        (
            "--continual.tasks 3 --quantize adaround-w2-heldout",
            r"got `adaround-w2-heldout`: held-out .* Pass `adaround-w2-nonmembers`",
        ),
    ],
)
def test_what_would_not_be_made_is_refused(toy, tmp_path, options, told):
    common = "--fleet.shadows 2 --fleet.targets 1 --snapshots --trainer.max_epochs 6"
    with pytest.raises(SystemExit, match=told):
        train.main(toy(tmp_path / "run", f"{common} {options} --quantize_snapshots true"))
    assert not (tmp_path / "run").exists()


@pytest.mark.fleet
def test_names_that_are_added_later_are_refused_alike(toy, copied, snapshot):
    """A folder whose snapshots are quantized goes on doing so without being told again."""
    file = RunFolder(copied).experiment_file
    file.write_text(file.read_text().replace("- adaround-w2\n", "- adaround-w2-heldout\n"))
    before = snapshot(copied)
    with pytest.raises(SystemExit, match=r"got `adaround-w2-heldout`: held-out images"):
        train.main(toy(copied, ENDS))
    assert snapshot(copied) == before


def test_a_stage_with_too_few_images_is_refused(data):
    task = tasks_of(data.pool.labels, CLASSES)
    stream = TaskStream(task, data.pool.labels, [2, 4, 6], 0)
    whole, none = torch.ones(64).bool(), task != 1
    check_stages(CalibrationOptions(), stream, [whole], ["adaround-w2"])
    check_stages(CalibrationOptions(), stream, [whole, none], ["nearest-w2"])  # looks at none
    with pytest.raises(ValueError, match=r"got 0\. .* A stage of `--quantize_snapshots` has no"):
        check_stages(CalibrationOptions(), stream, [whole, none], ["adaround-w2"])


def test_they_are_deployed_as_they_are_audited(copied):
    run = RunFolder(copied)
    line = export(copied, "target-000", MADE[0], "state_dict", None)
    written = load_file(copied / "export" / f"target-000-{MADE[0]}.safetensors")
    stored = load_into(
        build_network("convnet", 10, 1, {}, (1, 8, 8)), run.weights(NAMES[2], MADE[0])
    )
    for key, tensor in stored.state_dict().items():
        assert torch.equal(written[key], tensor)
    assert MADE[0] in line
    with pytest.raises(FileNotFoundError, match=r"--quantize nearest-w4 --quantize_snapshots true"):
        export(copied, "target-000", "task-1-nearest-w4", "state_dict", None)


@pytest.mark.fleet
def test_a_damaged_one_is_made_again_from_its_snapshot(toy, learned, copied, no_training, tensors):
    path = RunFolder(copied).weights(NAMES[1], MADE[2])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(SystemExit, match=rf"(?s){MADE[2]}.*--repair"):
        train.main(toy(copied, LEARNER))
    train.main(toy(copied, f"{LEARNER} --repair"))
    assert tensors(copied) == tensors(learned)
