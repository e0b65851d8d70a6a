"""Signals of models that BitLeak did not train, from NumPy arrays of any framework and quantizer.

An `.npz` file has these keys. A folder has them as files, such as `full/target_logits.npy`, which
are read a model at a time: use it where logits are large.

    labels                  [examples] integers from 0; needed with logits
    shadow_members          [shadows, examples] bool: which shadow trained on which example
    target_members          [targets, examples] bool
    VARIANT/shadow_logits   [shadows, examples, classes] or [shadows, queries, examples, classes]
    VARIANT/target_logits   the same of the targets
  optional, of examples that no model trained on:
    population_labels                  [population] integers from 0; needed with logits
    VARIANT/shadow_population_logits   as above, with `population` in place of `examples`
    VARIANT/target_population_logits

VARIANT is a free name (int8-engine, gptq-w4); full-precision shadows are taken from `full`. A query
is one view of an example, the same for every model. Logits are floats, bfloat16 among them. Any
`logits` may be `phi` instead, without `classes`: log(p / (1 - p)) of the true class, in nats. There
are 4 shadows or more, and a target is none of them.
"""

import re
import zipfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from itertools import permutations
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from attacks.game import FULL, Case, Game, ModelSignals
from attacks.health import failures
from attacks.metrics.intervals import Estimate, mean_accuracy
from attacks.signals import signals
from storage.evidence import Evidence, check_cases, list_excluded
from storage.names import ModelName, fleet_names
from storage.records import VariantFacts

ROLES, PARTS = ("shadow", "target"), {"": "examples", "population_": "population"}
AXES = {  # of every array; `*` is the variant, and `queries` may be left out
    **{f"{part}labels": (axis,) for part, axis in PARTS.items()},
    **{f"{role}_members": (f"{role}s", "examples") for role in ROLES},
    **{
        f"*/{role}_{part}{end}": (f"{role}s", "queries", axis, *classes)
        for part, axis in PARTS.items()
        for end, classes in {"logits": ["classes"], "phi": []}.items()
        for role in ROLES
    },
}
LEAST = {"shadows": 4, "examples": 2, "classes": 2}  # 1 of the other axes
TYPES = {  # by the end of a name: NumPy's kinds of dtype, in words, and the way out
    "labels": ("iu", "integers", "Save the number of the class, by `.astype(int)`."),
    "members": ("b", "bool", "Where 1 is a member and 0 is none, save `.astype(bool)`."),
}
FLOATS = "f", "floats", "Save what the network puts out, times its scale where that is integer."
_KEPT = "phi", "hinge"
_END = {"phi": "", "hinge": "_hinge"}  # of a field of `ModelSignals` about the population
_BFLOAT16 = np.dtype("V2")  # NumPy has none: what ml_dtypes saves is read as 2 bytes of anything


def gather_external(path: Path) -> Evidence:
    """Read and check an `.npz` file or a folder, and exclude failed models.

    Raises:
        FileNotFoundError: there is no such path.
        ValueError: it is not laid out as above, or too few models are left to audit; the message
            names the array and the way out.
    """
    axes = _find(path)
    pairs = _pair(path, axes)
    _check_arrays(path, axes)
    shadows, targets = (torch.from_numpy(_read(path, f"{r}_members").copy()) for r in ROLES)
    members, names = torch.cat([shadows, targets]), fleet_names(len(shadows), len(targets))
    parts: dict[tuple[str, str], dict[str, Any]] = {
        key: _convert(path, arrays, key[1]) for key, arrays in pairs.items()
    }
    by_variant = {
        variant: ModelSignals(
            **parts[variant, ""],
            **{
                f"population{_END[key]}": signal
                for key, signal in parts.get((variant, "population_"), {}).items()
            },
        )
        for variant in dict.fromkeys(variant for variant, _ in pairs)
    }
    _check_targets(by_variant, members, len(shadows))
    excluded = _find_failures(next(iter(by_variant.values())), members, names)
    usable = [p for p in range(len(shadows)) if names[p] not in excluded]  # there are no pairs
    audited = [p for p in range(len(shadows), len(names)) if names[p] not in excluded]
    cases = [Case(position, usable) for position in audited]
    check_cases(cases, excluded)
    return Evidence(
        name=path.resolve().stem,
        game=Game(by_variant, members, cases),
        variants={variant: _read_facts(known, audited) for variant, known in by_variant.items()},
        facts={
            "signals": f"{path}, {members.shape[1]} audited examples",
            "audited models": str(len(cases)),
            "shadow models": f"{len(usable)} against each of them",
            "test accuracy": "on the population",
            "excluded": list_excluded(excluded),
        },
        excluded=excluded,
        notes=[],
    )


