"""Rows of a table as an audit would show them."""

import pytest

from attacks import DEFAULT_ATTACKS
from attacks.evaluate import evaluate
from attacks.game import make_cases
from attacks.metrics.intervals import Estimate


@pytest.fixture(scope="session")
def rows(synthetic_fleet, observe):
    """Every default attack on three variants; `nearest-w2` misleads full-precision shadows."""
    phi, members = synthetic_fleet(shadows=8, targets=2, examples=160)
    shifts = {"full": 0, "nearest-w4": 1, "nearest-w2": -8}
    seen = {variant: observe(phi, lambda x, by=by: x + by) for variant, by in shifts.items()}
    return tuple(one.row for one in evaluate(seen, members, make_cases(8, 2), DEFAULT_ATTACKS))


@pytest.fixture(scope="session")
def accuracy():
    return {
        "full": Estimate(0.95, 0.93, 0.96, 0.01),
        "nearest-w4": Estimate(0.94, 0.91, 0.96, 0.01),
        "nearest-w2": Estimate(0.70, 0.61, 0.77, 0.05),
    }
