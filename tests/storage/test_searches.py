"""Means over models, by hand."""

import json

import pytest

from storage.records import read_bits
from storage.searches import average_cost, average_search


def record(weight_bytes, bits, expected):
    cost = {"flops": 80, "activation_bytes": 10, "intensity": 80 / (weight_bytes + 10)}
    cost |= {"weight_bytes": weight_bytes, "weights": 16, "batch": 2}
    full = cost | {"weight_bytes": 64}
    search = {"loss": "kl", "expected": expected, "measured": 2 * expected, "bits": bits}
    search |= {"bytes": weight_bytes, "frontier": {"bytes": [4, 9], "loss": [0.5, 0.25]}}
    return {"cost": {"own": cost, "full": full}, "search": search, "layers": []}


RECORDS = [record(6, {"a": 2, "b": 32}, 0.25), record(10, {"a": 4, "b": 8}, 0.75)]


def test_costs_are_means_over_models_whose_bits_differ():
    cost = average_cost(RECORDS)
    assert (cost.weight_bytes, cost.activation_bytes, cost.flops, cost.batch) == (8, 10, 80, 2)
    assert cost.intensity == (80 / 16 + 80 / 20) / 2
    assert cost.mean_bits == 8 * 8 / 16
    assert average_cost(RECORDS, "full").weight_bytes == 64
    assert average_cost([{"layers": []}]) is None  # of an older version


def test_searches_keep_the_bits_of_every_model():
    search = average_search(RECORDS)
    assert (search.expected, search.measured) == (0.5, 1.0)
    assert search.bits == [{"a": 2, "b": 32}, {"a": 4, "b": 8}]
    assert (search.sizes, search.losses, search.chosen) == ([4, 9], [0.5, 0.25], (6, 0.25))
    assert average_search([{"layers": []}]) is None


def test_bits_are_read_from_any_variants_record(tmp_path):
    path = tmp_path / "adaround-mix3.json"
    path.write_text(json.dumps(RECORDS[0]))
    assert read_bits(path) == {"a": 2, "b": 32}
    path.write_text(json.dumps({"layers": [{"name": "a", "bits": 4}, {"name": "b", "bits": 8}]}))
    assert read_bits(path) == {"a": 4, "b": 8}
    path.write_text(json.dumps({"layers": []}))
    with pytest.raises(ValueError, match="has no layers with bits of their own, as a control"):
        read_bits(path)
    for text in ("{", "[]", "{}", "7"):
        path.write_text(text)
        with pytest.raises(ValueError, match="must be a dictionary, or the record of a quantized"):
            read_bits(path)
    with pytest.raises(ValueError, match=r"got .*none\.json \(No such file or directory\)"):
        read_bits(tmp_path / "none.json")
