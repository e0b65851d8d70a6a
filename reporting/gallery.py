"""The most exposed images of each variant, in one picture."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int64, UInt8
from matplotlib.figure import Figure
from torch import Tensor

from attacks.findings import Exposures
from attacks.metrics.exposure import most_exposed
from reporting.tables import SHOWN

WIDTH = 0.6  # of an image, in inches; a title fits above it

Pictures = Callable[[Int64[Tensor, " chosen"]], UInt8[Tensor, "chosen channels height width"]]


def gallery_figure(pictures: Pictures, exposures: Exposures, count: int = SHOWN) -> Figure:
    """The most exposed images in each variant, in descending order.

    All are one picture on one pair of axes: with a pair for each image, they took most of the time
    of all figures.

    Args:
        pictures: the images at some positions of the pool.
        exposures: exposure of every example in each variant.
        count: number of images per variant.
    """
    chosen = [most_exposed(exposure, count) for exposure in exposures.examples]
    images = [pictures(indices).movedim(1, -1).numpy() for indices in chosen]
    _, height, width, _ = images[0].shape
    gap, room = max(1, width // 8), max(1, width // 4)  # between images, and for a title
    down, right = height + room, width + gap
    montage = np.full((down * len(chosen), right * count, 3), 255, np.uint8)
    scale = WIDTH / width  # inches per pixel
    beside = 0.2 + 0.075 * max(map(len, exposures.variants))  # inches for the variants' names
    wide, high = scale * montage.shape[1], scale * montage.shape[0]
    figure = Figure(figsize=(beside + wide, high + 0.1))
    # a layout engine would measure every title
    place = beside / (beside + wide), 0, wide / (beside + wide), high / (high + 0.1)
    axes = figure.add_axes(place)
    for row, (indices, exposure) in enumerate(zip(chosen, exposures.examples, strict=True)):
        top = row * down + room
        for column, index in enumerate(indices.tolist()):
            left = column * right
            montage[top : top + height, left : left + width] = images[row][column]
            title = f"{index}: {100 * exposure[index]:.1f}%"
            centre, above = left + width / 2 - 0.5, top - 0.5 - height / 40
            axes.text(centre, above, title, fontsize=6, ha="center", va="bottom")
    axes.imshow(montage)
    axes.set(xticks=[], frame_on=False)
    middles = [row * down + room + height / 2 - 0.5 for row in range(len(chosen))]
    axes.set_yticks(middles, exposures.variants, fontsize=8)
    axes.tick_params(length=0)
    return figure
