import ml_dtypes
import numpy as np
import pytest
import torch

from attacks.signals import signals
from storage.external_signals import read_outside

SHADOWS, TARGETS, QUERIES, EXAMPLES, POPULATION, CLASSES = 6, 3, 2, 40, 25, 5


def layout(queries=QUERIES):
    """Arrays of a good layout: `full` of logits, `int8` of phi; without that axis if 0 queries."""
    rng = np.random.default_rng(0)
    arrays = {
        "labels": rng.integers(0, CLASSES, EXAMPLES),
        "population_labels": rng.integers(0, CLASSES, POPULATION).astype(np.uint8),
    }
    for role, models in (("shadow", SHADOWS), ("target", TARGETS)):
        arrays[f"{role}_members"] = rng.random((models, EXAMPLES)) < 0.5
        views = (models, queries) if queries else (models,)
        for part, examples in (("", EXAMPLES), ("population_", POPULATION)):
            logits = 9 * rng.standard_normal((*views, examples, CLASSES), dtype=np.float32)
            arrays[f"full/{role}_{part}logits"] = logits
            arrays[f"int8/{role}_{part}phi"] = logits.max(-1) - 4
    return arrays


def save(arrays, folder, as_folder):
    """Write a layout in one of both ways."""
    if not as_folder:
        np.savez(folder / "given.npz", **arrays)
        return folder / "given.npz"
    (folder / "given").mkdir()
    for name, array in arrays.items():
        file = folder / "given" / f"{name}.npy"
        file.parent.mkdir(exist_ok=True)
        np.save(file, array)
    return folder / "given"


@pytest.fixture(params=[False, True], ids=["npz", "folder"])
def read(request, tmp_path):
    """Write arrays, read them back."""
    return lambda arrays: read_outside(save(arrays, tmp_path, request.param), signals)


@pytest.mark.parametrize(
    "dtype", ["<f4", ">f4", "<f2", "<f8", ml_dtypes.bfloat16], ids=["f4", "big", "f2", "f8", "bf16"]
)
@pytest.mark.parametrize("queries", [0, 1, 2])
def test_signals_are_those_of_the_logits(read, dtype, queries):
    arrays = layout(queries)
    for name in arrays:
        if name.endswith(("logits", "phi")):
            arrays[name] = arrays[name].astype(dtype)
    outside = read(arrays)

    def stack(name):
        both = np.concatenate([arrays[name.format(role)] for role in ("shadow", "target")])
        tensor = torch.from_numpy(both.astype(np.float64))
        return tensor if queries else tensor[:, None]

    labels = {key: torch.from_numpy(arrays[key].astype(np.int64)) for key in arrays if "lab" in key}
    own = signals(stack("full/{}_logits"), labels["labels"])
    others = signals(stack("full/{}_population_logits"), labels["population_labels"])
    assert (outside.shadows, outside.targets) == (SHADOWS, TARGETS)
    members = np.concatenate([arrays["shadow_members"], arrays["target_members"]])
    assert torch.equal(outside.members, torch.from_numpy(members))
    for found, expected in [
        (outside.phi, {"full": own.phi, "int8": stack("int8/{}_phi").float()}),
        (outside.hinge, {"full": own.hinge, "int8": None}),
        (outside.population, {"full": others.phi, "int8": stack("int8/{}_population_phi").float()}),
        (outside.population_hinge, {"full": others.hinge, "int8": None}),
    ]:
        assert list(found) == ["full", "int8"]
        for variant, tensor in expected.items():
            if tensor is None:
                assert found[variant] is None
            else:
                assert found[variant].dtype == tensor.dtype
                assert torch.equal(found[variant], tensor)


