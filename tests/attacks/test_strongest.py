"""The attacks that are kept, by hand."""

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm
from sklearn.metrics import roc_auc_score

from attacks.cases import Case, make_cases
from attacks.evaluate import Row, Scored, evaluate, score
from attacks.game import Game, ModelSignals
from attacks.metrics.intervals import delong, summarise
from attacks.metrics.measures import measure
from attacks.strongest import Strongest, choose_for_tests

W2 = "nearest-w2"
MEMBERS = (torch.arange(40) % 2 == 0).expand(4, -1)
BOTH = "auc", "tpr_1pct"  # 80 non-members are too few for 0.1% FPR


def play(members):
    """A game with two shadows, which cannot be halved."""
    cases = [Case(target, [0, 1]) for target in range(2, 2 + len(members))]
    return Game({}, torch.cat([members[:1], ~members[:1], members]), cases)


def scored(variant, knowledge, attack, scores, members):
    summary, measured = summarise(scores, members), measure(scores, members)
    values = {metric: known.values.tolist() for metric, known in measured.items()}
    return Scored(Row(variant, knowledge, attack, summary, 8, [], values), scores)


def made(variant, knowledge, attack, strengths, spoilt=False):
    """An attack whose AUC on each target is its strength: that many of 20 members are on top.

    Its TPR rises with its AUC, unless it is spoilt: a non-member of every target is then above all
    members, and at 1% FPR no member is found.
    """
    rows = []
    for strength in strengths:
        row = torch.zeros(40)
        row[torch.arange(0, 40, 2)[: round(20 * (2 * strength - 1))]] = 1
        row[1] = 2.0 * spoilt
        rows.append(row)
    return scored(variant, knowledge, attack, torch.stack(rows), MEMBERS[: len(strengths)])


FULL = [
    made("full", "none", "gap", [0.6, 0.6, 0.6, 0.6]),
    made("full", "matched", "rmia_online", [0.9, 0.5, 0.6, 0.7]),  # 0.675
    made("full", "matched", "lira_online", [0.6, 0.7, 0.7, 0.6]),  # 0.65
]
QUANTIZED = [
    made(W2, "none", "gap", [0.75, 0.75, 0.5, 0.5]),
    made(W2, "matched", "rmia_online", [0.5, 0.55, 0.55, 0.5]),
    made(W2, "matched", "lira_online", [0.6, 0.6, 0.6, 0.6]),
    made(W2, "unquantized", "rmia_online", [0.9, 0.5, 0.5, 0.55]),
    made(W2, "unquantized", "lira_online", [0.5, 0.5, 0.5, 0.5]),
]
TAIL = [
    made("tail", "none", "broad", [0.9] * 4, spoilt=True),
    made("tail", "none", "early", [0.6, 0.6, 0.55, 0.55]),
    made("tail", "none", "late", [0.55, 0.55, 0.6, 0.6]),
]


@pytest.fixture(scope="module")
def best():
    strongest = Strongest(play(MEMBERS))
    strongest.add(FULL)
    strongest.add(QUANTIZED)
    return strongest


@pytest.mark.parametrize("metric", BOTH)
def test_each_half_is_attacked_by_the_strongest_on_the_other_half(best, metric):
    """On the first half RMIA has 0.7 and LiRA 0.65; on the second 0.65 both, RMIA first."""
    full, kept = (best.variants[variant].best[metric] for variant in ("full", W2))
    assert full.names == (("rmia_online", "matched"),) * 2
    assert all(torch.equal(scores, FULL[1].scores) for scores in full.scores)
    # on the quantized variant `gap` has 0.75 on the first half, `lira_online` 0.6 on the second
    assert kept.names == (("lira_online", "matched"), ("gap", "none"))
    assert torch.equal(kept.scores[0], QUANTIZED[2].scores)
    assert torch.equal(kept.scores[1], QUANTIZED[0].scores)
    measured = best.outcome(kept, metric).measured
    parts = [measure(scores, MEMBERS)[metric] for scores in kept.scores]
    for own, (first, second) in zip(measured, zip(*parts, strict=True), strict=True):
        assert torch.equal(own, torch.cat([first[:2], second[2:]]))
    if metric == "auc":
        assert measured.values.tolist() == pytest.approx([0.6, 0.6, 0.5, 0.5])
    assert best.variants["full"].matched == "rmia_online"


