"""Which targets of two experiments trained on the same examples, or why none of them did."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from reporting.results import Results

FEWEST = 2  # pairs that a test can be made of


class Pairing(NamedTuple):
    """How the targets of an experiment are compared with those of the first.

    Attributes:
        first: positions in the first experiment of the targets that trained on the same examples in
            both; empty if the experiments are not paired.
        own: their positions in this one.
        sentence: over how many targets they are paired, or why they are not and the way out.
    """

    first: Sequence[int]
    own: Sequence[int]
    sentence: str


def pair_with_first(results: Mapping[str, Results]) -> dict[str, Pairing]:
    """Pair every experiment but the first with it, by name."""
    first, *others = results
    return {name: _pair(first, results[first], name, results[name]) for name in others}


def _pair(first: str, reference: Results, name: str, results: Results) -> Pairing:
    common = [
        target
        for target, members in results.audited.items()
        if reference.audited.get(target) == members
    ]
    if why := _why_not(first, reference, name, results, len(common)):
        return Pairing((), (), f"{name} is not paired with {first}: {why}")
    before, after = (
        [list(audit.audited).index(target) for target in common] for audit in (reference, results)
    )
    over = f"{len(common)} targets, which trained on the same examples in both"
    return Pairing(before, after, f"{name} is paired with {first} over {over}.")


def _why_not(first: str, reference: Results, name: str, results: Results, common: int) -> str:
    """Why two experiments are not paired, and the way out; empty if they are."""
    before, after = reference.experiment, results.experiment
    if before is None or after is None:
        return (
            f"{first if before is None else name} was trained elsewhere, on a pool that is not "
            "known. Train both by train.py to pair them."
        )
    if not (reference.audited and results.audited):
        return (
            f"the audit of {name if reference.audited else first} is from before audits recorded "
            "what each target trained on. Audit it again to pair them."
        )
    if before.fingerprints["data"] != after.fingerprints["data"]:
        return (
            "its pool or its test images are others. Train it with the same `--data` and options "
            "of data to pair them."
        )
    if before.config["seed"] != (seed := after.config["seed"]):
        return (
            f"its seed is {seed}, so that its targets trained on other examples. Train it with "
            f"`--seed {before.config['seed']}` to pair them."
        )
    if common < FEWEST:
        return (
            f"{common} of its audited models trained on the same examples as {first}'s of that "
            f"name, where a test takes {FEWEST}. Train both with the same `--fleet.targets`, "
            f"{FEWEST} or more."
        )
    return ""
