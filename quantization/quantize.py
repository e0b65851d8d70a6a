"""Quantize a whole network, in a copy, by any method."""

import time
from collections.abc import Mapping
from functools import partial

import torch
from torch import nn

from quantization.calibration import Calibration
from quantization.controls import make_control
from quantization.engine import run_engine
from quantization.mixed_options import MixedOptions
from quantization.quantized_copy import quantize_copy
from quantization.quantized_network import (
    QuantizationRecord,
    QuantizedNetwork,
    QuantizedWeight,
    layer_bits,
)
from quantization.ranges import find_ranges
from quantization.rounding.adaround import Settings
from quantization.rounding.grid import Bits
from quantization.search import choose_bits
from quantization.search_record import SearchRecord
from quantization.shared import Shared
from quantization.task import LayerRecord
from quantization.variant import Variant, check_count


@torch.no_grad()
def quantize_network(
    network: nn.Module,
    variant: Variant,
    calibration: Calibration | None = None,
    patterns: Mapping[str, Bits] | None = None,
    loop: Settings | None = None,
    shared: Shared | None = None,
    seed: int = 0,
    solved: QuantizedNetwork | None = None,
    mixed: MixedOptions | None = None,
) -> tuple[QuantizedNetwork, QuantizationRecord]:
    """Quantize every weight of convolutions, linear layers and attention in a copy of the network.

    Args:
        network: any network; it stays as it is, and the copy is in evaluation mode.
        variant: the method and its options.
        calibration: the images that the variant looks at, if it does.
        patterns: bits of some layers, see `layer_bits`.
        loop: constants of the published loop instead of the paper's, for variants with `-paper`.
        shared: what earlier variants of this network have left; without, the result is the same.
        seed: the model's seed, for the noise of a control.
        solved: what a control's base has made of the network before, if that is known.
        mixed: how bits are chosen, for variants that choose them; None for the defaults.

    Returns:
        The codes with everything else the network has, and a record.

    Raises:
        ValueError: see `layer_bits`; there are no images; the network does not call a layer, or its
            weights or inputs are not finite. The message names the layer.
    """
    started, shared, search = time.perf_counter(), shared or Shared(), None
    if variant.calibrates:
        check_count(variant, 0 if calibration is None else len(calibration.images))
    if variant.engine and calibration is not None:  # None would have been refused
        images, own_seed = calibration.images, calibration.seed
        state = run_engine(variant.engine, network, images, variant.uniform_bits, own_seed)
        quantized, layers = QuantizedNetwork(variant, {}, state), list[LayerRecord]()
    elif variant.is_control and solved is not None:
        quantized, layers = solved, list[LayerRecord]()
    else:
        given = variant.base, calibration, patterns, shared, loop, mixed or MixedOptions()
        seen = calibration.key if calibration and variant.weights_see_images else None
        key = variant.base.weights_name, variant.is_symmetric(8), seen, loop
        quantized, layers, search = shared.once(key, partial(_solve, network, *given))
        quantized = quantized._replace(variant=variant.base)
    if variant.is_control:
        trained = network.state_dict(keep_vars=True)
        quantized, layers, search = make_control(trained, quantized, variant, seed), [], None
    if variant.activation_bits is not None and calibration is not None:
        state, images = quantized.state_dict(), calibration.images
        ranges = find_ranges(network, state, quantized.weights, images, variant.activation_bits)
        quantized = quantized._replace(activations=ranges)
    seconds = time.perf_counter() - started
    made = layers, seconds, search, quantized.activations
    return quantized, QuantizationRecord(variant, variant.objective, *made)


def _solve(
    network: nn.Module,
    variant: Variant,
    calibration: Calibration | None,
    patterns: Mapping[str, Bits] | None,
    shared: Shared,
    loop: Settings | None,
    mixed: MixedOptions,
) -> tuple[QuantizedNetwork, list[LayerRecord], SearchRecord | None]:
    """The codes of a variant that is no control, and records of each layer and of the search."""
    bits, search = layer_bits(network, variant, patterns), None
    if variant.searches and calibration is not None:  # None would have been refused
        bits, search = choose_bits(network, variant, calibration, patterns, mixed, shared, loop)
    work, weights, layers = quantize_copy(network, bits, variant, calibration, shared, loop)
    return _collect(network, work, weights, variant), layers, search


def _collect(
    network: nn.Module,
    work: nn.Module,
    quantized: Mapping[int, QuantizedWeight],
    variant: Variant,
) -> QuantizedNetwork:
    """Everything by its key in the state dict, under all its names."""
    # cast to float32 to calibrate, `work` may have lost digits of what is not quantized
    changed = variant.folds or variant.estimates_bn
    state = (work if changed else network).state_dict()
    rest = {key: state[key].clone() for key in network.state_dict()}
    weights = {}
    for key, parameter in work.named_parameters(remove_duplicate=False):
        if id(parameter) in quantized and key in rest:  # not a layer of `write_out`
            del rest[key]
            weights[key] = quantized[id(parameter)]
    return QuantizedNetwork(variant, weights, rest)