def test_each_metric_has_its_own_strongest_attack():
    """`broad` has the largest AUC, 0.865, and a TPR of 0; the others 0.575 and a TPR above 1%."""
    apart = Strongest(play(MEMBERS))
    apart.add(TAIL)
    kept = apart.variants["tail"]
    assert apart.attack == "broad"
    assert [row.strongest for row in apart.rows] == [("auc",), ("tpr_1pct",), ()]
    assert kept.rows == {"auc": apart.rows[0], "tpr_1pct": apart.rows[1]}
    for chosen in (kept.best, kept.by_knowledge["none"]):
        assert chosen["auc"].names == (("broad", "none"),) * 2
        assert chosen["tpr_1pct"].names == (("late", "none"), ("early", "none"))
    # 16 of 20 members and no other above 19 of 20 non-members, 4 tied with them
    (area,) = set(apart.outcome(kept.best["auc"], "auc").measured.values.tolist())
    assert area == pytest.approx((16 * 19 + 4 * 19 / 2) / 400)
    # 2 of 20 members above all 40 others are accused at 1% x 41, those tied with 40 at 1% x 41 / 41
    rates = apart.outcome(kept.best["tpr_1pct"], "tpr_1pct").measured.values.tolist()
    assert rates == pytest.approx([(2 * 0.41 + 18 * 0.01) / 20] * 4)


@pytest.mark.parametrize(("targets", "tail"), [(4, "tpr_01pct"), (3, "tpr_1pct")])
def test_the_tail_is_where_ten_false_positives_bear_it(rng, targets, tail):
    """2,500 non-members of 4 targets give 10 at 0.1%, and those of 3 give 7."""
    members = (torch.arange(5000) % 2 == 0).expand(targets, -1)
    alone = Strongest(play(members))
    alone.add([scored("w4", "none", "gap", torch.randn(targets, 5000, generator=rng), members)])
    assert alone.risks == ("auc", tail)
    assert alone.rows[0].strongest == alone.risks
    assert list(alone.variants["w4"].best) == [*alone.risks]


@pytest.mark.parametrize("metric", BOTH)
def test_kinds_of_shadows_are_chosen_among_themselves(best, metric):
    kept = best.variants[W2]
    assert list(kept.by_knowledge) == ["none", "matched", "unquantized"]
    for kind, position in (("none", 0), ("matched", 2), ("unquantized", 3)):
        for scores in kept.by_knowledge[kind][metric].scores:
            assert torch.equal(scores, QUANTIZED[position].scores)
    assert kept.matched == "lira_online"


def test_the_tested_attack_is_chosen_on_the_first_half(best):
    assert torch.equal(best.variants["full"].tested.scores, FULL[1].scores)  # 0.7 against 0.65
    assert torch.equal(best.variants[W2].tested.scores, QUANTIZED[0].scores)  # 0.75
    assert torch.equal(best.variants[W2].tested.members, MEMBERS)


def test_the_strongest_attack_on_the_reference_is_kept_for_every_variant(best):
    assert best.attack == "rmia_online"
    assert torch.equal(best.variants["full"].alike, FULL[1].scores)
    assert torch.equal(best.variants[W2].alike, QUANTIZED[1].scores)  # matched shadows
    for scores in best.variants[W2].gap.scores:
        assert torch.equal(scores, QUANTIZED[0].scores)


