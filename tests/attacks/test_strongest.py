"""The attack that is kept, by hand; and that choosing it creates no finding without a leak."""

import numpy as np
import pytest
import torch
from scipy.stats import ttest_1samp

from attacks.evaluate import Row, Scored
from attacks.metrics.intervals import summarise
from attacks.metrics.roc import auc, roc
from attacks.strongest import Strongest, choose_for_tests, cross_choose

W2 = "nearest-w2"
MEMBERS = (torch.arange(40) % 2 == 0).expand(4, -1)


def made(variant, knowledge, attack, strengths):
    """An attack whose AUC on each target is its strength: that many of 20 members are on top."""
    rows = []
    for strength in strengths:
        row = torch.zeros(40)
        row[torch.arange(0, 40, 2)[: round(20 * (2 * strength - 1))]] = 1
        rows.append(row + hash((attack, knowledge)) % 7)
    scores, members = torch.stack(rows), MEMBERS[: len(strengths)]
    summary = summarise(scores, members, 10)
    return Scored(Row(variant, knowledge, attack, summary, 8, [], {}), scores)


FULL = [
    made("full", "none", "gap", [0.6, 0.6, 0.6, 0.6]),
    made("full", "matched", "rmia", [0.9, 0.5, 0.6, 0.7]),  # 0.675
    made("full", "matched", "lira", [0.6, 0.7, 0.7, 0.6]),  # 0.65
]
QUANTIZED = [
    made(W2, "none", "gap", [0.75, 0.75, 0.5, 0.5]),
    made(W2, "matched", "rmia", [0.5, 0.55, 0.55, 0.5]),
    made(W2, "matched", "lira", [0.6, 0.6, 0.6, 0.6]),
    made(W2, "unquantized", "rmia", [0.9, 0.5, 0.5, 0.6]),
    made(W2, "unquantized", "lira", [0.5, 0.5, 0.5, 0.5]),
]


@pytest.fixture(scope="module")
def best():
    strongest = Strongest(MEMBERS)
    strongest.add(FULL)
    strongest.add(QUANTIZED)
    return strongest


def test_each_half_is_attacked_by_the_strongest_on_the_other_half(best):
    """On the first half `rmia` has 0.7 and `lira` 0.65; on the second 0.65 both, `rmia` first."""
    full, kept = best.variants["full"], best.variants[W2]
    assert torch.equal(full.scores, FULL[1].scores)
    # on the quantized variant `gap` has 0.75 on the first half, `lira` 0.6 on the second
    wanted = torch.cat([QUANTIZED[2].scores[:2], QUANTIZED[0].scores[2:]])
    assert torch.equal(kept.scores, wanted)
    assert full.row == FULL[1].row._replace(strongest=True)
    assert full.matched == "rmia"


def test_kinds_of_shadows_are_chosen_among_themselves(best):
    kept = best.variants[W2]
    assert list(kept.by_knowledge) == ["none", "matched", "unquantized"]
    assert torch.equal(kept.by_knowledge["none"], QUANTIZED[0].scores)
    assert torch.equal(kept.by_knowledge["matched"], QUANTIZED[2].scores)
    assert kept.matched == "lira"
    assert torch.equal(kept.by_knowledge["unquantized"], QUANTIZED[3].scores)


def test_the_tested_attack_is_chosen_on_the_first_half(best):
    assert torch.equal(best.variants["full"].tested.scores, FULL[1].scores)  # 0.7 against 0.65
    assert torch.equal(best.variants[W2].tested.scores, QUANTIZED[0].scores)  # 0.75
    assert torch.equal(best.variants[W2].tested.members, MEMBERS)


def test_the_strongest_attack_on_the_reference_is_kept_for_every_variant(best):
    assert best.attack == "rmia"
    assert torch.equal(best.variants["full"].alike, FULL[1].scores)
    assert torch.equal(best.variants[W2].alike, QUANTIZED[1].scores)  # matched shadows
    assert torch.equal(best.variants[W2].gap, QUANTIZED[0].scores)


def test_a_single_target_is_attacked_by_the_strongest():
    alone = Strongest(MEMBERS[:1])
    attacks = [made("w4", "none", "gap", [0.6]), made("w4", "matched", "lira", [0.8])]
    alone.add(attacks)
    kept = alone.variants["w4"]
    assert torch.equal(kept.scores, attacks[1].scores)


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
    alone = Strongest(MEMBERS)
    alone.add([made("full", "none", "global_threshold", [0.6] * 4)])
    kept = alone.variants["full"]
    assert (kept.gap, kept.matched, list(kept.by_knowledge)) == (None, None, ["none"])


def test_without_a_leak_5_percent_of_p_values_are_below_5_percent():
    """11 attacks that know nothing, correlated as attacks are.

    With the strongest attack over all targets together it would be 12%.
    """
    rng = torch.Generator().manual_seed(0)
    targets, examples, runs, rejected, naive = 8, 100, 400, 0, 0
    members = torch.rand(targets, examples, generator=rng) < 0.5
    for _ in range(runs):
        common = torch.randn(1, targets, examples, generator=rng)
        scores = common + torch.randn(11, targets, examples, generator=rng)
        areas = torch.stack(
            [
                torch.stack([auc(roc(*pair)) for pair in zip(rows, members, strict=True)])
                for rows in scores
            ]
        )
        chosen = cross_choose(list(scores), areas)
        own = [auc(roc(*pair)).item() for pair in zip(chosen, members, strict=True)]
        rejected += ttest_1samp(np.subtract(own, areas[0].numpy()), 0).pvalue < 0.05
        best = areas[areas.mean(1).argmax()]
        naive += ttest_1samp((best - areas[0]).numpy(), 0).pvalue < 0.05
    assert rejected / runs <= 0.05 + 2.5 * (0.05 * 0.95 / runs) ** 0.5
    assert naive / runs > 0.08


def test_exactly_one_row_per_variant_is_marked_and_it_has_the_highest_auc(best):
    """Two attacks may be equally strong: the first is marked."""
    assert len(best.rows) == len(FULL) + len(QUANTIZED)
    for variant, attacks in (("full", FULL), (W2, QUANTIZED)):
        (marked,) = (row for row in best.rows if row.variant == variant and row.strongest)
        areas = [scored.row.summary.auc.value for scored in attacks]
        assert marked == attacks[areas.index(max(areas))].row._replace(strongest=True)
        assert best.variants[variant].row is marked
    tied = Strongest(MEMBERS)
    tied.add([made("full", "none", name, [0.7] * 4) for name in ("first", "second")])
    assert [row.strongest for row in tied.rows] == [True, False]
