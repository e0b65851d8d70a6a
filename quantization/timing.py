"""Estimate how long a quantization will take, by trials before a network is trained."""

import copy
import time
from collections.abc import Callable, Mapping
from math import prod

import torch
from torch import Tensor, nn

from quantization.allocation import make_groups
from quantization.attention import unfused, write_out
from quantization.calibration import Calibration
from quantization.engine import estimate_engine
from quantization.fisher import fisher_of_weights
from quantization.fit import REFINED
from quantization.follow import follow
from quantization.mixed_options import MixedOptions
from quantization.probe import Probe
from quantization.quantize import quantize_network
from quantization.quantized_network import QuantizationRecord, layer_bits, layer_name
from quantization.rounding.adaround import Settings
from quantization.rounding.grid import Bits
from quantization.sensitivity import FISHER_IMAGES, halves
from quantization.variant import UNQUANTIZED, Variant

TRIAL_IMAGES = 64
TRIAL_STEPS = 8  # steps of a published loop
TRIAL_CHANGES = 4  # of a layer's weights, in a search
# Rows x columns^2 of the largest layer to try. The time of larger layers is a power of their
# columns: on one core `obc` took 0.075 s per row at 1,152 columns and 4.9 s, 4^3 times as much, at
# 4,608.
LARGEST = 128 * 1152**2
SETTLED: Bits = 4  # in all layers, of a trial of a variant that chooses them

Shapes = dict[str, tuple[int, int]]  # rows and columns, by the layer's name


def _loop(variant: Variant) -> Settings | None:
    """Constants of the published loop, if the variant runs it."""
    settings = variant.paper_settings
    return settings.loop if settings is not None else None


def cost_class(variant: Variant) -> str:
    """The part of a variant's name that decides its cost: everything but bits and images.

    A control costs what its base does, unless `Shared` has that. Where bits are chosen, that costs
    `estimate_search` in addition, once for all variants of one class.
    """
    return "-".join([variant.method, *variant.options()])


def estimate_seconds(
    network: nn.Module,
    variant: Variant,
    calibration: Calibration | None,
    patterns: Mapping[str, Bits] | None = None,
) -> float:
    """Wall seconds that a variant will take on this device, estimated by trials.

    A published loop runs for a few steps, because all its steps cost the same. Other methods
    quantize one layer of each shape, except large ones, with half of the images and with all of
    them; the rest is extrapolated to more images, more layers and larger ones. On a ResNet-18 most
    of the estimate is extrapolated: expect the order of magnitude.

    Args:
        network: network on the device; its weights need not be trained.
        variant: the variant to make.
        calibration: the images that the variant will look at, if it does.
        patterns: bits of some layers, see `layer_bits`.
    """
    variant = variant.base.at(SETTLED) if variant.searches else variant.base
    if variant.engine and calibration is not None:
        images, count = calibration.images[:TRIAL_IMAGES], len(calibration.images)
        return estimate_engine(variant.engine, network, images, variant.uniform_bits, count)
    loop = _loop(variant)

    def run(
        images: Tensor, bits: Mapping[str, Bits] | None = patterns, steps: int = 0
    ) -> QuantizationRecord:
        positions = torch.arange(len(images))
        trial = Calibration(images, lambda _: images, positions, variant.calibration, 0)
        few = loop._replace(iterations=steps) if loop is not None else None
        return quantize_network(network, variant, trial, bits, few)[1]

    plain = Variant("nearest", variant.uniform_bits, variant.last_bits, variant.symmetric)
    fixed = quantize_network(network, plain, patterns=patterns)[1].seconds
    if calibration is None or not variant.calibrates:
        return fixed
    images = calibration.images[:TRIAL_IMAGES]
    if loop is not None:
        run(images, steps=1)  # libraries choose and build their kernels on the first call
        short, long = (run(images, steps=n).seconds for n in (1, 1 + TRIAL_STEPS))
        step = max(long - short, 0.0) / TRIAL_STEPS
        return short + (loop.iterations - 1) * step
    count = len(calibration.images) * max(1, calibration.rounds)
    return fixed + _extrapolate(network, variant, images, count, patterns or {}, run)


