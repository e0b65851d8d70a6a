import numpy as np
import pytest

from storage.external_signals import gather_external


@pytest.fixture(params=[False, True], ids=["npz", "folder"])
def read(request, save_arrays, tmp_path):
    """Write arrays, read them back."""
    return lambda arrays: gather_external(save_arrays(arrays, tmp_path, request.param))


def turn(name, *order):
    return lambda arrays: arrays.update({name: arrays[name].transpose(order)})


def take(name, index):
    return lambda arrays: arrays.update({name: arrays[name][index]})


def cast(name, dtype):
    return lambda arrays: arrays.update({name: arrays[name].astype(dtype)})


def put(name, index, value):
    return lambda arrays: arrays[name].__setitem__(index, value)


def drop(*names):
    return lambda arrays: [arrays.pop(name) for name in names]


def rename(old, new):
    return lambda arrays: arrays.update({new: arrays.pop(old)})


def copy_shadow(arrays):
    for kind in ("members", "logits"):
        prefix = "full/" if kind == "logits" else ""
        arrays[f"{prefix}target_{kind}"][1] = arrays[f"{prefix}shadow_{kind}"][4]


def swap_members(arrays):
    for role in ("shadow", "target"):
        arrays[f"{role}_members"] = arrays[f"{role}_members"].T


def few_shadows(arrays):
    for name in arrays:
        if "shadow" in name:
            arrays[name] = arrays[name][:3]


def one_class(arrays):
    for name in arrays:
        if name.endswith("logits"):
            arrays[name] = arrays[name][..., :1]


