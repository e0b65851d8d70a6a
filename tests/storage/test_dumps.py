"""Dumps of other frameworks' servers: how they are laid out, and what is refused of them."""

from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lightning_modules.architectures import mlp
from storage.dumps import check_shapes, check_together, is_finite, read_dump, read_shapes
from storage.files import save_whole

BUILD = partial(mlp, 2, (3,), [4])


@pytest.fixture
def dump(write_dump, tmp_path, rng):
    """A federation of two clients over two rounds."""
    features = torch.randn(12, 3, generator=rng)
    return write_dump(tmp_path / "one", features, torch.arange(12) % 2, BUILD, clients=2)


def expected():
    return {key: tuple(value.shape) for key, value in BUILD().state_dict().items()}


def test_a_dump_names_its_rounds_clients_and_files(dump):
    (dump / "round-0001" / "client-000.safetensors").rename(
        dump / "round-0001" / "client-11.safetensors"
    )
    (dump / "round-0002").rename(dump / "round-2")  # zeros or none
    (dump / "notes.txt").touch()
    read = read_dump(dump)
    assert read.rounds == [1, 2]
    assert {n: list(clients) for n, clients in read.uploads.items()} == {1: [1, 11], 2: [0, 1]}
    assert read.holder.tolist() == [0, -1, 1, -1] * 3
    assert read.end == dump / "round-0003" / "global.safetensors"
    files = [file.relative_to(dump).as_posix() for file in read.files()]
    assert files == [
        *(f"round-{n}/global.safetensors" for n in ("0001", "2", "0003")),
        *(f"round-0001/client-{n}.safetensors" for n in ("001", "11")),
        *(f"round-2/client-{n}.safetensors" for n in ("000", "001")),
    ]
    check_shapes([read], expected(), "mlp")


def test_a_round_whose_uploads_were_taken_away_is_not_recorded(dump):
    for file in (dump / "round-0001").glob("client-*"):
        file.unlink()
    assert read_dump(dump).rounds == [2]


def test_holders_may_be_safetensors(dump):
    before = read_dump(dump).holder
    (dump / "holders.npz").unlink()
    save_whole(dump / "holders.safetensors", {"holder": before.to(torch.int32)})
    assert torch.equal(read_dump(dump).holder, before)


def test_shapes_are_read_without_the_tensors(dump):
    assert read_shapes(next(read_dump(dump).files())) == expected()


def test_what_is_not_finite_is_found():
    assert is_finite({"a": torch.ones(2), "count": torch.tensor(3)})
    assert not is_finite({"a": torch.ones(2), "b": torch.tensor([1.0, torch.inf])})


def remove(name):
    return lambda dump: (dump / name).unlink()


def rename(old, new):
    return lambda dump: (dump / old).rename(dump / new)


def hold(holder):
    return lambda dump: np.savez(dump / "holders.npz", **holder)


BROKEN = {
    "no uploads": (
        lambda dump: [file.unlink() for file in dump.glob("*/client-*")],
        "must have a round with uploads",
    ),
    "missing round": (
        remove("round-0002/global.safetensors"),
        r"round-0002/global.safetensors is missing, the global weights after round 1",
    ),
    "missing end": (
        remove("round-0003/global.safetensors"),
        r"round-0003/global.safetensors is missing, the global weights after round 2",
    ),
    "unknown file": (
        rename("round-0001/client-001.safetensors", "round-0001/site-1.safetensors"),
        r"must have global.safetensors and client-000.safetensors, got site-1.safetensors",
    ),
    "unknown folder": (rename("round-0001", "epoch-1"), "folders such as round-0001, got epoch-1"),
    "client twice": (
        lambda dump: (dump / "round-0001" / "client-1.safetensors").touch(),
        "each number once, got client-001.safetensors and client-1.safetensors",
    ),
    "no holders": (remove("holders.npz"), "must have one of holders.npz and holders.safetensors"),
    "damaged holders": (
        lambda dump: (dump / "holders.npz").write_bytes(b"PK"),
        "must hold integers, got",
    ),
    "no holder": (hold({"owners": np.arange(3)}), r"must hold `holder`.*got `owners` torch.int64"),
    "floats": (hold({"holder": np.ones(3)}), r"got `holder` torch.float64 \[3\]"),
    "table": (hold({"holder": np.ones((3, 2), int)}), r"got `holder` torch.int64 \[3, 2\]"),
    "no non-member": (hold({"holder": np.arange(3)}), "both of them, got 0 to 2"),
    "no member": (hold({"holder": np.array([-1, -1])}), "both of them, got -1 to -1"),
    "below -1": (hold({"holder": np.array([-2, 1])}), "both of them, got -2 to 1"),
}


@pytest.mark.parametrize(("breaks", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_dump_that_is_laid_out_wrongly_is_refused(dump, breaks, message):
    breaks(dump)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_dump(dump)


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No folder .*nowhere"):
        read_dump(tmp_path / "nowhere")


def test_files_of_two_architectures_are_both_named(dump):
    path = dump / "round-0002" / "client-001.safetensors"
    save_whole(path, mlp(2, (3,), [5]).state_dict())
    message = (
        r"client-001.safetensors is of another architecture than .*round-0001/global.safetensors: "
        r"`layer1.0.weight` is \[5, 3\] in it and \[4, 3\] there, and 2 more tensors differ"
    )
    with pytest.raises(ValueError, match=message):
        check_shapes([read_dump(dump)], expected(), "mlp")


def test_a_dump_of_another_network_is_refused(dump):
    shapes = {key: tuple(v.shape) for key, v in nn.Linear(3, 2).state_dict().items()}
    with pytest.raises(ValueError, match=r"network mine, but `weight` is missing in it and \[2, 3"):
        check_shapes([read_dump(dump)], shapes, "mine")


def test_a_damaged_file_is_named(dump):
    (dump / "round-0001" / "client-001.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"client-001.safetensors is not a whole safetensors file"):
        check_shapes([read_dump(dump)], expected(), "mlp")


def test_federations_need_the_same_rounds_and_examples(dump, write_dump, tmp_path, rng):
    features = torch.randn(16, 3, generator=rng)
    labels = torch.arange(16) % 2
    longer = write_dump(tmp_path / "longer", features[:12], labels[:12], BUILD, 2, rounds=3)
    with pytest.raises(ValueError, match=r"round 3 is in .*longer and missing in .*one"):
        check_together([read_dump(dump), read_dump(longer)])
    larger = write_dump(tmp_path / "larger", features, labels, BUILD, 2)
    with pytest.raises(ValueError, match=r"holders of 12 in .*one and 16 in .*larger"):
        check_together([read_dump(dump), read_dump(larger)])
    assert load_file(longer / "round-0004" / "global.safetensors").keys() == expected().keys()
