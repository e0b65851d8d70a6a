"""Files of clients and rounds: what is read is what lies there, and what is wrong is named."""

import json
import re

import pytest
import torch
import yaml
from safetensors.torch import load_file

from attacks.rounds import NOBODY, SIGNALS
from storage.evidence import gather
from storage.files import save_whole
from storage.names import ModelName
from storage.rounds import read_rounds
from storage.run_folder import RunFolder

FIRST = ModelName("shadow", 0)


@pytest.fixture
def read(federated_run):
    """Read every model of the run."""

    def call():
        members = federated_run.membership()
        return read_rounds(federated_run, members, list(members))

    return call


@pytest.fixture
def change(federated_run):
    """Replace tensors of the first model's file of a round."""

    def call(number, **tensors):
        path = federated_run.round(FIRST, number)
        content = load_file(path) | tensors
        save_whole(path, {key: tensor for key, tensor in content.items() if tensor is not None})

    return call


def test_every_number_of_the_files_is_in_its_place(federated_run, read, change):
    """Clients 1 and 3 alone took part in round 2 of the first federation, and nobody in round 4."""
    change(2, participants=torch.tensor([1, 3]), **{
        name: torch.randn(2, 240, generator=torch.Generator().manual_seed(1)) for name in SIGNALS
    })  # fmt: skip
    change(4, participants=torch.zeros(0).long(), **{n: torch.zeros(0, 240) for n in SIGNALS})
    rounds = read()
    assert rounds.done == [2, 4]
    assert rounds.uploads["phi"].shape == (8, 2, 5, 240)
    for row, name in enumerate(federated_run.read().names):
        holder = load_file(federated_run.clients(name))["holder"]
        assert torch.equal(rounds.holder[row], holder.long())
        for place, number in enumerate((2, 4)):
            stored = load_file(federated_run.round(name, number))
            for signal in SIGNALS:
                found = rounds.uploads[signal][row, place]
                expected = torch.full((5, 240), torch.nan)
                for upload, client in enumerate(stored["participants"].tolist()):
                    expected[client] = stored[signal][upload]
                assert torch.equal(found.nan_to_num(-9), expected.nan_to_num(-9))
                assert torch.equal(
                    rounds.aggregates[signal][row, place], stored[f"global_{signal}"]
                )


def test_what_a_client_sees_without_itself_is_read_if_every_file_has_it(federated_run, read):
    """Folders from before have none, and a federation alone has no reference."""
    assert read().others is None
    drawn = torch.Generator().manual_seed(3)
    for name in federated_run.read().names:
        for number in (2, 4):
            path = federated_run.round(name, number)
            more = {f"others_{s}": torch.randn(240, generator=drawn) for s in SIGNALS}
            save_whole(path, load_file(path) | more)
    rounds = read()
    for row, name in enumerate(federated_run.read().names):
        stored = load_file(federated_run.round(name, 4))
        assert torch.equal(rounds.others["cosine"][row, 1], stored["others_cosine"])
    chosen = torch.tensor([3, 5])
    assert torch.equal(rounds.on(chosen).others["phi"], rounds.others["phi"][..., chosen])
    path = federated_run.round(FIRST, 2)
    content = load_file(path)
    save_whole(path, content | {"others_phi": torch.zeros(5, 240)})
    with pytest.raises(ValueError, match=r"`others_phi` in .* must have shape \[240\]"):
        read()
    save_whole(path, {k: v for k, v in content.items() if not k.startswith("others")})
    assert read().others is None


def test_models_that_no_audit_reads_may_lack_everything(federated_run):
    members = federated_run.membership()
    federated_run.clients(FIRST).unlink()
    rounds = read_rounds(federated_run, members, [name for name in members if name != FIRST])
    assert rounds.uploads["phi"][0].isnan().all()
    assert (rounds.holder[0] == NOBODY).all()


def test_models_without_clients_have_no_rounds(make_run):
    run = make_run()
    assert read_rounds(run, run.membership(), []) is None
    assert gather(run, False).game.rounds is None


def test_a_missing_file_is_named(federated_run, read):
    path = federated_run.round(FIRST, 4)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{re.escape(str(path))} is missing.*Run train.py"):
        read()


