import math
import os
import stat

import pytest
import torch
from safetensors.torch import load_file

from storage.files import as_unicode, save_whole, write_csv, write_text, write_whole


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


def test_text_is_utf_8_with_the_line_ends_that_it_has(tmp_path):
    write_text(tmp_path / "text", "0.65 \N{PLUS-MINUS SIGN} 0.02\r\n\u4e2d\n")
    assert (tmp_path / "text").read_bytes() == b"0.65 \xc2\xb1 0.02\r\n\xe4\xb8\xad\n"


def test_a_name_that_the_locale_cannot_decode_is_read_as_utf_8(tmp_path):
    in_ascii = "caf\u00e9".encode().decode("ascii", "surrogateescape")  # what the C locale gives
    assert as_unicode(in_ascii) == "caf\u00e9"
    assert as_unicode(b"caf\xe9".decode("ascii", "surrogateescape")) == "caf\ufffd"  # Latin-1
    assert as_unicode("caf\u00e9 \u4e2d") == "caf\u00e9 \u4e2d"
    write_text(tmp_path / "text", in_ascii)
    assert (tmp_path / "text").read_bytes() == b"caf\xc3\xa9"


def test_an_unknown_number_is_an_empty_cell(tmp_path):
    lines = [{"a": 1, "b": 'x, "\u00b1"'}, {"a": None, "b": "\n"}, {"a": math.nan, "b": ""}]
    write_csv(tmp_path / "lines.csv", lines)
    content = b'a,b\r\n1,"x, ""\xc2\xb1"""\r\n,"\n"\r\n,\r\n'
    assert (tmp_path / "lines.csv").read_bytes() == content


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
