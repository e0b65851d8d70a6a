"""All figures of the report, and the gallery read back from matplotlib."""

import numpy as np
import pytest
import torch

from attacks.findings import Exposures
from reporting.illustrate import CAPTIONS, gallery_figure, illustrate


def exposures(examples, *variants):
    kept = torch.ones(examples.shape[1], dtype=torch.bool)
    return Exposures("full", "gap", {}, list(variants), examples, kept)


def test_every_figure_that_has_something_to_show_is_drawn(results, findings):
    drawings = illustrate(results, findings, pictures(3, 160))
    assert list(drawings) == list(CAPTIONS) == ["plane", "roc", "convergence", "gallery", "layers"]
    assert drawings["gallery"].chart is None
    assert all(drawing.chart for name, drawing in drawings.items() if name != "gallery")
    assert "mean over 2 audited models" in drawings["layers"].caption


def test_figures_with_nothing_to_show_are_not_drawn(results, findings):
    """No images, no record of a quantization, no attack with matched shadows."""
    variants = {v: facts._replace(quantization=None) for v, facts in results.variants.items()}
    bare = results._replace(variants=variants)
    drawings = illustrate(bare, findings | {"convergence": {}}, None)
    assert list(drawings) == ["plane", "roc"]


def pictures(channels, count=30):
    """Images of which no two are alike, nor two of their channels."""
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
    examples = torch.rand(2, 30, generator=rng).double()
    examples[1, :14] = torch.nan
    examples[1, 20] = examples[1, 25] = 1.0
    figure = gallery_figure(images, exposures(examples, "full", "w2"))
    figure.draw_without_rendering()
    rows = np.reshape(figure.axes, (2, 16))
    for row, variant, exposure in zip(rows, ("full", "w2"), examples, strict=True):
        known = [i for i in range(30) if not exposure[i].isnan()]
        wanted = sorted(known, key=lambda i: (-exposure[i].item(), i))[:16]
        shown = shown_in(row)
        assert [title for title, _ in shown] == [
            f"{i}: {100 * exposure[i].item():.1f}%" for i in wanted
        ]
        for index, (_, pixels) in zip(wanted, shown, strict=True):
            image = images[index].permute(1, 2, 0).numpy()
            assert np.array_equal(pixels, image[..., 0] if channels == 1 else image)
        assert [axes.get_ylabel() for axes in row] == [variant] + [""] * 15
        assert all(len(axes.get_xticks()) == len(axes.get_yticks()) == 0 for axes in row)
    assert shown_in(rows[1])[0][0] == "20: 100.0%"  # the first of tied examples


@pytest.mark.parametrize("count", [1, 5, 16])
def test_a_gallery_of_few_leaves_places_empty(count):
    """Fewer examples than places; no target trained on one of them."""
    examples = torch.tensor([[0.5, torch.nan, 0.75, 0.25]])
    figure = gallery_figure(pictures(1, 4), exposures(examples, "full"), count)
    figure.draw_without_rendering()
    assert len(figure.axes) == count
    titles = [title for title, _ in shown_in(figure.axes)]
    assert titles == ["2: 75.0%", "0: 50.0%", "3: 25.0%"][:count]


def test_images_of_one_channel_are_gray():
    figure = gallery_figure(pictures(1, 2), exposures(torch.tensor([[0.5, 0.25]]), "full"), 2)
    assert {axes.images[0].get_cmap().name for axes in figure.axes} == {"gray"}


def test_without_known_exposures_a_row_is_empty():
    figure = gallery_figure(pictures(3, 4), exposures(torch.full((1, 4), torch.nan), "full"), 3)
    figure.draw_without_rendering()
    assert shown_in(figure.axes) == []
