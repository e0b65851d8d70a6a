import json

import pytest

from datamodules.membership import membership
from storage.names import ModelName
from storage.records import (
    LayerMeans,
    average,
    count_units,
    read_calibrated,
    read_record,
    read_seconds,
)
from storage.run_folder import RunFolder

SHADOW, VARIANT = ModelName("shadow", 3), "obc-w1.58-last8"


@pytest.fixture
def run(tmp_path, asked):
    run = RunFolder(tmp_path / "runs" / "x")
    run.open(asked(), membership(0, 4, 1, 20))
    return run


def test_a_record_is_read_where_there_is_one(run):
    assert read_record(run, SHADOW, VARIANT) is None
    path = run.record(SHADOW, VARIANT)
    path.parent.mkdir(parents=True)
    path.write_text('{"seconds": 1.5, "calibration": null}')
    assert read_record(run, SHADOW, VARIANT) == {"seconds": 1.5, "calibration": None}
    path.write_text('{"seconds": 1.5')
    message = r"obc-w1\.58-last8\.json is not a whole record .*Delete it"
    with pytest.raises(ValueError, match=message):
        read_record(run, SHADOW, VARIANT)


@pytest.mark.parametrize("content", [None, '{"seconds": 1', "[]", '{"epoch": 3}', "7"])
def test_seconds_are_unknown_without_a_whole_record(run, content):
    """They only inform, so that a damaged file is no error."""
    path = run.progress(SHADOW)
    path.parent.mkdir(parents=True)
    path.write_text('{"stage": "finished", "epoch": 3, "seconds": 12.5}')
    assert read_seconds(run, SHADOW) == 12.5
    path.unlink() if content is None else path.write_text(content)
    assert read_seconds(run, SHADOW) is None


def test_calibrated_examples_are_read_from_the_records(run):
    members = run.membership()
    names = list(members)

    def record(name, source, indices):
        path = run.record(name, "obc-w2")
        path.parent.mkdir(parents=True, exist_ok=True)
        used = source and {"source": source, "indices": indices}
        path.write_text(json.dumps({"calibration": used}))

    record(names[1], "members", [3, 0])
    record(names[4], "members", [7])
    masks = read_calibrated(run, "obc-w2", members, [names[1], names[4]])
    assert masks.shape == (5, 20)
    assert masks.nonzero().tolist() == [[1, 0], [1, 3], [4, 7]]
    assert read_calibrated(run, "obc-w2", members, names) is None  # some have no record
    for source in ("nonmembers", "heldout", None):
        record(names[4], source, [7])
        assert read_calibrated(run, "obc-w2", members, [names[1], names[4]]) is None


def make_record(seconds, layers, calibration=None, units=("stem", "block", "fc")):
    keys = ("name", "flipped", "error_before", "error_after")
    return {
        "objective": "the least",
        "calibration": calibration,
        "units": list(units),
        "layers": [dict(zip(keys, layer, strict=True)) for layer in layers],
        "seconds": seconds,
    }


def test_means_over_models_worked_by_hand():
    used = {"source": "heldout", "images": 1024, "indices": [3, 1]}
    means = average(
        [
            make_record(1.0, [("stem", 0.0, 0.5, 0.25), ("block.conv", 0.2, 0.5, 0.5)], used),
            make_record(2.0, [("stem", 0.5, 1.0, 0.75), ("block.conv", 0.4, 0.0, 0.0)], used),
            make_record(6.0, [("stem", 0.25, 1.5, 0.5), ("block.conv", 0.6, 1.0, 0.1)], used),
        ]
    )
    assert means.layers == [
        LayerMeans("stem", 0.25, 1.0, 0.5),
        LayerMeans("block.conv", pytest.approx(0.4), 0.5, pytest.approx(0.2)),
    ]
    assert (means.seconds, means.models) == (3.0, 3)
    assert (means.objective, means.calibration) == ("the least", "heldout, 1,024 images")
    assert means.units == ["stem", "block", "fc"]
    assert means.moves


def test_rounding_to_nearest_has_no_errors():
    means = average([make_record(0.5, [("stem", 0.0, None, None)])] * 2)
    assert means.layers == [LayerMeans("stem", 0.0, None, None)]
    assert means.calibration is None
    assert not means.moves


def test_a_layer_is_averaged_over_the_models_that_have_it():
    means = average(
        [
            make_record(1, [("stem", 0.5, None, None)]),
            make_record(1, [("stem", 0.0, 0.25, 0.125), ("fc", 0.75, 1.0, 1.0)]),
        ]
    )
    assert means.layers == [LayerMeans("stem", 0.25, 0.25, 0.125), LayerMeans("fc", 0.75, 1.0, 1.0)]


def test_without_records_there_are_no_means():
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
    assert count_units(average([make_record(1, layers, units=units)])) == text
