from itertools import product

import pytest

from quantization.methods import METHODS
from quantization.rounding.grid import LEVELS, levels
from quantization.variant import Variant, check_count, wanted
from quantization.variant_name import control_of


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("nearest-w8", Variant("nearest", 8)),
        ("nearest-w4", Variant("nearest", 4, None, None)),
        ("nearest-w3-sym", Variant("nearest", 3, symmetric=True)),
        ("nearest-w2-last8", Variant("nearest", 2, last_bits=8)),
        ("nearest-w2-sym-last8", Variant("nearest", 2, 8, True)),
        ("nearest-w2-last1.58", Variant("nearest", 2, 1.58)),
        ("nearest-w1.58", Variant("nearest", 1.58)),
        ("nearest-w1.58-asym", Variant("nearest", 1.58, symmetric=False)),
        ("nearest-w1.58-asym-last4", Variant("nearest", 1.58, 4, False)),
        ("nearest-w2-noise", Variant("nearest", 2, noise=1.0)),
        ("nearest-w2-noise0.25", Variant("nearest", 2, noise=0.25)),
        ("nearest-w2-noise20", Variant("nearest", 2, noise=20.0)),
        ("nearest-w2-noise0.00000125", Variant("nearest", 2, noise=1.25e-6)),
        ("nearest-w2-noise0.1234567891", Variant("nearest", 2, noise=0.1234567891)),
        ("nearest-w1.58-asym-zeros", Variant("nearest", 1.58, symmetric=False, zeros=True)),
        ("adaround-mix3", Variant("adaround", None, mean_bits=3.0)),
        ("nearest-mix2.5", Variant("nearest", None, mean_bits=2.5)),
        ("nearest-mix3.1415926535", Variant("nearest", None, mean_bits=3.1415926535)),
        ("nearest-aiq0.9", Variant("nearest", None, aiq=0.9)),
        ("nearest-aiq0.99-greedy", Variant("nearest", None, aiq=0.99, greedy=True)),
        (
            "nearest-mix3-greedy-heldout",
            Variant("nearest", None, mean_bits=3.0, greedy=True, calibration="heldout"),
        ),
        ("obc-mix3-sym-last8", Variant("obc", None, 8, True, mean_bits=3.0)),
        ("adaround-mix3-noise0.5", Variant("adaround", None, mean_bits=3.0, noise=0.5)),
        ("adaround-w4-a8", Variant("adaround", 4, activation_bits=8)),
        ("brecq-w4-a4-sym-last8", Variant("brecq", 4, 8, True, activation_bits=4)),
        ("nearest-w8-a8-heldout", Variant("nearest", 8, calibration="heldout", activation_bits=8)),
        (
            "gptq-aiq0.5-greedy-a8-asym",
            Variant("gptq", None, symmetric=False, aiq=0.5, greedy=True, activation_bits=8),
        ),
        (
            "adaround-w2-last8-paper-heldout-noise3",
            Variant("adaround", 2, 8, paper=True, calibration="heldout", noise=3.0),
        ),
    ],
)
def test_names_and_variants_are_one_to_one(name, variant):
    assert Variant.parse(name) == variant
    assert str(variant) == name


def valid(method, options, source):
    """The rules in words: which options mean something, and which `-paper` implies."""
    paper, fisher, folded, bn = options
    if (fisher and method != "brecq") or (folded and method not in ("adaround", "brecq")):
        return False
    if paper and method not in ("adaround", "brecq", "obc"):
        return False
    if paper and ((method == "brecq" and folded) or (method == "obc" and bn)):
        return False
    if bn and (folded or (paper and method == "brecq")):
        return False
    return source == "members" or method != "nearest" or bn


def test_every_variant_round_trips_under_a_name_of_its_own():
    variants = [
        variant
        for method in METHODS
        for bits in LEVELS
        for last in [None, *LEVELS]
        for symmetric in (None, bits != 1.58)
        for options in product(*[(False, True)] * 4)
        for source in ("members", "nonmembers", "heldout")
        if last != bits and valid(method, options, source)
        for variant in [Variant(method, bits, last, symmetric, *options, source)]
    ]
    assert [Variant.parse(str(variant)) for variant in variants] == variants
    combinations = {"nearest": 4, "adaround": 18, "brecq": 24, "obc": 9, "gptq": 6}
    assert len({str(variant) for variant in variants}) == len(variants)
    assert len(variants) == 50 * sum(combinations.values())


def test_a_control_is_of_the_variant_before_its_last_suffix():
    for name in ("nearest-w2", "adaround-w1.58-last8-paper-heldout"):
        for suffix in ("-noise", "-noise0.5", "-zeros"):
            control = Variant.parse(name + suffix)
            assert control.is_control
            assert str(control.base) == name
            assert control.calibrates is control.base.calibrates
        assert Variant.parse(name).base == Variant.parse(name)
        assert not Variant.parse(name).is_control


