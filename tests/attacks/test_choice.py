"""Which attacks a game suffices for and on which examples, against counting by hand."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

from attacks import ATTACKS, DEFAULT_ATTACKS, Attack
from attacks.cases import Case, make_cases
from attacks.choice import (
    FINDINGS,
    WORDS,
    Choice,
    Lack,
    choose_attacks,
    in_words,
    more_shadows,
    scorable,
    suffices,
    unknown,
)
from attacks.evaluate import evaluate, score
from attacks.game import Game, ModelSignals, keep_examples
from attacks.lira import lira

W2 = "nearest-w2"
SIDES = (0, 1), (1, 1), (0, 2), (2, 2)
ONLINE = [name for name in DEFAULT_ATTACKS if ATTACKS[name].sides == (2, 2)]


def flip_coins(shadows, examples, chance=0.5, targets=1, seed=0):
    """Fair coins say which model trained on which example; members' phi is higher by 1.5 nats."""
    rng = torch.Generator().manual_seed(seed)
    members = torch.rand(shadows + targets, examples, generator=rng) < chance
    phi = 2 * torch.randn(examples, generator=rng) + 1.5 * members
    phi = phi + torch.randn(phi.shape, generator=rng)
    cases = [Case(shadows + target, list(range(shadows))) for target in range(targets)]
    return Game({"full": ModelSignals(phi[:, None])}, members, cases)


def count_usable(members, cases, sides):
    """The slow obvious loop."""
    usable = []
    for example in range(members.shape[1]):
        counts = [sum(bool(members[row, example]) for row in case.shadows) for case in cases]
        pairs = zip(counts, (len(case.shadows) for case in cases), strict=True)
        usable.append(all(n >= sides[0] and most - n >= sides[1] for n, most in pairs))
    return torch.tensor(usable)


def test_unknown_signals_are_named(synthetic_fleet, observe):
    """A signal is unknown where any variant lacks it."""
    phi, members = synthetic_fleet(shadows=4, examples=20)
    every, bare = observe(phi), ModelSignals(phi)

    def game(*signals):
        return Game(dict(zip("ab", signals, strict=False)), members, make_cases(4, 2))

    for attack in ATTACKS:
        assert unknown(attack, game(every, every)) == []
        wanted = [WORDS[field] for field in ATTACKS[attack].needs]
        assert unknown(attack, game(every, bare)) == wanted
    partial = every._replace(population_hinge=None)
    assert unknown("quantile_regression", game(partial)) == ["logits on a population"]
    small = every._replace(population_hinge=every.population_hinge[..., :19])
    assert unknown("quantile_regression", game(small)) == ["a population of 20"]


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("inside", [0, 1, 2, 4])
@pytest.mark.parametrize("outside", [0, 1, 2, 4])
def test_no_example_is_scorable_exactly_where_an_attack_cannot_run(
    synthetic_fleet, observe, attack, inside, outside
):
    """Every example has `inside` shadows with it and `outside` without it."""
    phi, members = synthetic_fleet(shadows=8, targets=2, examples=30)
    members[:8] = (torch.arange(8) < 4)[:, None]
    rows = [*range(inside), *range(4, 4 + outside)]
    game = Game({W2: observe(phi)}, members, [Case(8, rows), Case(9, rows)])
    if not rows:
        return
    usable = scorable(game, ATTACKS[attack].sides)
    assert usable.all() or not usable.any()
    try:
        score([attack], game, W2)
    except ValueError:
        assert not usable.any()
    else:
        # the mean over all shadows, which this takes, is no error without any
        assert usable.all() or (attack == "rmia_online" and not inside)


@pytest.mark.parametrize("sides", [(0, 0), (0, 1), (1, 1), (0, 2), (2, 2), (3, 1)], ids=str)
def test_an_example_must_be_scorable_in_every_case(rng, sides):
    members = torch.rand(9, 60, generator=rng) < 0.4
    cases = [Case(8, [0, 1, 2, 3, 4]), Case(7, [2, 3, 4, 5, 6]), Case(0, [1, 3, 5, 6, 7, 8])]
    game = Game({"full": ModelSignals(torch.zeros(9, 1, 60))}, members, cases)
    assert torch.equal(scorable(game, sides), count_usable(members, cases, sides))


