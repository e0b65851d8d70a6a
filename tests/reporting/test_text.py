"""Numbers as text, by hand."""

from math import nan

import pytest

from attacks.metrics.intervals import Estimate
from reporting.text import show, show_difference


def test_an_estimate():
    estimate = Estimate(0.69249, 0.6706, 0.7131, 0.0109)
    assert show(estimate) == "0.692 (0.671-0.713)"
    assert show(estimate, spread=True) == "0.692±0.011 (0.671-0.713)"
    assert show(Estimate(0.1204, 0.0912, 0.1518, 0.01), percent=True) == "12.0% (9.1-15.2)"
    assert show(Estimate(1.0, 0.9638, 1.0)) == "1.000 (0.964-1.000)"


@pytest.mark.parametrize("options", [{}, {"percent": True}, {"spread": True}], ids=str)
def test_what_is_unknown_says_so(options):
    assert show(Estimate(nan, nan, nan), **options) == "unknown"


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        ((-0.02112, -0.0311, -0.0109), "-0.021 (-0.031 to -0.011)"),
        ((0.0204, -0.001, 0.0418), "+0.020 (-0.001 to +0.042)"),
        ((0, 0, 0), "+0.000 (+0.000 to +0.000)"),
        ((-0.0001, -0.0004, 0.0003), "+0.000 (+0.000 to +0.000)"),  # no negative nought
    ],
)
def test_a_difference_has_its_sign(estimate, text):
    assert show_difference(Estimate(*estimate)) == text
