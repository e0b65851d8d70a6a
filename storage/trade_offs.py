"""Ways to trade accuracy for leakage among the variants of a fleet: early stopping, and noise."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from attacks.game import FULL, Curve
from quantization.variant_name import control_of
from storage.names import in_order
from storage.records import VariantFacts


class TradeOffs(NamedTuple):
    """What of a game rests on accuracy; the fields are those of `attacks.game.Game`.

    Attributes:
        accuracy: test accuracy of each audited model, by variant; without those of unknown ones.
        snapshots: the variants on the way to `full`, in the order of training.
        curves: what other variants are compared with at equal accuracy.
    """

    accuracy: dict[str, Float[Tensor, " targets"]]
    snapshots: Sequence[str]
    curves: Sequence[Curve]


def trade_offs(facts: Mapping[str, VariantFacts]) -> TradeOffs:
    """Find the curves that variants are compared with, and which variants are."""
    known = {v: torch.tensor(f.accuracy_by_target, dtype=torch.float64) for v, f in facts.items()}
    snapshots, curves = in_order(facts), []
    if early := early_stopping(facts):
        others = [variant for variant in facts if variant not in early]
        curves.append(Curve("early stopping", early, others))
    for base, noise in noise_curves(facts).items():
        curves.append(Curve(f"noise like {base}", noise, [base]))
    accuracy = {variant: values for variant, values in known.items() if len(values)}
    return TradeOffs(accuracy, snapshots, curves)


def early_stopping(variants: Collection[str]) -> list[str]:
    """The snapshots in the order of training, then `full`; empty without either."""
    snapshots = in_order(variants)
    return [*snapshots, FULL] if snapshots and FULL in variants else []


def noise_curves(variants: Collection[str]) -> dict[str, list[str]]:
    """The controls with noise of each variant that has some, from most noise to `full`."""
    controls: dict[str, dict[float, str]] = {}
    for variant in variants:
        control = control_of(variant)
        if control is not None and control.noise is not None and control.base in variants:
            controls.setdefault(control.base, {})[control.noise] = variant
    if FULL not in variants:
        return {}
    return {
        base: [*(by_noise[size] for size in sorted(by_noise, reverse=True)), FULL]
        for base, by_noise in controls.items()
    }
