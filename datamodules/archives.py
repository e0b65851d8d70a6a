"""Archives that data sets are published as: found, checked, fetched once."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock
from torchvision.datasets.utils import check_integrity


class Archive(NamedTuple):
    """A published file, and where below the data root it belongs."""

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
    """Make sure that a data set is on disk and whole, whichever process comes first.

    Args:
        name: the data set, for errors.
        archives: what it consists of.
        ready: whether the data set can be read.
        fetch: torchvision's function that makes an archive of a URL ready in a folder; it keeps
            a file that has the right checksum, so that it also unpacks what was copied here.
        download: whether it may use the network.

    Raises:
        FileNotFoundError: an archive is missing or damaged and may not, or could not, be fetched.
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
