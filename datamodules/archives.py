"""Published archives of data sets: found, checked, and downloaded once."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock
from torchvision.datasets.utils import check_integrity


class Archive(NamedTuple):
    """A published file and its path on disk."""

    url: str
    path: Path
    md5: str


def obtain(
    name: str,
    archives: Sequence[Archive],
    ready: Callable[[], bool],
    fetch: Callable[..., Any],
    download: bool,
) -> None:
    """Make sure that a data set is on disk and whole, with several processes at once.

    Args:
        name: name of the data set, for errors.
        archives: the files that it consists of, in one folder.
        ready: whether the data set can be read.
        fetch: torchvision's function that downloads an archive to a folder and may unpack it; it
            keeps a file with the right checksum, so it also unpacks one that was copied by hand.
        download: whether to use the network.

    Raises:
        FileNotFoundError: an archive is missing or damaged, and downloading is off or failed.
    """
    if ready():
        return
    lacking = [archive for archive in archives if not check_integrity(archive.path, archive.md5)]
    if lacking and not download:
        raise FileNotFoundError(
            f"No {name} in {archives[0].path.parent.resolve()}: {_state(lacking)}. "
            f"Pass `--data.download true`, or offline {_by_hand(lacking)}."
        )
    folder = archives[0].path.parent
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".download.lock"):
        if ready():  # another process fetched it while this one waited
            return
        try:
            for archive in archives:
                fetch(archive.url, str(folder), filename=archive.path.name, md5=archive.md5)
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(
                f"Could not fetch {name}: {error}. Try again, or {_by_hand(archives)}."
            ) from error


def _state(lacking: Sequence[Archive]) -> str:
    return ", ".join(
        f"{archive.path.name} is {'damaged' if archive.path.exists() else 'missing'}"
        for archive in lacking
    )


def _by_hand(lacking: Sequence[Archive]) -> str:
    urls = " and ".join(archive.url for archive in lacking)
    return f"fetch {urls} elsewhere and copy it to {lacking[0].path.parent.resolve()}"
