import random
from itertools import pairwise

import pytest

from storage.names import (
    ModelName,
    fleet_names,
    in_order,
    is_snapshot,
    parse_slice,
    snapshot_name,
    split_variant,
)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("epoch-05", True),
        ("epoch-120", True),
        ("round-05", True),
        ("task-2", True),
        ("full", False),
        ("nearest-w2", False),
        ("epoch-5-w2", False),
        ("my-epoch-05", False),
    ],
)
def test_snapshots_are_told_by_their_names(variant, expected):
    assert is_snapshot(variant) == expected


def test_a_snapshot_is_named_by_its_epoch():
    names = [snapshot_name(epoch) for epoch in (3, 20, 100)]
    assert names == ["epoch-03", "epoch-20", "epoch-100"]
    assert all(map(is_snapshot, names))
    assert in_order(["full", "epoch-100", "epoch-20", "nearest-w2", "epoch-03"]) == names


def test_names_follow_the_order_of_the_membership_matrix():
    assert list(map(str, fleet_names(3, 2))) == [
        "shadow-000",
        "shadow-001",
        "shadow-002",
        "target-000",
        "target-001",
    ]
    assert fleet_names(0, 1) == [ModelName("target", 0)]
    assert str(ModelName("shadow", 1234)) == "shadow-1234"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0-7,12", [*range(8), 12]),
        ("3", [3]),
        ("12,3,3,2-4", [2, 3, 4, 12]),
        (" 1 , 5-5 ", [1, 5]),
        ("12", [12]),
        ("007", [7]),
    ],
)
def test_slices_worked_by_hand(text, expected):
    assert parse_slice(text, 13) == expected


def test_the_slices_of_an_array_job_cover_the_fleet_once():
    rng = random.Random(0)
    cuts = [0, *sorted(rng.sample(range(1, 50), 6)), 50]
    slices = [f"{a}-{b - 1}" for a, b in pairwise(cuts)]
    assert [position for text in slices for position in parse_slice(text, 50)] == list(range(50))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "takes positions like 0-7,12, got ''"),
        ("0-", "takes positions like 0-7,12, got '0-'"),
        ("-1", "takes positions"),
        ("1,,2", "takes positions"),
        ("all", "takes positions"),
        ("13", r"must lie within 0-12, got 13\. Raise `--fleet.shadows` or `--fleet.targets`"),
        ("0-13", "must lie within 0-12, got 0-13"),
        ("4-3", r"takes the smaller position first, got 4-3\. Pass 3-4\."),
    ],
)
def test_a_wrong_slice_is_refused_with_the_right_form(text, message):
    with pytest.raises(ValueError, match=message):
        parse_slice(text, 13)


@pytest.mark.parametrize(
    ("variant", "parts"),
    [
        ("obc-w2-last8", ("obc", "w2", "last8")),
        ("adaround-mix2.5-greedy-a8", ("adaround", "mix2.5", "greedy-a8")),
        ("my_package.my_rounding-aiq0.9", ("my_package.my_rounding", "aiq0.9", "")),
        ("full", ("full", "", "")),
        ("my-warm-engine", ("my-warm-engine", "", "")),
        ("my-engine-w4", ("my-engine", "w4", "")),
    ],
)
def test_a_name_is_split_at_its_bits(variant, parts):
    assert split_variant(variant) == parts
