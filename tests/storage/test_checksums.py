import random
import subprocess

import pytest
import torch

from storage.checksums import SUMS, break_seals, changed, damaged, is_sealed, remove, seal
from storage.files import save_whole


@pytest.fixture
def model(tmp_path, rng):
    """The folder of a model with weights, a record, signals and a checkpoint, and no checksums."""
    for name in ("full", "nearest-w2", "signals/full"):
        tensors = {"weight": torch.randn(30, generator=rng)}
        save_whole(tmp_path / f"{name}.safetensors", tensors)
    for name in ("nearest-w2", "full"):
        (tmp_path / f"{name}.json").write_text('{"seconds": 1}')
    (tmp_path / "progress.json").write_text("{}")
    torch.save({"epoch": torch.zeros(100)}, tmp_path / "last.ckpt")
    return tmp_path


FILES = ["full.json", "full.safetensors", "nearest-w2.json", "nearest-w2.safetensors"]
FILES += ["signals/full.safetensors"]


def test_sha256sum_of_coreutils_accepts_the_checksums(model):
    assert not is_sealed(model, [model / "full.safetensors"])
    seal(model)
    assert is_sealed(model, [model / file for file in FILES])
    assert not is_sealed(model, [model / "progress.json"])  # it changes while a model is trained
    check = ["sha256sum", "--check", "--strict", "--quiet", SUMS]
    assert subprocess.run(check, cwd=model).returncode == 0
    assert len((model / SUMS).read_text().splitlines()) == 5
    assert damaged(model) == []


@pytest.mark.parametrize("variant", ["epoch-05", "round-03", "task-2", "mine.rounding-w3"])
def test_the_record_of_every_kind_of_variant_has_a_checksum(model, variant):
    """But not one without weights, which a kill has left, nor the progress."""
    record = model / f"{variant}.json"
    record.write_text("{}")
    seal(model)
    assert not is_sealed(model, [record])
    save_whole(model / f"{variant}.safetensors", {"weight": torch.ones(1)})
    seal(model)
    assert is_sealed(model, [record])
    record.write_text("{ }")
    assert damaged(model) == [record]


def test_sealing_again_keeps_the_first_checksum(model):
    seal(model)
    before = (model / SUMS).read_text()
    (model / "full.safetensors").write_bytes(b"other")
    seal(model)
    assert (model / SUMS).read_text() == before
    assert damaged(model) == [model / "full.safetensors"]
    assert changed(model, [model / "full.safetensors", model / FILES[0]]) == [model / FILES[1]]
    assert changed(model, [model / "nearest-w2.json"]) == []


@pytest.mark.parametrize("file", [*FILES, "last.ckpt"])
def test_a_flipped_bit_is_found(model, file):
    seal(model)
    path, rng = model / file, random.Random(0)
    content = path.read_bytes()
    size = len(content)
    for byte in range(size) if size < 100 else rng.sample(range(size), 60):
        path.write_bytes(content[:byte] + bytes([content[byte] ^ 4]) + content[byte + 1 :])
        if file != "last.ckpt":
            assert damaged(model) == [path]
        elif damaged(model) == []:  # some bytes of a zip archive mean nothing
            assert torch.equal(torch.load(path)["epoch"], torch.zeros(100))
    path.write_bytes(content)
    assert damaged(model) == []


@pytest.mark.parametrize("file", ["full.safetensors", "signals/full.safetensors", "last.ckpt"])
def test_a_truncated_file_is_found_without_a_checksum(model, file):
    path = model / file
    for length in (0, 1, 7, path.stat().st_size // 2, path.stat().st_size - 1):
        path.write_bytes(path.read_bytes()[:length] or b"")
        assert damaged(model) == [path]


def test_files_that_will_be_made_again_lose_their_checksums(model):
    seal(model)
    (model / "nearest-w2.safetensors").unlink()
    (model / "last.ckpt").unlink()
    assert damaged(model) == []  # missing is not damaged
    break_seals(model)
    assert is_sealed(model, [model / "full.safetensors", model / "signals/full.safetensors"])
    assert not is_sealed(model, [model / "nearest-w2.json"])  # its seconds will differ
    save_whole(model / "nearest-w2.safetensors", {})
    (model / "nearest-w2.json").write_text('{"seconds": 2}')
    seal(model)
    assert damaged(model) == []


@pytest.mark.parametrize("both", [False, True])
def test_removing_a_damaged_record_removes_its_weights(model, both):
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
def test_a_damaged_list_of_checksums_is_made_again(model, content):
    seal(model)
    before = (model / SUMS).read_text()
    (model / SUMS).write_text(before.splitlines()[0] + "\n" + content)
    assert damaged(model) == [model / SUMS]
    remove(model, damaged(model))
    seal(model)
    assert (model / SUMS).read_text() == before


def test_a_file_without_read_permission_is_not_called_damaged(model, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("a colleague's")

    monkeypatch.setattr("storage.checksums.zipfile.ZipFile", refuse)
    with pytest.raises(PermissionError, match="a colleague's"):
        damaged(model)
