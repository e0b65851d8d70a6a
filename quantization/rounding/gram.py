"""A layer as a matrix: the patches it multiplies, and the sums over them that give its error."""

import math
from collections.abc import Iterable, Sequence
from functools import reduce
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import pad

# Positions of a layer's output to sample over all images: the larger of 16,384 and 8 per column.
# (Ternary resnet20s: four times as many took 12 s instead of 7.5; accuracy -0.6 to +0.9 points.)
MIN_POSITIONS, POSITIONS_PER_COLUMN = 16_384, 8

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
Layer = Convolution | nn.Linear


class Quadratic(NamedTuple):
    """The squared error of a layer's output as a function of its weight's rows q.

    error(q) = q G q^T - 2 q c^T + power, summed over rows, where x are the patches that the
    quantized layer will see and t are its target outputs.

    Attributes:
        gram: G = sum of x x^T, one matrix per group of a grouped convolution.
        cross: c = sum of t x^T.
        power: sum of t^2, one number per row.
    """

    gram: Float[Tensor, "groups columns columns"]
    cross: Float[Tensor, "rows columns"]
    power: Float[Tensor, " rows"]

    @classmethod
    def around(
        cls,
        weight: Float[Tensor, "rows columns"],
        gram: Float[Tensor, "groups columns columns"],
    ) -> "Quadratic":
        """The error relative to the layer's own output on these patches."""
        cross = grouped_product(weight, gram)
        return cls(gram, cross, (weight * cross).sum(1))

    def error(
        self,
        rows: Float[Tensor, "rows columns"],
        scale: Float[Tensor, " rows"] | None = None,
    ) -> float:
        """The error of these weights, relative to the power of the targets.

        `scale` multiplies each row's output before errors are summed.
        """
        product = grouped_product(rows, self.gram)
        error = ((rows * (product - 2 * self.cross)).sum(1) + self.power).clamp(min=0)
        weight = torch.ones_like(error) if scale is None else scale.square()
        power = (weight * self.power).sum()
        return ((weight * error).sum() / power).item() if power > 0 else 0.0


def grouped_product(
    rows: Float[Tensor, "rows columns"], gram: Float[Tensor, "groups columns columns"]
) -> Float[Tensor, "rows columns"]:
    """Each row times the matrix of its group."""
    return torch.bmm(rows.view(len(gram), -1, rows.shape[1]), gram).flatten(0, 1)


def channel_axis(layer: Layer) -> int:
    """The axis of a layer's output that has its rows."""
    return -1 if isinstance(layer, nn.Linear) else 1


def places_per_image(images: int, places: int, columns: int) -> int:
    """Number of places of a layer's output to sample in each of `images` images."""
    wanted = max(MIN_POSITIONS, POSITIONS_PER_COLUMN * columns)
    return min(places, math.ceil(wanted / images))


def draw_positions(
    images: int,
    places: int,
    chosen: int,
    generator: torch.Generator,
    device: torch.device | None = None,
) -> Int64[Tensor, "images chosen"]:
    """Draw `chosen` of the `places` of a layer's output in each image.

    Numbers are drawn on the CPU, as everything random, and sorted on `device`: for a ResNet-18 a
    CPU sorts longer than a GPU quantizes. The sort is stable, so that both agree on ties.
    """
    if chosen == places:
        return torch.arange(places, device=device).expand(images, places)
    draws = torch.rand(images, places, generator=generator).to(device)
    return draws.argsort(dim=1, stable=True)[:, :chosen].sort(1).values


def outputs_at(
    layer: Layer, outputs: Tensor, positions: Int64[Tensor, "images chosen"]
) -> Float[Tensor, "chosen_images rows"]:
    """A layer's outputs at these flat positions of each image."""
    images = torch.arange(len(outputs), device=outputs.device)[:, None]
    if isinstance(layer, nn.Linear):
        return outputs.reshape(len(outputs), -1, outputs.shape[-1])[images, positions].flatten(0, 1)
    return outputs.flatten(2)[images, :, positions].flatten(0, 1)


def patches_at(
    layer: Layer, inputs: Tensor, positions: Int64[Tensor, "images chosen"]
) -> Float[Tensor, "groups chosen_images columns"]:
    """The patches that give a layer's outputs at these positions when its rows multiply them."""
    images = torch.arange(len(inputs), device=inputs.device)[:, None]
    if isinstance(layer, nn.Linear):
        flat = inputs.reshape(len(inputs), -1, inputs.shape[-1])
        return flat[images, positions].flatten(0, 1)[None]
    padded, sides = _pad(layer, inputs), zip(layer.kernel_size, layer.dilation, strict=True)
    sizes, steps = padded.shape[2:], torch.arange(max(layer.kernel_size), device=inputs.device)
    inner = torch.meshgrid([steps[:k] * d for k, d in sides], indexing="ij")
    places = torch.unravel_index(positions, _places(layer, sizes))
    starts = [place * stride for place, stride in zip(places, layer.stride, strict=True)]
    at = _flat(starts, sizes)[:, :, None] + _flat(inner, sizes).flatten()
    shape = *padded.shape[:2], *at.shape[1:]
    # Indexing a view of all windows takes up to twice as long, and leaves inputs that are channels
    # last in an order in which a depthwise layer's Gram matrices took 8 times as long.
    values = padded.flatten(2).gather(2, at.flatten(1)[:, None].expand(-1, shape[1], -1))
    patches = values.view(shape).transpose(1, 2).flatten(0, 1)
    return patches.reshape(len(patches), layer.groups, -1).transpose(0, 1)


def _pad(layer: Convolution, inputs: Tensor) -> Tensor:
    padding = layer._reversed_padding_repeated_twice
    if not any(padding):  # `pad` would copy
        return inputs
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return pad(inputs, padding, mode)


def _places(layer: Convolution, sizes: Sequence[int]) -> list[int]:
    """Places of a convolution's output along each axis, for padded inputs of these sizes."""
    kernel, dilation = layer.kernel_size, layer.dilation
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    sides = zip(sizes, spans, layer.stride, strict=True)
    return [(size - span) // stride + 1 for size, span, stride in sides]


def _flat(coordinates: Sequence[Int64[Tensor, "*_"]], sizes: Sequence[int]) -> Int64[Tensor, "*_"]:
    """Position in a flattened array of these sizes."""
    pairs = zip(coordinates, sizes, strict=True)
    return reduce(
        lambda flat, pair: flat * pair[1] + pair[0], pairs, torch.zeros_like(coordinates[0])
    )


def make_quadratic(
    patches: Float[Tensor, "groups chosen columns"], targets: Float[Tensor, "chosen rows"]
) -> Quadratic:
    """Sum the quadratic over patches and the layer's target outputs, without its bias."""
    by_group = targets.view(len(targets), len(patches), -1).permute(1, 2, 0)
    cross = torch.bmm(by_group, patches).flatten(0, 1)
    return Quadratic(torch.bmm(patches.mT, patches), cross, targets.square().sum(0))


def add_up(parts: Iterable[Quadratic]) -> Quadratic:
    """Sum quadratics over sets of patches, holding one set at a time."""

    def add(total: Quadratic, part: Quadratic) -> Quadratic:
        return Quadratic(*(sums.add_(more) for sums, more in zip(total, part, strict=True)))

    return reduce(add, parts)
