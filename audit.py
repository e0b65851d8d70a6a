"""Attack every precision of a fleet from its saved signals; report leakage beside accuracy.

Prints a table and writes RUN_DIR/audit: table.txt, results.csv, results.json, figures, report.html.
"""

import csv
import hashlib
import io
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from jaxtyping import Bool, Float
from jsonargparse import ArgumentParser, Namespace
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from torch import Tensor

from attacks import ATTACKS, DEFAULT_ATTACKS
from attacks.evaluate import FPR_GRID, Case, Row, evaluate, make_cases, strongest
from attacks.figures import layers_figure, plane_figure, roc_figure
from attacks.health import find_failures
from attacks.intervals import mean_accuracy
from attacks.making import Precision, average
from attacks.report import render
from attacks.table import flatten, make_table
from lightning_modules.dashboard import WandbMode, check_key, log_audit
from lightning_modules.fleet import ModelName
from lightning_modules.run_folder import Experiment, RunFolder, write_whole
from lightning_modules.signals import load_signals
from quantization.variant import FULL

CAPTIONS = {
    "plane": "Test accuracy against leakage by the strongest attack, with 95% intervals.",
    "roc": "ROC curves of the strongest attack on each variant, mean over targets.",
    "layers": "What became of each layer, in the network's order, mean over {models} audited "
    "models. Left: the share of its weights that are not at the code nearest to the "
    "trained weight. Right: the squared error of its output, or of the block's that it "
    "was reconstructed with, over the squared full-precision output, on the calibration "
    "images. Rounding to nearest, which moves no weight, is left out.",
}


class Evidence(NamedTuple):
    """What is known of a fleet; rows of tensors are models in the order of the membership."""

    experiment: Experiment
    phi: dict[str, Float[Tensor, "models queries examples"]]  # by variant
    members: Bool[Tensor, "models examples"]
    cases: list[Case]
    precisions: dict[str, Precision]  # by variant
    left_out: dict[ModelName, str]  # why


