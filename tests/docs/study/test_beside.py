"""Tables and sentences on variants beside networks of equal accuracy, by hand."""

import pytest

from attacks.metrics.intervals import Estimate
from docs.study import beside
from docs.study.comparisons import Asked
from docs.study.edition import Edition
from docs.study.numbers import MEASURES, Study
from docs.study.verdicts import Compared


def compared(value, p=0.001):
    return Compared(Estimate(value, value - 0.01, value + 0.01), p, p, 0.02)


def test_a_variant_that_leaks_less_points_down(edition, base):
    """What the curve leaks beyond the variant, turned: AUC 0.066 less than at equal accuracy."""
    left = edition[Asked("frontier", "left", "adaround-w1.58", "auc")]
    assert left.estimate.value == pytest.approx(0.0657, abs=1e-4)
    assert beside.turned(left).shown == "less"
    variants = beside.shown_of("frontier", base)
    assert variants == [
        *("adaround-w4", "adaround-w2", "adaround-w1.58", "brecq-w1.58", "obc-w1.58"),
        "adaround-w1.58-asym",
    ]
    _, _, *rows = beside.frontier_table(edition, "frontier", variants).splitlines()
    assert rows[2].startswith("| adaround-w1.58 | 49.2% (48.3-50.3) | 0.825 (0.815-0.835) | 5.7% (")
    assert "| epoch-20 to full | ↓ -0.066 (-0.077 to -0.054) |" in rows[2]


def test_full_is_compared_where_the_curve_is_another_fleets(edition):
    assert beside.shown_of("decay", edition.fleets["decay"])[0] == "full"


def test_the_curve_is_told_with_every_snapshot(edition):
    _, _, first, *_, last = beside.curve_table(edition.curve("frontier")).splitlines()
    assert first.startswith("| epoch-04 | 33.5% (32.5-34.5) | 0.544")
    assert last.startswith("| full | 51.5%")


def test_variants_are_counted_by_what_is_shown(change):
    keys = [Asked("frontier", "left", f"adaround-w{bits}", "auc") for bits in ("4", "2", "1.58")]
    made = change(dict(zip(keys, map(compared, (0.1, -0.1, -0.2)), strict=True)))
    text = beside.counts(made, "frontier", ["adaround-w4", "adaround-w2", "adaround-w1.58"])
    assert "neither, beside networks of equal accuracy that were stopped early, of 3 var" in text
    assert "variants: AUC 1, 2 and 0; TPR at 1% FPR 2, 0 and 1;" in text
    assert "Outside" not in text


def test_what_is_outside_is_named(base):
    results = base.results
    facts = {v: known for v, known in results.variants.items() if v not in ("epoch-04", "epoch-12")}
    rows = [row for row in results.rows if row.variant in facts]
    made = Edition({"frontier": Study(results._replace(variants=facts, rows=rows))})
    assert beside.counts(made, "frontier", ["obc-w1.58"]).endswith("Outside the curve: obc-w1.58.")
    (row,) = beside.frontier_table(made, "frontier", ["obc-w1.58"]).splitlines()[2:]
    assert row.endswith("| outside: less accurate than epoch-20 | - | - | - |")
    controls = beside.controls(made)
    line = "- adaround-w1.58-zeros is outside the curve (outside: less accurate than epoch-20)."
    assert line in controls


def test_controls_stand_beside_their_variant(edition):
    noise, *others = beside.controls(edition).splitlines()
    assert noise.startswith("- adaround-w1.58 beside the same network with Gaussian noise of equal")
    assert "(adaround-w1.58-noise0.5 to full)): AUC ↓ -0.066" in noise
    assert len(others) == 4
    assert others[-1].startswith("- adaround-w1.58 and adaround-w1.58-zeros, each beside early st")
    assert "the first has AUC ↓ -0.044 (-0.055 to -0.032)" in others[-1]


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([0.1, 0.1, 0.1], "shown"),
        ([0.1, -0.1, 0.1], "shown in AUC and TPR at 0.1% FPR; refuted in TPR at 1% FPR"),
        ([-0.1, -0.1, -0.1], "refuted"),
    ],
)
def test_whether_it_is_quantization(change, values, verdict):
    keys = [Asked("frontier", "like noise", "adaround-w1.58", m) for m in MEASURES]
    made = change(dict(zip(keys, map(compared, values), strict=True)))
    assert beside.is_it_quantization(made) == (
        f"Quantization by adaround-w1.58 protects more than noise of equal accuracy: {verdict} "
        "(no other ternary variant was tested)."
    )


def test_without_noise_it_is_not_tested(fleets):
    assert beside.is_it_quantization(Edition({"frontier": fleets["large"]})) == (
        "Whether quantization protects more than noise of equal accuracy was not tested."
    )


def test_rates_whose_shadows_are_counted_are_named(edition):
    """The tail of an audit; the first edition's rows, of an older one, know no false positives."""
    assert beside.tail(edition) == "TPR at 1% FPR"
