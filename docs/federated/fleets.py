"""The page's fleets: federations of the same clients, whose updates travel at other precisions."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, cast

from attacks.federated.curves import Curves
from attacks.federated.leaks import FederatedLeak, FederatedRow
from attacks.federated.view import Threat
from attacks.game import FULL
from attacks.metrics.differences import Difference
from attacks.metrics.intervals import Estimate
from docs.study.companions import check_companion, lender_of, parse
from docs.study.kept import as_kept
from docs.study.numbers import Study
from quantization.updates import UPDATES, parse_update
from reporting.results_json import read_results
from storage.names import ModelName, Role
from storage.records import read_record
from storage.run_folder import RunFolder

THREATS: tuple[Threat, ...] = ("server", "client")
FEEDBACK = "-feedback"  # after the name of an update whose clients return what rounding took
NAMES = [f"{update}{feedback}" for update in UPDATES for feedback in ("", FEEDBACK)]
UPLOADED = "uploaded"  # the key of the bytes of a round among kept findings
FREE = "federated.update", "federated.error_feedback", "fleet.", "versions."
RECIPE = "federated/study.yaml"


class Fleet(NamedTuple):
    """An audit of federations.

    Attributes:
        study: accuracy, options and provenance.
        leaks: what each kind of attacker finds.
        uploaded: bytes that all clients of a federation upload in a round, mean over rounds.
    """

    study: Study
    leaks: dict[Threat, FederatedLeak]
    uploaded: int

    @property
    def lender(self) -> str:
        """The experiment whose shadows attack, too; empty if none do."""
        return lender_of(self.study)


class Fleets(NamedTuple):
    """Audits of federations that trained on the same examples by the same options.

    Attributes:
        full: the fleet whose updates are not rounded.
        quantized: the others, by update, in the order of `NAMES`.
    """

    full: Fleet
    quantized: dict[str, Fleet]

    @property
    def all(self) -> dict[str, Fleet]:
        """Every fleet by its update, that of full precision first."""
        return {FULL: self.full, **self.quantized}

    @property
    def borrowing(self) -> list[str]:
        """The updates whose federations full-precision shadows attack, too."""
        return [
            update
            for update, fleet in self.quantized.items()
            if any(row.knowledge == "other" for row in fleet.leaks["client"].rows)
        ]


def keep(run_dir: Path) -> tuple[str, str]:
    """The update of an audited fleet, and what the page rests on of it, as JSON.

    Raises:
        FileNotFoundError: there is no audit in the folder.
        ValueError: its models were not trained by clients, or the record of a model is missing.
    """
    results = read_results(run_dir)
    leaks = {
        f"federated_{threat}": results.findings.get(f"federated_{threat}") for threat in THREATS
    }
    if results.experiment is None or not all(leaks.values()):
        raise ValueError(
            f"The page is about federations, and the models of {run_dir} were not trained by "
            f"clients. Train them by recipes/{RECIPE}, and audit them again."
        )
    kept = results._replace(
        rows=[row for row in results.rows if row.variant == FULL and row.knowledge != "other"],
        variants={FULL: results.variants[FULL]},
    )
    uploaded = _uploaded(run_dir, results.audited)
    return name_of(results.experiment.config), as_kept(kept, leaks | {UPLOADED: uploaded})


def name_of(config: Mapping[str, Any]) -> str:
    """What an experiment's updates are rounded to: `qsgd-w4`, or `nearest-w4-feedback`."""
    options = config["federated"]
    return f"{options['update']}{FEEDBACK if options['error_feedback'] else ''}"


def bits_of(update: str) -> float:
    """Bits of a number of an update as it travels."""
    return float(parse_update(update.removesuffix(FEEDBACK)).bits)


def read(folder: Path) -> Fleets:
    """The kept results.

    Raises:
        FileNotFoundError: those of full-precision updates are missing, or all others.
        ValueError: a file is damaged, another version of BitLeak wrote it, or its fleet cannot be
            compared with that of full-precision updates.
    """
    fleets = {
        name: _parse(folder / f"{name}.json")
        for name in NAMES
        if (folder / f"{name}.json").exists()
    }
    full = fleets.pop(FULL, None)
    if full is None or not fleets:
        lacking = "full-precision" if full is None else "quantized"
        raise FileNotFoundError(
            "The page compares quantized updates with full-precision ones, and none of "
            f"{lacking} updates are kept in {folder}. Name their run folder, too."
        )
    for update, fleet in fleets.items():
        file = folder / f"{update}.json"
        own, first = (update, fleet.study.results), (FULL, full.study.results)
        way = "Train it like the full-precision fleet but for `--federated.update`."
        check_companion(file, first, own, FREE, way)
        if fleet.lender not in ("", full.study.results.name):
            raise ValueError(
                f"{file} has the shadows of {fleet.lender}, and the full-precision fleet is "
                f"{full.study.results.name}. Audit {own[1].name} with that one's `--shadows`."
            )
    return Fleets(full, fleets)


def _uploaded(run_dir: Path, names: Iterable[str]) -> int:
    """Bytes that all clients of an audited federation upload in a round, from its record."""
    run, sizes = RunFolder(run_dir), list[float]()
    for role, _, number in (name.rpartition("-") for name in names):
        name = ModelName(cast("Role", role), int(number))
        record = read_record(run, name, FULL) or {}
        if not record.get("bytes"):
            raise ValueError(
                f"{run.record(name, FULL)} does not say how many bytes were uploaded. Run train.py "
                "again with `--repair`."
            )
        sizes += record["bytes"]
    return round(fmean(sizes))


def _parse(path: Path) -> Fleet:
    study = parse(path)
    findings = study.results.findings
    try:
        leaks = {threat: parse_leak(findings[f"federated_{threat}"]) for threat in THREATS}
        return Fleet(study, leaks, findings[UPLOADED])
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged: {error!r}. Delete it, and name the run folder that it comes from."
        ) from error


def parse_leak(found: Mapping[str, Any]) -> FederatedLeak:
    """What one kind of attacker finds, from results.json."""
    read: dict[str, Any] = dict(found)
    read["rows"] = [
        FederatedRow(**{key: _estimate(value) for key, value in row.items()})
        for row in found["rows"]
    ]
    read["convergence"] = {int(k): Estimate(**v) for k, v in found["convergence"].items()}
    if found.get("by_shadows"):
        read["by_shadows"] = {int(k): Estimate(**v) for k, v in found["by_shadows"].items()}
    read["source"] = {name: Estimate(**share) for name, share in found["source"].items()}
    read["curves"] = {
        name: Curves(*([Estimate(**e) for e in curve[side]] for side in Curves._fields))
        for name, curve in found["curves"].items()
    }
    read["gains"] = {
        name: Difference(**{**gain, "estimate": Estimate(**gain["estimate"])})
        for name, gain in found["gains"].items()
    }
    return FederatedLeak(**read)


def _estimate(value: Any) -> Any:  # noqa: ANN401
    """An estimate, where a value is one."""
    known = isinstance(value, dict) and {*value} == {*Estimate._fields}
    return Estimate(**value) if known else value