def test_what_a_control_is_in_a_phrase():
    phrases = {
        "-noise": "Gaussian noise of the mean square of obc-w2's change, per layer",
        "-noise0.5": "Gaussian noise of 0.5 times the root mean square of obc-w2's change, per"
        " layer",
        "-zeros": "zero where obc-w2 has zeros, all other weights as trained",
    }
    for suffix, phrase in phrases.items():
        assert Variant.parse(f"obc-w2{suffix}").objective == phrase


def test_controls_are_known_by_their_names_alone():
    """Also of a user's own quantizer, whose code an audit need not have."""
    known = {
        "adaround-w1.58-noise": ("adaround-w1.58", 1),
        "obc-w2-last8-bn-noise0.25": ("obc-w2-last8-bn", 0.25),
        "no_such.module-w4-heldout-noise2.0": ("no_such.module-w4-heldout", 2),
        "obc-w1.58-zeros": ("obc-w1.58", None),
    }
    others = [
        "full",
        "epoch-05",
        "obc-w2",
        "obc-w2-zeros0.5",
        "my-noise",
        "noise",
        "obc-w2-noise-sym",
    ]
    assert {name: control_of(name) for name in known} == known
    assert [control_of(name) for name in others] == [None] * len(others)


def test_numbers_are_printed_in_their_shortest_form():
    assert str(Variant.parse("nearest-w2.0-last08")) == "nearest-w2-last8"
    assert str(Variant.parse("nearest-w2-noise00.50")) == "nearest-w2-noise0.5"


def test_levels_by_hand():
    assert [levels(bits) for bits in (8, 4, 3, 2, 1.58)] == [256, 16, 8, 4, 3]
    assert levels(2.0) == 4


def test_layers_get_the_default_grid_of_their_own_bits_unless_one_is_named():
    ternary = Variant.parse("nearest-w1.58-last8")
    assert ternary.is_symmetric(1.58)
    assert not ternary.is_symmetric(8)
    assert Variant.parse("nearest-w2-sym-last8").is_symmetric(8)
    assert not Variant.parse("nearest-w1.58-asym").is_symmetric(1.58)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "is named METHOD-wBITS.* got ``"),
        ("full", "such as `adaround-w2-last8`, got `full`"),
        ("nearest", "is named METHOD-wBITS"),
        ("nearest-2", "is named METHOD-wBITS"),
        ("nearest-w2-last", "is named METHOD-wBITS"),
        ("nearest-w2-last8-sym", "is named METHOD-wBITS"),
        ("nearest-w2 ", "is named METHOD-wBITS"),
        ("nearest-w-2", "is named METHOD-wBITS"),
        ("bogus-w2", "method must be one of nearest, adaround, brecq, obc, gptq, got `bogus`"),
        ("nearest-w5", "Bits must be one of 8, 4, 3, 2, 1.58, got 5."),
        ("nearest-w1.6", "Bits must be one of .* got 1.6."),
        ("nearest-w2-last16", "Bits must be one of .* got 16."),
        ("nearest-w2-last2", "the last layer has 2 bits anyway; remove `-last2`."),
        ("nearest-w1.58-last1.58", "remove `-last1.58`."),
        ("nearest-w2-asym", "`nearest-w2-asym`: asym is the default at 2 bits; remove `-asym`."),
        ("obc-w2-paper-bn", "`-paper` implies `-bn` here; remove `-bn`."),
        ("brecq-w2-paper-folded", "`-paper` implies `-folded` here"),
        ("nearest-w2-paper", "`-paper` changes nothing for nearest, only for adaround, brecq, obc"),
        ("gptq-w2-paper", "`-paper` changes nothing for gptq, only for adaround, brecq, obc"),
        ("adaround-w2-fisher", "`-fisher` changes nothing for adaround, only for brecq"),
        ("brecq-w2-folded-bn", "a folded BatchNorm has no statistics to re-estimate"),
        ("nearest-w2-heldout", "nearest looks at no images; remove `-heldout`."),
        ("adaround-w2-bn-paper", "is named METHOD-wBITS"),
        ("adaround-mix", "METHOD-mixBITS.* got `adaround-mix`"),
        ("adaround-w2-greedy", "METHOD-aiqLAMBDA"),
        ("adaround-greedy-mix3", "is named METHOD-wBITS"),
        ("adaround-w4-sym-a8", "is named METHOD-wBITS"),
        ("nearest-mix0", "bits per weight must be above 0 and finite, got 0."),
        (f"nearest-mix{'9' * 400}", "bits per weight must be above 0 and finite, got inf"),
        ("nearest-aiq0", "lambda must lie between 0 .* and 1 .*, got 0."),
        ("nearest-aiq1", "lambda must lie between 0 .* and 1 .*, got 1."),
        ("nearest-w4-a2", "`nearest-w4-a2`: activations have 8 or 4 bits, got 2; write `-a8`."),
        ("nearest-w4-a8-noise", "a control keeps activations at full precision; remove `-a8`."),
        ("nearest-w1.58-sym", "sym is the default at 1.58 bits; remove `-sym`."),
        ("nearest-w2-noise1", "`nearest-w2-noise1`: 1 is the default; write `-noise`."),
        ("nearest-w2-noise1.0", "`nearest-w2-noise1.0`: 1 is the default; write `-noise`."),
        ("nearest-w2-noise0", "needs a finite factor above 0, got 0; without noise it is `full`."),
        (f"nearest-w2-noise{'9' * 400}", "needs a finite factor above 0, got inf"),
        ("nearest-w2-noise-heldout", r"\[-noise\[FACTOR\]\|-zeros\], .* got `nearest-w2-noise-h"),
        ("nearest-w2-noise-zeros", "is named METHOD-wBITS"),
        ("nearest-w2-zeros0.5", "is named METHOD-wBITS"),
        ("nearest-w2-noise-0.5", "is named METHOD-wBITS"),
        ("nearest-w2-heldout-noise", "nearest looks at no images; remove `-heldout`."),
        ("nearest-w2-asym-noise", "asym is the default at 2 bits; remove `-asym`."),
        (
            "obc-w2-bn-noise",
            "a control keeps BatchNorm as it was trained, and `-bn` re-estimates it for obc; remove"
            " `-bn`.",
        ),
        ("obc-w2-paper-zeros", "and `-paper` re-estimates it for obc; remove `-paper`."),
        ("adaround-w2-folded-zeros", "and `-folded` folds it for adaround; remove `-folded`."),
        ("brecq-w2-paper-noise2", "and `-paper` folds it for brecq; remove `-paper`."),
    ],
)
def test_invalid_names_are_refused_with_a_reason(name, message):
    with pytest.raises(ValueError, match=message):
        Variant.parse(name)


