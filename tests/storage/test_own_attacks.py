"""A user's own attack, whose scores are those of a slow loop, and every mistake in one."""

import pytest
import torch

from attacks import ATTACKS
from attacks.cases import make_cases
from attacks.choice import choose_attacks
from attacks.evaluate import score
from attacks.game import Game
from storage.own_attacks import register, shorten

CALLS = []


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """Leave the registry of attacks as it was."""
    monkeypatch.setattr("storage.own_attacks.ATTACKS", ATTACKS)
    before = dict(ATTACKS)
    yield
    ATTACKS.clear()
    ATTACKS.update(before)


def calibrated(target, shadows, included):
    """By how much the target exceeds the shadows that never saw an example."""
    out = ~included[:, None]
    return (target - (shadows * out).sum(0) / out.sum(0)).mean(0)


def test_scores_are_those_of_the_function_for_each_target(synthetic_fleet, observe):
    phi, members = synthetic_fleet(shadows=8, targets=3, examples=40, queries=2)
    game = Game({"full": observe(phi), "nearest-w2": observe(phi)}, members, make_cases(8, 3))
    assert register({"mine.calibrated": calibrated}) == {"mine.calibrated": "calibrated"}
    scores = score(["calibrated"], game, "nearest-w2", "unquantized")["calibrated"]
    assert scores.dtype == torch.float64
    for row, case in enumerate(game.cases):
        for example in range(40):
            out = [phi[s, :, example] for s in case.shadows if not members[s, example]]
            wanted = (phi[case.target, :, example] - sum(out) / len(out)).mean()
            assert scores[row, example].item() == pytest.approx(wanted.item(), rel=1e-4, abs=1e-4)
    choice = choose_attacks(["default", "calibrated"], game)
    assert choice.attacks == [*choose_attacks(None, game).attacks, "calibrated"]
    assert choose_attacks(["calibrated"], game).attacks == ["calibrated"]


def test_the_shadows_that_it_needs_are_an_attribute(synthetic_fleet, observe):
    def offline(target, shadows, included):
        return target[0]

    offline.sides = (0, 2)
    register({"mine.offline": offline, "mine.calibrated": calibrated})
    assert (ATTACKS["offline"].sides, ATTACKS["calibrated"].sides) == ((0, 2), (1, 1))
    phi, members = synthetic_fleet(shadows=8, targets=1, examples=40)
    members[:8] = False
    game = Game({"full": observe(phi)}, members, make_cases(8, 1))
    assert choose_attacks(["offline"], game).attacks == ["offline"]
    with pytest.raises(ValueError, match="`calibrated` needs 1 shadow with and 1 without each"):
        choose_attacks(["calibrated"], game)


def test_names_are_the_last_parts_that_tell_them_apart():
    paths = ["a.b.mine", "c.b.mine", "x.gap", "y.default", "b.mine", "d.other"]
    assert shorten(paths) == {
        "a.b.mine": "a.b.mine",
        "c.b.mine": "c.b.mine",
        "x.gap": "x.gap",
        "y.default": "y.default",
        "b.mine": "b.mine",
        "d.other": "other",
    }
    register({"a.mine": calibrated})
    assert shorten(["a.mine"]) == {"a.mine": "mine"}  # its own earlier entry takes no name


def two_arguments(target, shadows):
    return target[0]


def numbers(target, shadows, included):
    return target[0].tolist()


def whole(target, shadows, included):
    return target


def marked(target, shadows, included):
    return target[0] > 0


def infinite(target, shadows, included):
    return target[0] / 0


def in_place(target, shadows, included):
    return target.mul_(2)[0]


def random(target, shadows, included):
    return torch.rand(target.shape[1])


def broken(target, shadows, included):
    return target[7]


def sided(target, shadows, included):
    return target[0]


sided.sides = 2


def quits(target, shadows, included):
    raise SystemExit


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (two_arguments, r"take three arguments \(too many positional arguments\)"),
        (numbers, "return a float tensor of 12 finite scores, got list"),
        (whole, r"return a float tensor of 12 finite scores, got \[2, 12\] of torch.float32"),
        (marked, r"return a float tensor of 12 finite scores, got \[12\] of torch.bool"),
        (infinite, "return a float tensor of 12 finite scores, got 12 that are not"),
        (in_place, "leave its arguments as they are: work on a copy"),
        (random, "give the same scores twice: draw from a torch.Generator with a fixed seed"),
        (quits, r"run on 8 shadows \(SystemExit: no message, .*test_own_attacks.py:\d+\)"),
        (
            broken,
            r"run on 8 shadows \(IndexError: index 7 is out .*test_own_attacks.py:\d+\)",
        ),
    ],
)
def test_what_is_no_attack_is_refused_with_the_signature(attack, message):
    expected = rf"`--attacks`: `mine.wrong` must {message}\. Expected is attack\(target \["
    with pytest.raises(ValueError, match=expected) as error:
        register({"mine.wrong": attack})
    assert "\n" not in str(error.value)
    assert "wrong" not in ATTACKS


def test_the_number_of_shadows_must_be_a_pair():
    with pytest.raises(ValueError, match=r"`mine.sided.sides` must be .*\(0, 2\), got 2\."):
        register({"mine.sided": sided})
