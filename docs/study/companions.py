"""Fleets that trained on the same examples and differ in one thing, which a page compares."""

from pathlib import Path

from docs.study.numbers import Study
from reporting.pairing import pair_with_first
from reporting.results import Results
from reporting.results_json import parse_results
from storage.borrowed import FACT
from storage.same_experiment import differing


def parse(path: Path) -> Study:
    """Kept results of one fleet.

    Raises:
        ValueError: the file is damaged, or another version of BitLeak wrote it.
    """
    return Study(parse_results(path, "Name the run folder that it comes from"))


def id_of(study: Study) -> str | None:
    """What tells an experiment from others; None for models that were trained elsewhere."""
    return study.results.experiment and study.results.experiment.id


def lender_of(study: Study) -> str:
    """The experiment whose shadows attack, too; empty if none do."""
    return study.results.basis.get(FACT, "").partition(", which")[0]


def check_companion(
    file: Path,
    first: tuple[str, Results],
    own: tuple[str, Results],
    free: tuple[str, ...],
    way: str,
) -> None:
    """Refuse a fleet whose targets are not those of the first, or whose options differ.

    Args:
        file: where the fleet's results are kept.
        first: name and results of the fleet that it is compared with.
        own: its own.
        free: beginnings of the options in which they may differ.
        way: the way out.

    Raises:
        ValueError: the fleets cannot be compared.
    """
    both = dict((first, own))
    pairing = pair_with_first(both)[own[0]]
    if not pairing.own:
        raise ValueError(f"{file} cannot be used: {pairing.sentence}")
    options = differing({name: results.experiment for name, results in both.items()})
    others = {key: pair for key, pair in options.items() if not key.startswith(free)}
    if others:
        told = "; ".join(
            f"{key} {here}, and {there} there" for key, (there, here) in others.items()
        )
        raise ValueError(f"{file} differs from {first[0]} in {told}. {way}")
