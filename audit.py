"""Attack every precision of a fleet from its saved signals; report leakage beside accuracy.

Prints a table and writes RUN_DIR/audit: table.txt, results.csv, exposure.csv, results.json, figures
and report.html. `--signals` audits models that were trained elsewhere.
"""

import csv
import hashlib
import io
import json
import sys
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from functools import partial
from math import nan
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from jaxtyping import Bool
from jsonargparse import ArgumentParser, Namespace
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from torch import Tensor

from attacks import ATTACKS, DEFAULT_ATTACKS
from attacks.evaluate import FPR_GRID, Case, Row, evaluate, make_cases, strongest, unavailable
from attacks.figures import (
    convergence_figure,
    gallery_figure,
    layers_figure,
    plane_figure,
    roc_figure,
)
from attacks.findings import Best, Findings, find
from attacks.health import find_failures
from attacks.intervals import Estimate, mean_accuracy
from attacks.making import Precision, average
from attacks.observed import Observed
from attacks.quantile import make_features
from attacks.report import render
from attacks.sections import flat, make_sections, sentences
from attacks.signals import signals
from attacks.table import flatten, make_table, summarise_rows
from datamodules import ImageDataModule
from datamodules.images import Images
from lightning_modules.dashboard import WandbMode, check_key, log_audit
from lightning_modules.fleet import ModelName
from lightning_modules.outside import read_outside
from lightning_modules.run_folder import Experiment, RunFolder, write_whole
from lightning_modules.signals import SavedSignal, load_signals
from quantization.variant import FULL

CAPTIONS = {
    "plane": "Test accuracy against leakage by the strongest attack, with 95% intervals.",
    "roc": "ROC curves of the strongest attack on each variant, mean over targets.",
    "convergence": "AUC of the strongest attack with matched shadows against the number of shadows "
    "that it has, from the same fleet, with 95% intervals over the targets. Where a curve still "
    "rises, more shadows would find more.",
    "gallery": "The most exposed training images of each variant: position in the pool, and the "
    "share of a target's non-members that score lower, mean over the targets trained on it.",
    "layers": "What became of each layer, in the network's order, mean over {models} audited "
    "models. Left: the share of its weights that are not at the code nearest to the "
    "trained weight. Right: the squared error of its output, or of the block's that it "
    "was reconstructed with, over the squared full-precision output, on the calibration "
    "images. Rounding to nearest, which moves no weight, is left out.",
}
FIELDS = ("phi", "hinge", "population", "population_hinge")  # of a signals file


class Evidence(NamedTuple):
    """What is known of a fleet; rows of tensors are models in the order of the membership."""

    name: str
    seen: dict[str, Observed]  # by variant
    members: Bool[Tensor, "models examples"]
    cases: list[Case]
    precisions: dict[str, Precision]  # by variant
    calibrated: dict[str, Bool[Tensor, "models examples"]]  # by variant
    facts: dict[str, str]
    experiment: Experiment  # empty for models that were trained elsewhere
    images: Images | None  # of the pool


def make_parser() -> ArgumentParser:
    """Every option."""
    parser = ArgumentParser(prog="audit.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--run_dir", type=Path | None, help="folder that train.py filled")
    parser.add_argument(
        "--signals",
        type=Path | None,
        help="folder or .npz of models that were trained elsewhere; --run_dir is then the output",
    )
    parser.add_argument(
        "--attacks",
        nargs="+",
        choices=list(ATTACKS),
        help="which; by default all but attack_p, base and `_carlini` that the signals suffice for",
    )
    parser.add_argument(
        "--partial", action="store_true", help="audit without the models that are unfinished"
    )
    # more help only fleets of tens of thousands of examples, and spin where cores are shared:
    # the demo's audit took 4 s with one thread and 38 s with two beside another process
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument(
        "--wandb", type=WandbMode, default="disabled", help="Weights & Biases, one run an audit"
    )
    return parser


