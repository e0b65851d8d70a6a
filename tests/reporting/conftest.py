"""Rows, facts and results as an audit makes them, of a synthetic fleet."""

import pytest

from attacks import DEFAULT_ATTACKS
from attacks.evaluate import evaluate
from attacks.game import Game, make_cases
from attacks.metrics.intervals import Estimate
from attacks.strongest import Strongest
from reporting.findings import find
from reporting.results import make_results
from storage.evidence import Evidence
from storage.records import LayerMeans, QuantizationMeans, VariantFacts

SIZES = {"full": 98712, "nearest-w4": 16858, "nearest-w2": 1089}


@pytest.fixture(scope="session")
def game(synthetic_fleet, observe):
    """Three variants; `nearest-w2` misleads full-precision shadows."""
    phi, members = synthetic_fleet(shadows=8, targets=2, examples=160)
    shifts = {"full": 0, "nearest-w4": 1, "nearest-w2": -8}
    signals = {variant: observe(phi, lambda x, by=by: x + by) for variant, by in shifts.items()}
    return Game(signals, members, make_cases(8, 2))


@pytest.fixture(scope="session")
def strongest(game):
    """Every default attack on every variant."""
    best = Strongest(game.audited)
    for variant in game.variants:
        best.add(evaluate(game, variant, DEFAULT_ATTACKS))
    return best


@pytest.fixture(scope="session")
def rows(strongest):
    """The rows of all attacks."""
    return tuple(strongest.rows)


@pytest.fixture(scope="session")
def accuracy():
    return {
        "full": Estimate(0.95, 0.93, 0.96, 0.01),
        "nearest-w4": Estimate(0.94, 0.91, 0.96, 0.01),
        "nearest-w2": Estimate(0.70, 0.61, 0.77, 0.05),
    }


@pytest.fixture(scope="session")
def evidence(game, accuracy):
    """A fleet that was trained elsewhere; one variant has a record of its quantization."""
    layers = [LayerMeans("stem", 0.25, 0.5, 0.125), LayerMeans("fc", 0.0, None, None)]
    means = QuantizationMeans("each block", "members, 9 images", ["stem", "fc"], layers, 1.5, 2)
    variants = {
        name: VariantFacts(share, SIZES[name], accuracy_by_target=[share.value] * 2)
        for name, share in accuracy.items()
    }
    variants["nearest-w2"] = variants["nearest-w2"]._replace(quantization=means)
    return Evidence("demo", game, variants, {"data": "digits", "excluded": "none"}, {}, [])


@pytest.fixture(scope="session")
def findings(game, strongest):
    """All findings, by key."""
    return find(game, strongest)


@pytest.fixture(scope="session")
def results(evidence, strongest, findings):
    """The results of an audit."""
    return make_results(evidence, strongest, findings, "0123456789abcdef" * 4)
