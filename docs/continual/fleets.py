"""The page's fleets: learners of the same tasks, whose models trained on the same examples."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor

from attacks.continual.leaks import ContinualLeak
from attacks.game import FULL
from docs.continual.leak import parse_leak, shorten
from docs.continual.measures import ACCURACY, MEASURES
from docs.study.companions import check_companion, parse
from docs.study.kept import as_kept
from docs.study.numbers import Study
from lightning_modules.analytic_options import ANALYTIC, ANALYTIC_DEFAULT
from reporting.results import Results
from reporting.results_json import read_results
from storage.names import ModelName, Role, is_snapshot
from storage.records import read_record
from storage.run_folder import RunFolder

# of learners, by which fleets are ordered; those with more to their name come after
ORDER = "finetune", "replay", "ewc", "joint", "relu", "topk", "sdmlp", "ssd", *ANALYTIC
KEY, STAGES = "continual", "stages"  # among kept findings: the audit's, and models' records
RECIPE = "continual/study.yaml"
OWN = "learner", "joint", "replay", "ewc", "backbone_epochs"  # options in which fleets may differ
FREE = (
    *(f"continual.{name}" for name in (*OWN, "ends")),
    "continual.sdmlp.", "continual.analytic.", "model.", "trainer.", "fleet.", "versions.",
    "network's fingerprint",  # of what the head is, too
)  # fmt: skip


class Fleet(NamedTuple):
    """An audit of learners in tasks.

    Attributes:
        study: accuracy, options and provenance.
        leak: what is found of each task after each stage.
        accuracy: share of the test examples of each task that each target classifies correctly.
        facts: what its models recorded of the last stage beside that, mean over targets.
    """

    study: Study
    leak: ContinualLeak
    accuracy: Float[Tensor, "targets stages tasks"]
    facts: dict[str, float]

    @property
    def solves(self) -> bool:
        """Whether the learner solves for its head."""
        return self.study.config["continual"]["learner"] in ANALYTIC


Fleets = dict[str, Fleet]  # by `name_of`, in the order of `ORDER`


def keep(run_dir: Path) -> tuple[str, str]:
    """The name of an audited fleet, and what the page rests on of it, as JSON.

    Raises:
        FileNotFoundError: there is no audit in the folder.
        ValueError: its models do not learn in tasks, or the record of a model is missing.
    """
    results = read_results(run_dir)
    found = results.findings.get(KEY)
    if results.experiment is None or not found:
        raise ValueError(
            f"The page is about networks that learn in tasks, and those of {run_dir} do not. "
            f"Train them by recipes/{RECIPE}, and audit them again."
        )
    names = [name for name in results.variants if not is_snapshot(name)]
    rows = (row for row in results.rows if row.variant in names and row.knowledge != "other")
    kept = results._replace(
        rows=[
            row._replace(halves={m: row.halves[m] for m in MEASURES if m in row.halves})
            for row in rows
        ],
        variants={name: results.variants[name] for name in names},
    )
    findings = {KEY: shorten(found), STAGES: _stages(run_dir, results)}
    return name_of(results.experiment.config), as_kept(kept, findings)


def name_of(config: Mapping[str, Any]) -> str:
    """What learns the tasks of an experiment: `acil`, `replay`, `sdmlp-ewc`, or `acil-128`.

    The number is that of random features, if it is not the default one.
    """
    options = config["continual"]
    more = [name for name in ("joint", "replay", "ewc") if options[name]]
    if (buffer := options["analytic"]["buffer"]) != ANALYTIC_DEFAULT.buffer:
        more.append(str(buffer))
    learner = [] if more and options["learner"] == "finetune" else [options["learner"]]
    return "-".join([*learner, *more])


def read(folder: Path) -> Fleets:
    """The kept results.

    Raises:
        FileNotFoundError: there are none.
        ValueError: a file is damaged, another version of BitLeak wrote it, or its fleet cannot be
            compared with the first.
    """
    found = (path.stem for path in folder.glob("*.json") if path.stem.split("-")[0] in ORDER)
    names = sorted(found, key=lambda name: (ORDER.index(name.split("-")[0]), name))
    paths = {name: folder / f"{name}.json" for name in names}
    fleets = {name: _parse(path) for name, path in paths.items()}
    if not fleets:
        raise FileNotFoundError(
            f"The page needs the audit of a fleet that learns in tasks, and {folder} keeps none. "
            "Name its run folder."
        )
    first, *others = fleets
    for name in others:
        before, own = ((key, fleets[key].study.results) for key in (first, name))
        way = f"Train it like {first} but for what learns the tasks."
        check_companion(paths[name], before, own, FREE, way)
    return fleets


def _stages(run_dir: Path, results: Results) -> dict[str, list[Any]]:
    """Accuracy of audited models after each stage, and what else they recorded of the last."""
    run, stages = RunFolder(run_dir), dict[str, list[Any]]()
    for role, _, number in (name.rpartition("-") for name in results.audited):
        name = ModelName(cast("Role", role), int(number))
        recorded = (read_record(run, name, FULL) or {}).get(STAGES)
        if not recorded:
            raise ValueError(
                f"{run.record(name, FULL)} does not say how accurate the model was after each "
                "task. Run train.py again with `--repair`."
            )
        stages.setdefault(ACCURACY, []).append([stage[ACCURACY] for stage in recorded])
        for key, fact in recorded[-1].items():
            if isinstance(fact, int | float):
                stages.setdefault(key, []).append(fact)
    return stages


def _parse(path: Path) -> Fleet:
    study = parse(path)
    findings = study.results.findings
    try:
        stages = {
            fact: torch.tensor(rows, dtype=torch.float64) for fact, rows in findings[STAGES].items()
        }
        accuracy = stages.pop(ACCURACY)
        facts = {fact: rows.mean().item() for fact, rows in stages.items()}
        return Fleet(study, parse_leak(findings[KEY]), accuracy, facts)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged: {error!r}. Delete it, and name the run folder that it comes from."
        ) from error