def gather(run: RunFolder, allow_partial: bool, console: Console) -> Evidence:
    """Find the signals of every finished model, and leave failed ones out.

    Raises:
        FileNotFoundError: there is no experiment in the folder.
        ValueError: models are unfinished and may not be left out, or too few are left to audit.
    """
    experiment, names, members = run.read(), run.names(), run.membership()
    variants = [FULL, *experiment["config"]["quantize"]]
    left_out = {name: "unfinished" for name in names if run.missing(name, variants)}
    if left_out and not allow_partial:
        raise ValueError(
            f"{len(left_out)} of {len(names)} models are unfinished: "
            f"{', '.join(map(str, left_out))}. Run train.py again to finish them, or pass "
            "`--partial` to audit the others."
        )
    kept = [position for position, name in enumerate(names) if name not in left_out]
    if not kept:
        raise ValueError(f"No model in {run.path} is finished. Run train.py again.")

    def saved(variant: str, key: str) -> SavedSignal:
        return SavedSignal([run.signals(name, variant) for name in names], key)

    phi = {variant: saved(variant, "phi")[kept] for variant in variants}
    reasons = find_failures(phi, saved(FULL, "correct")[kept], members[kept])
    left_out |= {names[kept[index]]: reason for index, reason in reasons.items()}
    fleet = experiment["config"]["fleet"]
    out = [position for position, name in enumerate(names) if name in left_out]
    cases = make_cases(fleet["shadows"], fleet["targets"], out)
    check_cases(cases, describe(left_out))
    for name, reason in left_out.items():
        partner = ", with its partner" if name.role == "shadow" else ""
        console.print(f"[bold red]{name} is left out{partner}[/]: {reason}")
    data = load_data(experiment, console)
    # files of older versions lack the population; of an unfinished model there is no file
    stored = [key for key in FIELDS if saved(FULL, key)[kept].exists()]
    seen = {}
    for variant in variants:
        some: dict[str, Any] = {key: saved(variant, key) for key in stored}
        seen[variant] = Observed(**some)
    if data is not None:
        features = make_features(*data.pool, *data.test)
        seen = {variant: some._replace(features=features) for variant, some in seen.items()}
    audited = [names[case.target] for case in cases]
    precisions = {variant: know(run, variant, audited) for variant in variants}
    calibrated = {
        variant: masks
        for variant in variants
        if (masks := read_calibrated(run, variant, [names[position] for position in kept], members))
        is not None
    }
    facts = describe_run(experiment, members, cases, left_out)
    images = None if data is None else data.pool
    return Evidence(
        run.name, seen, members, cases, precisions, calibrated, facts, experiment, images
    )


def check_cases(cases: Sequence[Case], left_out: str) -> None:
    """Raise ValueError if too few models are left."""
    against = len(cases[0].shadows) if cases else 0
    if against < 4:
        raise ValueError(
            f"An audit needs a model to audit and 4 shadows against it, got {len(cases)} and "
            f"{against}. Finish the fleet, or raise `--fleet.shadows` and `--fleet.targets`. "
            f"Left out: {left_out}."
        )


def load_data(experiment: Experiment, console: Console) -> ImageDataModule | None:
    """The images of an experiment, if they are where they were; the audit can do without."""
    config = experiment["config"]["data"]
    places = experiment.get("places", {})
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ImageDataModule, "data")
    try:
        options = config | {"init_args": config["init_args"] | places}
        data: ImageDataModule = parser.instantiate(parser.parse_object({"data": options})).data
        data.setup("fit")
        if data.fingerprint() != experiment["fingerprints"]["data"]:
            raise ValueError("they are not those that the fleet was trained on")
    except (OSError, ValueError, RuntimeError, ArgumentError) as error:  # torchvision: the third
        reason = " ".join(str(error).split())  # jsonargparse's is a tree of lines
        note = escape(f"Note: the images are not shown, nor used by an attack: {reason}")
        console.print(note, soft_wrap=True)
        return None
    return data


