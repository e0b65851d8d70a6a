"""Which targets are paired, by hand, and every reason why none are."""

import pytest

from reporting.pairing import pair_with_first
from reporting.results import Results
from storage.experiment import Experiment

TARGETS = {f"target-{number:03d}": f"members-{number}" for number in range(4)}


def audit(seed=0, data="d", audited=TARGETS, trained=True):
    experiment = Experiment({"seed": seed}, {}, {"data": data}, {}, {}, "0")
    made = Results("name", "", experiment if trained else None, {}, {}, [], {}, [], [], [])
    return made._replace(audited=audited)


def pair(first, second):
    return pair_with_first({"a": first, "b": second})["b"]


def test_all_experiments_but_the_first_are_paired_with_it():
    pairings = pair_with_first({"a": audit(), "b": audit(), "c": audit(seed=1)})
    assert list(pairings) == ["b", "c"]
    assert pairings["b"].first == pairings["b"].own == [0, 1, 2, 3]
    assert pairings["b"].sentence == (
        "b is paired with a over 4 targets, which trained on the same examples in both."
    )
    assert not pairings["c"].own


def test_targets_are_found_by_name_and_by_what_they_trained_on():
    """The first lacks target 0, and what target 2 trained on is another half of the pool."""
    reference = dict(list(TARGETS.items())[1:])
    other = {**dict(reversed(TARGETS.items())), "target-002": "members-3"}
    paired = pair(audit(audited=reference), audit(audited=other))
    assert list(other) == ["target-003", "target-002", "target-001", "target-000"]
    assert (paired.first, paired.own) == ([2, 0], [0, 2])
    assert "over 2 targets" in paired.sentence


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        (
            audit(),
            audit(seed=1),
            "its seed is 1, so that its targets trained on other examples. Train it with "
            "`--seed 0` to pair them.",
        ),
        (
            audit(),
            audit(data="e", seed=1),
            "its pool or its test images are others. Train it with the same `--data` and options "
            "of data to pair them.",
        ),
        (
            audit(),
            audit(audited={"target-000": "members-0", "target-009": "members-9"}),
            "1 of its audited models trained on the same examples as a's of that name, where a "
            "test takes 2. Train both with the same `--fleet.targets`, 2 or more.",
        ),
        (
            audit(),
            audit(audited={"shadow-000": "members-0"}),
            "0 of its audited models trained on the same examples as a's of that name, where a "
            "test takes 2. Train both with the same `--fleet.targets`, 2 or more.",
        ),
        (
            audit(audited={}),
            audit(),
            "the audit of a is from before audits recorded what each target trained on. Audit it "
            "again to pair them.",
        ),
        (
            audit(),
            audit(audited={}),
            "the audit of b is from before audits recorded what each target trained on. Audit it "
            "again to pair them.",
        ),
        (
            audit(trained=False),
            audit(),
            "a was trained elsewhere, on a pool that is not known. Train both by train.py to pair "
            "them.",
        ),
        (
            audit(),
            audit(trained=False),
            "b was trained elsewhere, on a pool that is not known. Train both by train.py to pair "
            "them.",
        ),
    ],
    ids=["seed", "pool", "few", "none", "old-first", "old", "elsewhere-first", "elsewhere"],
)
def test_why_experiments_are_not_paired_and_the_way_out(first, second, why):
    apart = pair(first, second)
    assert not apart.first
    assert not apart.own
    assert apart.sentence == f"b is not paired with a: {why}"
