import os
import stat

import pytest
import torch
from safetensors.torch import load_file

from storage.files import save_whole, write_whole


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "new" / "file"

    def half(partial):
        partial.write_bytes(b"half")
        assert partial.parent == path.parent  # so that renaming is not copying
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, half)
    assert list(path.parent.iterdir()) == []
    stats = []
    write_whole(path, lambda partial: stats.append(partial.write_bytes(b"old") and partial.stat()))
    assert os.path.samestat(stats[0], path.stat())  # renamed, not copied
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, half)
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # Python 3.12
def test_a_kill_during_a_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    if (child := os.fork()) == 0:
        write_whole(path, lambda partial: partial.write_bytes(b"half") and os._exit(9))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.glob("*.partial")] == ["file.partial"]
    write_whole(path, lambda partial: partial.write_bytes(b"new"))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"file": b"new"}


def test_tensors_survive_and_the_file_has_ordinary_permissions(tmp_path, rng):
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
