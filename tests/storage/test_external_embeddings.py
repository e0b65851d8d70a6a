"""Embeddings of models that were trained elsewhere: read, reduced, checked and attacked."""

import ml_dtypes
import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from attacks.choice import choose_attacks
from attacks.evaluate import score
from attacks.quantile import quantile_embeddings
from storage.external_signals import gather_external

INPUTS, TARGETS = 50, 3


@pytest.fixture(params=[False, True], ids=["npz", "folder"])
def read(request, save_arrays, tmp_path):
    """Write arrays, read them back."""
    return lambda arrays: gather_external(save_arrays(arrays, tmp_path, request.param))


@pytest.fixture
def arrays(layout):
    """Logits of `full` and `int8`, and embeddings whose directions differ in width."""
    arrays, rng = layout(), np.random.default_rng(1)
    for role in ("shadow", "target"):
        for part in ("", "population_"):
            del arrays[f"int8/{role}_{part}phi"]
            arrays[f"int8/{role}_{part}logits"] = arrays[f"full/{role}_{part}logits"] + 1
    for variant in ("full", "int8"):
        for part, count in (("", 40), ("population_", 25)):
            values = rng.normal(size=(TARGETS, count, INPUTS)) * 0.8 ** np.arange(INPUTS)
            arrays[f"{variant}/target_{part}embeddings"] = values.astype(np.float32)
    return arrays


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2", ml_dtypes.bfloat16])
def test_embeddings_are_reduced_to_components_of_the_population(read, arrays, dtype):
    for name in arrays:
        if name.endswith("embeddings"):
            arrays[name] = arrays[name].astype(dtype)
    game = read(arrays).game
    for variant, known in game.signals.items():
        target = known.of([6, 7, 8]).read()  # after 6 shadows
        for row in range(TARGETS):
            x, z = (
                arrays[f"{variant}/target_{part}embeddings"][row].astype(np.float64)
                for part in ("", "population_")
            )
            pca = PCA(24).fit(z)  # 25 points span no more
            signs = np.sign(pca.components_[range(24), np.abs(pca.components_).argmax(1)])
            for rows, components in (
                (x, target.embeddings[row]),
                (z, target.population_embeddings[row]),
            ):
                assert components.shape == (32, len(rows))
                expected = signs * pca.transform(rows)
                # the widest ten, whose variances differ by a third: unique to 1e-12
                np.testing.assert_allclose(
                    components[:10].T, expected[:, :10], rtol=1e-6, atol=1e-6
                )
                assert (components[24:] == 0).all()
        assert torch.equal(known.labels[0], torch.from_numpy(arrays["labels"]))
        assert known.labels[1].tolist() == arrays["population_labels"].tolist()


def test_they_are_attacked_unasked(read, arrays):
    game = read(arrays).game
    choice = choose_attacks(None, game)
    assert "quantile_embeddings" in choice.attacks
    assert "quantile_embeddings" not in choice.left_out
    target = game.signals["int8"].of([6, 7, 8]).read()
    expected = quantile_embeddings(
        target.hinge, target.population_hinge, target.embeddings, target.population_embeddings,
        *target.labels,
    )  # fmt: skip
    scores = score(["quantile_embeddings", "base"], game, "int8", "unquantized")
    assert torch.equal(scores["quantile_embeddings"], expected)


def test_without_embeddings_the_attack_is_not_missed(read, layout):
    choice = choose_attacks(None, read(layout()).game)
    assert "quantile_embeddings" not in choice.attacks
    assert "quantile_embeddings" not in choice.left_out


def drop(*names):
    return lambda arrays: [arrays.pop(name) for name in names]


def spoil(arrays):
    arrays["int8/target_embeddings"][1, 4, 2:4] = np.nan


def shorten(arrays):
    arrays["int8/target_embeddings"] = arrays["int8/target_embeddings"][:, :39]


def narrow(arrays):
    arrays["full/target_embeddings"] = arrays["full/target_embeddings"][..., :49]


def quantize(arrays):
    arrays["full/target_embeddings"] = arrays["full/target_embeddings"].astype(np.int8)


def reduce(arrays):
    for role in ("shadow", "target"):
        arrays[f"int8/{role}_phi"] = arrays.pop(f"int8/{role}_logits")[..., 0]


BROKEN = {
    "one part": (
        drop("full/target_population_embeddings"),
        r"`full/target_population_embeddings` must be there, got only full/target_embeddings, .*"
        r"Save both arrays of every variant, or no embeddings",
    ),
    "one variant": (
        drop("int8/target_embeddings", "int8/target_population_embeddings"),
        r"`int8/target_embeddings` must be there, got only full/target_embeddings, full/target_pop",
    ),
    "phi": (
        reduce,
        r"`int8/target_embeddings` must come with logits of shadows and targets, and of a popul.*"
        r", got phi\. .*Save logits, or leave out all embeddings",
    ),
    "NaN": (
        spoil,
        r"`int8/target_embeddings` must be finite, got 2 NaN or infinite, the first in row 1",
    ),
    "examples": (shorten, r"`int8/target_embeddings` must have 40 examples"),
    "inputs": (narrow, r"`full/target_embeddings` must have 50 inputs, as `.*` has, got 49"),
    "codes": (quantize, r"`full/target_embeddings` must hold floats, got int8"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_wrong_array_is_named_with_the_way_out(read, arrays, case):
    change, message = BROKEN[case]
    change(arrays)
    with pytest.raises(ValueError, match=message):
        read(arrays)


def test_embeddings_of_shadows_are_unknown_names(read, arrays):
    """The attack uses no shadow."""
    arrays["full/shadow_embeddings"] = arrays["full/target_embeddings"]
    message = r"`full/shadow_embeddings` must be .*Did you mean `full/target_embeddings`"
    with pytest.raises(ValueError, match=message):
        read(arrays)
