"""What an audit leaves in a run folder, read and written."""

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from lightning_modules.run_folder import RunFolder
from lightning_modules.whole import write_whole

RESULTS = "results.json"  # written last, so that with it all are there


def write_csv(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write lines that have the same fields."""

    def write(partial: Path) -> None:
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)

    write_whole(path, write)


def digest_inputs(config: Namespace) -> str:
    """Fingerprint of all that the results follow from: signals, records, options and the code.

    Raises:
        FileNotFoundError: there is no experiment in the folder.
    """
    here = Path(__file__).parents[1]
    packages = (here / name for name in ("attacks", "lightning_modules"))
    code = [
        here / "audit.py",
        *(file for package in packages for file in sorted(package.glob("*.*"))),
    ]
    digest = hashlib.sha256(repr((config.attacks, config.partial)).encode())
    if config.signals is not None:
        path: Path = config.signals
        files = sorted(path.rglob("*.npy")) if path.is_dir() else [path]
    else:
        run = RunFolder(config.run_dir)
        places = run.read().get("places", {})
        digest.update(repr([Path(place).exists() for place in places.values()]).encode())
        for path in (run.experiment_file, run.membership_file):
            digest.update(path.read_bytes())  # not their times: train.py rewrites them
        files = [*run.path.glob("models/*/signals/*"), *run.path.glob("models/*/*.json")]
    for path in [*code, *sorted(files)]:
        if path.exists():
            state = path.stat()
            digest.update(f"{path} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def is_done(folder: Path, digest: str) -> bool:
    """Whether the folder holds the audit of exactly these inputs."""
    if not (folder / RESULTS).exists():
        return False
    results = json.loads((folder / RESULTS).read_text())
    same: bool = results["inputs"] == digest
    return same and all((folder / name).exists() for name in results["files"])


def read_audits(folders: Sequence[Path], needed: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The audits of several run folders, by names that tell them apart.

    Raises:
        FileNotFoundError, ValueError: as `name_apart` and `read_results`.
    """
    names = name_apart(folders)
    return {name: read_results(some, needed) for name, some in zip(names, folders, strict=True)}


def read_results(run_dir: Path, needed: Iterable[str]) -> dict[str, Any]:
    """The audit of a run folder.

    Args:
        run_dir: the experiment's folder.
        needed: fields that every row must have.

    Raises:
        FileNotFoundError: there is no audit in the folder.
        ValueError: the file is damaged, or an older version wrote it without such a field.
    """
    path, again = run_dir / "audit" / RESULTS, f"`python audit.py --run_dir {run_dir}`"
    if not path.exists():
        raise FileNotFoundError(f"No audit in {run_dir}: no audit/{RESULTS} there. Run {again}.")
    try:
        results = json.loads(path.read_text())
    except ValueError as error:
        results = error
    if not isinstance(results, dict):
        raise ValueError(f"{path} is damaged ({results}). Delete it and run {again}.")
    rows = results.get("rows") or [{}]
    lacking = [key for key in ("experiment", "basis", "files", "tables") if key not in results]
    lacking += [key for key in needed if any(key not in row for row in rows)]
    if lacking:
        raise ValueError(
            f"{path} lacks {', '.join(lacking)}: an older version wrote it. Run {again} again."
        )
    return results


def name_apart(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the folders' paths, as many parts for each, that are all different.

    Raises:
        ValueError: fewer than two folders, or the same one twice.
    """
    whole = [folder.resolve() for folder in folders]
    if len(whole) < 2:
        raise ValueError(
            f"A comparison needs two run folders or more, got {len(whole)}. Name another one."
        )
    twice = [folder for folder in whole if whole.count(folder) > 1]
    if twice:
        raise ValueError(f"{twice[0]} is there twice. Name each run folder once.")
    names = (["/".join(path.parts[-parts:]) for path in whole] for parts in count(1))
    return next(some for some in names if len(set(some)) == len(some))
