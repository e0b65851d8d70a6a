"""The page's fleets: dense networks, and networks pruned by each method on the same examples."""

from pathlib import Path
from typing import NamedTuple

from docs.study.companions import check_companion, id_of, lender_of, parse
from docs.study.kept import as_kept
from docs.study.numbers import Study
from reporting.results import Results

DENSE, OCS, BORROWED = "dense", "ocs", "borrowed"
METHODS = {  # which channels go, by method
    OCS: "those with the smallest weights, once they are stable; a penalty shrinks them before",
    "magnitude": "those with the smallest weights, late in training",
    "random": "random ones, at the same epoch as `magnitude`",
    "init": "those with the smallest initial weights, before training",
}
ARCHITECTURE = "architecture"  # the finding on what widths tell
FREE = ("prune.", "fleet.", "versions.")  # options in which fleets may differ
RECIPE = "pruning/cifar10.yaml"


class Fleets(NamedTuple):
    """Audits of networks that trained on the same examples.

    Attributes:
        dense: the fleet that was not pruned.
        pruned: the fleets that were, by method.
        borrowed: audits of the pruned fleets in which the dense fleet's shadows attack, by method.
    """

    dense: Study
    pruned: dict[str, Study]
    borrowed: dict[str, Study]

    def of(self, name: str) -> Study:
        """One fleet, by its name."""
        return self.dense if name == DENSE else self.pruned[name]

    @property
    def names(self) -> list[str]:
        """All fleets, the dense one first."""
        return [DENSE, *self.pruned]


def keep(name: str, results: Results) -> str:
    """What the page rests on of one fleet, as JSON: the rows, and what widths tell.

    Raises:
        ValueError: the fleet was pruned otherwise than its option says.
    """
    method = _method_of(results)
    if name != (method or DENSE):
        asked = "null" if name == DENSE else name
        raise ValueError(
            f"`--{name}` needs networks trained with `--prune {asked}`, those of {results.name} "
            f"were trained with `--prune {method or 'null'}`. Name it by `--{method or DENSE}`."
        )
    leak = results.findings.get(ARCHITECTURE)
    return as_kept(results, {ARCHITECTURE: leak} if leak else {})


def keep_borrowed(results: Results) -> tuple[str, str]:
    """The method of a fleet that dense shadows attack, and what is kept of that audit.

    Raises:
        ValueError: the fleet was not pruned, or no shadows of another experiment attack it.
    """
    method = _method_of(results)
    if method is None or not any(row.knowledge == "other" for row in results.rows):
        why = "was not pruned" if method is None else "has none"
        raise ValueError(
            f"`--{BORROWED}` needs the audit of a pruned fleet with the shadows of another "
            f"experiment, {results.name} {why}. Run `audit.py` on a pruned fleet with `--shadows`."
        )
    rows = [row for row in results.rows if row.knowledge in ("matched", "other", "none")]
    kept = results._replace(rows=rows, pruned=None, seconds={})
    return method, as_kept(kept, {})


def kept_at(folder: Path, name: str) -> Path:
    """The file of one fleet's kept results; of an audit with dense shadows if it is borrowed."""
    return folder / f"{name}.json"


def read(folder: Path) -> Fleets:
    """The kept results; any method and any audit with dense shadows may be missing.

    Raises:
        FileNotFoundError: the dense fleet's are not there, or those of no method.
        ValueError: a file is damaged, another version of BitLeak wrote it, or its fleet cannot be
            compared with the dense one.
    """
    pruned = {method: kept_at(folder, method) for method in METHODS}
    borrowed = {method: kept_at(folder, f"{BORROWED}-{method}") for method in METHODS}
    dense = kept_at(folder, DENSE)
    if not dense.exists() or not any(path.exists() for path in pruned.values()):
        lacking = f"`--{DENSE} RUN_DIR`" if not dense.exists() else f"`--{OCS} RUN_DIR`"
        raise FileNotFoundError(
            f"The page needs the results of a dense and of a pruned fleet, and {folder} lacks one "
            f"of them. Name its run folder, as in {lacking}."
        )
    fleets = Fleets(
        parse(dense),
        {method: parse(path) for method, path in pruned.items() if path.exists()},
        {method: parse(path) for method, path in borrowed.items() if path.exists()},
    )
    _check(folder, fleets)
    return fleets


def _check(folder: Path, fleets: Fleets) -> None:
    """Refuse fleets that differ in more than their pruning, and shadows of other experiments."""
    first = fleets.dense.results
    for method, study in fleets.pruned.items():
        way = "Train it like the dense fleet but for `--prune`."
        pair = (DENSE, first), (method, study.results)
        check_companion(kept_at(folder, method), *pair, FREE, way)
    shares = {method: study.config["prune"]["remove"] for method, study in fleets.pruned.items()}
    if len(set(shares.values())) > 1:
        told = ", ".join(f"{method} {share:g}" for method, share in shares.items())
        raise ValueError(
            f"Methods are compared at one `--prune.remove`, got {told}. Train them with the same."
        )
    for method, study in fleets.borrowed.items():
        file, own = kept_at(folder, f"{BORROWED}-{method}"), fleets.pruned.get(method)
        if own is None or id_of(own) != id_of(study):
            raise ValueError(
                f"{file} has targets of {study.results.name}, which is not the fleet that is kept "
                f"of {method}. Name its run folder by `--{method}`, too."
            )
        lender = lender_of(study)
        if lender != first.name:
            raise ValueError(
                f"{file} has the shadows of {lender}, and the dense fleet is {first.name}. Audit "
                f"{study.results.name} with that one's `--shadows`."
            )


def _method_of(results: Results) -> str | None:
    return results.pruned.method if results.pruned else None