@pytest.mark.parametrize(
    ("shadows", "chance", "share"), [(16, 0.5, 0.0005), (7, 0.5, 0.125), (16, 0.2, 0.141)]
)
def test_online_attacks_cost_the_examples_without_their_shadows(shadows, chance, share):
    """AUC is that of plain LiRA on the usable examples, chosen and scored by hand."""
    game = flip_coins(shadows, 4000, chance)
    usable = count_usable(game.members, game.cases, (2, 2))
    assert (~usable).double().mean() == pytest.approx(share, abs=0.02)
    assert not usable.all()
    choice = choose_attacks(None, game)
    assert torch.equal(choice.usable, usable)
    assert choice.sides == (2, 2)
    assert set(ONLINE) < set(choice.attacks)
    part = keep_examples(game, choice.usable)
    phi, members = game.signals["full"].phi[..., usable], game.members[:, usable]
    wanted = lira(phi[[-1]], phi[:-1], members[:-1], spread="fixed")
    rows = {scored.row.attack: scored for scored in evaluate(part, "full", choice.attacks)}
    torch.testing.assert_close(rows["lira_online_fixed"].scores, wanted, rtol=1e-9, atol=1e-9)
    area = roc_auc_score(members[-1], wanted[0])
    assert rows["lira_online_fixed"].row.summary.auc.value == pytest.approx(area, abs=1e-12)
    assert area > rows["global_threshold"].row.summary.auc.value + 0.05
    # and so is every other attack, on the same examples
    assert {row.summary.non_members for row, _ in rows.values()} == {int((~members[-1]).sum())}


def test_an_attack_that_would_cost_more_than_a_fifth_is_left_out():
    game = flip_coins(5, 1000)
    mixed = count_usable(game.members, game.cases, (1, 1))
    part = game.members[:, mixed]
    usable = {sides: count_usable(part, game.cases, sides) for sides in SIDES}
    missing = {sides: int((~examples).sum()) for sides, examples in usable.items()}
    assert missing[0, 2] < 200 < missing[2, 2]
    choice = choose_attacks(None, game)
    lack = Lack((), (2, 2), missing[2, 2])
    assert choice.left_out == {
        "gap": Lack(("logits",), (0, 0), 0),
        "quantile_regression": Lack(("logits", "logits on a population", "the images"), (0, 0), 0),
        "rmia_online": Lack(("signals on a population",), (0, 0), 0),
        "rmia_offline": Lack(("signals on a population",), (0, 0), 0),
        "lira_online": lack,
        "lira_online_fixed": lack,
        "joint_lira": lack,
    }
    assert choice.attacks == [
        *("global_threshold", "attack_r", "lira_offline", "lira_offline_fixed")
    ]
    assert torch.equal(choice.usable, mixed & count_usable(game.members, game.cases, (0, 2)))
    assert torch.equal(choice.mixed, mixed)


@pytest.mark.parametrize("few", [200, 201])
def test_a_fifth_of_the_examples_may_go_and_no_more(synthetic_fleet, few):
    phi, members = synthetic_fleet(shadows=8, targets=1, examples=1000)
    members[:8, :few] = torch.arange(8)[:, None] < 1  # one shadow trained on them
    members[8] = torch.arange(1000) % 2 == 0
    choice = choose_attacks(None, Game({"full": ModelSignals(phi)}, members, make_cases(8, 1)))
    assert int((~choice.usable).sum()) == (few if few == 200 else 0)
    assert (
        ("lira_online" in choice.attacks) == ("joint_lira" not in choice.left_out) == (few == 200)
    )


