"""Means over the records of several models, by hand."""

import pytest

from storage.records import LayerMeans, average, count_units


def record(seconds, layers, calibration=None, units=("stem", "block", "fc")):
    keys = ("name", "flipped", "error_before", "error_after")
    return {
        "objective": "the least",
        "calibration": calibration,
        "units": list(units),
        "layers": [dict(zip(keys, layer, strict=True)) for layer in layers],
        "seconds": seconds,
    }


def test_means_over_models_by_hand():
    used = {"source": "heldout", "images": 1024, "indices": [3, 1]}
    made = average(
        [
            record(1.0, [("stem", 0.0, 0.5, 0.25), ("block.conv", 0.2, 0.5, 0.5)], used),
            record(2.0, [("stem", 0.5, 1.0, 0.75), ("block.conv", 0.4, 0.0, 0.0)], used),
            record(6.0, [("stem", 0.25, 1.5, 0.5), ("block.conv", 0.6, 1.0, 0.1)], used),
        ]
    )
    assert made.layers == [
        LayerMeans("stem", 0.25, 1.0, 0.5),
        LayerMeans("block.conv", pytest.approx(0.4), 0.5, pytest.approx(0.2)),
    ]
    assert (made.seconds, made.models) == (3.0, 3)
    assert (made.objective, made.calibration) == ("the least", "heldout, 1,024 images")
    assert made.units == ["stem", "block", "fc"]
    assert made.moves


def test_rounding_to_nearest_has_no_errors():
    made = average([record(0.5, [("stem", 0.0, None, None)])] * 2)
    assert made.layers == [LayerMeans("stem", 0.0, None, None)]
    assert made.calibration is None
    assert not made.moves


def test_a_layer_that_some_models_lack_is_a_mean_over_the_others():
    made = average(
        [
            record(1, [("stem", 0.5, None, None)]),
            record(1, [("stem", 0.0, 0.25, 0.125), ("fc", 0.75, 1.0, 1.0)]),
        ]
    )
    assert made.layers == [LayerMeans("stem", 0.25, 0.25, 0.125), LayerMeans("fc", 0.75, 1.0, 1.0)]


def test_no_records():
    assert average([]) is None


@pytest.mark.parametrize(
    ("units", "text"),
    [
        (("stem", "block", "other", "fc"), "2 blocks, 2 layers"),
        (("block", "fc"), "1 block, 1 layer"),
        (("stem", "fc"), "2 layers"),
        ((), "none"),
    ],
)
def test_units_are_counted(units, text):
    layers = [(name, 0.0, None, None) for name in ("stem", "block.conv", "fc")]
    assert count_units(average([record(1, layers, units=units)])) == text
