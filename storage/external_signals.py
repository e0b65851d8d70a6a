"""Signals of models that BitLeak did not train, from NumPy arrays of any framework and quantizer.

An `.npz` file holds these keys. A folder holds them as files, such as `full/target_logits.npy`, and
is read one model at a time: use a folder if the logits are large.

    labels                  [examples] integers from 0; needed with logits
    shadow_members          [shadows, examples] bool: which shadow trained on which example
    target_members          [targets, examples] bool
    VARIANT/shadow_logits   [shadows, examples, classes] or [shadows, queries, examples, classes]
    VARIANT/target_logits   the same for the targets
  optional, for examples that no model trained on:
    population_labels                  [population] integers from 0; needed with logits
    VARIANT/shadow_population_logits   as above, with `population` in place of `examples`
    VARIANT/target_population_logits
  optional, for every variant or none, with all of the logits above:
    VARIANT/target_embeddings              [targets, examples, inputs], of the last layer
    VARIANT/target_population_embeddings   [targets, population, inputs]

VARIANT is a name of your choice (int8-engine, gptq-w4); full-precision shadows are taken from
`full`. A query is one view of an example, the same for every model. Logits are floats, bfloat16
included. Any `logits` may be `phi` instead, without `classes`: log(p / (1 - p)) of the true class,
in nats. At least 4 shadows are needed, and no target may be one of them. A folder may have the
rounds of federations besides (`external_rounds.py`), whose clients need no shadows.
"""

from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from attacks.cases import Case
from attacks.game import Game, ModelSignals
from attacks.health import failures, unjudged
from attacks.metrics.intervals import Estimate, mean_accuracy
from attacks.signals import signals
from storage.evidence import Evidence
from storage.external_arrays import (
    PARTS,
    ROLES,
    as_floats,
    check_arrays,
    check_finite,
    find_arrays,
    pair_roles,
    read_array,
    wrong,
)
from storage.external_embeddings import add_embeddings
from storage.external_rounds import read_external_rounds, read_recorded
from storage.files import as_unicode
from storage.left_out import leave_out_models
from storage.names import ModelName, fleet_names
from storage.playing import check_cases
from storage.records import VariantFacts
from storage.trade_offs import trade_offs

FEWEST_SHADOWS = 4
FIELDS = {  # of `ModelSignals`, by part of the data and signal
    "": {"phi": "phi", "hinge": "hinge"},
    "population_": {"phi": "population", "hinge": "population_hinge"},
}
NO_ACCURACY = (
    "Training accuracy was not judged, so a model that diverged is not noticed: that takes logits. "
    "Pass logits instead of phi."
)


def gather_external(path: Path) -> Evidence:
    """Read and check an `.npz` file or a folder, and exclude failed models.

    Raises:
        FileNotFoundError: there is no such path.
        ValueError: the layout is not the one above (the message names the array and the way out),
            or too few models are left to audit.
    """
    axes, recorded = find_arrays(path), read_recorded(path)
    pairs = pair_roles(path, axes)
    check_arrays(path, axes, FEWEST_SHADOWS if recorded is None else 0)
    shadows, targets = (torch.from_numpy(read_array(path, f"{r}_members").copy()) for r in ROLES)
    members, names = torch.cat([shadows, targets]), fleet_names(len(shadows), len(targets))
    by_variant = add_embeddings(path, axes, _read_signals(path, pairs))
    _check_targets(by_variant, members, len(shadows))
    excluded, unknown = _find_failures(next(iter(by_variant.values())), members, names)
    left = [position for position, name in enumerate(names) if name not in excluded]
    usable = [position for position in left if position < len(shadows)]  # they come in no pairs
    audited = [position for position in left if position >= len(shadows)]
    cases = [Case(position, usable) for position in audited]
    if recorded is None or len(shadows) or not cases:  # clients may be compared with their peers
        check_cases(cases, excluded)
    used = {model for case in cases for model in (case.target, *case.shadows)}
    rounds = None
    if recorded is not None:
        by_variant = _add_labels(path, by_variant)
        rounds = read_external_rounds(path, recorded, members, len(shadows), used)
    models = leave_out_models(excluded, trained_here=False)
    by_name = {variant: _read_facts(known, audited) for variant, known in by_variant.items()}
    return Evidence(
        name=as_unicode(path.resolve().stem),
        game=Game(by_variant, members, cases, rounds=rounds, **trade_offs(by_name)._asdict()),
        variants=by_name,
        facts={"signals": f"{path}, {members.shape[1]} examples"}
        | _describe(cases, members[usable].sum(0), models)
        | (recorded.facts if recorded else {}),
        excluded=excluded,
        left_out=[*models, *unknown, *(recorded.sentences if recorded else ())],
    )