@pytest.mark.parametrize(("every", "none"), [(20, 20), (30, 40), (0, 60), (70, 0)])
def test_examples_in_every_shadow_or_in_none_are_set_apart(synthetic_fleet, observe, every, none):
    """Whatever their number: the attacks' scores are those of a game without these examples."""
    phi, members = synthetic_fleet(shadows=8, targets=2, examples=200)
    members[:8, :every], members[:8, every : every + none] = True, False
    game = Game({"full": observe(phi), W2: observe(phi + 1)}, members, make_cases(8, 2))
    choice = choose_attacks(None, game)
    place = torch.arange(200)
    assert torch.equal(choice.every, place < every)
    assert torch.equal(choice.none, (place >= every) & (place < every + none))
    assert torch.equal(choice.usable, choice.mixed)
    assert (choice.left_out, {*DEFAULT_ATTACKS} - {*choice.attacks}) == ({}, set())
    part = keep_examples(game, choice.usable)
    alone = Game(
        {
            variant: signals._replace(
                phi=signals.phi[..., every + none :],
                hinge=signals.hinge[..., every + none :],
                features=(signals.features[0][every + none :], signals.features[1]),
            )
            for variant, signals in game.signals.items()
        },
        members[:, every + none :],
        game.cases,
    )
    for attack in choice.attacks:
        if attack != "quantile_embeddings":
            ours, theirs = (score([attack], each, W2)[attack] for each in (part, alone))
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_examples_are_set_apart_by_every_case_of_a_round_robin(rng):
    """Shadow 0 alone, or all but shadow 0, trained on an example: one case has no other kind."""
    members = torch.arange(8)[:, None] < 4
    members = members ^ torch.zeros(200, dtype=torch.bool)
    members[:, 100:] = ~members[:, 100:]
    members[:, 0], members[:, 1] = torch.arange(8) == 0, torch.arange(8) != 0
    cases = [Case(t, [s for s in range(8) if s != t]) for t in range(8)]
    game = Game({"full": ModelSignals(torch.randn(8, 1, 200, generator=rng))}, members, cases)
    choice = choose_attacks(["global_threshold"], game)  # the examples are the same for all
    assert choice.every.nonzero().flatten().tolist() == [1]
    assert choice.none.nonzero().flatten().tolist() == [0]


@pytest.mark.parametrize(("remaining", "enough"), [(20, True), (19, False)])
def test_examples_are_set_apart_while_enough_remain(synthetic_fleet, remaining, enough):
    """20 members and 20 non-members of each target; 19 are less than half of its 100."""
    phi, members = synthetic_fleet(shadows=8, targets=1, examples=200)
    place = torch.arange(200)
    members[8] = place < 100
    kept = (place < remaining) | (place >= 100)
    members[:8, ~kept] = False
    choice = choose_attacks(None, Game({"full": ModelSignals(phi)}, members, make_cases(8, 1)))
    assert torch.equal(choice.usable, kept if enough else torch.ones(200, dtype=torch.bool))
    assert ("lira_online" in choice.attacks) == enough
    assert "lira_offline" in choice.attacks


@pytest.mark.parametrize("swap", [False, True], ids=["members", "non-members"])
@pytest.mark.parametrize(
    ("lost", "left", "enough"), [(5, 5, True), (6, 5, False), (1, 0, False), (0, 1, True)]
)
def test_no_target_loses_more_than_half_of_a_side(synthetic_fleet, swap, lost, left, enough):
    """A tenth of the examples may be most of a target's members."""
    phi, members = synthetic_fleet(shadows=8, targets=2, examples=100)
    members[:8, :10] = False  # no shadow trained on them
    members[9] = False
    members[9, :lost] = members[9, 10 : 10 + left] = True
    members[9] ^= swap
    game = Game({"full": ModelSignals(phi)}, members, make_cases(8, 2))
    assert suffices(scorable(game, (2, 2)), game) == enough
    choice = choose_attacks(None, game)
    assert ("lira_online" in choice.attacks) == enough
    assert int((~choice.usable).sum()) == (10 if enough else 0)


def test_what_is_asked_for_does_not_change_the_examples():
    game = flip_coins(7, 500)
    whole = choose_attacks(None, game)
    for asked in (["global_threshold"], ["lira_offline", "attack_r"], ["lira_online_carlini"]):
        choice = choose_attacks(asked, game)
        assert choice.attacks == asked
        assert torch.equal(choice.usable, whole.usable)
        assert choice.left_out == {}


def test_nothing_is_left_out_where_every_example_has_its_shadows(synthetic_fleet, observe):
    phi, members = synthetic_fleet(shadows=8, targets=2, examples=60)
    game = Game({"full": observe(phi)}, members, make_cases(8, 2))
    choice = choose_attacks(None, game)
    unasked = {*DEFAULT_ATTACKS, "quantile_embeddings"}  # all signals are known
    assert choice.attacks == [name for name in ATTACKS if name in unasked]
    assert choice.left_out == {}
    assert choice.usable.all()
    assert keep_examples(game, choice.usable) is game