def read_calibrated(
    run: RunFolder,
    variant: str,
    finished: Sequence[ModelName],
    members: Bool[Tensor, "models examples"],
) -> Bool[Tensor, "models examples"] | None:
    """Which model's quantizer looked at which of its training examples; None if at none."""
    masks, names = torch.zeros_like(members), run.names()
    for name in finished:
        used = (run.read_record(name, variant) or {}).get("calibration")
        if not used or used["source"] != "members":
            return None
        masks[names.index(name), used["indices"]] = True
    return masks


def know(run: RunFolder, variant: str, audited: Sequence[ModelName]) -> Precision:
    """Read what is known of a variant beside its leakage, of the audited models."""
    correct = load_signals([run.signals(name, variant) for name in audited], "test_correct")
    size = run.weights(audited[0], variant).stat().st_size
    records = (run.read_record(name, variant) for name in audited)
    made = average([record for record in records if record is not None])
    return Precision(mean_accuracy(correct), size, made)


def gather_outside(path: Path) -> Evidence:
    """Read the signals of models that were trained elsewhere.

    Raises:
        FileNotFoundError, ValueError: as `read_outside`.
    """
    outside = read_outside(path, signals)
    seen = {
        variant: Observed(
            phi,
            outside.hinge[variant],
            outside.population[variant],
            outside.population_hinge[variant],
        )
        for variant, phi in outside.phi.items()
    }
    against, last = list(range(outside.shadows)), outside.shadows + outside.targets
    cases = [Case(target, against) for target in range(outside.shadows, last)]  # no pairs
    unknown = Estimate(nan, nan, nan)
    precisions = dict.fromkeys(seen, Precision(unknown, 0))
    for variant, hinge in outside.population_hinge.items():
        if hinge is not None:
            right = hinge[outside.shadows :, 0] > 0
            precisions[variant] = Precision(mean_accuracy(right), 0)
    facts = {
        "signals": f"{path}, {outside.members.shape[1]} audited examples",
        "audited models": str(outside.targets),
        "shadow models": f"{outside.shadows} against each of them",
        "test accuracy": "on the population",
    }
    name = path.resolve().stem
    return Evidence(name, seen, outside.members, cases, precisions, {}, facts, {}, None)


def describe(left_out: Mapping[ModelName, str]) -> str:
    """Which models are not counted, and why."""
    return "; ".join(f"{name} ({reason})" for name, reason in left_out.items()) or "none"


def describe_run(
    experiment: Experiment,
    members: Bool[Tensor, "models examples"],
    cases: Sequence[Case],
    left_out: Mapping[ModelName, str],
) -> dict[str, str]:
    """What the fleet was."""
    config = experiment["config"]
    audited = f"{len(cases)}"
    if not config["fleet"]["targets"]:
        audited += " (each shadow, attacked by the others but its partner)"
    return {
        "data": f"{config['data']['class_path']}, {members.shape[1]} audited examples, "
        f"fingerprint {experiment['fingerprints']['data']}",
        "network": config["model"]["network"],
        "audited models": audited,
        "shadow models": f"{len(cases[0].shadows)} against each of them",
        "queries": ", ".join(config["queries"]),
        "left out": describe(left_out),
        "versions": ", ".join(f"{key} {value}" for key, value in experiment["versions"].items()),
    }


def basis(evidence: Evidence, rows: Sequence[Row]) -> dict[str, str]:
    """What the numbers rest on."""
    summaries = [row.summary for row in rows]
    # where many scores tie, as the gap attack's, there may be none at all
    at_1pct = max(summary.false_positives_1pct for summary in summaries)
    at_01pct = max(summary.false_positives_01pct for summary in summaries)
    return evidence.facts | {
        "non-members": f"{summaries[0].non_members} a target, so that a TPR at 1% FPR rests on "
        f"{at_1pct} false positives at most and one at 0.1% on {at_01pct}",
        "intervals": "95%, bootstrap over targets and examples, no narrower than Student's t over "
        "the targets; with a single target DeLong (AUC) and Clopper-Pearson (TPR, accuracy)",
    }


