"""Attack every variant of a fleet from its saved signals; report leakage beside accuracy.

Prints a table and writes RUN_DIR/audit: table.txt, results.csv, exposure.csv, results.json, figures
and report.html. `--signals` audits models that were trained elsewhere, `--compare` puts audits of
several experiments into one table and figure.
"""

from reporting.options import make_parser
from storage.command_line import answer_help, show_every_character

answer_help(make_parser, "audit.py", "bitleak-audit")  # before imports that take seconds

import sys
from collections.abc import Sequence
from typing import Any

import torch
from jsonargparse import Namespace
from rich.console import Console
from rich.markup import escape
from threadpoolctl import threadpool_limits

from attacks.choice import choose_attacks
from attacks.evaluate import evaluate
from attacks.frontier import Frontier
from attacks.game import Game
from attacks.rmia import make_options
from attacks.rmia_tuning import tune
from attacks.strongest import Strongest
from reporting.compare import against_first, enter, name_apart
from reporting.compare_frontier import find_frontier, sentences, tabulate, why_no_curve
from reporting.compare_views import comparison_lines, make_comparison, make_differences
from reporting.findings import find
from reporting.illustrate import illustrate
from reporting.inputs import digest_inputs, is_done
from reporting.pairing import pair_with_first
from reporting.results import Results, make_results
from reporting.results_json import read_results
from reporting.tables import for_terminal, headline
from reporting.write import write, write_comparison
from storage.evidence import gather, restrict
from storage.external_signals import gather_external
from storage.own_attacks import register
from storage.own_code import load
from storage.run_folder import RunFolder
from storage.wandb_project import check_key


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    show_every_character()
    config = make_parser().read(arguments)
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = max(console.width, 160)  # in a log, lines need not fit a screen
    torch.set_num_threads(config.threads)
    threadpool_limits(config.threads, "blas")  # NumPy's, whose threads wait busily for one another
    try:
        check_key(config.wandb)
        if config.compare is not None:
            compare(config, console)
        elif config.run_dir is not None:
            audit(config, console)
        else:
            raise ValueError("`--run_dir` is missing; pass for example `--run_dir runs/digits`.")
    except (ValueError, OSError) as error:
        sys.exit(f"audit.py: {error}")


def audit(config: Namespace, console: Console) -> None:
    """Files -> evidence -> scores -> findings -> results -> views; or say that this was done.

    Raises:
        FileNotFoundError, ValueError: as `gather`, before anything is written.
        OSError: the folder cannot be written to.
    """
    if config.signals is not None and config.shadows is not None:
        raise ValueError(
            "`--shadows` lends shadows to targets that train.py trained, and `--signals` brings "
            "its own. Leave out one of them."
        )
    folder, report = config.run_dir / "audit", escape(f"Report: {config.run_dir}/audit/report.html")
    own = register(load(config.attacks or (), "--attacks"))
    # before any file is read, so that what changes while this runs is not in it
    rmia = make_options(config.rmia.population, config.rmia.a)
    sources = config.signals, config.shadows
    inputs = digest_inputs(config.run_dir, *sources, config.attacks, config.partial, rmia)
    if config.wandb == "disabled" and is_done(folder, inputs):
        console.print((folder / "table.txt").read_text(encoding="utf-8"), markup=False)
        return console.print(f"Nothing has changed since this audit. {report}")

    if config.signals is None:
        lender = config.shadows and RunFolder(config.shadows)
        evidence = gather(RunFolder(config.run_dir), config.partial, lender)
    else:
        evidence = gather_external(config.signals)
    evidence = evidence._replace(game=evidence.game._replace(rmia=rmia))
    asked = config.attacks and [own.get(name, name) for name in config.attacks]
    choice = choose_attacks(asked, evidence.game)
    evidence = restrict(evidence, choice)
    best, findings = attack(evidence.game, choice.attacks, console)
    evidence = evidence._replace(game=best.game)
    results, images = make_results(evidence, best, findings, inputs), evidence.images
    with console.status("Drawing"):
        drawings = illustrate(results, findings, images.pictures if images else None)
        results = results._replace(figures=tuple(drawings))
        exposures, examples = findings["exposure"], evidence.examples
        try:
            write(folder, results, exposures, examples, drawings, console.width)
        finally:  # a full disk costs the files and a closed terminal the text, but neither both
            show(results, console)
    console.print(report)
    if config.wandb != "disabled":
        from reporting.dashboard import publish  # W&B takes half a second

        if url := publish(config.run_dir, config.wandb, results):
            console.print(escape(f"View: {url}"))


def attack(
    game: Game, attacks: Sequence[str], console: Console
) -> tuple[Strongest, dict[str, Any]]:
    """Attack every variant, and find what follows from the scores."""
    with console.status("Attacking") as status:
        game = tune(game, attacks)
        best = Strongest(game)
        for variant in game.variants:
            status.update(f"Attacking {escape(variant)}")
            best.add(evaluate(game, variant, attacks))
        status.update("Comparing")
        return best, find(game, best)


def show(results: Results, console: Console) -> None:
    """Print the headline table, warnings, what was left out, the answer and the comparisons."""
    table = for_terminal(headline(results.rows, results.variants), results.name)
    console.print(table, soft_wrap=False)
    for sentence in results.warnings:
        console.print(f"[bold red]{escape(sentence)}[/]")
    for sentence in results.left_out:
        console.print(f"[bold]{escape(sentence)}[/]")
    for sentence in (*results.answer, "", *results.sentences, ""):
        console.print(escape(sentence))


def compare(config: Namespace, console: Console) -> None:
    """Print and write the audits of several experiments beside each other.

    Raises:
        FileNotFoundError, ValueError: as `read_results`, or options are given that are not read.
    """
    default = make_parser().get_default
    unread = "signals", "shadows", "attacks", "partial", "threads", "rmia.population", "rmia.a"
    if given := [f"`--{key}`" for key in (*unread, "wandb") if config[key] != default(key)]:
        raise ValueError(
            f"`--compare` reads finished audits, and has no use for {' and '.join(given)}. "
            "Leave it out, or pass it when you audit each run folder."
        )
    names = name_apart(config.compare)
    results = {n: read_results(path) for n, path in zip(names, config.compare, strict=True)}
    pairings, entries = pair_with_first(results), enter(results)
    differences = against_first(entries, pairings)
    tables = make_differences(results, pairings), make_comparison(entries, differences, pairings)
    for table in tables:
        console.print(for_terminal(table, table.title), soft_wrap=False)
    for pairing in pairings.values():
        console.print(escape(pairing.sentence))
    frontier = find_frontier(entries, pairings)
    if frontier is None:
        console.print(escape(why_no_curve(entries)))
    else:
        show_frontier(frontier, names, console)
    if not any(any(by_end.values()) for by_end in differences):
        console.print(f"No variant of another experiment is also in {escape(names[0])}.")
    name = "-".join(["compared", *names]).replace("/", "-")
    folder = config.run_dir or config.compare[0].resolve().parent / name
    lines = comparison_lines(entries, differences, pairings, frontier)
    write_comparison(folder, lines, entries)
    console.print(escape(f"Written: {folder}/comparison.csv and .png"))


def show_frontier(frontier: Frontier, names: Sequence[str], console: Console) -> None:
    """Print what other experiments leak beside networks of the first that were stopped early."""
    if frontier.beside:
        table = tabulate(frontier, names[0])
        console.print(for_terminal(table, table.title), soft_wrap=False)
    for sentence in sentences(frontier, names):
        console.print(escape(sentence))


if __name__ == "__main__":
    main()
