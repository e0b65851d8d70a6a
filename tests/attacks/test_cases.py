"""Who is attacked by whom."""

import pytest

from attacks.cases import Case, by_shadows, make_cases


def test_cases_by_hand():
    assert make_cases(4, 2) == [Case(4, [0, 1, 2, 3]), Case(5, [0, 1, 2, 3])]
    assert make_cases(4, 2, [1, 4]) == [Case(5, [2, 3])]
    assert make_cases(4, 2, [0, 1]) == make_cases(4, 2, [1]) == make_cases(4, 2, iter([0]))
    assert make_cases(6, 0) == [
        *(Case(0, [2, 3, 4, 5]), Case(1, [2, 3, 4, 5])),
        *(Case(2, [0, 1, 4, 5]), Case(3, [0, 1, 4, 5])),
        *(Case(4, [0, 1, 2, 3]), Case(5, [0, 1, 2, 3])),
    ]
    assert make_cases(6, 0, [3]) == [
        *(Case(0, [4, 5]), Case(1, [4, 5])),
        *(Case(4, [0, 1]), Case(5, [0, 1])),
    ]
    assert make_cases(4, 1, [4]) == make_cases(0, 0) == []
    assert make_cases(0, 2) == [Case(0, []), Case(1, [])]


@pytest.mark.parametrize("excluded", [[], [3], [2, 3], [0, 7], [10]], ids=str)
@pytest.mark.parametrize("targets", [0, 3])
def test_every_example_is_in_exactly_half_of_the_shadows(synthetic_fleet, targets, excluded):
    _, members = synthetic_fleet(shadows=10, targets=targets, examples=50)
    cases = make_cases(10, targets, excluded)
    gone = {model ^ 1 for model in excluded if model < 10} | set(excluded)
    wanted = set(range(10, 13)) if targets else set(range(10))
    assert {case.target for case in cases} == wanted - gone
    for target, shadows in cases:
        partners = {target, target ^ 1} if not targets else set()
        assert set(shadows) == set(range(10)) - gone - partners
        assert len(set(shadows)) == len(shadows)
        assert (members[shadows].sum(0) * 2 == len(shadows)).all()


def test_cases_are_grouped_by_their_shadows():
    cases = [Case(4, [0, 1]), Case(2, [1, 0]), Case(5, [0, 1])]
    assert by_shadows(cases) == {(0, 1): [0, 2], (1, 0): [1]}
