"""Which trained models of a fleet are not sound, told by their saved signals."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from jaxtyping import Bool
from torch import Tensor

from storage.names import ModelName
from storage.run_folder import RunFolder
from storage.saved_signals import SavedSignal, load_signals

FULL = "full"


class Health(NamedTuple):
    """How signals tell: model numbers, each with a reason.

    Attributes:
        broken: from phi by variant, models with signals that are not finite.
        behind: from phi, correctness and membership at full precision, also those that fell behind
            their peers.
    """

    broken: Callable[[Mapping[str, Tensor]], Mapping[int, str]]
    behind: Callable[[Tensor, Tensor, Tensor], Mapping[int, str]]


class Failed(NamedTuple):
    """Trained models that are not sound."""

    reasons: dict[ModelName, str]
    broken: set[ModelName]  # with signals that are not finite; the others fell behind their peers


def find_failed(
    run: RunFolder,
    names: Sequence[ModelName],
    members: Bool[Tensor, "models examples"],
    variants: Sequence[str],
    health: Health,
) -> Failed:
    """Look for models that diverged, or that a quantization broke."""
    reasons: dict[ModelName, str] = {}
    broken: set[ModelName] = set()
    for variant in variants:  # of which a slice of the fleet may have more than the others
        rows = []
        for row, name in enumerate(names):
            if (path := run.signals(name, variant)).exists():
                try:
                    SavedSignal([path], "phi").exists()
                    rows.append(row)
                except ValueError as error:
                    reasons.setdefault(name, str(error))
        if not rows:
            continue
        paths = [run.signals(names[row], variant) for row in rows]
        phi = {variant: load_signals(paths, "phi")}
        found = dict(health.broken(phi))
        broken |= {names[rows[model]] for model in found}
        if variant == FULL:
            correct = load_signals(paths, "correct")
            found |= health.behind(phi[FULL], correct, members[rows])
        for model, reason in found.items():
            reasons.setdefault(names[rows[model]], reason)
    return Failed(reasons, broken)
