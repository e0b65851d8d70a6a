"""What the figures of the findings draw, read back from matplotlib."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from reporting.findings_figures import convergence_chart, gallery_figure

from attacks.metrics.intervals import Estimate
from reporting.matplotlib_charts import draw
from reporting.styles import looks


def convergence_figure(convergence):
    return draw(convergence_chart(convergence))


def points(value, counts=(2, 4, 8)):
    return {
        count: Estimate(value + i / 100, value - i / 50, value + 0.1)
        for i, count in enumerate(counts)
    }


def curves(axes):
    """Label, positions, values and colour of each line, and what is filled about it."""
    lines = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
    fills = [fill.get_paths()[0].vertices for fill in axes.collections]
    assert len(fills) == len(lines)
    return [
        (line.get_label(), list(line.get_xdata()), list(line.get_ydata()), line.get_color(), fill)
        for line, fill in zip(lines, fills, strict=True)
    ]


def test_convergence_shows_each_number():
    some = {
        "full": ("lira_online", points(0.7, (4, 8, 12))),
        "nearest-w2": ("rmia_online", points(0.6, (2, 4, 8, 12))),
        "nearest-w4": ("attack_r", points(0.65, (2, 4, 8, 12))),
        "obc-w2": ("lira_online", points(0.55, (4, 8, 12))),
    }
    figure = convergence_figure(some)
    figure.draw_without_rendering()
    shown = looks(list(some))
    panels = [["full", "nearest-w2", "nearest-w4"], ["full", "obc-w2"]]
    assert len(figure.axes) == len(panels)
    for axes, variants in zip(figure.axes, panels, strict=True):
        found = curves(axes)
        assert len(found) == len(variants)
        for variant, (label, x, y, colour, fill) in zip(variants, found, strict=True):
            attack, wanted = some[variant]
            assert label == f"{variant} ({attack})"
            assert x == list(wanted)
            assert y == [estimate.value for estimate in wanted.values()]
            assert to_rgba(colour) == to_rgba(shown[variant].colour)
            for count, estimate in wanted.items():
                edges = {y for x, y in fill.tolist() if x == count}
                assert edges == {estimate.low, estimate.high}
        legend = [text.get_text() for text in axes.get_legend().get_texts()]
        assert legend == [label for label, *_ in found]
        # a tick a count of any variant, and no others
        assert axes.get_xscale() == "log"
        assert [text.get_text() for text in axes.get_xticklabels()] == ["2", "4", "8", "12"]
        assert axes.get_xlabel() == "shadow models"
    assert [axes.get_ylabel() for axes in figure.axes] == ["AUC", ""]


@pytest.mark.parametrize("variant", ["full", "nearest-w2", "int8-engine"])
def test_one_variant_alone_is_one_panel(variant):
    figure = convergence_figure({variant: ("attack_r", points(0.6, (4,)))})
    figure.draw_without_rendering()
    (axes,) = figure.axes
    ((label, x, y, *_),) = curves(axes)
    assert (label, x, y) == (f"{variant} (attack_r)", [4], [0.6])


@pytest.mark.parametrize(
    ("methods", "rows", "columns"), [(2, 1, 2), (3, 1, 3), (4, 2, 3), (7, 3, 3)]
)
def test_a_panel_a_method_with_numbers_under_each(methods, rows, columns):
    names = [f"{letter}-w2" for letter in "abcdefg"[:methods]]
    some = dict.fromkeys(["full", *names], ("attack_r", points(0.6)))
    figure = convergence_figure(some)
    figure.draw_without_rendering()
    assert len(figure.axes) == rows * columns
    visible = [axes for axes in figure.axes if axes.get_visible()]
    assert len(visible) == methods
    for name, axes in zip(names, visible, strict=True):
        assert [label for label, *_ in curves(axes)] == ["full (attack_r)", f"{name} (attack_r)"]
        assert [t.get_text() for t in axes.get_xticklabels() if t.get_visible()] == ["2", "4", "8"]


def pictures(channels, count=30):
    """No two alike, and no colour like another."""
    values = torch.arange(count * channels * 12) % 251
    return values.to(torch.uint8).reshape(count, channels, 3, 4)


def shown_in(row):
    """Title and pixels of each image in a row of panels."""
    return [
        (axes.get_title(), np.asarray(axes.images[0].get_array())) for axes in row if axes.images
    ]


@pytest.mark.parametrize("channels", [1, 3], ids=["gray", "colour"])
def test_gallery_shows_the_most_exposed_first(rng, channels):
    images = pictures(channels)
    exposures = {name: torch.rand(30, generator=rng).double() for name in ("full", "w2")}
    exposures["w2"][:14] = torch.nan
    exposures["w2"][20] = exposures["w2"][25] = 1.0
    figure = gallery_figure(images, exposures)
    figure.draw_without_rendering()
    rows = np.reshape(figure.axes, (2, 16))
    for row, (variant, some) in zip(rows, exposures.items(), strict=True):
        known = [i for i in range(30) if not some[i].isnan()]
        wanted = sorted(known, key=lambda i: (-some[i].item(), i))[:16]
        found = shown_in(row)
        assert [title for title, _ in found] == [
            f"{i}: {100 * some[i].item():.1f}%" for i in wanted
        ]
        for index, (_, pixels) in zip(wanted, found, strict=True):
            image = images[index].permute(1, 2, 0).numpy()
            assert np.array_equal(pixels, image[..., 0] if channels == 1 else image)
        assert [axes.get_ylabel() for axes in row] == [variant] + [""] * 15
        assert all(len(axes.get_xticks()) == len(axes.get_yticks()) == 0 for axes in row)
    assert shown_in(rows[1])[0][0] == "20: 100.0%"  # of tied ones the first


@pytest.mark.parametrize("count", [1, 5, 16])
def test_a_gallery_of_few_leaves_places_empty(count):
    """Fewer examples than places, some of them known of no target."""
    exposures = {"full": torch.tensor([0.5, torch.nan, 0.75, 0.25])}
    figure = gallery_figure(pictures(1, 4), exposures, count)
    figure.draw_without_rendering()
    assert len(figure.axes) == count
    titles = [title for title, _ in shown_in(figure.axes)]
    assert titles == ["2: 75.0%", "0: 50.0%", "3: 25.0%"][:count]


def test_a_gray_image_keeps_its_range_of_its_own():
    """Pixels of one image are drawn from its darkest to its brightest, in gray."""
    figure = gallery_figure(pictures(1, 2), {"full": torch.tensor([0.5, 0.25])}, 2)
    assert {axes.images[0].get_cmap().name for axes in figure.axes} == {"gray"}


def test_nobody_known_is_an_empty_row():
    figure = gallery_figure(pictures(3, 4), {"full": torch.full((4,), torch.nan)}, 3)
    figure.draw_without_rendering()
    assert shown_in(figure.axes) == []