def _describe(
    cases: Sequence[Case], inside: Int64[Tensor, " examples"], excluded: Sequence[str]
) -> dict[str, str]:
    """Facts about the models, by label."""
    return {
        "audited models": str(len(cases)),
        "shadow models": f"{len(cases[0].shadows)} against each of them",
        "shadows with an example": f"{inside.min()} to {inside.max()}",
        "test accuracy": "on the population",
        "excluded": " ".join(excluded) or "none",
    }


def _read_signals(
    path: Path, pairs: Mapping[tuple[str, str], Sequence[str]]
) -> dict[str, ModelSignals]:
    """Signals of every variant, in the order of `pairs`."""
    fields: dict[str, dict[str, Any]] = {}
    for (variant, part), names in pairs.items():
        for key, signal in _convert(path, names, part).items():
            fields.setdefault(variant, {})[FIELDS[part][key]] = signal
    return {variant: ModelSignals(**known) for variant, known in fields.items()}


def _add_labels(path: Path, by_variant: Mapping[str, ModelSignals]) -> dict[str, ModelSignals]:
    """Add the classes, which clients may hold unequally."""
    own, others = (torch.from_numpy(read_array(path, f"{p}labels").astype(np.int64)) for p in PARTS)
    return {variant: known._replace(labels=(own, others)) for variant, known in by_variant.items()}


def _find_failures(
    known: ModelSignals, members: Bool[Tensor, "models examples"], names: Sequence[ModelName]
) -> tuple[dict[ModelName, str], list[str]]:
    """Models that diverged, as the logits of the first variant tell, and why; what was unjudged."""
    if known.hinge is None:
        return {}, [NO_ACCURACY]
    reasons = failures(known.phi, known.hinge[..., :] > 0, members)
    excluded = {names[position]: reason for position, reason in reasons.items()}
    return excluded, unjudged(known.phi)


def _read_facts(known: ModelSignals, audited: Sequence[int]) -> VariantFacts:
    """Accuracy on the population, if its logits are known."""
    if known.population_hinge is None:
        return VariantFacts(Estimate(nan, nan, nan), 0)
    correct = known.population_hinge[..., :][audited, 0] > 0
    by_target = correct.double().mean(1).tolist()
    return VariantFacts(mean_accuracy(correct), 0, accuracy_by_target=by_target)


def _convert(path: Path, names: Sequence[str], part: str) -> dict[str, Tensor]:
    """Reduce logits to signals, one model at a time: the shadows, then the targets."""
    records: list[dict[str, Tensor]] = []
    for name in names:
        array, broken = read_array(path, name), dict[int, int]()
        if is_logits := name.endswith("logits"):
            labels = torch.from_numpy(read_array(path, f"{part}labels").astype(np.int64))
            if not 0 <= labels.min() <= labels.max() < array.shape[-1]:
                given = f"{labels.min()} to {labels.max()}"
                expected = f"be 0 to {array.shape[-1] - 1}, the last axis of `{name}`"
                raise wrong(f"{part}labels", expected, given, "Number the classes from 0.")
        for row, model in enumerate(array):
            values = as_floats(model)
            broken[row] = int((~values.isfinite()).sum())
            record = {"phi": values.float().reshape(-1, values.shape[-1])}
            if is_logits:
                record = signals(values.reshape(-1, *values.shape[-2:]), labels)._asdict()
            records.append({key: record[key] for key in FIELDS[part] if key in record})
        check_finite(name, broken)
    kept = [key for key in records[0] if all(key in record for record in records)]
    return {key: torch.stack([record.pop(key) for record in records]) for key in kept}


def _check_targets(
    by_variant: Mapping[str, ModelSignals], members: Bool[Tensor, "models examples"], shadows: int
) -> None:
    """Raise if a target lacks members or non-members, or is also a shadow."""
    for row, target in enumerate(members[shadows:]):
        if not 0 < (count := int(target.sum())) < len(target):
            given = f"{count} members of {len(target)} in row {row}"
            way_out = "Audit examples that it trained on and others, or leave out this target."
            raise wrong("target_members", "have members and non-members", given, way_out)
        for twin in (members[:shadows] == target).all(1).nonzero().flatten().tolist():
            for variant, known in by_variant.items():
                if torch.equal(known.phi[twin], known.phi[shadows + row]):
                    given = f"row {row} with the membership and signals of shadow {twin}"
                    way_out = f"They are equal in `{variant}`. Take the model out of one role."
                    raise wrong("target_members", "differ from all shadows", given, way_out)
