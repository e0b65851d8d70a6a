"""Attack every precision of a fleet from its saved signals; report leakage beside accuracy.

Prints a table and writes RUN_DIR/audit: table.txt, results.csv, exposure.csv, results.json, figures
and report.html. `--signals` audits models that were trained elsewhere, `--compare` puts audits of
several experiments into one table and figure.
"""

import io
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
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
from attacks.evaluate import FPR_GRID, Row, evaluate, lacking, strongest
from attacks.findings import Findings, find
from attacks.game import Case, Observed, make_cases
from attacks.health import failures, find_failures
from attacks.metrics.intervals import Estimate, mean_accuracy
from attacks.quantile import make_features
from attacks.signals import signals
from attacks.strongest import Strongest
from datamodules import ImageDataModule
from datamodules.images import Images
from datamodules.stored import load_stored
from quantization.variant import FULL
from reporting import charts
from reporting.compare import (
    NEEDED,
    against_first,
    comparison_lines,
    enter,
    make_comparison,
    make_differences,
)
from reporting.compare_figure import comparison_chart
from reporting.dashboard import publish
from reporting.illustrate import CAPTIONS, illustrate
from reporting.report import render
from reporting.results import (
    digest_inputs,
    exposure_lines,
    flat,
    flatten,
    is_done,
    read_audits,
    write_csv,
)
from reporting.table import make_table, summarise_rows
from reporting.tables import make_sections, sentences
from storage.checksums import changed
from storage.experiment import Experiment, differing
from storage.external_signals import read_outside
from storage.files import write_whole
from storage.names import ModelName, WandbMode
from storage.records import Precision, average
from storage.run_folder import RunFolder
from storage.saved_signals import SavedSignal, load_signals
from storage.wandb_project import check_key

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
        "--compare",
        nargs="+",
        type=Path,
        help="run folders whose audits are compared; --run_dir is then the output, by default "
        "compared-NAMES beside the first",
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

    for name in (names[position] for position in kept):
        files = [file(name, v) for file in (run.signals, run.record) for v in variants]
        if broken := changed(run.model(name), files):
            raise ValueError(
                f"{broken[0]} is not what was written. Run train.py again with `--repair`."
            )

    def saved(variant: str, key: str) -> SavedSignal:
        return SavedSignal([run.signals(name, variant) for name in names], key)

    phi = {variant: saved(variant, "phi")[kept] for variant in variants}
    reasons = find_failures(phi, saved(FULL, "correct")[kept], members[kept])
    left_out |= {names[kept[index]]: reason for index, reason in reasons.items()}
    fleet = experiment["config"]["fleet"]
    out = [position for position, name in enumerate(names) if name in left_out]
    cases = make_cases(fleet["shadows"], fleet["targets"], out)
    check_cases(cases, describe(left_out))
    announce(left_out, console, ", with its partner")
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
    finished = [names[position] for position in kept]
    looked = {variant: run.calibrated(variant, finished, members) for variant in variants}
    calibrated = {variant: masks for variant, masks in looked.items() if masks is not None}
    facts = describe_run(experiment, members, cases, left_out)
    images = None if data is None else data.pool
    return Evidence(
        run.name, seen, members, cases, precisions, calibrated, facts, experiment, images
    )


def announce(left_out: Mapping[ModelName, str], console: Console, partner: str = "") -> None:
    """Say which models are not counted; a shadow may take its partner with it."""
    for name, reason in left_out.items():
        also = partner if name.role == "shadow" else ""
        console.print(f"[bold red]{name} is left out{also}[/]: {reason}")


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
    config, fingerprint = experiment["config"]["data"], experiment["fingerprints"]["data"]
    try:
        return load_stored(config, experiment.get("places", {}), fingerprint)
    except ValueError as error:
        note = escape(f"Note: the images are not shown, nor used by an attack: {error}")
        console.print(note, soft_wrap=True)
        return None


def know(run: RunFolder, variant: str, audited: Sequence[ModelName]) -> Precision:
    """Read what is known of a variant beside its leakage, of the audited models."""
    correct = load_signals([run.signals(name, variant) for name in audited], "test_correct")
    size = run.weights(audited[0], variant).stat().st_size
    records = (run.read_record(name, variant) for name in audited)
    made = average([record for record in records if record is not None])
    return Precision(mean_accuracy(correct), size, made, correct.double().mean(1).tolist())


