"""Fleets of learners of tasks: what they leave, killed and resumed, repaired, with two workers."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import train
from datamodules.digits import Digits
from datamodules.seeds import derive_seed
from datamodules.tasks import tasks_of
from lightning_modules.callbacks.record_tasks import RecordTasks
from lightning_modules.networks import build_network
from lightning_modules.wandb_logger import FleetLogger
from storage.names import fleet_names
from storage.run_folder import RunFolder
from storage.variant_outputs import SavedOutputs, recorded_outputs
from storage.weights import load_into

NAMES = fleet_names(2, 1)
LEARNER = (
    "--fleet.shadows 2 --fleet.targets 1 --snapshots --quantize nearest-w2 --trainer.max_epochs 6 "
    "--continual.tasks 3 --continual.replay 2 --data.batch_size 8"
)
CLASSES = [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]


@pytest.fixture(scope="module")
def learned(train_watched, tmp_path_factory):
    """A finished fleet, to be read or copied, and what it trained on: seed, epoch, indices."""
    folder = tmp_path_factory.mktemp("runs") / "learned"
    return folder, train_watched(folder, LEARNER)


@pytest.fixture
def copied(learned, tmp_path):
    return Path(shutil.copytree(learned[0], tmp_path / "copied"))


@pytest.fixture(scope="module")
def labels():
    data = Digits(pool_size=64)
    data.setup("fit")
    return data.pool.labels


def test_the_stored_membership_is_what_learners_were_served_task_by_task(learned, labels):
    folder, batches = learned
    run = RunFolder(folder)
    for name, members in run.membership().items():
        seed = derive_seed(0, name.role, name.number, 0)
        kept = set()
        for stage, group in enumerate(CLASSES):
            own = set(
                (members & torch.isin(labels, torch.tensor(group))).nonzero().flatten().tolist()
            )
            for epoch in (2 * stage, 2 * stage + 1):
                served = [
                    i for owner, at, part in batches for i in part if (owner, at) == (seed, epoch)
                ]
                assert sorted(served) == sorted(own | kept)
            exemplars = load_file(run.task(name, stage + 1))["exemplars"]
            kept = set(exemplars.nonzero().flatten().tolist())
            assert kept <= set(members.nonzero().flatten().tolist())
            assert all(tasks_of(labels, CLASSES)[i] <= stage for i in kept)


def test_files_are_those_of_the_contract(learned, full_records):
    run = RunFolder(learned[0])
    experiment = run.read()
    assert experiment.variants == ["full", "task-1", "task-2", "nearest-w2"]
    assert experiment.snapshots == {"task-1": 2, "task-2": 4}
    assert experiment.stage_ends == [2, 4, 6]
    for name in NAMES:
        for number in (1, 2, 3):
            file = load_file(run.task(name, number))
            assert file["outputs"].shape == (64, 10)
            assert file["outputs"].dtype == torch.float32
            assert file["accuracy"].shape == (3,)
            assert file["accuracy"].dtype == torch.float64
        record = full_records(run.path)[f"models/{name}/full.json"]
        assert record["classes"] == CLASSES
        assert record["ends"] == [2, 4, 6]
        assert sum(stage["rows"] for stage in record["stages"]) == 32
        stored = [load_file(run.task(name, number))["accuracy"].tolist() for number in (1, 2, 3)]
        assert [stage["accuracy"] for stage in record["stages"]] == stored


def test_outputs_and_accuracies_are_those_of_the_snapshots(learned, labels):
    run, data = RunFolder(learned[0]), Digits(pool_size=64)
    data.setup("fit")
    for name in NAMES:
        for number, variant in enumerate(("task-1", "task-2", "full"), 1):
            outputs = load_file(run.task(name, number))["outputs"].double()
            own = outputs.gather(1, labels[:, None])[:, 0]
            others = outputs.scatter(1, labels[:, None], -torch.inf).logsumexp(1)
            signals = load_file(run.signals(name, variant))
            phi = signals["phi"][run.read().queries.index("identity")]
            torch.testing.assert_close((own - others).float(), phi, rtol=0, atol=1e-4)
            correct = signals["test_correct"].double()
            for task, group in enumerate(CLASSES):
                of_task = torch.isin(data.test.labels, torch.tensor(group))
                accuracy = load_file(run.task(name, number))["accuracy"][task]
                assert accuracy.item() == pytest.approx(correct[of_task].mean().item(), abs=1e-12)


def test_quantized_variants_leave_their_outputs_for_all_classes(learned, labels):
    run, data = RunFolder(learned[0]), Digits(pool_size=64)
    data.setup("fit")
    (batch,) = data.pool_batches("identity")
    for name in NAMES:
        assert "outputs" not in load_file(run.signals(name, "full"))  # the last stage has them
        signals = load_file(run.signals(name, "nearest-w2"))
        network = build_network("convnet", 10, 1, {}, (1, 8, 8)).eval()
        with torch.inference_mode():
            logits = load_into(network, run.weights(name, "nearest-w2"))(batch.images)
        torch.testing.assert_close(signals["outputs"], logits, rtol=0, atol=1e-5)
    used = NAMES[1:]
    saved = SavedOutputs(run, used, recorded_outputs(run, used, ["nearest-w2", "full"]))
    assert [*saved] == ["nearest-w2"]
    assert saved["nearest-w2"].shape == (3, 64, 10)
    assert saved["nearest-w2"][0].isnan().all()
    assert torch.equal(saved["nearest-w2"][2], signals["outputs"])
    with pytest.raises(KeyError, match="full"):
        saved["full"]


def test_outputs_that_are_damaged_or_not_finite_are_named(copied, change_signals):
    run = RunFolder(copied)
    path = run.signals(NAMES[1], "nearest-w2")
    change_signals(path, outputs=torch.full((64, 10), torch.nan))
    with pytest.raises(ValueError, match=r"`outputs` in .* must be finite, got 640 numbers"):
        SavedOutputs(run, NAMES, ["nearest-w2"])["nearest-w2"]
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"is not a whole signals file .*`--repair`"):
        recorded_outputs(run, NAMES, ["nearest-w2"])


@pytest.mark.fleet
@pytest.mark.parametrize("steps", [[1, 6, 9], [5, 14, 33]], ids=["early", "in every model"])
def test_a_killed_fleet_ends_bit_for_bit_the_same(
    toy, learned, tmp_path, killed, steps, tensors, records, last_epochs, full_records
):
    folder = tmp_path / "run"
    killed(toy(folder, LEARNER), steps)
    assert tensors(folder) == tensors(learned[0])
    assert full_records(folder) == full_records(learned[0])
    assert records(folder) == records(learned[0])
    assert last_epochs(folder) == last_epochs(learned[0])


@pytest.mark.fleet
def test_a_kill_between_a_recorded_stage_and_its_checkpoint(
    toy, killed_after, learned, tmp_path, tensors, full_records
):
    folder = tmp_path / "run"
    killed_after(RecordTasks, 3, toy(folder, LEARNER))
    assert RunFolder(folder).task(NAMES[0], 2).exists()
    train.main(toy(folder, LEARNER))
    assert tensors(folder) == tensors(learned[0])
    assert full_records(folder) == full_records(learned[0])


@pytest.mark.fleet
def test_workers_and_rare_checkpoints_make_the_same_fleet(toy, learned, tmp_path, tensors):
    folder = tmp_path / "run"
    train.main(toy(folder, f"{LEARNER} --fleet.workers 2 --checkpoint_every 1000"))
    assert tensors(folder) == tensors(learned[0])


@pytest.mark.fleet
def test_a_finished_fleet_is_left_as_it_is(toy, copied, left_as_it_is):
    left_as_it_is(copied, toy(copied, LEARNER))


@pytest.mark.fleet
def test_a_lost_stage_costs_the_training_of_its_model(
    toy, learned, copied, served, tensors, capsys, unwrap
):
    run = RunFolder(copied)
    run.task(NAMES[1], 2).unlink()
    train.main(toy(copied, f"{LEARNER} --status"))
    assert "finished │ 2 │" in unwrap(capsys.readouterr().out)
    train.main(toy(copied, f"{LEARNER} --fleet.dry_run true"))
    told = unwrap(capsys.readouterr().out)
    assert "shadow-001 would be trained again from the start" in told
    assert "no other file can bring back tasks/02.safetensors: " in told
    assert "Tasks: 3 by `finetune`, of 2 epochs each. Classes of each: 0, 1, 2, 3; 4, 5, 6" in told
    outputs = 3 * (512 + 4 * 64 * 10) + 4 * 64 * 10  # stages and nearest-w2, 4 bytes per output
    assert f"{outputs:,} of recorded tasks" in told
    served.clear()
    train.main(toy(copied, LEARNER))
    assert served
    assert {seed for seed, *_ in served} == {derive_seed(0, "shadow", 1, 0)}
    assert tensors(copied) == tensors(learned[0])


@pytest.mark.fleet
def test_damaged_stages_are_named_and_repaired(toy, learned, copied, tensors, capsys, unwrap):
    path = RunFolder(copied).task(NAMES[0], 3)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(SystemExit) as stopped:
        train.main(toy(copied, LEARNER))
    assert "Damaged since they were written" in str(stopped.value)
    assert "tasks/03.safetensors" in str(stopped.value)
    train.main(toy(copied, f"{LEARNER} --repair"))
    assert "tasks/03.safetensors was damaged: deleted" in unwrap(capsys.readouterr().out)
    assert tensors(copied) == tensors(learned[0])


def test_weights_and_biases_are_given_the_accuracy_of_each_task(
    toy, tmp_path, monkeypatch, full_records
):
    given, real = [], FleetLogger.log_metrics

    def log(self, metrics, step=None):
        given.append(metrics)
        return real(self, metrics, step)

    monkeypatch.setattr(FleetLogger, "log_metrics", log)
    train.main(toy(tmp_path / "run", f"{LEARNER} --fleet.models 0 --wandb offline --quantize"))
    keys = [f"task-{number}/accuracy" for number in (1, 2, 3)]
    stages = [[metrics[key] for key in keys] for metrics in given if keys[0] in metrics]
    assert [metrics["stage"] for metrics in given if keys[0] in metrics] == [1, 2, 3]
    record = full_records(tmp_path / "run")["models/shadow-000/full.json"]
    assert stages == [stage["accuracy"] for stage in record["stages"]]
    assert sum("train/loss" in metrics for metrics in given) == 6


@pytest.mark.fleet
def test_a_learner_that_diverged_is_named_and_has_all_its_files(
    toy, tmp_path, capsys, unwrap, full_records
):
    options = f"{LEARNER} --model.lr 1e30 --fleet.models 0 --quantize"
    with pytest.raises(SystemExit) as ended:
        train.main(toy(tmp_path / "run", options))
    assert ended.value.code == 3
    assert "shadow-000 failed" in unwrap(capsys.readouterr().out)
    run = RunFolder(tmp_path / "run")
    assert run.missing(NAMES[0], run.read().variants, [], run.read().recorded) == []
    assert load_file(run.task(NAMES[0], 3))["outputs"].isnan().any()
    assert len(full_records(run.path)["models/shadow-000/full.json"]["stages"]) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--continual.tasks 2", "continual.tasks: 3 in the folder, 2 asked"),
        ("--continual.replay 1", "continual.replay: 2 in the folder, 1 asked"),
    ],
)
def test_a_folder_with_other_tasks_is_refused(toy, learned, snapshot, options, said):
    before = snapshot(learned[0])
    with pytest.raises(SystemExit) as stopped:
        train.main(toy(learned[0], f"{LEARNER} {options}"))
    assert said in str(stopped.value)
    assert snapshot(learned[0]) == before