def _find_failures(
    known: ModelSignals, members: Bool[Tensor, "models examples"], names: Sequence[ModelName]
) -> dict[ModelName, str]:
    """Models that diverged, as far as the first variant's logits tell, and why."""
    if known.hinge is None:
        return {}
    reasons = failures(known.phi, known.hinge[..., :] > 0, members)
    return {names[position]: reason for position, reason in reasons.items()}


def _read_facts(known: ModelSignals, audited: Sequence[int]) -> VariantFacts:
    """Accuracy on the population, where there are logits on it."""
    if known.population_hinge is None:
        return VariantFacts(Estimate(nan, nan, nan), 0)
    correct = known.population_hinge[..., :][audited, 0] > 0
    by_target = correct.double().mean(1).tolist()
    return VariantFacts(mean_accuracy(correct), 0, accuracy_by_target=by_target)


def _wrong(name: str, expected: str, given: object, way_out: str) -> ValueError:
    return ValueError(f"`{name}` must {expected}, got {given}. {way_out}")


def _find(path: Path) -> dict[str, tuple[str, ...]]:
    """Axes of every array that is there, in the order of `AXES`."""
    if not path.exists():
        raise FileNotFoundError(f"No {path}. Give an .npz file, or a folder of .npy files.")
    if path.is_dir():
        files = sorted(path.rglob("*.npy"))
        names = [file.relative_to(path).as_posix().removesuffix(".npy") for file in files]
    elif zipfile.is_zipfile(path):
        with np.load(path) as file:
            names = file.files
    else:
        raise ValueError(f"{path} is not a whole .npz file. Write it by `np.savez(path, **arrays)`")
    entries = {name: re.sub("^[^/]+/", "*/", name) for name in names}
    for name, entry in entries.items():
        if entry not in AXES:
            known = [other.replace("*", name.rpartition("/")[0] or "full") for other in AXES]
            near = get_close_matches(name, known, n=1)
            way_out = f"Did you mean `{near[0]}`?" if near else "Rename it, or take it out."
            raise _wrong(name, f"be one of {', '.join(AXES)}", "an unknown name", way_out)
    entries = dict(sorted(entries.items(), key=lambda item: list(AXES).index(item[1])))
    return {name: AXES[entry] for name, entry in entries.items()}


def _read(path: Path, name: str) -> NDArray[Any]:
    try:
        if path.is_dir():
            array: NDArray[Any] = np.load(path / f"{name}.npy", mmap_mode="r")
        else:
            with np.load(path) as file:
                array = file[name]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        way_out = "Save it again by `np.save` or `np.savez`; Python objects are never loaded."
        raise _wrong(name, "be a whole array of numbers", f"`{error}`", way_out) from error
    return array


def _pair(path: Path, found: Collection[str]) -> dict[tuple[str, str], list[str]]:
    """Names of the shadows' and the targets' array, by variant and part, `full` first."""
    there = f"only {', '.join(found)}" if found else f"no array in {path}"
    variants = dict.fromkeys(name.split("/")[0] for name in found if "/" in name)
    pairs, needed = {}, [f"{role}_members" for role in ROLES]
    for variant in sorted(variants or [FULL], key=lambda variant: variant != FULL):
        for part in PARTS:
            slots = [f"{variant}/{role}_{part}" for role in ROLES]
            given = [[s + end for end in ("logits", "phi") if s + end in found] for s in slots]
            if part and not any(given):
                continue
            for slot, names in zip(slots, given, strict=True):
                if len(names) != 1:
                    way_out = "A variant needs one of them for shadows and for targets, or neither."
                    expected = f"be there, or else `{slot}phi`"
                    raise _wrong(f"{slot}logits", expected, "both" if names else there, way_out)
            pairs[variant, part] = [name for names in given for name in names]
            if any(name.endswith("logits") for name in pairs[variant, part]):
                needed.append(f"{part}labels")
    for name in [name for name in needed if name not in found]:
        raise _wrong(name, "be there", there, "Save it beside them.")
    return pairs


