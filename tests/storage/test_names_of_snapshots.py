"""Names of quantized snapshots, which no other variant has."""

import pytest

from quantization.variant import Variant
from storage.names import OfSnapshot, is_snapshot, of_snapshot


@pytest.mark.parametrize("snapshot", ["task-2", "task-12", "epoch-05", "round-10"])
@pytest.mark.parametrize(
    "quantized",
    ["nearest-w4", "adaround-w1.58-last8-nonmembers", "my.own_rounding-mix2.5-a8", "obc-w2-noise3"],
)
def test_names_are_read_back(snapshot, quantized):
    name = str(OfSnapshot(snapshot, quantized))
    assert of_snapshot(name) == (snapshot, quantized)
    assert not is_snapshot(name)
    with pytest.raises(ValueError, match=name):
        Variant.parse(name)


@pytest.mark.parametrize(
    "name", ["full", "task-2", "epoch-05", "nearest-w4", "task-w4", "task.2-w4-a8", "task-2-"]
)
def test_other_names_are_of_no_snapshot(name):
    assert of_snapshot(name) is None