def make_parser() -> ArgumentParser:
    """Every option."""
    parser = ArgumentParser(prog="audit.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--run_dir", type=Path, required=True, help="folder that train.py filled")
    parser.add_argument(
        "--attacks", nargs="+", choices=list(ATTACKS), default=list(DEFAULT_ATTACKS), help="which"
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


def gather(run: RunFolder, allow_partial: bool) -> Evidence:
    """Read the signals of every finished model, and leave failed ones out.

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

    def read(variant: str, key: str) -> Tensor:
        return load_signals([run.signals(names[position], variant) for position in kept], key)

    signals = {variant: read(variant, "phi") for variant in variants}
    reasons = find_failures(signals, read(FULL, "correct"), members[kept])
    left_out |= {names[kept[index]]: reason for index, reason in reasons.items()}
    fleet = experiment["config"]["fleet"]
    out = [position for position, name in enumerate(names) if name in left_out]
    cases = make_cases(fleet["shadows"], fleet["targets"], out)
    against = len(cases[0].shadows) if cases else 0
    if against < 4:
        raise ValueError(
            f"An audit needs a model to audit and 4 shadows against it, got {len(cases)} and "
            f"{against}. Finish the fleet, or raise `--fleet.shadows` and `--fleet.targets`. "
            f"Left out: {describe(left_out)}."
        )
    phi = {}
    for variant, some in signals.items():
        phi[variant] = some.new_full((len(names), *some.shape[1:]), torch.nan)
        phi[variant][kept] = some
    audited = [names[case.target] for case in cases]
    precisions = {variant: know(run, variant, audited) for variant in variants}
    return Evidence(experiment, phi, members, cases, precisions, left_out)


def know(run: RunFolder, variant: str, audited: Sequence[ModelName]) -> Precision:
    """Read what is known of a variant beside its leakage, of the audited models."""
    correct = load_signals([run.signals(name, variant) for name in audited], "test_correct")
    size = run.weights(audited[0], variant).stat().st_size
    records = (run.read_record(name, variant) for name in audited)
    made = average([record for record in records if record is not None])
    return Precision(mean_accuracy(correct), size, made)


def describe(left_out: Mapping[ModelName, str]) -> str:
    """Which models are not counted, and why."""
    return "; ".join(f"{name} ({reason})" for name, reason in left_out.items()) or "none"


def basis(evidence: Evidence, rows: Sequence[Row]) -> dict[str, str]:
    """What the numbers rest on."""
    experiment, summary = evidence.experiment, rows[0].summary
    config = experiment["config"]
    audited = f"{summary.targets}"
    if not config["fleet"]["targets"]:
        audited += " (each shadow, attacked by the others but its partner)"
    return {
        "data": f"{config['data']['class_path']}, {evidence.members.shape[1]} audited examples, "
        f"fingerprint {experiment['fingerprints']['data']}",
        "network": config["model"]["network"],
        "audited models": audited,
        "shadow models": f"{len(evidence.cases[0].shadows)} against each of them",
        "non-members": f"{summary.non_members} a target, so that a TPR at 1% FPR rests on "
        f"{summary.false_positives_1pct} false positives and one at 0.1% on "
        f"{summary.false_positives_01pct}",
        "queries": ", ".join(config["queries"]),
        "intervals": "95%, bootstrap over targets and examples, no narrower than Student's t over "
        "the targets; with a single target DeLong (AUC) and Clopper-Pearson (TPR, accuracy)",
        "left out": describe(evidence.left_out),
        "versions": ", ".join(f"{key} {value}" for key, value in experiment["versions"].items()),
    }


def draw(evidence: Evidence, rows: Sequence[Row]) -> tuple[dict[str, Figure], dict[str, str]]:
    """Figures and their captions, by name."""
    accuracy = {variant: known.accuracy for variant, known in evidence.precisions.items()}
    figures = {
        "plane": plane_figure(rows, accuracy),
        "roc": roc_figure(rows, rows[0].summary.non_members),
    }
    made = {variant: known.made for variant, known in evidence.precisions.items()}
    layers = layers_figure(made)
    if layers is not None:
        figures["layers"] = layers
    counts = sorted({making.models for making in made.values() if making})
    models = " to ".join(dict.fromkeys(map(str, counts[:1] + counts[-1:])))
    return figures, {name: CAPTIONS[name].format(models=models) for name in figures}


def write(
    folder: Path, name: str, evidence: Evidence, rows: Sequence[Row], digest: str
) -> dict[str, Figure]:
    """Write every file of the audit; results.json comes last, so that with it all are there."""
    experiment, precisions = evidence.experiment, evidence.precisions
    recipe = {"threads": experiment["versions"]["threads"], **experiment["config"]}
    figures, captions = draw(evidence, rows)
    for key in CAPTIONS.keys() - figures.keys():
        (folder / f"{key}.png").unlink(missing_ok=True)  # of an audit before, that had records
    for key, figure in figures.items():
        write_whole(folder / f"{key}.png", partial(figure.savefig, format="png", dpi=150))
        figure.set_layout_engine("none")  # found once, for it takes as long as drawing
    lines = [
        flatten(row, precisions[row.variant], row is strongest(rows, row.variant)) for row in rows
    ]
    write_whole(folder / "results.csv", partial(_write_csv, lines))
    facts, shown = basis(evidence, rows), {captions[key]: figures[key] for key in figures}
    page = render(name, rows, precisions, shown, facts, yaml.safe_dump(recipe, sort_keys=False))
    write_whole(folder / "report.html", lambda path: path.write_text(page))
    results = {
        "inputs": digest,
        "files": ["table.txt", "results.csv", "report.html", *(f"{key}.png" for key in figures)],
        "experiment": experiment,
        "basis": facts,
        "fpr": FPR_GRID.tolist(),
        "rows": [line | {"tpr": row.curve} for line, row in zip(lines, rows, strict=True)],
    }
    text = json.dumps(results, indent=1)
    write_whole(folder / "results.json", lambda path: path.write_text(text))
    return figures


def _write_csv(lines: Sequence[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def digest_inputs(run: RunFolder, config: Namespace) -> str:
    """Fingerprint of all that the results follow from: signals, records, options and the code."""
    here = Path(__file__)
    code = [here, *sorted(here.with_name("attacks").glob("*.py"))]
    digest = hashlib.sha256(repr((config.attacks, config.partial)).encode())
    run.read()  # for its error where there is no experiment
    for path in (run.experiment_file, run.membership_file):
        digest.update(path.read_bytes())  # not their times: train.py rewrites them
    files = [*run.path.glob("models/*/signals/*"), *run.path.glob("models/*/*.json")]
    for path in [*code, *sorted(files)]:
        state = path.stat()
        digest.update(f"{path.name} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def is_done(folder: Path, digest: str) -> bool:
    """Whether the folder holds the audit of exactly these inputs."""
    if not (folder / "results.json").exists():
        return False
    results = json.loads((folder / "results.json").read_text())
    same: bool = results["inputs"] == digest
    return same and all((folder / name).exists() for name in results["files"])


def audit(config: Namespace, run: RunFolder, console: Console) -> None:
    """Attack, print, write, log; or say that this was done.

    Raises:
        FileNotFoundError, ValueError: as `gather`, before anything is written.
        OSError: the folder cannot be written to.
    """
    digest = digest_inputs(run, config)  # first: what comes to be while this runs is not in it
    evidence = gather(run, config.partial)
    for name, reason in evidence.left_out.items():
        partner = ", with its partner" if name.role == "shadow" else ""
        console.print(f"[bold red]{name} is left out{partner}[/]: {reason}")
    folder = run.path / "audit"
    report = escape(f"Report: {folder / 'report.html'}")
    if config.wandb == "disabled" and is_done(folder, digest):
        console.print((folder / "table.txt").read_text(), markup=False)
        console.print(f"Nothing has changed since this audit. {report}", soft_wrap=True)
        return
    rows: list[Row] = []
    attacks = list(dict.fromkeys(config.attacks))
    with console.status("Attacking") as status:
        for row in evaluate(evidence.phi, evidence.members, evidence.cases, attacks):
            rows.append(row)
            status.update(f"Attacking: {row.variant}, {row.attack} done")
    table = make_table(rows, evidence.precisions, run.name)
    console.print(table)
    plain = Console(width=console.width, record=True, file=io.StringIO())
    plain.print(table)
    write_whole(folder / "table.txt", lambda path: path.write_text(plain.export_text()))
    figures = write(folder, run.name, evidence, rows, digest)
    console.print(report, soft_wrap=True)
    if config.wandb != "disabled":
        results = json.loads((folder / "results.json").read_text())
        log_audit(run.path, config.wandb, results, figures)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    config = make_parser().parse_args(arguments)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 160)  # in a log, lines need not fit a screen
    torch.set_num_threads(config.threads)
    try:
        check_key(config.wandb)
        audit(config, RunFolder(config.run_dir), console)
    except (ValueError, OSError) as error:
        sys.exit(f"audit.py: {error}")


if __name__ == "__main__":
    main()