def test_full_comes_first_and_what_is_optional_may_be_missing(read):
    arrays = layout()
    phi = {name: array for name, array in arrays.items() if "population" not in name}
    del phi["labels"], phi["full/shadow_logits"], phi["full/target_logits"]
    for role in ("shadow", "target"):
        phi[f"full/{role}_phi"] = phi[f"int8/{role}_phi"]
        phi[f"awq/{role}_phi"] = phi[f"int8/{role}_phi"]
    outside = read(phi)
    assert next(iter(outside.phi)) == "full"
    assert set(outside.phi) == {"full", "awq", "int8"}
    nothing = dict.fromkeys(outside.phi)
    assert outside.hinge == outside.population == nothing


def test_hinge_needs_logits_of_shadows_and_targets(read):
    arrays = layout()
    arrays["full/shadow_phi"] = arrays.pop("full/shadow_logits").max(-1)
    outside = read(arrays)
    assert outside.hinge["full"] is None
    assert outside.phi["full"].shape == (SHADOWS + TARGETS, QUERIES, EXAMPLES)


def test_axes_in_fortran_order_are_read_as_they_are(read):
    arrays = layout()
    logits = np.concatenate([arrays["full/shadow_logits"], arrays["full/target_logits"]])
    expected = signals(torch.from_numpy(logits), torch.from_numpy(arrays["labels"])).phi
    turned = {name: np.asfortranarray(array) for name, array in arrays.items()}
    assert torch.equal(read(turned).phi["full"], expected)


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
    "far off": (rename("labels", "zzz"), r"`zzz` must be one of .* Rename it, or take it out"),
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
        r"`full/target_logits` must be finite, got 2 NaN or infinite, the first in row 1",
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
    "no others": (put("target_members", 0, True), r"got 40 members of 40 in row 0.*others"),
    "few shadows": (few_shadows, r"`shadow_members` must have 4 shadows or more, got 3"),
    "one class": (one_class, r"must have 2 classes or more, got 1.*Save \(0, z\)"),
    "a shadow": (
        copy_shadow,
        r"`target_members` must be of no shadow, got row 1 the same as shadow 4.*`full`",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_is_named_with_the_way_out(read, case):
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
def test_swapped_axes_are_found_without_labels(read, swapped):
    arrays = {name: array for name, array in layout(queries=0).items() if "population" not in name}
    for name in ("labels", "full/shadow_logits", "full/target_logits"):
        del arrays[name]
    for name in swapped:
        arrays[name] = arrays[name].T
    with pytest.raises(ValueError, match=rf"`({'|'.join(swapped)})` must .*axes are swapped"):
        read(arrays)


def test_without_targets_nothing_is_audited(read):
    arrays = layout()
    for name in arrays:
        if "target" in name:
            arrays[name] = arrays[name][:0]
    with pytest.raises(ValueError, match=r"`target_members` must have 1 targets or more, got 0"):
        read(arrays)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No .*missing\.npz. Give an \.npz file, or"):
        read_outside(tmp_path / "missing.npz", signals)
    with pytest.raises(
        ValueError, match=r"`full/shadow_logits` must be there, .*got no array in .*A variant needs"
    ):
        read_outside(tmp_path, signals)


def test_other_files_are_refused(tmp_path):
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"one\.npy is not a whole \.npz file.*np\.savez"):
        read_outside(tmp_path / "one.npy", signals)
    whole = save(layout(), tmp_path, as_folder=False)
    whole.write_bytes(whole.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"given\.npz is not a whole \.npz file"):
        read_outside(whole, signals)


def test_a_cut_file_of_a_folder_is_named(tmp_path):
    folder = save(layout(), tmp_path, as_folder=True)
    file = folder / "full" / "shadow_logits.npy"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"`full/shadow_logits` must be a whole array"):
        read_outside(folder, signals)


def test_a_folder_is_read_a_model_at_a_time(tmp_path):
    seen = []

    def measure(logits, labels):
        seen.append(logits.shape)
        return signals(logits, labels)

    arrays = {name: array for name, array in layout().items() if "population" not in name}
    read_outside(save(arrays, tmp_path, as_folder=True), measure)
    assert seen == [(QUERIES, EXAMPLES, CLASSES)] * (SHADOWS + TARGETS)
