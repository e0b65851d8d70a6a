"""Who plays in an audit: whose files are whole, which models failed, and who attacks whom."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from attacks.cases import Case, make_cases
from attacks.game import FULL
from attacks.health import find_failures, unjudged
from storage.borrowed import Borrowed, borrow
from storage.checksums import check_unchanged
from storage.experiment import Experiment
from storage.left_out import UNFINISHED
from storage.names import ModelName
from storage.run_folder import RunFolder
from storage.saved_signals import SavedSignal


class Playing(NamedTuple):
    """The models of an audit.

    Attributes:
        experiment: what was trained.
        members: which example each of its models trained on, in the fleet's order.
        finished: models whose files are all whole.
        excluded: models that are excluded, and why.
        unjudged: sentences on failures that could not be looked for.
        borrowed: another experiment's shadows.
        cases: who is audited by whom.
    """

    experiment: Experiment
    members: Mapping[ModelName, Bool[Tensor, " examples"]]
    finished: Sequence[ModelName]
    excluded: dict[ModelName, str]
    unjudged: Sequence[str]
    borrowed: Borrowed
    cases: Sequence[Case]

    @property
    def audited(self) -> list[ModelName]:
        """The model of each case."""
        return [self.experiment.names[case.target] for case in self.cases]

    @property
    def sound(self) -> list[ModelName]:
        """Finished models that did not fail."""
        return [name for name in self.finished if name not in self.excluded]

    @property
    def needed(self) -> list[ModelName]:
        """Models that are audited or attack, in the fleet's order."""
        models = {model for case in self.cases for model in (case.target, *case.shadows)}
        return [self.experiment.names[model] for model in sorted(models)]


def find_playing(run: RunFolder, allow_partial: bool, lender: RunFolder | None) -> Playing:
    """Exclude unfinished and failed models, and pair the others.

    Args:
        run: the experiment to audit.
        allow_partial: whether unfinished models may be excluded.
        lender: another experiment whose shadows attack, too.

    Raises:
        FileNotFoundError: there is no experiment in a folder.
        ValueError: models are unfinished and `allow_partial` is off, a file is damaged, too few
            models are left to audit, or the lender's shadows cannot attack here.
    """
    experiment, members = run.read(), run.membership()
    finished, excluded = _read_finished(run, experiment.variants, allow_partial)
    failed, unknown = _find_failures(run, experiment.variants, members, finished)
    excluded |= failed
    borrowed = Borrowed() if lender is None else borrow(lender, run, members)
    out = [
        position
        for position, name in enumerate(members)
        if name in excluded or name in borrowed.failed
    ]
    cases = make_cases(experiment.shadows, experiment.targets, out)
    check_cases(cases, excluded | dict(borrowed.failed))
    return Playing(experiment, members, finished, excluded, unknown, borrowed, cases)


def check_cases(cases: Sequence[Case], excluded: Mapping[ModelName, str]) -> None:
    """Raise ValueError if too few models are left to audit."""
    against = len(cases[0].shadows) if cases else 0
    if against < 4:
        raise ValueError(
            f"An audit needs a model to audit and 4 shadows against it, got {len(cases)} and "
            f"{against}. Finish the fleet, or raise `--fleet.shadows` and `--fleet.targets`. "
            f"Excluded: {list_excluded(excluded)}."
        )


def list_excluded(excluded: Mapping[ModelName, str]) -> str:
    """Excluded models and the reasons, in one line."""
    return "; ".join(f"{name} ({reason})" for name, reason in excluded.items()) or "none"


def _read_finished(
    run: RunFolder, variants: Sequence[str], allow_partial: bool
) -> tuple[list[ModelName], dict[ModelName, str]]:
    """Models whose files are all present and whole, and the unfinished models."""
    experiment = run.read()
    names, embedded, recorded = experiment.names, experiment.embedded, experiment.recorded
    lacking = (name for name in names if run.missing(name, variants, embedded, recorded))
    unfinished = dict.fromkeys(lacking, UNFINISHED)
    if unfinished and not allow_partial:
        raise ValueError(
            f"{len(unfinished)} of {len(names)} models are unfinished: "
            f"{', '.join(map(str, unfinished))}. Run train.py again to finish them, or pass "
            "`--partial` to audit the others."
        )
    finished = [name for name in names if name not in unfinished]
    if not finished:
        raise ValueError(f"No model in {run.path} is finished. Run train.py again.")
    for name in finished:
        kinds = run.signals, run.embeddings, run.record
        files = [file(name, v) for file in kinds for v in variants]
        check_unchanged(run.model(name), files)
    return finished, unfinished


def _find_failures(
    run: RunFolder,
    variants: Sequence[str],
    members: Mapping[ModelName, Tensor],
    finished: Sequence[ModelName],
) -> tuple[dict[ModelName, str], list[str]]:
    """Models that diverged or that quantization broke, and why; and what was not judged."""

    def signal(variant: str, key: str) -> SavedSignal:
        return SavedSignal([run.signals(name, variant) for name in finished], key)

    phi = {variant: signal(variant, "phi") for variant in variants}
    rows = torch.stack([members[name] for name in finished])
    reasons = find_failures(phi, signal(FULL, "correct"), rows)
    return {finished[index]: reason for index, reason in reasons.items()}, unjudged(phi[FULL])
