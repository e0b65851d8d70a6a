"""Experiments that need no data set, and arrays of models that were trained elsewhere."""

import copy

import numpy as np
import pytest

from storage.experiment import Experiment

CONFIG = {
    "seed": 0,
    "model": {"lr": 0.1, "network_args": None},
    "fleet": {"shadows": 4, "targets": 1},
    "queries": ["identity"],
    "quantize": ["nearest-w4"],
}
INPUT = {"num_classes": 10, "channels": 1, "height": 8, "width": 8}
FINGERPRINTS = {"data": "0123456789abcdef", "network": "n"}


@pytest.fixture(scope="session")
def asked():
    """Make an experiment; dotted names of options are written `config__fleet__shadows=6`."""

    def make(**changes):
        fields = {"config": CONFIG, "input": INPUT, "fingerprints": FINGERPRINTS}
        fields |= {"versions": {"torch": "2.6"}, "places": {"root": "/data"}, "id": "0a1b2c3d"}
        fields = copy.deepcopy(fields)
        for name, value in changes.items():
            *parents, key = name.split("__")
            options = fields
            for parent in parents:
                options = options[parent]
            options[key] = value
        return Experiment(**fields)

    return make


SHADOWS, TARGETS, QUERIES, EXAMPLES, POPULATION, CLASSES = 6, 3, 2, 40, 25, 5


@pytest.fixture(scope="session")
def layout():
    """Make arrays that are laid out right: `full` of logits, `int8` of phi.

    With 0 queries, that axis is left out.
    """

    def make(queries=QUERIES):
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

    return make


@pytest.fixture(scope="session")
def save_arrays():
    """Write arrays as an `.npz` file or as a folder."""

    def save(arrays, folder, as_folder):
        if not as_folder:
            np.savez(folder / "given.npz", **arrays)
            return folder / "given.npz"
        (folder / "given").mkdir()
        for name, array in arrays.items():
            file = folder / "given" / f"{name}.npy"
            file.parent.mkdir(exist_ok=True)
            np.save(file, array)
        return folder / "given"

    return save
