"""What a quantization will cost, before a network is trained: time by trial, bytes exactly."""

import copy
from collections.abc import Callable, Mapping
from math import prod

import torch
from torch import Tensor, nn

from quantization.calibration import Calibration, Record
from quantization.fit import REFINED
from quantization.quantize import PAPER, quantize_network
from quantization.quantized_network import layer_bits
from quantization.rounding.grid import Bits
from quantization.trace import Trace
from quantization.variant import UNQUANTIZED, Variant

TRIAL_IMAGES = 64
TRIAL_STEPS = 8  # of a published loop
# Rows x columns^2 of a layer that is tried. Columns of the larger ones cost by a power of their
# number: on one core `obc` took 0.075 s a row at 1,152 columns, 4.9 s at 4,608, 4^3 times as much.
LARGEST = 128 * 1152**2
POWER = {"obc": 3}  # 2 for the other methods


Shapes = dict[str, tuple[int, int]]  # rows and columns, by the layer's name


def loop_images(variant: Variant) -> int:
    """Images that the steps of a published loop see, all layers' together counted once."""
    settings = PAPER.get(variant.method) if variant.paper else None
    return settings.iterations * settings.batch if settings else 0


def cost_class(variant: Variant) -> str:
    """What variants of about the same cost have in common: all but their bits and their images."""
    return "-".join([variant.method, *variant.options()])


def estimate_seconds(
    network: nn.Module,
    variant: Variant,
    calibration: Calibration | None,
    patterns: Mapping[str, Bits] | None = None,
) -> float:
    """Wall seconds that a variant will take on this device, as far as trials tell.

    A published loop is run for a few steps, for all of its steps cost the same. Of other methods
    one layer of each shape is quantized, unless it is large, for half of the images and for all of
    them; what that says about more images, more layers and larger ones is extrapolated. On a
    ResNet-18 most of it is: expect the order of magnitude.

    Args:
        network: on the device; its weights need not be trained.
        variant: what to make.
        calibration: the images that the variant will look at, if it does.
        patterns: bits of some layers, as in `layer_bits`.
    """

    def run(
        some: Tensor, bits: Mapping[str, Bits] | None = patterns, steps: int | None = None
    ) -> Record:
        positions = torch.arange(len(some))
        looked_at = Calibration(some, lambda _: some, positions, variant.calibration, 0)
        loop = steps and PAPER[variant.method]._replace(iterations=steps)
        return quantize_network(network, variant, looked_at, bits, loop or None)[1]

    plain = Variant("nearest", variant.bits, variant.last_bits, variant.symmetric)
    fixed = quantize_network(network, plain, patterns=patterns)[1].seconds
    if calibration is None:
        return fixed
    images = calibration.images[:TRIAL_IMAGES]
    if loop_images(variant):
        steps = PAPER[variant.method].iterations
        run(images, steps=1)  # libraries choose and build what they run on the first call
        short, long = (run(images, steps=n).seconds for n in (1, 1 + TRIAL_STEPS))
        step = max(long - short, 0.0) / TRIAL_STEPS
        return short + (steps - 1) * step
    count = len(calibration.images) * max(1, calibration.rounds)
    return fixed + _extrapolate(network, variant, images, count, patterns or {}, run)


def _extrapolate(
    network: nn.Module,
    variant: Variant,
    images: Tensor,
    count: int,
    patterns: Mapping[str, Bits],
    run: Callable[[Tensor, Mapping[str, Bits]], Record],
) -> float:
    """Seconds beside the search of grids, from trials with half of the images and with all."""
    shapes = _shapes(network, variant, patterns)
    tried = _choose(shapes)
    bits = {**patterns, **{name: UNQUANTIZED for name in shapes if name not in tried}}
    half = images[: max(2, len(images) // 2)]
    run(half, bits)  # warms up
    few, more = run(half, bits), run(images, bits)
    each = max(1, len(images) - len(half))

    seconds = {layer.name: layer.seconds for layer in more.layers}
    if variant.method not in ("obc", "nearest"):  # whose solver does not see the images
        further = max(0, min(count, REFINED) - len(images))
        for layer in few.layers:
            grown = max(seconds[layer.name] - layer.seconds, 0.0)
            seconds[layer.name] += grown / each * further
    power = POWER.get(variant.method, 2)
    size = {name: rows * columns**power for name, (rows, columns) in shapes.items()}
    by_shape = {shapes[name]: each_one for name, each_one in seconds.items()}
    largest = max(seconds, key=lambda name: size[name])
    solving = sum(
        by_shape.get(shapes[name], seconds[largest] * size[name] / size[largest]) for name in shapes
    )
    beside = [r.seconds - sum(layer.seconds for layer in r.layers) for r in (few, more)]
    image = max(beside[1] - beside[0], 0.0) / each
    if variant.paper:  # OBC's sums over all places of all layers, of which some were made
        work = _gram_work(network, images, shapes)
        image *= sum(work.values()) / sum(work[name] for name in work if name in seconds)
    return float(solving + image * count)


def _shapes(network: nn.Module, variant: Variant, patterns: Mapping[str, Bits]) -> Shapes:
    """Of what is to be quantized."""
    shapes: Shapes = {}
    for key, bits in layer_bits(network, variant, patterns).items():
        if bits != UNQUANTIZED:
            rows, columns = network.state_dict()[key].flatten(1).shape
            shapes[key.removesuffix("weight").removesuffix(".")] = rows, columns
    return shapes


def _choose(shapes: Shapes) -> set[str]:
    """One layer of each shape that is not too large, and of the smallest shape in any case."""
    smallest = min(shapes, key=lambda name: prod(shapes[name]))
    first = {shape: name for name, shape in reversed([*shapes.items()])}
    small = {name for (rows, columns), name in first.items() if rows * columns**2 <= LARGEST}
    return small | {smallest}


def _gram_work(network: nn.Module, images: Tensor, shapes: Shapes) -> dict[str, float]:
    """Places x columns^2 of each layer that the network calls."""
    calls = Trace(copy.deepcopy(network).eval(), images[:2]).calls
    return {
        call.name: float(prod(call.shape[2:]) * shapes[call.name][1] ** 2)
        for call in calls
        if call.name in shapes
    }