def _check_arrays(path: Path, found: Mapping[str, Sequence[str]]) -> None:
    """Check types and shapes, before any array is converted."""
    shapes: dict[str, dict[str, int]] = {}
    sizes: dict[str, dict[str, int]] = {"examples": {}}  # by axis and array; most have this one
    for name, axes in found.items():
        array = _read(path, name)
        kinds, words, way_out = TYPES.get(name.rsplit("_")[-1], FLOATS)
        if array.dtype.kind not in kinds and (kinds != "f" or array.dtype != _BFLOAT16):
            raise _wrong(name, f"hold {words}", array.dtype, way_out)
        shape = [axis for axis in axes if axis != "queries" or array.ndim == len(axes)]
        if array.ndim != len(shape):
            expected = f"have the axes [{', '.join(axes)}]"
            raise _wrong(name, expected, f"shape {array.shape}", "Only queries may be left out.")
        shapes[name] = dict(zip(shape, array.shape, strict=True))
        for axis in axes:
            sizes.setdefault(axis, {})[name] = shapes[name].get(axis, 1)
    usual = {axis: Counter(by.values()).most_common(1)[0][0] for axis, by in sizes.items()}
    for axis, by in sizes.items():
        for name, size in by.items():
            if size != usual[axis]:
                other = next(other for other in by if by[other] == usual[axis])
                given = f"{size} in [{', '.join(shapes[name])}] = {[*shapes[name].values()]}"
                expected = f"have {usual[axis]} {axis}, as `{other}` has"
                raise _wrong(name, expected, given, _hint(name, shapes[name], sizes))
        if usual[axis] < (least := LEAST.get(axis, 1)):
            way_out = "Save (0, z) for a binary classifier." if axis == "classes" else "Add some."
            raise _wrong(next(iter(by)), f"have {least} {axis} or more", usual[axis], way_out)


def _hint(name: str, shape: Mapping[str, int], sizes: Mapping[str, Mapping[str, int]]) -> str:
    """Find an order of the axes in which each is as long as in some other array."""
    others = {axis: {by[other] for other in by if other != name} for axis, by in sizes.items()}
    for order in list(permutations(range(len(shape))))[1:]:  # without the order it has
        turned = zip(shape, np.array([*shape.values()])[[*order]], strict=True)
        if all(size in others[axis] or not others[axis] for axis, size in turned):
            return f"Its axes are swapped: save `np.transpose(array, {order})`."
    return "Save models first, then queries, examples, classes: the same ones in every array."


def _convert(path: Path, names: Sequence[str], part: str) -> dict[str, Tensor]:
    """Reduce logits to signals a model at a time: the shadows, then the targets."""
    records: list[dict[str, Tensor]] = []
    for name in names:
        array, broken = _read(path, name), {}
        if is_logits := name.endswith("logits"):
            labels = torch.from_numpy(_read(path, f"{part}labels").astype(np.int64))
            if not 0 <= labels.min() <= labels.max() < array.shape[-1]:
                given = f"{labels.min()} to {labels.max()}"
                expected = f"be 0 to {array.shape[-1] - 1}, the last axis of `{name}`"
                raise _wrong(f"{part}labels", expected, given, "Number the classes from 0.")
        for row, model in enumerate(array):
            if model.dtype == _BFLOAT16:
                model = (model.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
            values = torch.from_numpy(model.astype(np.float64))
            if count := int((~values.isfinite()).sum()):
                broken[row] = count
            record = {"phi": values.float().reshape(-1, values.shape[-1])}
            if is_logits:
                record = signals(values.reshape(-1, *values.shape[-2:]), labels)._asdict()
            records.append({key: record[key] for key in _KEPT if key in record})
        if broken:
            given = f"{sum(broken.values())} NaN or infinite, the first in row {min(broken)}"
            raise _wrong(name, "be finite", given, "Compute them again, or leave that model out.")
    kept = [key for key in records[0] if all(key in record for record in records)]
    return {key: torch.stack([record.pop(key) for record in records]) for key in kept}


def _check_targets(
    by_variant: Mapping[str, ModelSignals], members: Bool[Tensor, "models examples"], shadows: int
) -> None:
    """Raise if a target lacks members or non-members, or is a shadow, whose members are known."""
    for row, target in enumerate(members[shadows:]):
        if not 0 < (count := int(target.sum())) < len(target):
            given = f"{count} members of {len(target)} in row {row}"
            way_out = "Audit examples that it trained on, and others that it did not."
            raise _wrong("target_members", "have members and non-members", given, way_out)
        for twin in (members[:shadows] == target).all(1).nonzero().flatten().tolist():
            for variant, known in by_variant.items():
                if torch.equal(known.phi[twin], known.phi[shadows + row]):
                    given = f"row {row} the same as shadow {twin}, membership and signals"
                    way_out = f"It is so in `{variant}`. Take it out of one of them."
                    raise _wrong("target_members", "be of no shadow", given, way_out)