def test_a_single_target_is_attacked_by_the_strongest():
    alone = Strongest(play(MEMBERS[:1]))
    attacks = [made("w4", "none", "gap", [0.6]), made("w4", "matched", "lira_online", [0.8])]
    alone.add(attacks)
    for contender in alone.variants["w4"].best.values():
        assert all(torch.equal(scores, attacks[1].scores) for scores in contender.scores)
        assert set(contender.halves.values()) == {None}  # its intervals are over examples
    assert alone.outcome(alone.variants["w4"].best["auc"], "auc").measured.values == 0.8


def draw_blind(rng, attacks, examples, shared):
    """Attacks on one target that know nothing; the share of noise that they have in common."""
    members = torch.rand(1, examples, generator=rng).argsort(1) < examples // 2
    common, own = (
        torch.randn(1, 1, examples, generator=rng),
        torch.randn(attacks, 1, examples, generator=rng),
    )
    return shared**0.5 * common + (1 - shared) ** 0.5 * own, members


def choose_blind(scores, members):
    """The row of the strongest by AUC, and its scores."""
    first = scored("w4", "none", "0", scores[0], members).row  # AUC alone is chosen by
    rows = [Scored(first, scores[0])]
    for own in scores[1:]:
        area = delong(own[0], members[0])
        summary = first.summary._replace(auc=area)
        values = first.by_target | {"auc": [area.value]}
        row = first._replace(attack=str(len(rows)), summary=summary, by_target=values)
        rows.append(Scored(row, own))
    alone = Strongest(play(members))
    alone.add(rows)
    row = alone.variants["w4"].rows["auc"]
    return row, rows[int(row.attack)]


@pytest.mark.parametrize(
    ("shared", "attacks", "confidence"),
    [(0.0, 1, 0.95), (1.0, 8, 0.95), (0.0, 8, 0.95 ** (1 / 8))],
    ids=["one", "alike", "independent"],
)
def test_the_interval_of_a_single_target_is_as_wide_as_its_choice_was_free(
    rng, shared, attacks, confidence
):
    """By hand: 8 independent intervals hold together at 95% if each does at 95%^(1/8)."""
    scores, members = draw_blind(rng, attacks, 2000, shared)
    row, before = choose_blind(scores, members)
    quantiles = [norm.ppf((1 + level) / 2) for level in (confidence, 0.95)]
    plain = summarise(before.scores, members)
    for metric in ("auc", "balanced_accuracy"):
        ours, alone = getattr(row.summary, metric), getattr(plain, metric)
        ratio = (ours.high - ours.low) / (alone.high - alone.low)
        assert ratio == pytest.approx(quantiles[0] / quantiles[1], abs=0.02)
        assert ours.value == alone.value


@pytest.mark.slow
def test_the_strongest_attack_on_a_single_target_shows_no_leak_where_there_is_none():
    """8 attacks with half of their noise in common.

    All intervals hold at both ends together in 95%, so the largest AUC is above in 2.5%. At 5%,
    more than 24 of 200 are above 1/2 with a probability of 3e-5. Without the wider interval 12%
    are; 12 or fewer of 200 would be so with a probability of 2e-3.
    """
    rng, runs, shown, naive = torch.Generator().manual_seed(0), 200, 0, 0
    for _ in range(runs):
        row, before = choose_blind(*draw_blind(rng, 8, 400, 0.5))
        shown += row.summary.auc.low > 0.5
        naive += before.row.summary.auc.low > 0.5
    assert binom.sf(24, runs, 0.05) < 1e-4
    assert shown <= 24
    assert naive > 12


