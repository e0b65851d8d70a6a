"""Whether an audit is up to date with its inputs: signals, records, options and the code."""

import hashlib
import json
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from attacks.rmia import DEFAULT, RmiaOptions
from reporting.results_json import RESULTS
from storage.own_code import digest as digest_code
from storage.own_code import load
from storage.run_folder import RunFolder

HOME = Path(__file__).parents[1]
FLOORS = ("attacks", "datamodules", "quantization", "reporting", "storage")
LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "matplotlib", "plotly")
# files of an audit beside the figures and results.json, which is written last
FILES = ("table.txt", "results.csv", "exposure.csv", "report.html")


def digest_inputs(
    run_dir: Path,
    signals: Path | None,
    shadows: Path | None,
    attacks: Sequence[str] | None,
    partial: bool,
    rmia: RmiaOptions = DEFAULT,
) -> str:
    """Fingerprint of the content of everything that the results follow from.

    Args:
        run_dir: the experiment's folder.
        signals: signals of models that were trained elsewhere, which are then the input.
        shadows: the folder of another experiment, whose shadows attack too.
        attacks: the attacks asked for, a user's own by import path; None for the default.
        partial: whether unfinished models may be excluded.
        rmia: choices of RMIA.

    Raises:
        FileNotFoundError: there is no experiment in the folder.
    """
    code = [HOME / "audit.py"]
    for floor in FLOORS:
        suffixes = (".py", ".html", ".css", ".js")
        code += [p for p in sorted((HOME / floor).rglob("*")) if p.suffix in suffixes]
    own = {name: digest_code(name, "--attacks") for name in load(attacks or (), "--attacks")}
    facts = [
        repr((attacks, partial, rmia)),
        *(f"{name} {version(name)}" for name in LIBRARIES),
        repr(own),
    ]
    if signals is not None:
        kinds = "*.npy", "federations/**/*.*"
        files = sorted(path for kind in kinds for path in signals.rglob(kind))
        files = files if signals.is_dir() else [signals]
        facts.append(str(signals))
    else:
        # whether images can be shown
        places = RunFolder(run_dir).read().places.values()
        facts += [str(Path(place).exists()) for place in places]
        folders = [run_dir] if shadows is None else [run_dir, shadows]
        facts += [str(folder) for folder in folders[1:]]
        files = [path for folder in folders for path in _files_of(RunFolder(folder))]
    digest = hashlib.sha256(repr(facts).encode())
    for path in [*code, *files]:
        if path.exists():
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(os.fsencode(f"{path.name} {content}\n"))
    return digest.hexdigest()


def _files_of(run: RunFolder) -> list[Path]:
    """The files of an experiment that an audit depends on."""
    models = run.path / "models"
    patterns = (
        *("*/signals/*", "*/embeddings/*", "*/rounds/*", "*/clients.safetensors", "*/tasks/*"),
        "*/*.json",
    )
    found = sorted(path for pattern in patterns for path in models.glob(pattern))
    files = [path for path in found if path.name != "progress.json"]
    return [run.experiment_file, run.membership_file, *files]


def is_done(folder: Path, digest: str) -> bool:
    """Whether a folder holds the audit of exactly these inputs."""
    try:
        results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        done = results["inputs"] == digest
        names = [*FILES, *(f"{figure}.png" for figure in results["figures"])]
    except (OSError, ValueError, KeyError, TypeError):
        return False  # missing or incomplete: the audit is made again
    return done and all((folder / name).exists() for name in names)