def test_bits_are_given_once_or_searched_for():
    for asked in ({}, {"mean_bits": 3.0, "aiq": 0.9}):
        with pytest.raises(ValueError, match="has one of `bits`, `mean_bits` and `aiq`, got None"):
            Variant("nearest", None, **asked)
    with pytest.raises(ValueError, match="`nearest-w2-greedy`: only a search can be greedy"):
        Variant("nearest", 2, greedy=True)


def test_what_a_search_chooses_bits_by_in_a_phrase():
    phrases = {
        "nearest-mix2.5": "each weight's own rounding error; bits per layer for least loss at 2.5"
        " on average",
        "nearest-aiq0.9-greedy": "each weight's own rounding error; bits per layer for AIQ's"
        " objective with lambda 0.9, by the greedy search of AIQ",
    }
    assert {name: Variant.parse(name).objective for name in phrases} == phrases
    assert all(Variant.parse(name).calibrates for name in phrases)


def test_a_control_has_noise_or_zeros():
    message = "`nearest-w2-noise0.5-zeros`: a control has noise or zeros; remove one of them."
    with pytest.raises(ValueError, match=message):
        Variant("nearest", 2, noise=0.5, zeros=True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("adaround-w2", (500, 3)),
        ("adaround-w2-paper-noise", (1024, 3)),
        ("obc-w2", (500, 3)),
        ("nearest-w2-bn", (500, 3)),
        ("adaround-w2-paper", (1024, 3)),
        ("brecq-w1.58-paper-fisher", (1024, 3)),
        ("obc-w4-paper", (2048, 10)),
    ],
)
def test_paper_variants_use_the_papers_image_counts(name, expected):
    assert wanted(Variant.parse(name), 500, 3) == expected


@pytest.mark.parametrize(
    ("name", "fewest", "reason"),
    [
        ("adaround-w2", 1, "to look at"),
        ("obc-w2-paper", 2, "to estimate BatchNorm's statistics from"),
        ("gptq-w2-bn", 2, "to estimate BatchNorm's statistics from"),
        ("nearest-w2-bn", 2, "to estimate BatchNorm's statistics from"),
        ("brecq-w2-paper", 32, "for a batch of its loop"),
        ("nearest-mix3", 2, "to choose bits by one half and check them on the other"),
        ("nearest-w4-a8", 1, "to look at"),
        ("adaround-w2-paper-bn", 32, "for a batch of its loop"),
    ],
)
def test_too_few_images_is_an_error_with_reason_and_way_out(name, fewest, reason):
    variant = Variant.parse(name)
    check_count(variant, fewest)
    message = f"`{name}` needs at least {fewest} calibration images {reason}, got {fewest - 1}. "
    with pytest.raises(ValueError, match=message) as caught:
        check_count(variant, fewest - 1)
    # the paper's variants ignore the option, so it would not help
    assert ("--calibration.images" in str(caught.value)) is not variant.paper
    assert "Enlarge the pool" in str(caught.value)
