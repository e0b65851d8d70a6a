"""Rows of a table as an audit would show them."""

import pytest

from attacks import DEFAULT_ATTACKS
from attacks.evaluate import evaluate, make_cases
from attacks.intervals import Estimate


@pytest.fixture(scope="session")
def rows(synthetic_fleet):
    """Every default attack on three variants; `nearest-w2` misleads full-precision shadows."""
    phi, members = synthetic_fleet(shadows=8, targets=2, examples=160)
    variants = {"full": phi, "nearest-w4": phi + 1, "nearest-w2": phi - 8}
    return tuple(evaluate(variants, members, make_cases(8, 2), DEFAULT_ATTACKS))


@pytest.fixture(scope="session")
def accuracy():
    return {
        "full": Estimate(0.95, 0.93, 0.96, 0.01),
        "nearest-w4": Estimate(0.94, 0.91, 0.96, 0.01),
        "nearest-w2": Estimate(0.70, 0.61, 0.77, 0.05),
    }