@pytest.mark.parametrize(("members", "examples"), [(20, 40), (7, 40), (2, 5), (33, 36)])
def test_a_single_target_chooses_on_one_half_of_its_examples_and_tests_on_the_other(
    rng, members, examples
):
    """Scores that name the example show where it went; an odd one on a side is dropped."""
    inside = (torch.rand(examples, generator=rng).argsort() < members)[None]
    names = torch.arange(examples)[None].double()
    (first, second), marks = choose_for_tests([names], inside)
    assert torch.equal(inside[0][torch.stack([first, second]).long()], marks)
    assert (marks.sum(1) == members // 2).all()
    assert ((~marks).sum(1) == (examples - members) // 2).all()
    assert not {*first.tolist()} & {*second.tolist()}
    assert torch.equal(first, first.sort().values)
    assert torch.equal(second, second.sort().values)
    chosen, tested = first.long(), second.long()
    attacks = torch.stack([inside[0].double(), inside[0].double()])[:, None]
    attacks[0, 0, tested] = 0  # perfect where the attack is chosen, useless where it is tested
    attacks[1, 0, chosen] = 0
    kept, _ = choose_for_tests(list(attacks), inside)
    assert torch.equal(kept, attacks[0, 0][torch.stack([chosen, tested])])
    kept, _ = choose_for_tests(list(attacks.flip(0)), inside)
    assert torch.equal(kept, attacks[0, 0][torch.stack([chosen, tested])])


def test_the_halves_of_a_single_target_do_not_tell_members_from_non_members(rng):
    """If all members and non-members change places, no example changes its half."""
    names = torch.arange(60)[None].double()
    inside = (torch.rand(60, generator=rng).argsort() < 20)[None]
    halves, marks = choose_for_tests([names], inside)
    swapped, opposite = choose_for_tests([names], ~inside)
    assert torch.equal(halves, swapped)
    assert torch.equal(marks, ~opposite)
    assert 10 < (halves[1] < 30).sum() < 20  # and it is no matter of the examples' order


def test_without_shadows_and_gap_attack_there_is_nothing_to_keep():
    alone = Strongest(play(MEMBERS))
    alone.add([made("full", "none", "global_threshold", [0.6] * 4)])
    kept = alone.variants["full"]
    assert (kept.gap, kept.paper, kept.matched) == (None, None, None)
    assert list(kept.by_knowledge) == ["none"]


def test_one_row_per_variant_and_metric_is_marked_and_it_has_the_highest_value(best):
    """Two attacks may be equally strong: the first is marked."""
    assert len(best.rows) == len(FULL) + len(QUANTIZED)
    for variant, attacks in (("full", FULL), (W2, QUANTIZED)):
        for metric in BOTH:
            marked = [
                row for row in best.rows if row.variant == variant and metric in row.strongest
            ]
            values = [getattr(made.row.summary, metric).value for made in attacks]
            row = attacks[values.index(max(values))].row
            # two shadows cannot be halved, which an attack without shadows does not need
            halves = dict.fromkeys(BOTH, [[0.0] * 4] if row.knowledge == "none" else None)
            assert marked == [row._replace(strongest=BOTH, halves=halves)]
            assert best.variants[variant].rows[metric] is marked[0]
    tied = Strongest(play(MEMBERS))
    tied.add([made("full", "none", name, [0.7] * 4) for name in ("first", "second")])
    assert [row.strongest for row in tied.rows] == [BOTH, ()]


def strongest_of(synthetic_fleet, shadows, targets, attacks):
    phi, members = synthetic_fleet(shadows, targets, 60, 2.0)
    other, _ = synthetic_fleet(shadows, targets, 60, 1.0, seed=1)
    signals = {"full": ModelSignals(phi, phi), W2: ModelSignals(other, other)}
    game = Game(signals, members, make_cases(shadows, targets))
    best = Strongest(game)
    for variant in game.variants:
        best.add(evaluate(game, variant, attacks))
    return best


HALVES = ([0, 1, 4, 5], [2, 3, 6, 7]), ([0, 1, 2, 3], [4, 5, 6, 7]), ([0, 1, 6, 7], [2, 3, 4, 5])


def areas_of(game, attack, knowledge, cases):
    scores = score([attack], game._replace(cases=cases), W2, knowledge)[attack]
    return [
        roc_auc_score(game.members[case.target], own)
        for case, own in zip(cases, scores, strict=True)
    ]


def test_what_either_half_of_the_shadows_finds_is_kept_of_every_contender(synthetic_fleet):
    """8 shadows are 4 pairs, which are halved in 3 ways; an attack without shadows sees none."""
    best = strongest_of(synthetic_fleet, 8, 4, ["gap", "lira_online", "attack_r"])
    game, kept = best.game, best.variants[W2]
    targets = [case.target for case in game.cases]
    found = {}
    for attack, knowledge in [("lira_online", "unquantized"), ("attack_r", "unquantized")]:
        halves = [
            [areas_of(game, attack, knowledge, [Case(t, h) for t in targets]) for h in way]
            for way in HALVES
        ]
        found[attack, knowledge] = [np.subtract(*way) / 2 for way in halves]
    for own, wanted in zip(
        kept.paper.halves["auc"], found["lira_online", "unquantized"], strict=True
    ):
        assert own.tolist() == pytest.approx(wanted.tolist(), abs=1e-12)
    contender = kept.by_knowledge["unquantized"]["auc"]
    first, second = (found[name] for name in contender.names)
    outcome = best.outcome(contender, "auc")
    for own, early, late in zip(outcome.halves, first, second, strict=True):
        assert own.tolist() == pytest.approx([*early[:2], *late[2:]], abs=1e-12)
    assert not outcome.round_robin
    assert all(rows.tolist() == [[0.0] * 4] for rows in kept.gap.halves.values())
    assert list(kept.gap.halves) == list(best.risks)


def test_rows_that_are_compared_keep_what_either_half_of_the_shadows_finds(synthetic_fleet):
    """The strongest is chosen over all targets, the contenders on half of them."""
    best = strongest_of(synthetic_fleet, 8, 4, ["lira_online", "attack_r"])
    row = best.variants[W2].rows["auc"]
    assert row in best.rows
    for own, way in zip(row.halves["auc"], HALVES, strict=True):
        cases = [[Case(target, half) for target in range(8, 12)] for half in way]
        first, second = (areas_of(best.game, row.attack, row.knowledge, c) for c in cases)
        assert own == pytest.approx(list(np.subtract(first, second) / 2), abs=1e-12)
    assert row.halves.keys() == set(BOTH)
    for row in best.rows:
        kept = best.variants[row.variant]
        contenders = [*kept.best.values(), *(kept.paper, kept.gap)]
        contenders += [c for kind in kept.by_knowledge.values() for c in kind.values()]
        names = {name for c in contenders if c is not None for name in c.names}
        compared = bool(row.strongest) or (row.attack, row.knowledge) in names
        assert bool(row.halves) == compared


def test_the_gap_attack_varies_with_the_models_where_they_are_the_shadows(synthetic_fleet):
    """By hand: 8 models in 4 pairs; half of them are the targets of one half, with sign."""
    best = strongest_of(synthetic_fleet, 8, 0, ["gap", "lira_offline"])
    own = areas_of(best.game, "gap", "none", best.game.cases)
    gap = best.variants[W2].gap
    assert gap.round_robin
    assert best.outcome(gap, "auc").measured.values.tolist() == pytest.approx(own)
    for row, (first, _) in zip(gap.halves["auc"], HALVES, strict=True):
        signed = [area if target in first else -area for target, area in enumerate(own)]
        assert row.tolist() == pytest.approx(signed, abs=1e-12)


def test_halves_are_unknown_where_half_of_the_shadows_do_not_suffice(synthetic_fleet):
    """Of 4 shadows half leave one with and one without an example, and LiRA needs two."""
    best = strongest_of(synthetic_fleet, 4, 3, ["lira_online", "attack_r"])
    kept = best.variants[W2]
    assert set(kept.paper.halves.values()) == {None}
    assert best.outcome(kept.paper, "auc").halves is None
    enough = strongest_of(synthetic_fleet, 4, 3, ["attack_r"]).variants[W2]
    assert enough.best["auc"].halves["auc"].shape == (1, 3)  # 2 pairs are halved in one way
