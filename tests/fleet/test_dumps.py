"""Dumps through the command and the audit, against the record that `train.py` makes itself."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import train
from attacks.federated.leaks import find_federated_leak
from audit import main as audit
from fleet.dumps import main
from lightning_modules.architectures import mlp
from lightning_modules.callbacks import record_rounds
from storage.evidence import gather
from storage.external_signals import gather_external
from storage.files import save_whole
from storage.run_folder import RunFolder

FEDERATION = (
    "--trainer.max_epochs 2 --federated.clients 5 --data.batch_size 4 --data.flip false "
    "--data.crop 0 --snapshots --quantize --model.network mlp --model.network_args.widths [16]"
)
DATA = ["--data", "Digits", "--data.pool_size", "64"]
BUILD = partial(mlp, 2, (4,), [8])


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory):
    """A run folder of federations, and the dump of each, as its server would write it."""
    run, dumps = (tmp_path_factory.mktemp("runs") / name for name in ("run", "dumps"))
    real, count = record_rounds.record_round, 0

    def record(network, seen, data, layers, attribute):
        nonlocal count
        folder = dumps / str(count // 2)
        number, count = count % 2 + 1, count + 1
        states = {f"round-{number}/global": seen.start, f"round-{number + 1}/global": seen.end}
        states |= {f"round-{number}/client-{k}": state for k, state in seen.uploads.items()}
        for name, state in states.items():
            save_whole(folder / f"{name}.safetensors", state)
        return real(network, seen, data, layers, attribute)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record_rounds, "record_round", record)
        train.main(toy(run, FEDERATION))
    for number, name in enumerate(RunFolder(run).read().names):
        holder = load_file(RunFolder(run).clients(name))["holder"].numpy()
        np.savez(dumps / str(number) / "holders.npz", holder=holder)
    return RunFolder(run), dumps


@pytest.mark.fleet
def test_a_dump_of_our_own_federations_is_their_own_record(trained, tmp_path, capsys):
    run, dumps = trained
    shadows, target = [str(dumps / str(number)) for number in range(4)], str(dumps / "4")
    output = tmp_path / "rounds"
    options = ["--model.network", "mlp", "--model.network_args.widths", "[16]", *DATA]
    options += ["--output", str(output)]
    main([target, "--shadows", *shadows, *options])
    assert f"audit.py --signals {output} --run_dir FOLDER" in capsys.readouterr().out
    for name in run.read().names:
        theirs = output / "federations" / str(name) / "rounds"
        for number in (1, 2):
            own = load_file(run.round(name, number))
            other = load_file(theirs / f"0{number}.safetensors")
            # a dump does not say which client attacks
            assert {key for key in own if not key.startswith("others_")} == other.keys()
            assert all(torch.equal(own[key], other[key]) for key in other)
    ours, imported = gather(run, allow_partial=False), gather_external(output)
    assert torch.equal(imported.game.members, ours.game.members)
    assert imported.facts["clients"] == ours.facts["clients"]
    torch.testing.assert_close(
        imported.game.signals["full"].phi[..., :], ours.game.signals["full"].phi[..., :]
    )
    for threat in ("server", "client"):
        # by the same cases: here each shadow is attacked, too, without its partner
        game = ours.game._replace(cases=imported.game.cases)
        assert find_federated_leak(game, threat) == find_federated_leak(imported.game, threat)


@pytest.fixture(scope="module")
def table(tmp_path_factory, write_dump):
    """A table of 96 examples, and two federations of six clients on it."""
    folder, rng = tmp_path_factory.mktemp("table"), np.random.default_rng(0)
    features = rng.normal(size=(120, 4)).astype(np.float32)
    labels = rng.integers(2, size=120)
    splits = {"x": features[:96], "y": labels[:96], "x_test": features[96:], "y_test": labels[96:]}
    np.savez(folder / "table.npz", **splits)
    for seed in (0, 1):
        tensors = (torch.from_numpy(splits[key]) for key in ("x", "y"))
        write_dump(folder / f"federation-{seed}", *tensors, BUILD, seed=seed)
    return folder


def arguments(table, output, *names, network="mlp"):
    dumps = [str(table / name) for name in names or ("federation-0",)]
    options = ["--model.network", network, "--model.network_args.widths", "[8]"]
    data = ["--data", "Arrays", "--data.file", str(table / "table.npz")]
    scaling = ["--data.mean", "[0]", "--data.std", "[1]"]
    return [*dumps, *options, *data, *scaling, "--output", str(output)]


def test_one_federation_is_audited_by_its_peers_alone(table, tmp_path):
    main(arguments(table, tmp_path / "rounds"))
    audit(["--signals", str(tmp_path / "rounds"), "--run_dir", str(tmp_path / "out")])
    results = json.loads((tmp_path / "out" / "audit" / "results.json").read_text())
    leaks = {key: results["findings"][f"federated_{key}"] for key in ("server", "client")}
    known = {row["knowledge"] for row in leaks["server"]["rows"]}
    assert known == {"none", "peers"}
    assert {row["knowledge"] for row in leaks["client"]["rows"]} == {"none"}
    assert leaks["server"]["clients"] == 6
    assert results["basis"]["clients"] == "6 of each model; recorded rounds: 1, 2"


def test_a_client_whose_upload_is_not_finite_is_named_and_left_out(
    table, tmp_path, write_dump, capsys
):
    broken = tmp_path / "broken"
    arrays = np.load(table / "table.npz")
    tensors = (torch.from_numpy(arrays[key]) for key in ("x", "y"))
    write_dump(broken, *tensors, BUILD)
    state = load_file(broken / "round-0002" / "client-003.safetensors")
    save_whole(
        broken / "round-0002" / "client-003.safetensors",
        state | {"fc.bias": torch.full((2,), torch.nan)},
    )
    main(arguments(table, tmp_path / "rounds", broken))
    assert "client 3 uploaded weights that are not finite in round 2" in capsys.readouterr().err
    evidence = gather_external(tmp_path / "rounds")
    sentence = "target-000 left out uploads that were not finite: client 3 in 1 round. Lower"
    assert any(sentence in line for line in evidence.left_out)
    absent = evidence.game.rounds.uploads["phi"].isnan().all(-1)
    assert absent.nonzero().tolist() == [[0, 1, 3]]
    for client in range(6):
        path = broken / "round-0002" / f"client-00{client}.safetensors"
        save_whole(path, state | {"fc.bias": torch.full((2,), torch.inf)})
    with pytest.raises(SystemExit, match=r"No upload of round 2 .* is finite"):
        main(arguments(table, tmp_path / "rounds", broken))
    save_whole(
        broken / "round-0001" / "global.safetensors", {k: v * torch.nan for k, v in state.items()}
    )
    with pytest.raises(SystemExit, match=r"round-0001/global.safetensors must hold finite weights"):
        main(arguments(table, tmp_path / "rounds", broken))


def test_what_does_not_fit_together_is_refused(table, tmp_path, write_dump, capsys):
    output = tmp_path / "rounds"
    with pytest.raises(SystemExit, match=r"`--shadows` must be 4 federations or more.*got 1"):
        main([*arguments(table, output), "--shadows", str(table / "federation-1")])
    with pytest.raises(SystemExit, match=r"`--clients` must be 6 or more.*got 5"):
        main([*arguments(table, output), "--clients", "5"])
    digits = write_dump(tmp_path / "digits", torch.randn(64, 4), torch.arange(64) % 2, BUILD)
    with pytest.raises(SystemExit, match=r"must hold the weights of network convnet, but"):
        main([str(digits), "--model.network", "convnet", *DATA, "--output", str(output)])
    with pytest.raises(SystemExit, match=r"each of the 96 examples of the data.*got 64"):
        main(arguments(table, output, digits))
    assert not output.exists()
    arrays = np.load(table / "table.npz")
    few = write_dump(
        tmp_path / "few", *(torch.from_numpy(arrays[key]) for key in ("x", "y")), BUILD, clients=3
    )
    holder = np.load(few / "holders.npz")["holder"]
    np.savez(few / "holders.npz", holder=np.where(holder == 2, 7, holder))
    with pytest.raises(SystemExit, match=r"name client 7, and clients 0 to 2 upload.*--clients 8"):
        main(arguments(table, output, few))
    main([*arguments(table, output, few), "--clients", "8"])
    told = " ".join(capsys.readouterr().err.split())
    assert "client 2, 3, 4, 5, 6 holds no example" in told
    assert "takes 5 uploads in every round, and one has 3" in told
