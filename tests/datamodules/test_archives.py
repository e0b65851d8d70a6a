import hashlib
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from datamodules.archives import Archive, obtain


@pytest.fixture
def archive(tmp_path):
    return Archive(
        "http://host/a.zip", tmp_path / "data" / "a.zip", hashlib.md5(b"whole").hexdigest()
    )


def test_several_processes_download_once(archive):
    fetched = []

    def fetch(url, folder, filename, md5):
        time.sleep(0.1)
        fetched.append((url, folder, filename, md5))
        archive.path.write_bytes(b"whole")

    with ThreadPoolExecutor(4) as processes:  # a file lock excludes threads as it does processes
        for _ in range(4):
            processes.submit(obtain, "A", [archive], archive.path.exists, fetch, True)
    assert fetched == [(archive.url, str(archive.path.parent), "a.zip", archive.md5)]


@pytest.mark.parametrize(("content", "state"), [(None, "missing"), (b"half", "damaged")])
def test_without_download_the_error_names_the_ways_out(archive, content, state):
    if content:
        archive.path.parent.mkdir()
        archive.path.write_bytes(content)
    with pytest.raises(FileNotFoundError) as error:
        obtain("A", [archive], lambda: False, pytest.fail, False)
    assert str(error.value) == (
        f"No A in {archive.path.parent}: a.zip is {state}. Pass `--data.download true`, or offline "
        f"fetch http://host/a.zip elsewhere and copy it to {archive.path.parent}."
    )
    assert archive.path.parent.exists() == bool(content)  # asking creates nothing


def test_a_whole_archive_is_unpacked_without_download(archive):
    archive.path.parent.mkdir()
    archive.path.write_bytes(b"whole")
    fetched = []
    obtain("A", [archive], lambda: False, lambda *_, **__: fetched.append(1), False)
    assert fetched == [1]


def test_a_data_set_that_is_ready_is_not_touched(archive):
    obtain("A", [archive], lambda: True, pytest.fail, True)
    assert not archive.path.parent.exists()


@pytest.mark.parametrize("failure", [OSError("no route to host"), RuntimeError("no mirror")])
def test_a_failed_download_says_what_to_do(archive, failure):
    def fetch(*_, **__):
        raise failure

    with pytest.raises(
        FileNotFoundError, match=f"Could not fetch A: {failure}. Try again, or fetch"
    ):
        obtain("A", [archive], lambda: False, fetch, True)