def test_an_attack_asked_for_without_its_shadows_is_an_error_with_a_way_out():
    game = flip_coins(5, 1000)
    mixed = count_usable(game.members, game.cases, (1, 1))  # others are set apart
    count = int((mixed & ~count_usable(game.members, game.cases, (2, 2))).sum())
    with pytest.raises(
        ValueError,
        match=f"`lira_online` needs 2 shadows with and 2 without each example, which {count} of "
        rf"{mixed.sum()} examples lack\. An audit leaves out a fifth .*Train more shadows; in "
        r"complementary halves, 4 suffice, or leave it out of `--attacks`\.",
    ):
        choose_attacks(["attack_r", "lira_online"], game)


def test_a_registered_attack_is_chosen(synthetic_fleet, observe, monkeypatch):
    toy = Attack(lambda target, _: target.phi[:, 0], needs=("hinge",), default=False)
    monkeypatch.setitem(ATTACKS, "toy", toy)
    phi, members = synthetic_fleet(shadows=4, examples=40)
    game = Game({"full": observe(phi)}, members, make_cases(4, 2))
    everything = torch.ones(40, dtype=torch.bool)
    assert "toy" not in choose_attacks(None, game).attacks
    choice = choose_attacks(["toy", "gap", "toy"], game)
    assert (choice.attacks, choice.left_out) == (["toy", "gap"], {})
    assert isinstance(choice, Choice)
    assert torch.equal(choice.usable, everything)
    bare = Game({"full": ModelSignals(phi)}, members, make_cases(4, 2))
    with pytest.raises(ValueError, match="`toy` needs logits, which not every variant has"):
        choose_attacks(["toy"], bare)
    with pytest.raises(ValueError, match=r"must name attacks, got `toi`\. Did you mean `toy`\?"):
        choose_attacks(["toi"], game)


def test_default_attacks_without_their_signals_are_left_out(synthetic_fleet):
    phi, members = synthetic_fleet(shadows=4, examples=40)
    game = Game({"full": ModelSignals(phi)}, members, make_cases(4, 2))
    choice = choose_attacks(None, game)
    needing = [name for name in DEFAULT_ATTACKS if ATTACKS[name].needs]
    assert choice.attacks == [name for name in DEFAULT_ATTACKS if name not in needing]
    assert list(choice.left_out) == needing
    assert choice.left_out["gap"] == Lack(("logits",), (0, 0), 0)


def test_numbers_of_shadows_in_words():
    assert in_words((0, 1)) == "1 shadow without"
    assert in_words((1, 1)) == "1 shadow with and 1 without"
    assert in_words((2, 2)) == "2 shadows with and 2 without"
    assert in_words((0, 2)) == "2 shadows without"
    assert in_words((3, 0)) == "3 shadows with"
    assert more_shadows((0, 1)).endswith("4 suffice")  # an audit takes no fewer
    assert more_shadows((1, 3)).endswith("6 suffice")
    assert FINDINGS["joint_lira"] == ATTACKS["lira_online"].sides
    assert FINDINGS["z_scores"] == ATTACKS["lira_offline"].sides


def test_an_optional_attack_runs_unasked_only_where_its_signals_are_known(synthetic_fleet, observe):
    phi, members = synthetic_fleet(shadows=4, examples=40)
    known, cases = observe(phi), make_cases(4, 2)
    bare = known._replace(embeddings=None, population_embeddings=None)
    choice = choose_attacks(None, Game({"full": known, W2: known}, members, cases))
    assert choice.attacks == [n for n in ATTACKS if n in (*DEFAULT_ATTACKS, "quantile_embeddings")]
    assert not choice.left_out
    choice = choose_attacks(None, Game({"full": known, W2: bare}, members, cases))
    assert choice.attacks == list(DEFAULT_ATTACKS)
    assert "quantile_embeddings" not in choice.left_out
    message = "`quantile_embeddings` needs embeddings, which `train.py --record_embeddings true` ad"
    with pytest.raises(ValueError, match=message):
        choose_attacks(["quantile_embeddings"], Game({"full": known, W2: bare}, members, cases))
