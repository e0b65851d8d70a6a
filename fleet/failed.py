"""Failed models of a fleet, found in their saved signals."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from attacks.game import FULL
from attacks.health import failures, find_broken, unjudged
from storage.names import ModelName
from storage.run_folder import RunFolder
from storage.saved_signals import SavedSignal, load_signals


class Failed(NamedTuple):
    """Trained models that diverged, or that quantization broke.

    Attributes:
        reasons: failed model -> reason, for the user.
        broken: models whose signals are not finite; the other failed models fell behind their
            peers.
        unjudged: sentence on models that were not compared with their peers, if any are trained.
    """

    reasons: dict[ModelName, str]
    broken: set[ModelName]
    unjudged: Sequence[str] = ()


def find_failed(
    run: RunFolder, members: Mapping[ModelName, Bool[Tensor, " examples"]], variants: Sequence[str]
) -> Failed:
    """Find the models that diverged, or that quantization broke."""
    reasons: dict[ModelName, str] = {}
    broken: set[ModelName] = set()
    note = list[str]()
    for variant in variants:  # not all models need have the same variants
        names = []
        for name in members:
            if (path := run.signals(name, variant)).exists():
                try:
                    _ = SavedSignal([path], "phi").shape  # opens the file
                    names.append(name)
                except ValueError as error:
                    reasons.setdefault(name, str(error))
        if not names:
            continue
        paths = [run.signals(name, variant) for name in names]
        phi = load_signals(paths, "phi")
        by_row = find_broken({variant: phi})
        broken |= {names[row] for row in by_row}
        if variant == FULL:
            note = unjudged(phi)
            correct = load_signals(paths, "correct")
            by_row |= failures(phi, correct, torch.stack([members[name] for name in names]))
        for row, reason in by_row.items():
            reasons.setdefault(names[row], reason)
    return Failed(reasons, broken, note)