def estimate_search(
    network: nn.Module,
    variant: Variant,
    calibration: Calibration,
    patterns: Mapping[str, Bits],
    mixed: MixedOptions,
    solving: float,
) -> float:
    """Wall seconds that it takes to measure what every layer loses, estimated by trials.

    Args:
        network: network on the device; its weights need not be trained.
        variant: a variant that chooses bits.
        calibration: the images that it will look at.
        patterns: bits of some layers, see `layer_bits`.
        mixed: how bits are chosen.
        solving: seconds to quantize the network once, which is done once per candidate.
    """
    groups = make_groups(network, variant, patterns, mixed, calibration.images)
    widths = {bits for group in groups for bits in group.candidates} - {UNQUANTIZED}
    tries = sum(len({*group.candidates} - {UNQUANTIZED}) for group in groups)
    images, other = (half[:TRIAL_IMAGES] for half in halves(calibration))
    probe, key = Probe(network), groups[len(groups) // 2].keys[0][0]
    change = {key: probe.network.get_parameter(key)}  # a layer in the middle
    probe.gaps(other, [change])  # warms up
    started = time.perf_counter()
    probe.gaps(images, [change] * TRIAL_CHANGES)
    per_image = (time.perf_counter() - started) / TRIAL_CHANGES / len(images)
    started, generator = time.perf_counter(), torch.Generator().manual_seed(0)
    fisher_of_weights(probe.network, [key], images[:TRIAL_CHANGES], generator)
    backward = (time.perf_counter() - started) / min(len(images), TRIAL_CHANGES)
    probed = len(halves(calibration)[0])
    fisher = backward * min(probed, FISHER_IMAGES)
    return solving * len(widths) + per_image * probed * tries + fisher


def _extrapolate(
    network: nn.Module,
    variant: Variant,
    images: Tensor,
    count: int,
    patterns: Mapping[str, Bits],
    run: Callable[[Tensor, Mapping[str, Bits]], QuantizationRecord],
) -> float:
    """Seconds in addition to the grid search, from trials with half of the images and with all."""
    shapes = _shapes(network, variant, patterns)
    tried = _choose(shapes)
    bits = {**patterns, **{name: UNQUANTIZED for name in shapes if name not in tried}}
    half = images[: max(2, len(images) // 2)]
    run(half, bits)  # warms up
    few, more = run(half, bits), run(images, bits)
    added = max(1, len(images) - len(half))

    seconds = {layer.name: layer.seconds for layer in more.layers}
    method = variant.spec
    if method.looks_at_images and not method.sums_first:
        further = max(0, min(count, REFINED) - len(images))
        for layer in few.layers:
            grown = max(seconds[layer.name] - layer.seconds, 0.0)
            seconds[layer.name] += grown / added * further
    size = {name: rows * columns**method.power for name, (rows, columns) in shapes.items()}
    by_shape = {shapes[name]: own_seconds for name, own_seconds in seconds.items()}
    largest = max(seconds, key=lambda name: size[name])
    solving = sum(
        by_shape.get(shapes[name], seconds[largest] * size[name] / size[largest]) for name in shapes
    )
    beside = [r.seconds - sum(layer.seconds for layer in r.layers) for r in (few, more)]
    per_image = max(beside[1] - beside[0], 0.0) / added
    if variant.paper:  # OBC sums over all places of all layers; the trial only over some layers
        work = _gram_work(network, images, shapes)
        per_image *= sum(work.values()) / sum(work[name] for name in work if name in seconds)
    return float(solving + per_image * count)


def _shapes(network: nn.Module, variant: Variant, patterns: Mapping[str, Bits]) -> Shapes:
    """Shapes of the layers to quantize."""
    shapes: Shapes = {}
    for key, bits in layer_bits(network, variant, patterns).items():
        if bits != UNQUANTIZED:
            rows, columns = network.state_dict()[key].flatten(1).shape
            shapes[layer_name(key)] = rows, columns
    return shapes


def _choose(shapes: Shapes) -> set[str]:
    """One layer of each shape that is not too large, and always one of the smallest shape."""
    smallest = min(shapes, key=lambda name: prod(shapes[name]))
    first = {shape: name for name, shape in reversed([*shapes.items()])}
    small = {name for (rows, columns), name in first.items() if rows * columns**2 <= LARGEST}
    return small | {smallest}


def _gram_work(network: nn.Module, images: Tensor, shapes: Shapes) -> dict[str, float]:
    """Places times columns^2 of each layer that the network calls."""
    work = copy.deepcopy(network).eval()
    with unfused() as multiplied:
        write_out(work, images[:2])
        calls = follow(work, {}, images, multiplied).calls
    return {
        call.name: float(prod(call.shape[1:]) // shapes[call.name][0] * shapes[call.name][1] ** 2)
        for call in calls
        if call.name in shapes
    }
