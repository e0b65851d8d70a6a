"""The data and commands behind kept results: read from the results, not from the recipe."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from docs.study.numbers import Study
from lightning_modules.analytic_options import READERS as OF_ANALYTIC
from lightning_modules.continual_options import ContinualOptions
from lightning_modules.sdmlp_options import READERS as OF_SDMLP
from storage.command_line import quote

RECIPES = Path(__file__).parents[2] / "recipes"
SMALL = "study/cifar10_small.yaml"  # the recipe of the first edition
ADDING = "snapshots", "quantize"  # options that add variants
SWITCHES = ("quantize_snapshots",)  # that do, too
SECTIONS = "model", "prune", "federated", "continual", "trainer", "fleet"  # beside the data
# of sections whose options a recipe need not name
DEFAULTS: dict[str, dict[str, Any]] = {"continual": asdict(ContinualOptions())}


def finished(study: Study) -> str:
    """How many shadows and targets were audited, and of how many, if some were left out."""
    planned, rows = study.config["fleet"], study.results.rows
    counts = {"shadows": max(row.shadows for row in rows), "targets": rows[0].summary.targets}
    return " and ".join(
        f"{count} {role}" if count == planned[role] else f"{count} of {planned[role]} {role}"
        for role, count in counts.items()
    )


def commands(study: Study, keep: str = "", recipe: str = SMALL, package: str = "docs.study") -> str:
    """The commands that make these results, with every option that the recipe has otherwise.

    Args:
        study: results with their experiment.
        keep: what the page's package is told before the run folder.
        recipe: the file of the recipe that they are made by.
        package: the package that writes the page.
    """
    made = f"{training(study, recipe)}\n    {auditing(study, recipe)}"
    return f"{made}\n    python -m {package} {keep}{run_dir(study, recipe)}"


def run_dir(study: Study, recipe: str) -> str:
    """The run folder of results, below that of the recipe's other experiments."""
    return quote(f"runs/{Path(recipe).parent}/{study.results.name}")


def auditing(study: Study, recipe: str) -> str:
    """The command that audits a fleet; models that are missing are allowed for."""
    partial = " --partial" if " of " in finished(study) else ""
    return f"python audit.py --run_dir {run_dir(study, recipe)}{partial}"


def training(study: Study, recipe: str) -> str:
    """The command that trains a fleet, with every option that the recipe has otherwise."""
    written, made = _read(recipe), study.config
    changes = (
        [f"--data {_name(made)}", "--data.root path/to/images"] if _other(written, made) else []
    )
    named = written["data"]["init_args"]
    options = made["data"]["init_args"].items()
    changes += [f"--data.{k} {v}" for k, v in options if _differs(named, k, v, changes)]
    for section in SECTIONS:
        named_here = _fill(DEFAULTS.get(section, {}), written.get(section, {}))
        given = made.get(section, {})
        if section == "continual" and given:
            given = _readable(given)
        changes += _changes(f"--{section}", named_here, given)
    for option in ADDING:
        asked = made.get(option, [])  # unknown to older folders
        if asked != written.get(option, []):
            changes.append(" ".join([f"--{option}", *map(str, asked)]))
    changes += [f"--{name} true" for name in SWITCHES if made.get(name) and not written.get(name)]
    folder = run_dir(study, recipe)
    changes += [f"--run_dir {folder}"] if folder != written["run_dir"] else []
    return " \\\n      ".join([f"python train.py --config recipes/{recipe}", *changes])


def data(study: Study, recipe: str = SMALL) -> str:
    """What the images were read by, and whether the recipe reads them by the same."""
    written, made = _read(recipe), study.config
    options = ", ".join(f"{k} {_plain(v)}" for k, v in made["data"]["init_args"].items())
    told = f"`{made['data']['class_path']}` ({options})"
    named = written["data"]["class_path"]
    if _other(written, made):
        return f"{told}, and not by the recipe's `{named}`, with which it has not been run"
    return f"{told}, as in the recipe"


def population(study: Study) -> str:
    """What RMIA takes for its population: the test images; empty if it is unknown."""
    told = study.results.basis.get("RMIA")
    return f"RMIA: {told}." if told else ""


def compare_data(control: Study, study: Study, recipe: str = SMALL) -> str:
    """What a fleet's images were read by, beside those of the study."""
    options = control.config["data"] == study.config["data"]
    if options and _fingerprint(control) == _fingerprint(study):
        return "the same images by the same options"
    return f"images by {data(control, recipe)}"


def versions(study: Study) -> str:
    """Packages, threads and the fingerprint of the data."""
    experiment = study.results.experiment
    if experiment is None:
        return "unknown"
    parts = [f"{name} {version}" for name, version in experiment.versions.items()]
    return f"{', '.join(parts)}; fingerprint of the data {_fingerprint(study)}"


def _fingerprint(study: Study) -> str:
    experiment = study.results.experiment
    return experiment.fingerprints["data"] if experiment else "unknown"


def _changes(option: str, named: Mapping[str, Any], made: Mapping[str, Any]) -> list[str]:
    """The options of a section that the recipe has otherwise."""
    changes = []
    for key, value in named.items():
        if isinstance(value, Mapping):
            changes += _changes(f"{option}.{key}", value, made.get(key) or {})
        elif key in made and made[key] != value:
            changes.append(f"{option}.{key} {_plain(made[key])}")
    return changes


def _readable(made: Mapping[str, Any]) -> dict[str, Any]:
    """Options of learning in tasks without those that the learner does not read."""
    readable = dict(made)
    for part, readers in (("sdmlp", OF_SDMLP), ("analytic", OF_ANALYTIC)):
        known = made.get(part, {}).items()
        readable[part] = {k: v for k, v in known if made["learner"] in readers.get(k, ())}
    return readable


def _fill(defaults: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a section, by the recipe where it names them."""
    filled = {**defaults, **written}
    for key, value in defaults.items():
        if isinstance(value, Mapping):
            filled[key] = _fill(value, written.get(key) or {})
    return filled


def _read(recipe: str) -> dict[str, Any]:
    written: dict[str, Any] = yaml.safe_load((RECIPES / recipe).read_text(encoding="utf-8"))
    return written


def _name(made: Mapping[str, Any]) -> str:
    return str(made["data"]["class_path"]).rpartition(".")[2]


def _other(recipe: Mapping[str, Any], made: Mapping[str, Any]) -> bool:
    return _name(recipe) != _name(made)


def _differs(named: Mapping[str, Any], key: str, value: object, changes: list[str]) -> bool:
    """Whether an option must be given: the recipe has another value, or names another data set."""
    return named[key] != value if key in named else bool(changes)


def _plain(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, list):
        return quote(f"[{','.join(map(str, value))}]")
    return str(value).lower() if isinstance(value, bool) else str(value)
