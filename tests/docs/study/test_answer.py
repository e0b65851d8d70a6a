"""The answer of the second edition, on made-up fleets whose answer is known."""

import pytest

from attacks.metrics.intervals import Estimate
from docs.study import answer
from docs.study.claims import TERNARY
from docs.study.comparisons import Asked
from docs.study.edition import Edition
from docs.study.numbers import MEASURES, Study
from docs.study.verdicts import Compared


def compared(value, p=0.001):
    return Compared(Estimate(value, value - 0.01, value + 0.01), p, p, 0.02)


MORE = compared(-0.02)  # nothing is left: the variant leaks more


def left(values):
    """What is left of each ternary variant, the same by every measure."""
    return {
        Asked("frontier", "left", variant, measure): value
        for variant, value in zip(TERNARY, values, strict=True)
        for measure in MEASURES
    }


def test_the_answer_of_the_made_up_fleets(edition):
    mismatch, lost, rest = answer.mismatch(edition), answer.lost(edition), answer.left(edition)
    assert "12 to 16% is the mismatch of these shadows by the strongest attack (shown" in mismatch
    assert "and 28 to 46% by LiRA, the paper's attack." in mismatch
    assert "leaks 0.03 to 0.19 AUC less than at the end of training, which is 25 to 95%" in lost
    assert "leak 0.07 AUC less (adaround and brecq), 12 to 17 points less in TPR at 1% FPR" in rest
    assert rest.endswith("so something is left that lost accuracy does not explain.")
    assert answer.finding(edition) == " ".join(
        [answer.BEFORE, mismatch, lost, rest, answer.instead(edition)]
    )


@pytest.mark.parametrize(
    ("accuracy", "area", "sentence"),
    [
        ((-0.01, 0.5), (-0.12, 0.001), "leaks 0.12 AUC less than adaround-w1.58 (no difference in"),
        ((-0.03, 0.001), (-0.12, 0.001), "AUC less than adaround-w1.58 (less accurate shown)."),
        ((0.03, 0.001), (0.12, 0.001), "leaks 0.12 AUC more than adaround-w1.58 (more accurate"),
        ((0.0, 0.5), (-0.12, 0.2), "is not shown to differ in AUC from adaround-w1.58 (no"),
    ],
)
def test_weight_decay_is_told_with_its_price(change, accuracy, area, sentence):
    keys = [Asked("decay", "instead", "full", m, "adaround-w1.58") for m in ("accuracy", "auc")]
    found = answer.instead(
        change(dict(zip(keys, (compared(*accuracy), compared(*area)), strict=True)))
    )
    assert sentence in found


def test_without_a_fleet_of_weight_decay_nothing_is_told_of_it(base):
    assert answer.instead(Edition({"frontier": base})) == ""


@pytest.mark.parametrize(
    ("values", "area", "end"),
    [
        ([-0.02, -0.03, -0.05], "leak 0.02 to 0.05 AUC more, ", "so nothing is left, and stopping"),
        ([0.02, 0.03, 0.05], "leak 0.02 to 0.05 AUC less, ", "so something is left that lost"),
        (
            [0.02, -0.03, 0.05],
            "leak 0.02 to 0.05 AUC less (adaround and obc) and 0.03 AUC more (brecq), ",
            "so what is left depends on the method and the measure",
        ),
    ],
)
def test_what_is_left_is_told_in_both_directions(change, values, area, end):
    text = answer.left(change(left(map(compared, values))))
    assert area in text
    assert end in text


def test_what_is_not_shown_is_not_claimed(edition, change):
    text = answer.left(change(left([compared(0.02, p=0.2)] * 3)))
    assert text.startswith("Left: no difference is shown between ternary networks and networks of")
    assert text.endswith("which does not show that they leak alike.")
    keys = [Asked("frontier", "left", variant, "auc") for variant in TERNARY]
    text = answer.left(change(left([compared(0.02, p=0.2)] * 3) | dict.fromkeys(keys, MORE)))
    assert "ternary ones leak 0.02 AUC more, with no difference shown in TPR at 1% FPR and" in text
    assert text.endswith("so nothing is left, and stopping early protects better there.")
    few = left([compared(0.02, p=0.2)] * 3) | {keys[2]: MORE}
    text = answer.left(change(few))
    assert "leak 0.02 AUC more (obc), with no difference" in text
    assert text.endswith("so nothing is left (obc), and stopping early protects better there.")
    unclear = {k: v._replace(p_holm=0.5) for k, v in edition._compared.items()}
    text = answer.finding(change(unclear))
    assert "no shown share is the mismatch of these shadows by the strongest attack (not" in text
    assert "Lost accuracy: no share of the gain in AUC is shown to be lost accuracy." in text


def test_variants_outside_the_curve_have_no_answer(base):
    """Snapshots that are all more accurate than every ternary variant."""
    variants = {
        name: facts
        if not name.startswith("epoch")
        else facts._replace(accuracy_by_target=[v + 0.15 for v in facts.accuracy_by_target])
        for name, facts in base.results.variants.items()
    }
    rows = [row for row in base.results.rows if row.variant not in ("epoch-04", "epoch-12")]
    for snapshot in ("epoch-04", "epoch-12"):
        del variants[snapshot]
    edition = Edition({"frontier": Study(base.results._replace(variants=variants, rows=rows))})
    assert answer.left(edition).startswith("Left: unknown, because every ternary variant is outs")
    assert answer.lost(edition).startswith("Lost accuracy: no share")
    assert "of the gain in AUC" in answer.mismatch(edition)