BROKEN = {
    "missing members": (
        drop("target_members"),
        r"`target_members` must be there, got only labels, .*Save it",
    ),
    "missing labels": (drop("labels"), r"`labels` must be there"),
    "missing population labels": (drop("population_labels"), r"`population_labels` must be there"),
    "only a target": (
        drop("int8/shadow_phi"),
        r"`int8/shadow_logits` must be there, or else `int8/shadow_phi`, got only .*or neither",
    ),
    "only a target's population": (
        drop("full/shadow_population_logits"),
        r"`full/shadow_population_logits` must be there, or else",
    ),
    "misspelt": (
        rename("full/shadow_logits", "full/shadows_logit"),
        r"`full/shadows_logit` must be one of .* Did you mean `full/shadow_logits`\?",
    ),
    "no variant": (
        rename("full/target_logits", "target_logits"),
        r"`target_logits` must be one of .* Did you mean `full/target_logits`\?",
    ),
    "no similar name": (
        rename("labels", "zzz"),
        r"`zzz` must be one of .* Rename it, or take it out",
    ),
    "logits and phi": (
        lambda arrays: arrays.update({"int8/shadow_logits": arrays["full/shadow_logits"]}),
        r"`int8/shadow_logits` must be there, or else `int8/shadow_phi`, got both. A variant",
    ),
    "objects": (
        cast("full/shadow_logits", object),
        r"`full/shadow_logits` must be a whole array of numbers, got .*Save it again",
    ),
    "too many axes": (
        lambda arrays: arrays.update({"labels": arrays["labels"][:, None]}),
        r"`labels` must have the axes \[examples\], got shape \(40, 1\)",
    ),
    "too few axes": (
        take("int8/shadow_phi", (0, 0)),
        r"`int8/shadow_phi` must have the axes \[shadows, queries, examples\], got shape \(40,\)\.",
    ),
    "examples": (
        take("full/shadow_logits", (slice(None), slice(None), slice(30))),
        r"`full/shadow_logits` must have 40 examples, as `labels` has, got 30 in .*models first",
    ),
    "labels are short": (
        take("labels", slice(30)),
        r"`labels` must have 40 examples, as `shadow_m",
    ),
    "members are short": (
        take("target_members", (slice(None), slice(30))),
        r"`target_members` must have 40 examples",
    ),
    "shadows": (take("full/shadow_logits", slice(5)), r"`full/shadow_logits` must have 6 shadows"),
    "classes": (
        take("full/target_logits", (..., slice(4))),
        r"must have 5 classes.*`full/target_logits`|`full/target_logits` must have 5 classes",
    ),
    "queries": (
        take("full/target_logits", (slice(None), slice(1))),
        r"`full/target_logits` must have 2 queries, as `full/shadow_logits` has, got 1",
    ),
    "swapped members": (
        turn("shadow_members", 1, 0),
        r"`shadow_members` must have 40 examples.*swapped: save `np.transpose\(array, \(1, 0\)\)`",
    ),
    "all members swapped": (swap_members, r"`shadow_members` must .*`np.transpose\(array, \(1, 0"),
    "swapped logits": (
        turn("full/target_logits", 2, 1, 0, 3),
        r"`full/target_logits` must .*`np.transpose\(array, \(2, 1, 0, 3\)\)`",
    ),
    "queries first": (
        turn("int8/shadow_phi", 1, 0, 2),
        r"`int8/shadow_phi` must .*`np.transpose\(array, \(1, 0, 2\)\)`",
    ),
    "float labels": (cast("labels", float), r"`labels` must hold integers, got float64.*astype"),
    "labels from 1": (
        put("labels", 0, 5),
        r"`labels` must be 0 to 4, .* got 0 to 5. Number the classes from 0",
    ),
    "negative labels": (put("labels", 3, -1), r"`labels` must be 0 to 4, .* got -1 to 4"),
    "population labels": (put("population_labels", 0, 9), r"`population_labels` must be 0 to 4"),
    "0 and 1": (
        cast("shadow_members", np.uint8),
        r"`shadow_members` must hold bool, got uint8.*save `.astype\(bool\)`",
    ),
    "codes": (
        cast("full/target_logits", np.int8),
        r"`full/target_logits` must hold floats, got int8.*scale",
    ),
    "NaN logits": (
        put("full/target_logits", (slice(1, 3), 0, 3, 2), np.nan),
        r"`full/target_logits` must be finite, got 2 NaN or infinite, the first in row 1 of 2 such "
        "rows.*those examples",
    ),
    "infinite phi": (
        put("int8/shadow_phi", (4, 1, 3), np.inf),
        r"`int8/shadow_phi` must be finite, got 1 NaN or infinite, the first in row 4",
    ),
    "infinite population": (
        put("full/shadow_population_logits", (0, 0, 0, 0), -np.inf),
        r"`full/shadow_population_logits` must be finite",
    ),
    "no members": (
        put("target_members", 2, False),
        r"`target_members` must have members and non-members.* got 0 members of 40 in row 2",
    ),
    "no non-members": (
        put("target_members", 0, True),
        r"got 40 members of 40 in row 0.*leave out this target",
    ),
    "few shadows": (few_shadows, r"`shadow_members` must have 4 shadows or more, got 3"),
    "one class": (one_class, r"must have 2 classes or more, got 1.*Save \(0, z\)"),
    "a target that is a shadow": (
        copy_shadow,
        r"`target_members` must differ from all shadows, got row 1 .* of shadow 4\. .* in `full`",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_wrong_array_is_named_with_the_way_out(read, layout, case):
    spoil, message = BROKEN[case]
    arrays = layout()
    spoil(arrays)
    with pytest.raises(ValueError, match=message):
        read(arrays)


@pytest.mark.parametrize(
    "swapped",
    [["shadow_members"], ["target_members", "shadow_members"], ["int8/shadow_phi"]],
    ids=["one", "both", "phi"],
)
def test_swapped_axes_are_found_without_labels(read, layout, swapped):
    arrays = {name: array for name, array in layout(queries=0).items() if "population" not in name}
    for name in ("labels", "full/shadow_logits", "full/target_logits"):
        del arrays[name]
    for name in swapped:
        arrays[name] = arrays[name].T
    with pytest.raises(ValueError, match=rf"`({'|'.join(swapped)})` must .*axes are swapped"):
        read(arrays)


def test_signals_without_targets_are_refused(read, layout):
    arrays = layout()
    for name in arrays:
        if "target" in name:
            arrays[name] = arrays[name][:0]
    with pytest.raises(ValueError, match=r"`target_members` must have 1 targets or more, got 0"):
        read(arrays)