def test_a_damaged_file_is_named(federated_run, read):
    path = federated_run.round(FIRST, 4)
    path.write_bytes(path.read_bytes()[:99])
    with pytest.raises(ValueError, match=r"04.safetensors is not a whole file.*--repair"):
        read()


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"cosine": None}, r"04.safetensors lacks cosine\. Run train.py again"),
        ({"phi": torch.zeros(5, 239)}, r"`phi` in .* must have shape \[5, 240\], got \[5, 239\]"),
        ({"global_phi": torch.zeros(5, 240)}, r"`global_phi` .* shape \[240\], got \[5, 240\]"),
        ({"gradient": torch.zeros(4, 240)}, r"`gradient` in .* must have shape \[5, 240\]"),
        ({"participants": torch.tensor([0, 1, 2, 3, 5])}, "numbers of 5 clients, got .0, 1, 2, 3"),
        ({"participants": torch.tensor([1, 0, 2, 3, 4])}, "must be ascending numbers"),
        ({"participants": torch.tensor(3)}, "must be ascending numbers of 5 clients, got 3"),
        ({"phi": torch.full((5, 240), torch.inf)}, "must be finite, got 1200 numbers that are not"),
    ],
    ids=lambda value: str(value)[:24] if isinstance(value, str) else "-".join(value),
)
def test_a_file_with_other_content_is_refused(read, change, tensors, told):
    change(4, **tensors)
    with pytest.raises(ValueError, match=told):
        read()


def test_clients_that_hold_other_examples_are_refused(federated_run, read):
    path = federated_run.clients(FIRST)
    holder = load_file(path)["holder"]
    save_whole(path, {"holder": holder.roll(1)})
    with pytest.raises(ValueError, match="hold other examples than membership"):
        read()
    save_whole(path, {"holder": holder.where(holder != 4, 7)})
    with pytest.raises(
        ValueError, match=r"one of 5 clients for each of 240 examples, got .* up to 7"
    ):
        read()


def test_shadows_of_another_experiment_bring_their_rounds(federated_run, federations):
    game = gather(federated_run, False, federations).game
    assert torch.equal(game.other_rounds.uploads["phi"], game.rounds.uploads["phi"])


def test_rounds_at_other_times_attack_nobody_and_it_is_said(federated_run, federations, tmp_path):
    text = yaml.safe_load(federated_run.experiment_file.read_text())
    text["config"]["federated"]["record"] = [4]
    federated_run.experiment_file.write_text(yaml.safe_dump(text))
    evidence = gather(federated_run, False, RunFolder(federations.path))
    assert evidence.game.other_rounds is None
    assert (
        "The rounds of federations attack nobody: it recorded rounds 2, 4 and federations rounds "
        "4. Pass the same `--federated.record` to both." in evidence.left_out
    )


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ({"cosine": "all"}, "its `federated.cosine` is all and that of federations is last."),
        ({"adversary": "ascent"}, "its `federated.adversary` is ascent and that of federations is"),
    ],
)
def test_rounds_of_another_kind_attack_nobody(federated_run, federations, tmp_path, option, told):
    text = yaml.safe_load(federated_run.experiment_file.read_text())
    text["config"]["federated"] |= option
    federated_run.experiment_file.write_text(yaml.safe_dump(text))
    evidence = gather(RunFolder(federations.path), False, federated_run)
    assert evidence.game.other_rounds is None
    assert any(told in sentence for sentence in evidence.left_out)


def test_a_malicious_experiment_says_so(federated_run):
    text = yaml.safe_load(federated_run.experiment_file.read_text())
    text["config"]["federated"] |= {"adversary": "isolate", "strength": 0.5}
    federated_run.experiment_file.write_text(yaml.safe_dump(text))
    evidence = gather(federated_run, False)
    assert evidence.facts["adversary"] == "isolate, strength 0.5"
    assert evidence.game.rounds.adversary == "isolate"


def test_uploads_that_training_left_out_are_named(federated_run):
    """Once for each model, with their rounds counted; bytes are the mean over audited models."""
    names = federated_run.read().names
    for place, name in enumerate(names):
        broken = {"2": [3], "4": [1, 3]} if place == 1 else {}
        facts = {"bytes": [1000 + place, 3000 + place], "left_out": broken}
        federated_run.record(name, "full").write_text(json.dumps(facts))
    evidence = gather(federated_run, False)
    told = [sentence for sentence in evidence.left_out if "not finite" in sentence]
    assert told == [
        "shadow-001 left out uploads that were not finite: client 1 in 1 round, client 3 in 2 "
        "rounds. Lower `--model.lr` if there are many."
    ]
    assert evidence.facts["clients"] == "5 of each model; recorded rounds: 2, 4"
    assert evidence.facts["uploads"] == "2,004 bytes per round, of all clients together"