def draw(
    evidence: Evidence, rows: Sequence[Row], found: Findings
) -> tuple[dict[str, Figure], dict[str, str]]:
    """Figures and their captions, by name."""
    accuracy = {variant: known.accuracy for variant, known in evidence.precisions.items()}
    figures = {
        "plane": plane_figure(rows, accuracy),
        "roc": roc_figure(rows, rows[0].summary.non_members),
    }
    if found.convergence:
        figures["convergence"] = convergence_figure(found.convergence)
    if evidence.images is not None:
        figures["gallery"] = gallery_figure(evidence.images.images, found.exposures)
    made = {variant: known.made for variant, known in evidence.precisions.items()}
    layers = layers_figure(made)
    if layers is not None:
        figures["layers"] = layers
    counts = sorted({making.models for making in made.values() if making})
    models = " to ".join(dict.fromkeys(map(str, counts[:1] + counts[-1:])))
    return figures, {name: CAPTIONS[name].format(models=models) for name in figures}


def write(
    folder: Path, evidence: Evidence, rows: Sequence[Row], found: Findings, digest: str
) -> dict[str, Figure]:
    """Write every file of the audit; results.json comes last, so that with it all are there."""
    experiment, precisions = evidence.experiment, evidence.precisions
    recipe = ""
    if experiment:
        options = {"threads": experiment["versions"]["threads"], **experiment["config"]}
        recipe = yaml.safe_dump(options, sort_keys=False)
    figures, captions = draw(evidence, rows, found)
    for key in CAPTIONS.keys() - figures.keys():
        (folder / f"{key}.png").unlink(missing_ok=True)  # of an audit before, that had records
    for key, figure in figures.items():
        write_whole(folder / f"{key}.png", partial(figure.savefig, format="png", dpi=150))
        figure.set_layout_engine("none")  # found once, for it takes as long as drawing
    lines = [
        flatten(row, precisions[row.variant], row is strongest(rows, row.variant)) for row in rows
    ]
    write_whole(folder / "results.csv", partial(_write_csv, lines))
    write_whole(folder / "exposure.csv", partial(_write_csv, exposure_lines(evidence, found)))
    facts, shown = basis(evidence, rows), {captions[key]: figures[key] for key in figures}
    summary, tables = summarise_rows(rows, precisions), make_sections(found)
    said = sentences(found)
    page = render(evidence.name, rows, precisions, shown, facts, recipe, said, summary, tables)
    write_whole(folder / "report.html", lambda path: path.write_text(page))
    results = {
        "inputs": digest,
        "files": [
            *("table.txt", "results.csv", "exposure.csv", "report.html"),
            *(f"{key}.png" for key in figures),
        ],
        "experiment": experiment,
        "basis": facts,
        "fpr": FPR_GRID.tolist(),
        "rows": [line | {"tpr": row.curve} for line, row in zip(lines, rows, strict=True)],
        "findings": flat(found),
        "tables": [table._asdict() for table in tables],
    }
    text = json.dumps(results, indent=1)
    write_whole(folder / "results.json", lambda path: path.write_text(text))
    return figures


def exposure_lines(evidence: Evidence, found: Findings) -> list[dict[str, Any]]:
    """A line an example: its position in the pool, its label where known, and its exposures."""
    columns = {variant: some.tolist() for variant, some in found.exposures.items()}
    labels = None if evidence.images is None else evidence.images.labels.tolist()
    return [
        {"example": index}
        | ({} if labels is None else {"label": labels[index]})
        | {variant: some[index] for variant, some in columns.items()}
        for index in range(evidence.members.shape[1])
    ]


