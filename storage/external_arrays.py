"""Arrays of models that BitLeak did not train: their names, types and shapes, checked on reading.

Every error names the array, what was expected, what was given, and the way out.
"""

import re
import zipfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks.game import FULL

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
    **{f"*/target_{part}embeddings": ("targets", axis, "inputs") for part, axis in PARTS.items()},
}
LEAST = {"examples": 2, "classes": 2}  # 1 of the other axes
TYPES = {  # by the end of a name: NumPy's kinds of dtype, in words, and the way out
    "labels": ("iu", "integers", "Save the number of the class, by `.astype(int)`."),
    "members": ("b", "bool", "Where 1 is a member and 0 a non-member, save `.astype(bool)`."),
}
FLOATS = "f", "floats", "Save the network's output; scale integer outputs first."
BFLOAT16 = np.dtype("V2")  # NumPy has no such type: files of ml_dtypes read as 2 raw bytes


def wrong(name: str, expected: str, given: object, way_out: str) -> ValueError:
    """Make the error about one array."""
    return ValueError(f"`{name}` must {expected}, got {given}. {way_out}")


def find_arrays(path: Path) -> dict[str, tuple[str, ...]]:
    """Axes of every array in an `.npz` file or a folder, in the order of `AXES`.

    Raises:
        FileNotFoundError: there is no such path.
        ValueError: the file is damaged, or an array has an unknown name.
    """
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
            variant = name.rpartition("/")[0] or FULL
            near = get_close_matches(name, [key.replace("*", variant) for key in AXES], n=1)
            way_out = f"Did you mean `{near[0]}`?" if near else "Rename it, or take it out."
            raise wrong(name, f"be one of {', '.join(AXES)}", "an unknown name", way_out)
    entries = dict(sorted(entries.items(), key=lambda item: list(AXES).index(item[1])))
    return {name: AXES[entry] for name, entry in entries.items()}


def read_array(path: Path, name: str) -> NDArray[Any]:
    """Read one array; those of a folder stay on disk until they are used.

    Raises:
        ValueError: it is damaged, or holds Python objects.
    """
    try:
        if path.is_dir():
            array: NDArray[Any] = np.load(path / f"{name}.npy", mmap_mode="r")
        else:
            with np.load(path) as file:
                array = file[name]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        way_out = "Save it again by `np.save` or `np.savez`; Python objects are never loaded."
        raise wrong(name, "be a whole array of numbers", f"`{error}`", way_out) from error
    return array


def pair_roles(path: Path, names: Collection[str]) -> dict[tuple[str, str], list[str]]:
    """Names of the shadows' and the targets' array, by variant and part, `full` first.

    Raises:
        ValueError: an array is missing, or given both as logits and as phi.
    """
    present = f"only {', '.join(names)}" if names else f"no array in {path}"
    variants = dict.fromkeys(name.split("/")[0] for name in names if "/" in name)
    pairs, needed = {}, [f"{role}_members" for role in ROLES]
    for variant in sorted(variants or [FULL], key=lambda variant: variant != FULL):
        for part in PARTS:
            slots = [f"{variant}/{role}_{part}" for role in ROLES]
            given = [[s + end for end in ("logits", "phi") if s + end in names] for s in slots]
            if part and not any(given):
                continue
            for slot, arrays in zip(slots, given, strict=True):
                if len(arrays) != 1:
                    way_out = "A variant needs one of them for shadows and for targets, or neither."
                    expected = f"be there, or else `{slot}phi`"
                    raise wrong(f"{slot}logits", expected, "both" if arrays else present, way_out)
            pairs[variant, part] = [name for arrays in given for name in arrays]
            if any(name.endswith("logits") for name in pairs[variant, part]):
                needed.append(f"{part}labels")
    for name in needed:
        if name not in names:
            raise wrong(name, "be there", present, "Save it beside them.")
    return pairs


def as_floats(array: NDArray[Any]) -> Tensor:
    """Convert an array of floats, bfloat16 included, to float64."""
    if array.dtype == BFLOAT16:
        array = (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return torch.from_numpy(array.astype(np.float64))


def check_finite(name: str, broken: Mapping[int, int]) -> None:
    """Raise ValueError if any row of an array (row -> number of its values) is not finite."""
    if rows := [row for row, count in broken.items() if count]:
        given = f"{sum(broken.values())} NaN or infinite, the first in row {min(rows)}"
        way_out = "Compute them again, or leave that model out."
        if len(rows) > 1:
            given += f" of {len(rows)} such rows"
            way_out = (
                "Compute them again, or leave those models, or those examples, out everywhere."
            )
        raise wrong(name, "be finite", given, way_out)


def check_arrays(path: Path, axes: Mapping[str, Sequence[str]], shadows: int) -> None:
    """Check types and shapes, before any array is converted.

    Args:
        path: the file or folder.
        axes: of every array, from `find_arrays`.
        shadows: the fewest shadows that an audit takes.

    Raises:
        ValueError: a type or a shape is wrong.
    """
    shapes: dict[str, dict[str, int]] = {}
    sizes: dict[str, dict[str, int]] = {"examples": {}}  # by axis and array; the usual axis first
    for name, expected in axes.items():
        shapes[name] = _check_array(name, read_array(path, name), expected)
        for axis in expected:
            sizes.setdefault(axis, {})[name] = shapes[name].get(axis, 1)
    fewest = {**LEAST, "shadows": shadows}
    for axis, by_array in sizes.items():
        usual = Counter(by_array.values()).most_common(1)[0][0]
        for name, size in by_array.items():
            if size != usual:
                other = next(other for other in by_array if by_array[other] == usual)
                given = f"{size} in [{', '.join(shapes[name])}] = {[*shapes[name].values()]}"
                expectation = f"have {usual} {axis}, as `{other}` has"
                raise wrong(name, expectation, given, _hint(name, shapes[name], sizes))
        if usual < (least := fewest.get(axis, 1)):
            way_out = "Save (0, z) for a binary classifier." if axis == "classes" else "Add some."
            raise wrong(next(iter(by_array)), f"have {least} {axis} or more", usual, way_out)


def _check_array(name: str, array: NDArray[Any], axes: Sequence[str]) -> dict[str, int]:
    """Size of each axis of an array that has the right type and number of axes."""
    kinds, words, way_out = TYPES.get(name.rsplit("_")[-1], FLOATS)
    if array.dtype.kind not in kinds and (kinds != "f" or array.dtype != BFLOAT16):
        raise wrong(name, f"hold {words}", array.dtype, way_out)
    present = [axis for axis in axes if axis != "queries" or array.ndim == len(axes)]
    if array.ndim != len(present):
        expected = f"have the axes [{', '.join(axes)}]"
        raise wrong(name, expected, f"shape {array.shape}", "Only queries may be left out.")
    return dict(zip(present, array.shape, strict=True))


def _hint(name: str, shape: Mapping[str, int], sizes: Mapping[str, Mapping[str, int]]) -> str:
    """Find an order of the axes in which each is as long as in another array."""
    others = {axis: {by[other] for other in by if other != name} for axis, by in sizes.items()}
    for order in list(permutations(range(len(shape))))[1:]:  # without the order it has
        turned = zip(shape, np.array([*shape.values()])[[*order]], strict=True)
        if all(size in others[axis] or not others[axis] for axis, size in turned):
            return f"Its axes are swapped: save `np.transpose(array, {order})`."
    return "Save models first, then queries, examples, classes: the same ones in every array."
