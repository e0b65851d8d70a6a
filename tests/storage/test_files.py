import os
import random
import stat
import subprocess

import pytest
import torch
from safetensors.torch import load_file

from storage.checksums import SUMS, break_seals, changed, damaged, is_sealed, remove, seal
from storage.files import save_whole, write_whole


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "new" / "file"

    def half(partial):
        partial.write_bytes(b"half")
        assert partial.parent == path.parent  # so that renaming is no copy
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, half)
    assert list(path.parent.iterdir()) == []
    written = []
    write_whole(
        path, lambda partial: written.append(partial.write_bytes(b"old") and partial.stat())
    )
    assert os.path.samestat(written[0], path.stat())  # renamed, not copied
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, half)
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # Python 3.12
def test_a_kill_while_writing_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    if (child := os.fork()) == 0:
        write_whole(path, lambda partial: partial.write_bytes(b"half") and os._exit(9))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.glob("*.partial")] == ["file.partial"]
    write_whole(path, lambda partial: partial.write_bytes(b"new"))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"file": b"new"}


def test_tensors_come_back_and_others_may_read_them(tmp_path, rng):
    tensors = {
        "strided": torch.randn(4, 6, generator=rng).t()[::2],
        "empty": torch.empty(0, 3),
        "bool": torch.tensor([True, False]),
    }
    path = tmp_path / "x.safetensors"
    save_whole(path, tensors)
    loaded = load_file(path)
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)
    (plain := tmp_path / "plain").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_tied_weights_are_stored_under_both_names(tmp_path):
    shared = torch.arange(6.0).reshape(2, 3)
    save_whole(tmp_path / "tied", {"first": shared, "second": shared.T})
    loaded = load_file(tmp_path / "tied")
    assert torch.equal(loaded["first"], shared)
    assert torch.equal(loaded["second"], shared.T)


@pytest.fixture
def model(tmp_path, rng):
    """A model's folder: weights, a record, signals and a checkpoint; without checksums."""
    for name in ("full", "nearest-w2", "signals/full"):
        tensors = {"weight": torch.randn(30, generator=rng)}
        save_whole(tmp_path / f"{name}.safetensors", tensors)
    (tmp_path / "nearest-w2.json").write_text('{"seconds": 1}')
    (tmp_path / "progress.json").write_text("{}")
    torch.save({"epoch": torch.zeros(100)}, tmp_path / "last.ckpt")
    return tmp_path


FILES = ["full.safetensors", "nearest-w2.json", "nearest-w2.safetensors"]
FILES += ["signals/full.safetensors"]


def test_checksums_are_those_of_coreutils(model):
    assert not is_sealed(model, [model / "full.safetensors"])
    seal(model)
    assert is_sealed(model, [model / file for file in FILES])
    assert not is_sealed(model, [model / "progress.json"])  # it will change
    check = ["sha256sum", "--check", "--strict", "--quiet", SUMS]
    assert subprocess.run(check, cwd=model).returncode == 0
    assert len((model / SUMS).read_text().splitlines()) == 4
    assert damaged(model) == []


def test_a_seal_is_of_the_first_content(model):
    seal(model)
    before = (model / SUMS).read_text()
    (model / "full.safetensors").write_bytes(b"other")
    seal(model)
    assert (model / SUMS).read_text() == before
    assert damaged(model) == [model / "full.safetensors"]
    assert changed(model, [model / "full.safetensors", model / FILES[1]]) == [model / FILES[0]]
    assert changed(model, [model / "nearest-w2.json"]) == []


@pytest.mark.parametrize("file", [*FILES, "last.ckpt"])
def test_every_bit_that_is_flipped_is_found(model, file):
    seal(model)
    path, rng = model / file, random.Random(0)
    content = path.read_bytes()
    places = range(len(content)) if len(content) < 100 else rng.sample(range(len(content)), 60)
    for place in places:
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        if file != "last.ckpt":
            assert damaged(model) == [path]
        elif damaged(model) == []:  # of a zip archive some bytes mean nothing
            assert torch.equal(torch.load(path)["epoch"], torch.zeros(100))
    path.write_bytes(content)
    assert damaged(model) == []


@pytest.mark.parametrize("file", ["full.safetensors", "signals/full.safetensors", "last.ckpt"])
def test_half_a_file_is_found_without_a_checksum(model, file):
    path = model / file
    for length in (0, 1, 7, path.stat().st_size // 2, path.stat().st_size - 1):
        path.write_bytes(path.read_bytes()[:length] or b"")
        assert damaged(model) == [path]


def test_what_will_be_made_again_loses_its_seal(model):
    seal(model)
    (model / "nearest-w2.safetensors").unlink()
    (model / "last.ckpt").unlink()
    assert damaged(model) == []  # missing is not damaged
    break_seals(model)
    assert is_sealed(model, [model / "full.safetensors", model / "signals/full.safetensors"])
    assert not is_sealed(model, [model / "nearest-w2.json"])  # its seconds will be others
    save_whole(model / "nearest-w2.safetensors", {})
    (model / "nearest-w2.json").write_text('{"seconds": 2}')
    seal(model)
    assert damaged(model) == []


@pytest.mark.parametrize("both", [False, True])
def test_a_damaged_record_takes_its_weights_along(model, both):
    seal(model)
    (model / "nearest-w2.json").write_text("{")
    if both:
        (model / "nearest-w2.safetensors").write_bytes(b"")
    remove(model, damaged(model))
    assert not (model / "nearest-w2.json").exists()
    assert not (model / "nearest-w2.safetensors").exists()
    assert (model / "full.safetensors").exists()
    assert damaged(model) == []
    (model / "nearest-w2.json").write_text('{"seconds": 3}')
    save_whole(model / "nearest-w2.safetensors", {})
    seal(model)
    assert damaged(model) == []


@pytest.mark.parametrize("content", ["x", "0" * 64, "0" * 64 + "  \n", "0" * 64 + "  /etc\n"])
def test_damaged_checksums_are_taken_again(model, content):
    seal(model)
    before = (model / SUMS).read_text()
    (model / SUMS).write_text(before.splitlines()[0] + "\n" + content)
    assert damaged(model) == [model / SUMS]
    remove(model, damaged(model))
    seal(model)
    assert (model / SUMS).read_text() == before


def test_a_file_that_cannot_be_read_is_not_called_damaged(model, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("a colleague's")

    monkeypatch.setattr("storage.files.zipfile.ZipFile", refuse)
    with pytest.raises(PermissionError, match="a colleague's"):
        damaged(model)
