"""Experiments that need no data set."""

import copy

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
