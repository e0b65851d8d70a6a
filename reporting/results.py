"""What an audit leaves in a run folder, read and written."""

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from math import isfinite, isnan
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int64
from jsonargparse import Namespace
from torch import Tensor

from attacks.evaluate import Row
from attacks.findings import Findings
from attacks.metrics.intervals import Estimate
from storage.files import write_whole
from storage.records import Precision
from storage.run_folder import RunFolder

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


def exposure_lines(
    exposures: Mapping[str, Float[Tensor, " examples"]], labels: Int64[Tensor, " examples"] | None
) -> list[dict[str, Any]]:
    """A line an example: its position in the pool, its label if known, and its exposures."""
    columns = {variant: some.tolist() for variant, some in exposures.items()}
    if labels is not None:
        columns = {"label": labels.tolist()} | columns
    lines = zip(*columns.values(), strict=True)
    return [
        {"example": index} | dict(zip(columns, line, strict=True))
        for index, line in enumerate(lines)
    ]


def flatten(row: Row, precision: Precision, best: bool) -> dict[str, Any]:
    """One line of results.csv."""
    summary = row.summary._asdict()
    estimates = {"accuracy": precision.accuracy}
    estimates |= {key: value for key, value in summary.items() if isinstance(value, Estimate)}
    numbers = {
        f"{key}{'' if field == 'value' else f'_{field}'}": None if isnan(number) else number
        for key, estimate in estimates.items()
        for field, number in estimate._asdict().items()
    }
    counts = {key: value for key, value in summary.items() if key not in estimates}
    names = {"variant": row.variant, "knowledge": row.knowledge, "attack": row.attack}
    made = precision.made
    cost = {"bytes": precision.bytes or None, "seconds": made.seconds if made else None}
    return names | {"strongest": best} | numbers | counts | {"shadows": row.shadows} | cost


def flat(findings: Findings) -> Mapping[str, object]:
    """The numbers behind the tables, for results.json; None for those that JSON has no name for.

    Those are an infinite threshold, which accuses nobody, and an unknown correlation.
    """

    def plain(value: object) -> object:
        if hasattr(value, "_asdict"):
            return {key: plain(some) for key, some in value._asdict().items()}
        if isinstance(value, dict):
            return {str(key): plain(some) for key, some in value.items()}
        if isinstance(value, list | tuple):
            return [plain(some) for some in value]
        return None if isinstance(value, float) and not isfinite(value) else value

    return {k: plain(v) for k, v in findings._asdict().items() if k != "exposures"}
