import pytest

from pruning.stability import is_stable, jaccard


def test_jaccard_by_hand():
    """Two of four channels kept twice, and three of three: (2 / 4 + 1) / 2."""
    before = {"conv": [0, 1, 2], "fc": [4, 5, 6]}
    assert jaccard(before, {"conv": [1, 2, 3], "fc": [4, 5, 6]}) == 0.75
    assert jaccard(before, before) == 1
    assert jaccard({"conv": [0]}, {"conv": [1]}) == 0


@pytest.mark.parametrize(
    ("curve", "stable"),
    [
        ([], False),
        ([1.0, 1.0], False),  # too few
        ([0.5, 1.0, 1.0, 1.0], True),
        ([1.0, 1.0, 0.998], True),  # on average 0.9993
        ([1.0, 1.0, 0.996], False),
        ([1.0, 1.0, 1.0, 0.9], False),
    ],
)
def test_the_last_three_decide(curve, stable):
    assert is_stable(curve) is stable
