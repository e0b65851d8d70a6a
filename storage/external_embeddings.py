"""Embeddings of models that BitLeak did not train, reduced as those of a fleet are."""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from attacks.embeddings import fit_projection
from attacks.game import ModelSignals
from attacks.slices import OfSome
from storage.external_arrays import PARTS, as_floats, check_finite, read_array, wrong


def add_embeddings(
    path: Path, names: Collection[str], by_variant: Mapping[str, ModelSignals]
) -> dict[str, ModelSignals]:
    """Add the targets' embeddings and the classes to the signals, where embeddings are given.

    Args:
        path: the file or folder.
        names: of all arrays, whose shapes were checked.
        by_variant: signals of every variant, the targets' last.

    Raises:
        ValueError: a variant lacks embeddings that another one has, or its logits.
    """
    given = [name for name in names if name.endswith("embeddings")]
    if not given:
        return dict(by_variant)
    added = {}
    for variant, known in by_variant.items():
        arrays = [f"{variant}/target_{part}embeddings" for part in PARTS]
        for name in arrays:
            if name not in names:
                way_out = "Save both arrays of every variant, or no embeddings."
                raise wrong(name, "be there", f"only {', '.join(given)}", way_out)
        if known.hinge is None or known.population_hinge is None:
            way_out = "They predict the margin, which phi does not tell. Save logits, or leave out"
            expected = "come with logits of shadows and targets, and of a population"
            raise wrong(arrays[0], expected, "phi", f"{way_out} all embeddings.")
        classes, others = (read_array(path, f"{p}labels").astype(np.int64) for p in PARTS)
        own, population = _embed(path, arrays, known.phi.shape[0])
        added[variant] = known._replace(
            labels=(torch.from_numpy(classes), torch.from_numpy(others)),
            embeddings=own,
            population_embeddings=population,
        )
    return added


def _embed(path: Path, names: Collection[str], models: int) -> tuple[OfSome, OfSome]:
    """Components of the examples and of the population, one target at a time."""
    own, population = dict[int, Tensor](), dict[int, Tensor]()
    pairs = list(zip(*(read_array(path, name) for name in names), strict=True))
    for row, pair in enumerate(pairs):
        values = [as_floats(array) for array in pair]
        for name, array in zip(names, values, strict=True):
            check_finite(name, {row: int((~array.isfinite()).sum())})
        projection, model = fit_projection(values[1]), models - len(pairs) + row
        own[model], population[model] = (projection.apply(array) for array in values)
    return OfSome(own, models), OfSome(population, models)