def gather_outside(path: Path, console: Console) -> Evidence:
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
    phi, hinge = next(iter(outside.phi.values())), next(iter(outside.hinge.values()))
    reasons = {} if hinge is None else failures(phi, hinge > 0, outside.members)
    names = [ModelName("shadow", number) for number in range(outside.shadows)]
    names += [ModelName("target", number) for number in range(outside.targets)]
    left_out = {names[position]: reason for position, reason in reasons.items()}
    kept = [position for position in range(len(names)) if position not in reasons]
    usable = [position for position in kept if names[position].role == "shadow"]  # no pairs here
    cases = [Case(position, usable) for position in kept if names[position].role == "target"]
    check_cases(cases, describe(left_out))
    announce(left_out, console)
    unknown = Estimate(nan, nan, nan)
    precisions = dict.fromkeys(seen, Precision(unknown, 0))
    for variant, hinge in outside.population_hinge.items():
        if hinge is not None:
            right = hinge[[case.target for case in cases], 0] > 0
            each = right.double().mean(1).tolist()
            precisions[variant] = Precision(mean_accuracy(right), 0, by_target=each)
    facts = {
        "signals": f"{path}, {outside.members.shape[1]} audited examples",
        "audited models": str(len(cases)),
        "shadow models": f"{len(usable)} against each of them",
        "test accuracy": "on the population",
        "left out": describe(left_out),
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


def write(
    folder: Path, evidence: Evidence, rows: Sequence[Row], found: Findings, digest: str
) -> dict[str, Figure]:
    """Write every file of the audit; results.json comes last, so that with it all are there."""
    experiment, precisions = evidence.experiment, evidence.precisions
    recipe = ""
    if experiment:
        options = {"threads": experiment["versions"]["threads"], **experiment["config"]}
        recipe = yaml.safe_dump(options, sort_keys=False)
    images = evidence.images
    pixels = None if images is None else images.images
    drawings = illustrate(rows, precisions, found, pixels)
    figures = {key: drawing.figure for key, drawing in drawings.items()}
    for key in CAPTIONS.keys() - figures.keys():
        (folder / f"{key}.png").unlink(missing_ok=True)  # of an audit before, that had records
    for key, figure in figures.items():
        write_whole(folder / f"{key}.png", partial(figure.savefig, format="png", dpi=150))
        figure.set_layout_engine("none")  # found once, for it takes as long as drawing
    lines = [
        flatten(row, precisions[row.variant], row is strongest(rows, row.variant)) for row in rows
    ]
    exposed = exposure_lines(found.exposures, None if images is None else images.labels)
    write_csv(folder / "results.csv", lines)
    write_csv(folder / "exposure.csv", exposed)
    facts, shown = basis(evidence, rows), list(drawings.values())
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
        "rows": [
            line
            | {"tpr": row.curve}
            | {"by_target": row.by_target | {"accuracy": precisions[row.variant].by_target}}
            for line, row in zip(lines, rows, strict=True)
        ],
        "findings": flat(found),
        "tables": [table._asdict() for table in tables],
    }
    text = json.dumps(results, indent=1)
    write_whole(folder / "results.json", lambda path: path.write_text(text))
    return figures


def choose_attacks(asked: Sequence[str] | None, evidence: Evidence, console: Console) -> list[str]:
    """The attacks to make: those asked for, or all that the signals suffice for.

    Raises:
        ValueError: one that is asked for needs what is not there, or nothing suffices for any.
    """
    wanted = list(dict.fromkeys(asked or DEFAULT_ATTACKS))
    parts = evidence.seen.values(), evidence.members, evidence.cases
    short = {attack: " and ".join(lacking(attack, *parts)) for attack in wanted}
    short = {attack: needs for attack, needs in short.items() if needs}
    if asked and short:
        attack, needs = next(iter(short.items()))
        way_out = "Leave it out of `--attacks`"
        if evidence.experiment and "population" in needs:  # recorded by an older version
            way_out += ", or delete models/*/signals and run train.py again, which records more"
        raise ValueError(f"`{attack}` needs {needs}, which not every precision has. {way_out}.")
    for attack, needs in short.items():
        console.print(f"Note: {attack} is left out, for it needs {needs}.")
    return [attack for attack in wanted if attack not in short]


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
        evidence = gather_outside(config.signals, console)
    attacks = choose_attacks(config.attacks, evidence, console)
    parts, rows = (evidence.seen, evidence.members, evidence.cases), []
    best = Strongest(evidence.members[[case.target for case in evidence.cases]])
    with console.status("Attacking") as status:
        for variant, group in groupby(evaluate(*parts, attacks), lambda scored: scored.row.variant):
            status.update(f"Attacking {variant}")
            made = list(group)
            best.add(made)
            rows += [scored.row for scored in made]
        status.update("Comparing")
        found = find(*parts, best, evidence.calibrated)
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
        if url := publish(config.run_dir, config.wandb, results, figures):
            console.print(escape(f"View: {url}"), soft_wrap=True)


def compare(config: Namespace, console: Console) -> None:
    """Print and write the audits of several experiments beside each other.

    Raises:
        FileNotFoundError, ValueError: as `read_audits`, or options are given that are not read.
    """
    default, unread = make_parser().get_default, ("signals", "attacks", "partial", "threads")
    if given := [f"`--{key}`" for key in (*unread, "wandb") if config[key] != default(key)]:
        raise ValueError(
            f"`--compare` reads audits that are there, and has no use for {' and '.join(given)}. "
            "Leave it out, or pass it when you audit each run folder."
        )
    results = read_audits(config.compare, NEEDED)
    entries = enter({name: some["rows"] for name, some in results.items()})
    differences = against_first(entries)
    options = differing({name: some["experiment"] for name, some in results.items()})
    for section in make_differences(results, options), make_comparison(entries, differences):
        console.print(make_table(section, section.title))
    if not any(differences):
        console.print(f"No variant of another experiment is in {escape(next(iter(results)))}, too.")
    name = "-".join(["compared", *results]).replace("/", "-")
    folder = config.run_dir or config.compare[0].resolve().parent / name
    write_csv(folder / "comparison.csv", comparison_lines(entries, differences))
    save = partial(charts.draw(comparison_chart(entries)).savefig, format="png", dpi=150)
    write_whole(folder / "comparison.png", save)
    console.print(escape(f"Written: {folder}/comparison.csv and .png"), soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    config = make_parser().parse_args(arguments)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 160)  # in a log, lines need not fit a screen
    torch.set_num_threads(config.threads)
    try:
        check_key(config.wandb)
        if config.compare is not None:
            return compare(config, console)
        if config.run_dir is None:
            raise ValueError("Where to is not said: pass `--run_dir runs/NAME`.")
        audit(config, console)
    except (ValueError, OSError) as error:
        sys.exit(f"audit.py: {error}")


if __name__ == "__main__":
    main()