def _write_csv(lines: Sequence[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def digest_inputs(config: Namespace) -> str:
    """Fingerprint of all that the results follow from: signals, records, options and the code.

    Raises:
        FileNotFoundError: there is no experiment in the folder.
    """
    here = Path(__file__)
    packages = (here.with_name(name) for name in ("attacks", "lightning_modules"))
    code = [here, *(file for package in packages for file in sorted(package.glob("*.py")))]
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
    if not (folder / "results.json").exists():
        return False
    results = json.loads((folder / "results.json").read_text())
    same: bool = results["inputs"] == digest
    return same and all((folder / name).exists() for name in results["files"])


def choose_attacks(asked: Sequence[str] | None, seen: Mapping[str, Observed]) -> list[str]:
    """The attacks to make: those asked for, or all that the signals suffice for.

    Raises:
        ValueError: one that is asked for needs what is not known.
    """
    for attack in asked or ():
        if lacking := unavailable(attack, seen.values()):
            raise ValueError(
                f"`{attack}` needs {' and '.join(lacking)}, which is not known of every precision. "
                "Leave it out of `--attacks`; for a run folder of an older version delete "
                "models/*/signals and run train.py again, which records more."
            )
    if asked:
        return list(dict.fromkeys(asked))
    return [attack for attack in DEFAULT_ATTACKS if not unavailable(attack, seen.values())]


def audit(config: Namespace, console: Console) -> None:
    """Attack, print, write, log; or say that this was done.

    Raises:
        FileNotFoundError, ValueError: as `gather`, before anything is written.
        OSError: the folder cannot be written to.
    """
    digest = digest_inputs(config)  # first: what comes to be while this runs is not in it
    folder = config.run_dir / "audit"
    report = escape(f"Report: {folder / 'report.html'}")
    if config.wandb == "disabled" and is_done(folder, digest):
        console.print((folder / "table.txt").read_text(), markup=False)
        results = json.loads((folder / "results.json").read_text())
        if (left_out := results["basis"].get("left out", "none")) != "none":
            console.print(f"[bold red]Left out:[/] {escape(left_out)}", soft_wrap=True)
        console.print(f"Nothing has changed since this audit. {report}", soft_wrap=True)
        return
    if config.signals is None:
        evidence = gather(RunFolder(config.run_dir), config.partial, console)
    else:
        evidence = gather_outside(config.signals)
    attacks = choose_attacks(config.attacks, evidence.seen)
    rows: list[Row] = []
    best = Best()
    with console.status("Attacking") as status:
        for scored in evaluate(evidence.seen, evidence.members, evidence.cases, attacks):
            rows.append(scored.row)
            best.add(scored)
            status.update(f"Attacking: {scored.row.variant}, {scored.row.attack} done")
        status.update("Comparing")
        parts = evidence.seen, evidence.members, evidence.cases, best, evidence.calibrated
        found = find(*parts)
    table = make_table(summarise_rows(rows, evidence.precisions), evidence.name)
    console.print(table)
    for sentence in sentences(found):
        console.print(escape(sentence))
    plain = Console(width=console.width, record=True, file=io.StringIO())
    plain.print(table)
    write_whole(folder / "table.txt", lambda path: path.write_text(plain.export_text()))
    figures = write(folder, evidence, rows, found, digest)
    console.print(report, soft_wrap=True)
    if config.wandb != "disabled":
        results = json.loads((folder / "results.json").read_text())
        log_audit(config.run_dir, config.wandb, results, figures)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    config = make_parser().parse_args(arguments)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 160)  # in a log, lines need not fit a screen
    torch.set_num_threads(config.threads)
    try:
        check_key(config.wandb)
        if config.run_dir is None:
            raise ValueError("Where to is not said: pass `--run_dir runs/NAME`.")
        audit(config, console)
    except (ValueError, OSError) as error:
        sys.exit(f"audit.py: {error}")


if __name__ == "__main__":
    main()
