"""The second edition's fleets: which experiments it rests on, and their variants by kind."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from attacks.game import FULL
from docs.study.claims import TERNARY
from docs.study.numbers import Study
from quantization.variant_name import control_of
from reporting.pairing import pair_with_first
from reporting.results_json import parse_results
from storage.names import is_snapshot
from storage.trade_offs import early_stopping, noise_curves

Lack = tuple[str, str]  # what is missing, and the way out
BASE = "frontier"  # the fleet that all of the second edition rests on


class Fleet(NamedTuple):
    """One experiment of the second edition.

    Attributes:
        purpose: what it is for, in a phrase.
        recipe: the file that trains it, in `recipes`.
        lacks: what a fleet lacks for its section; None if nothing.
        paired: whether its targets are compared with those of `BASE`.
    """

    purpose: str
    recipe: str
    lacks: Callable[[Study], Lack | None]
    paired: bool = False


def _lacks_curve(study: Study) -> Lack | None:
    if len(curve_of(study)) < 3:
        return "two snapshots", "Train it with `--snapshots`, and audit it again."
    missing = [variant for variant in TERNARY if variant not in study.variants]
    if missing:
        return missing[0], f"Train it with `--quantize {' '.join(TERNARY)}`, and audit it again."
    return None


def _lacks_ternary(study: Study) -> Lack | None:
    if not ternary_of(study):
        return "a ternary variant", "Train it with `--quantize adaround-w1.58`, and audit it again."
    return None


def _lacks_proof(study: Study) -> Lack | None:
    proven = [facts.proven for facts in study.results.variants.values()]
    if not any(proof and proof.epsilon for proof in proven):
        return "a proven bound", "Train it with `--model.dp.noise`, and audit it again."
    return None


def _lacks_loops(study: Study) -> Lack | None:
    if not published_of(study):
        return "a variant of a published loop", "Train it with `--quantize adaround-w1.58-paper`."
    return None


FLEETS = {
    BASE: Fleet("early stopping and controls", "study/cifar10_small.yaml", _lacks_curve),
    "decay": Fleet("weight decay", "study/weight_decay.yaml", lambda _: None, paired=True),
    "private": Fleet("DP-SGD", "study/private.yaml", _lacks_proof, paired=True),
    "published": Fleet("the published loops", "study/published.yaml", _lacks_loops),
    "large": Fleet("the paper's pool size", "study/cifar10_large.yaml", _lacks_ternary),
}


def kept_at(folder: Path, name: str) -> Path:
    """The file of one fleet's kept results."""
    return folder / f"{name}.json"


def read_fleets(folder: Path) -> dict[str, Study]:
    """The fleets whose results are kept.

    Raises:
        ValueError: a file is damaged, one is there without that of `BASE`, or it is not paired.
    """
    way_out = "Name the run folder that they come from"
    fleets = {
        name: Study(parse_results(kept_at(folder, name), way_out))
        for name in FLEETS
        if kept_at(folder, name).exists()
    }
    if fleets and BASE not in fleets:
        raise ValueError(
            f"The second edition rests on {BASE}.json, which is missing beside "
            f"{', '.join(f'{name}.json' for name in fleets)}. Keep it first: "
            f"`python -m docs.study --{BASE} RUN_DIR`."
        )
    for name, study in fleets.items():
        if FLEETS[name].paired:
            pairing = pair_with_first({BASE: fleets[BASE].results, name: study.results})[name]
            if not pairing.own:
                raise ValueError(f"{kept_at(folder, name)} cannot be used: {pairing.sentence}")
    return fleets


def curve_of(study: Study) -> list[str]:
    """The variants of early stopping, in the order of training: the snapshots, then `full`."""
    return early_stopping(study.variants)


def made_of(study: Study) -> list[str]:
    """The variants that are no states of training: quantized ones and controls."""
    return [v for v in study.variants if v != FULL and not is_snapshot(v)]


def controls_of(study: Study) -> list[str]:
    """The full-precision networks with noise or zeros in place of quantization."""
    return [v for v in study.variants if control_of(v)]


def quantized_of(study: Study) -> list[str]:
    """The quantized variants."""
    controls = controls_of(study)
    return [variant for variant in made_of(study) if variant not in controls]


def ternary_of(study: Study) -> list[str]:
    """The quantized variants of 1.58 bits, whichever grid or loop."""
    return [variant for variant in quantized_of(study) if re.search(r"-w1\.58(?!\d)", variant)]


def published_of(study: Study) -> list[str]:
    """The variants that the published loops make."""
    return [variant for variant in quantized_of(study) if "-paper" in variant]


def noise_curve(study: Study, base: str) -> list[str]:
    """The curve of a variant's controls with noise, from most of it to none; empty without any."""
    return noise_curves(study.variants).get(base, [])


def base_of(name: str) -> str:
    """The quantized variant that a control is one of; any other variant itself."""
    control = control_of(name)
    return control.base if control else name
