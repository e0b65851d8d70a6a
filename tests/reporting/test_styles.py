"""Styles of variants: no two alike, and each part of a name has its part of the style."""

import pytest
from matplotlib.colors import to_rgba

from reporting.charts import INK
from reporting.styles import EARLY, by_method, legend, styles_of

METHODS = ("nearest", "adaround", "brecq", "obc", "gptq")
MANY = [f"{method}-w{bits}" for bits in ("1.58", "4", "2") for method in METHODS]


@pytest.mark.parametrize(
    "variants",
    [
        ["full", *MANY],
        ["full", *(f"obc-w{w}{s}" for w in (8, 4, 3, 2) for s in ("", "-sym", "-last8", "-bn"))],
        ["full", "nearest-w2-last8", "brecq-w2-last8", "brecq-w2-paper-nonmembers"],
    ],
    ids=["methods", "settings", "both"],
)
def test_no_two_variants_look_alike(variants):
    shown = styles_of(variants)
    assert list(shown) == variants
    points = {(style.colour, style.marker) for style in shown.values()}
    lines = {(style.method, style.colour, style.dashes) for style in shown.values()}
    assert len(points) == len(lines) == len(variants)


def test_colours_are_bits_and_markers_methods():
    shown = styles_of(["full", *MANY])
    for field, part in (("colour", 1), ("marker", 0)):
        by_part = {}
        for variant in MANY:
            by_part.setdefault(variant.split("-w")[part], set()).add(getattr(shown[variant], field))
        assert all(len(values) == 1 for values in by_part.values())
        assert len(set.union(*by_part.values())) == len(by_part)
    # the more bits, the darker, in whatever order they were asked for
    colours = [shown[f"gptq-w{bits}"].colour for bits in ("4", "2", "1.58")]
    assert [sum(to_rgba(c)[:3]) for c in colours] == sorted(sum(to_rgba(c)[:3]) for c in colours)


def test_full_precision_has_the_colour_of_the_text():
    style = styles_of(["full"])["full"]
    assert (style.method, style.scheme, style.bits) == ("full", "full", "")
    assert (style.colour, style.marker, style.dashes) == (INK, "*", ())


def test_a_name_is_method_bits_and_settings():
    style = styles_of(["full", "obc-w1.58-last8"])["obc-w1.58-last8"]
    assert (style.method, style.scheme, style.bits) == ("obc", "obc-last8", "1.58")


def test_full_precision_is_in_the_panel_of_every_method():
    shown = styles_of(["full", "obc-w2", "gptq-w4", "obc-w4-sym"])
    assert by_method(shown) == {
        "obc": ["full", "obc-w2", "obc-w4-sym"],
        "gptq": ["full", "gptq-w4"],
    }
    assert by_method(styles_of(["full"])) == {"full": ["full"]}


def test_a_legend_has_an_entry_per_number_of_bits_and_per_scheme():
    variants = ["full", "obc-w2", "gptq-w4", "obc-w4", "obc-w2-sym"]
    entries = legend(styles_of(variants), variants)
    assert [entry.label for entry in entries] == [
        *("full", "4 bits", "2 bits", "obc", "gptq", "obc-sym")
    ]


SNAPSHOTS = [f"epoch-{epoch:02d}" for epoch in (5, 10, 15)]


def test_snapshots_darken_with_time_and_leave_the_others_alone():
    others = ["full", "obc-w2", "gptq-w4"]
    shown = styles_of(["full", *SNAPSHOTS, "obc-w2", "gptq-w4"])
    assert {variant: shown[variant] for variant in others} == styles_of(others)
    greys = [to_rgba(shown[snapshot].colour)[:3] for snapshot in SNAPSHOTS]
    assert all(len(set(grey)) == 1 for grey in greys)
    levels = [grey[0] for grey in greys]
    assert levels == sorted(levels, reverse=True)
    assert len(set(levels)) == len({shown[snapshot].dashes for snapshot in SNAPSHOTS}) == 3
    luminance = ((levels[0] + 0.055) / 1.055) ** 2.4  # of WCAG 2
    assert 1.05 / (luminance + 0.05) > 3
    assert by_method(shown)[EARLY] == ["full", *SNAPSHOTS]


def test_snapshots_share_an_entry_of_the_legend():
    variants = ["full", *SNAPSHOTS, "obc-w2"]
    entries = legend(styles_of(variants), variants)
    assert [entry.label for entry in entries] == ["full", "2 bits", EARLY, "obc"]
