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
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from lightning_modules.callbacks.record_signals import Measure

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
_BFLOAT16 = np.dtype("V2")  # NumPy has none: what ml_dtypes saves is read as 2 bytes of anything


class Outside(NamedTuple):
    """Signals of a fleet by variant, `full` first; models are the shadows, then the targets."""

    members: Bool[Tensor, "models examples"]
    shadows: int
    targets: int
    phi: dict[str, Float[Tensor, "models queries examples"]]  # nats
    hinge: dict[str, Float[Tensor, "models queries examples"] | None]  # None without logits
    population: dict[str, Float[Tensor, "models queries population"] | None]  # phi, nats
    population_hinge: dict[str, Float[Tensor, "models queries population"] | None]


def read_outside(path: Path, measure: Measure) -> Outside:
    """Read and check an `.npz` file or a folder, whose logits `measure` reduces to signals.

    Raises:
        FileNotFoundError: there is no such path.
        ValueError: it is not laid out as above; the message names the array and the way out.
    """
    found = _find(path)
    pairs = _pair(path, found)
    _check_arrays(path, found)
    shadows, targets = (torch.from_numpy(_read(path, f"{r}_members").copy()) for r in ROLES)
    signals = {key: _convert(path, names, key[1], measure) for key, names in pairs.items()}

    def of(key: str, part: str = "") -> dict[str, Any]:
        return {variant: signals.get((variant, part), {}).get(key) for variant, _ in pairs}

    kept = (of(key, part) for part in PARTS for key in _KEPT)
    outside = Outside(torch.cat([shadows, targets]), len(shadows), len(targets), *kept)
    _check_targets(outside)
    return outside


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
    for variant in sorted(variants or ["full"], key=lambda variant: variant != "full"):
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


def _convert(path: Path, names: Sequence[str], part: str, measure: Measure) -> dict[str, Tensor]:
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
                record = measure(values.reshape(-1, *values.shape[-2:]), labels)._asdict()
            records.append({key: record[key] for key in _KEPT if key in record})
        if broken:
            given = f"{sum(broken.values())} NaN or infinite, the first in row {min(broken)}"
            raise _wrong(name, "be finite", given, "Compute them again, or leave that model out.")
    kept = [key for key in records[0] if all(key in record for record in records)]
    return {key: torch.stack([record.pop(key) for record in records]) for key in kept}


def _check_targets(outside: Outside) -> None:
    """Raise if a target has no members or no others, or is a shadow, whose members are known."""
    shadows = outside.members[: outside.shadows]
    for row, target in enumerate(outside.members[outside.shadows :]):
        if not 0 < (count := int(target.sum())) < len(target):
            given = f"{count} members of {len(target)} in row {row}"
            way_out = "Audit examples that it trained on, and others that it did not."
            raise _wrong("target_members", "have members and non-members", given, way_out)
        for twin in (shadows == target).all(1).nonzero().flatten().tolist():
            for variant, phi in outside.phi.items():
                if torch.equal(phi[twin], phi[outside.shadows + row]):
                    given = f"row {row} the same as shadow {twin}, membership and signals"
                    way_out = f"It is so in `{variant}`. Take it out of one of them."
                    raise _wrong("target_members", "be of no shadow", given, way_out)
