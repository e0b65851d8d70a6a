"""Fleets of federations: what they leave, killed and resumed, repaired, with two workers."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import train
from datamodules.clients import NOBODY, draw_holders
from datamodules.digits import Digits
from datamodules.seeds import derive_seed
from lightning_modules.callbacks.record_rounds import RecordRounds
from lightning_modules.classifier import Classifier
from lightning_modules.federated import FederatedClassifier
from storage.names import fleet_names
from storage.run_folder import RunFolder

NAMES = fleet_names(2, 1)
CLIENTS = 4
FLEET = "--trainer.max_epochs 4 --snapshots 2 --fleet.shadows 2 --fleet.targets 1"
FEDERATION = (
    f"{FLEET} --federated.clients {CLIENTS} --federated.participation 0.75 --data.batch_size 4 "
    "--federated.update qsgd-w4 --federated.error_feedback true --federated.local_epochs 2 "
    "--federated.record [2,4] --quantize adaround-w4 nearest-w2"
)


@pytest.fixture(scope="module")
def federated(train_watched, tmp_path_factory):
    """A finished fleet, to be read or copied, and what it trained on: seed, round, indices."""
    folder = tmp_path_factory.mktemp("runs") / "federated"
    return folder, train_watched(folder, FEDERATION)


@pytest.fixture
def copied(federated, tmp_path):
    return Path(shutil.copytree(federated[0], tmp_path / "copied"))


def test_the_stored_holders_are_what_clients_were_served(federated):
    folder, batches = federated
    run = RunFolder(folder)
    for name, members in run.membership().items():
        holder = load_file(run.clients(name))["holder"]
        assert holder.dtype == torch.int16
        assert torch.equal(holder != NOBODY, members)
        seed = derive_seed(0, name.role, name.number, 0)
        served = [indices for owner, _, indices in batches if owner == seed]
        for client in range(CLIENTS):
            held = set((holder == client).nonzero().flatten().tolist())
            own = [indices for indices in served if set(indices) & held]
            assert all(set(indices) <= held for indices in own)  # no batch mixes clients
            assert {index for indices in own for index in indices} in (held, set())
        assert sum(len(indices) for indices in served) == 4 * 3 * 2 * 8  # rounds, clients, passes


def test_files_are_those_of_the_contract(federated):
    run = RunFolder(federated[0])
    experiment = run.read()
    assert experiment.config["federated"] == {
        "clients": 4, "local_epochs": 2, "participation": 0.75, "dirichlet": None,
        "update": "qsgd-w4", "error_feedback": True, "record": [2, 4],
        "cosine": "last", "adversary": None, "strength": 1.0, "attribute": None,
    }  # fmt: skip
    assert experiment.variants == ["full", "round-02", "adaround-w4", "nearest-w2"]
    for name in NAMES:
        for number in (2, 4):
            file = load_file(run.round(name, number))
            assert len(file["participants"]) == 3
            assert sorted(file["participants"].tolist()) == file["participants"].tolist()
            for key in ("phi", "gradient", "cosine"):
                assert file[key].shape == (3, 64)
                assert file[f"global_{key}"].shape == file[f"others_{key}"].shape == (64,)
                assert file[key].isfinite().all()
        assert not run.round(name, 1).exists()
        assert run.round(name, 2) == run.model(name) / "rounds" / "02.safetensors"


def test_the_last_round_has_the_signals_of_the_trained_model_and_a_snapshot_of_its_round(federated):
    run = RunFolder(federated[0])
    query = run.read().queries.index("identity")
    for name in NAMES:
        for number, variant in ((4, "full"), (2, "round-02")):
            recorded = load_file(run.round(name, number))["global_phi"]
            phi = load_file(run.signals(name, variant))["phi"][query]
            torch.testing.assert_close(recorded, phi, rtol=0, atol=1e-5)  # kernels of their own


STEPS = 3 * 2 * 2  # of a round: clients, passes, batches


@pytest.mark.fleet
@pytest.mark.parametrize(
    "steps",
    [[1, STEPS + 3, 2 * STEPS + 9], [3 * STEPS + 1, 7 * STEPS + 5, 10 * STEPS + 5]],
    ids=["early", "in every model"],
)
def test_a_killed_fleet_ends_bit_for_bit_the_same(
    toy, federated, tmp_path, killed, steps, tensors, records, last_epochs, full_records
):
    folder = tmp_path / "run"
    killed(toy(folder, FEDERATION), steps)
    assert tensors(folder) == tensors(federated[0])
    assert full_records(folder) == full_records(federated[0])
    assert records(folder) == records(federated[0])
    assert last_epochs(folder) == last_epochs(federated[0])


@pytest.mark.fleet
def test_a_kill_between_a_recorded_round_and_its_checkpoint(
    toy, killed_after, federated, tmp_path, tensors, full_records
):
    folder = tmp_path / "run"
    killed_after(RecordRounds, 1, toy(folder, FEDERATION))
    assert RunFolder(folder).round(NAMES[0], 2).exists()
    train.main(toy(folder, FEDERATION))
    assert tensors(folder) == tensors(federated[0])
    assert full_records(folder) == full_records(federated[0])


@pytest.mark.fleet
def test_workers_slices_and_rare_checkpoints_make_the_same_fleet(toy, federated, tmp_path, tensors):
    folder = tmp_path / "run"
    train.main(toy(folder, f"{FEDERATION} --fleet.models 1 --checkpoint_every 1000"))
    train.main(toy(folder, f"{FEDERATION} --fleet.workers 2"))
    assert tensors(folder) == tensors(federated[0])


@pytest.mark.fleet
def test_a_finished_fleet_is_left_as_it_is(toy, copied, left_as_it_is):
    left_as_it_is(copied, toy(copied, FEDERATION))


@pytest.mark.fleet
def test_a_lost_round_costs_the_training_of_its_model(
    toy, federated, copied, served, tensors, capsys, unwrap
):
    RunFolder(copied).round(NAMES[1], 2).unlink()
    train.main(toy(copied, f"{FEDERATION} --fleet.dry_run true"))
    told = unwrap(capsys.readouterr().out)
    assert "shadow-001 would be trained again from the start" in told
    assert "no other file can bring back rounds/02.safetensors: " in told
    assert "training, 4 rounds" in told
    assert "4 rounds x 3 clients = 12 trainings of a client, each round over 48 images" in told
    served.clear()
    train.main(toy(copied, FEDERATION))
    assert "shadow-001 is trained again from the start" in unwrap(capsys.readouterr().out)
    assert len(served) == 4 * STEPS
    assert tensors(copied) == tensors(federated[0])


@pytest.mark.fleet
def test_lost_holders_variants_and_signals_are_made_again_without_training(
    toy, federated, copied, no_training, tensors, full_records
):
    run = RunFolder(copied)
    for path in (
        run.clients(NAMES[0]),
        run.weights(NAMES[1], "adaround-w4"),
        run.signals(NAMES[2], "round-02"),
        run.weights(NAMES[2], "full"),
    ):
        path.unlink()
    train.main(toy(copied, FEDERATION))
    assert tensors(copied) == tensors(federated[0])
    assert full_records(copied) == full_records(federated[0])


@pytest.mark.fleet
@pytest.mark.parametrize("file", ["rounds/04.safetensors", "clients.safetensors"])
def test_damaged_files_are_named_and_repaired(
    toy, federated, copied, file, tensors, capsys, unwrap
):
    path = RunFolder(copied).model(NAMES[0]) / file
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(SystemExit) as stopped:
        train.main(toy(copied, FEDERATION))
    assert "Damaged since they were written" in str(stopped.value)
    assert file in str(stopped.value)
    train.main(toy(copied, f"{FEDERATION} --repair"))
    assert f"{file} was damaged: deleted, to be made again." in unwrap(capsys.readouterr().out)
    assert tensors(copied) == tensors(federated[0])


@pytest.mark.fleet
def test_status_knows_of_missing_rounds(toy, copied, capsys, unwrap):
    assert_status = toy(copied, f"{FEDERATION} --status")
    train.main(assert_status)
    assert "finished │ 3 │" in unwrap(capsys.readouterr().out)
    RunFolder(copied).round(NAMES[1], 2).unlink()
    train.main(assert_status)
    assert "finished │ 2 │" in unwrap(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--federated.clients 5", "federated.clients: 4 in the folder, 5 asked"),
        ("--federated.update qsgd-w2", "federated.update: 'qsgd-w4' in the folder, 'qsgd-w2' ask"),
        ("--federated.record [1,2,4]", "federated.record: [2, 4] in the folder, [1, 2, 4] asked"),
        ("--federated.dirichlet 5", "federated.dirichlet: None in the folder, 5.0 asked"),
    ],
)
def test_a_folder_with_other_options_is_refused(toy, federated, snapshot, options, said):
    before = snapshot(federated[0])
    with pytest.raises(SystemExit) as stopped:
        train.main(toy(federated[0], f"{FEDERATION} {options}"))
    assert said in str(stopped.value)
    assert snapshot(federated[0]) == before


@pytest.mark.fleet
def test_shadows_that_are_added_leave_the_others(toy, federated, copied, tensors, of_models):
    train.main(toy(copied, FEDERATION.replace("--fleet.shadows 2", "--fleet.shadows 4")))
    grown = of_models(tensors(copied), *NAMES)
    assert grown == of_models(tensors(federated[0]), *NAMES)
    run = RunFolder(copied)
    assert run.is_finished(fleet_names(4, 1)[3], run.read().variants, [], run.read().recorded)


def test_weights_and_biases_are_given_each_rounds_numbers(toy, tmp_path, monkeypatch, full_records):
    seen, real = [], Classifier.log

    def log(self, key, value, **further):
        seen.append((key, float(value) if not callable(value) else None))
        return real(self, key, value, **further)

    monkeypatch.setattr(FederatedClassifier, "log", log)
    options = "--federated.clients 4 --fleet.models 0 --wandb offline --quantize --snapshots"
    train.main(toy(tmp_path / "run", options))
    by_key = {key: [value for k, value in seen if k == key] for key, _ in seen}
    assert {"train/loss", "train/accuracy", "federated/bytes", "val/loss"} <= by_key.keys()
    record = full_records(tmp_path / "run")["models/shadow-000/full.json"]
    assert by_key["federated/bytes"] == record["bytes"]
    assert len(by_key["train/loss"]) == 3


@pytest.mark.fleet
def test_a_federation_of_unequal_clients_is_audited_as_any_fleet(
    toy, tmp_path, quick_audit, results_of
):
    """Federation-level membership: attacks on the global model and its snapshots as they are."""
    run = RunFolder(tmp_path / "run")
    options = (
        "--fleet.shadows 6 --fleet.targets 0 --federated.clients 3 --federated.dirichlet 1 "
        "--quantize nearest-w2 --snapshots 1"
    )
    train.main(toy(run.path, options))
    quick_audit(run)
    variants = {row["variant"] for row in results_of(run)["rows"]}
    assert variants == {"full", "round-01", "nearest-w2"}
    data = Digits(pool_size=64)
    data.setup("fit")
    name = run.read().names[2]
    members, seed = run.membership()[name], derive_seed(0, name.role, name.number, 0)
    drawn = draw_holders(members, data.pool.labels, 3, 1.0, seed)
    assert torch.equal(load_file(run.clients(name))["holder"], drawn)


@pytest.mark.fleet
def test_a_federation_that_diverged_is_named_and_reported(
    toy, tmp_path, capsys, unwrap, full_records
):
    options = "--federated.clients 4 --model.lr 1e30 --fleet.models 0 --quantize --snapshots"
    with (
        pytest.warns(UserWarning, match=r"shadow-000: client \d uploaded weights that are not fin"),
        pytest.raises(SystemExit) as ended,
    ):
        train.main(toy(tmp_path / "run", options))
    assert ended.value.code == 3
    said = unwrap(capsys.readouterr().out)
    assert "shadow-000 left out uploads that were not finite: client 0 in" in said
    record = full_records(tmp_path / "run")["models/shadow-000/full.json"]
    assert record["unchanged"]
    assert record["left_out"].keys() >= {str(number) for number in record["unchanged"]}
