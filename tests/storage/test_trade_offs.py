"""Which variants are a curve, and which are compared with it."""

from attacks.game import Curve
from attacks.metrics.intervals import Estimate
from storage.records import VariantFacts
from storage.trade_offs import trade_offs


def test_noise_is_a_curve_for_the_variant_that_it_is_a_control_of():
    """By decreasing factor; every variant, controls too, is compared with stopping early."""
    names = ["full", "obc-w2", "obc-w2-noise0.5", "epoch-05", "obc-w2-noise", "obc-w2-zeros"]
    names += [
        "mine",
        "my.own-w4-noise2",
        "my.own-w4-noise10",
        "my.own-w4",
        "gptq-w2-noise",
        "mine-noise",
    ]
    facts = dict.fromkeys(names, VariantFacts(Estimate(0.5, 0.4, 0.6), 0))
    others = [name for name in names if name not in ("full", "epoch-05")]
    noise = [
        Curve("noise like obc-w2", ["obc-w2-noise", "obc-w2-noise0.5", "full"], ["obc-w2"]),
        Curve(
            "noise like my.own-w4",
            ["my.own-w4-noise10", "my.own-w4-noise2", "full"],
            ["my.own-w4"],
        ),
    ]
    assert trade_offs(facts).curves == [
        Curve("early stopping", ["epoch-05", "full"], others),
        *noise,
    ]
    del facts["epoch-05"]
    assert trade_offs(facts).curves == noise
    del facts["full"]
    assert trade_offs(facts).curves == []
