"""The gallery read back from matplotlib, and the table that takes its place."""

import numpy as np
import pytest
import torch

from attacks.findings import Exposures
from reporting.gallery import gallery_figure
from reporting.tables import exposed_table


def exposures(examples, *variants):
    kept = torch.ones(examples.shape[1], dtype=torch.bool)
    return Exposures(variants[0], "gap", {}, list(variants), examples, kept)


def pictures(channels, count=30):
    """Images of 3x4 of which no two are alike, nor two of their channels."""
    values = torch.arange(count * channels * 12) % 251
    return values.to(torch.uint8).reshape(count, channels, 3, 4)


def shown(images, examples, *variants, count=16):
    """Variant -> title and pixels of each image, by where they stand in the picture."""
    figure = gallery_figure(images.__getitem__, exposures(examples, *variants), count)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    montage = np.asarray(axes.images[0].get_array())
    rows = {}
    for middle, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True):
        top = round(middle - 1)  # images are 3 pixels high
        rows[label.get_text()] = images_of_row = []
        for text in axes.texts:
            x, y = text.get_position()
            if top - 1 <= y < top:
                left = round(x - 1.5)
                images_of_row.append((text.get_text(), montage[top : top + 3, left : left + 4]))
    assert sum(map(len, rows.values())) == len(axes.texts)
    return rows


@pytest.mark.parametrize("channels", [1, 3], ids=["gray", "colour"])
def test_gallery_shows_the_most_exposed_first(rng, channels):
    images = pictures(channels)
    examples = torch.rand(2, 30, generator=rng).double()
    examples[1, :14] = torch.nan
    examples[1, 20] = examples[1, 25] = 1.0
    rows = shown(images, examples, "full", "w2")
    assert list(rows) == ["full", "w2"]
    for row, exposure in zip(rows.values(), examples, strict=True):
        known = [i for i in range(30) if not exposure[i].isnan()]
        wanted = sorted(known, key=lambda i: (-exposure[i].item(), i))[:16]
        assert [title for title, _ in row] == [
            f"{i}: {100 * exposure[i].item():.1f}%" for i in wanted
        ]
        for index, (_, pixels) in zip(wanted, row, strict=True):
            image = images[index].permute(1, 2, 0).numpy()
            assert np.array_equal(pixels, np.broadcast_to(image, (3, 4, 3)))
    assert rows["w2"][0][0] == "20: 100.0%"  # the first of tied examples


@pytest.mark.parametrize("count", [1, 5, 16])
def test_a_gallery_of_few_leaves_places_empty(count):
    """Fewer examples than places; no target trained on one of them."""
    examples = torch.tensor([[0.5, torch.nan, 0.75, 0.25]])
    rows = shown(pictures(1, 4), examples, "full", count=count)
    titles = [title for title, _ in rows["full"]]
    assert titles == ["2: 75.0%", "0: 50.0%", "3: 25.0%"][:count]


def test_without_known_exposures_a_row_is_empty():
    unknown = torch.full((1, 4), torch.nan)
    assert shown(pictures(3, 4), unknown, "full", count=3) == {"full": []}


def test_the_table_has_the_most_exposed_of_the_reference():
    examples = torch.tensor([[0.5, torch.nan, 0.75, 0.25], [0.125, torch.nan, 1.0, torch.nan]])
    table = exposed_table(exposures(examples, "full", "w2"), torch.tensor([7, 8, 9, 6]))
    assert table.columns == ("example", "label", "full", "w2")
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["2", "9", "75.0%", "100.0%"],
        ["0", "7", "50.0%", "12.5%"],
        ["3", "6", "25.0%", "-"],
    ]
    assert [cell.value for cell in table.rows[0]] == [2, 9, 0.75, 1.0]
    assert "Most exposed in full: position in the pool" in table.note
