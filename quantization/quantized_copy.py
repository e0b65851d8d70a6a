"""Quantize the weights of a copy of a network, layer by layer or by its blocks, in place."""

import copy
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import cast

import torch
from torch import nn

from quantization.attention import unfused, write_out
from quantization.batchnorm import estimate_batchnorm, fold_batchnorm
from quantization.calibration import CHUNK, Calibration, check_finite
from quantization.follow import follow
from quantization.methods import WithoutImages
from quantization.quantized_network import QuantizedWeight, layer_name
from quantization.reconstruct import FitUnit
from quantization.rounding.adaround import Settings
from quantization.rounding.gram import Layer
from quantization.rounding.grid import Bits, find_grid, widest_ternary
from quantization.shared import Shared
from quantization.task import Codes, LayerPlan, LayerRecord, Solution, Task, round_layers
from quantization.variant import UNQUANTIZED, Variant

Quantized = tuple[dict[int, QuantizedWeight], list[LayerRecord]]  # weights by parameter identity


@torch.no_grad()
def quantize_copy(
    network: nn.Module,
    bits: Mapping[str, Bits],
    variant: Variant,
    calibration: Calibration | None,
    shared: Shared,
    loop: Settings | None = None,
    stand_in: FitUnit | None = None,
    alone: bool = False,
) -> tuple[nn.Module, dict[int, QuantizedWeight], list[LayerRecord]]:
    """Quantize weights in a copy of the network.

    `stand_in` is for a rehearsal, and `alone` for finding out what each layer loses; see `Task`.

    Returns:
        The copy, its quantized weights by the identity of its parameters, and a record per layer.
    """
    work = copy.deepcopy(network).eval().requires_grad_(False)
    if calibration is None or not variant.calibrates:
        write_out(work)
        return work, *_round(work, bits, variant, shared, stand_in is not None)
    write_out(work.float(), calibration.images[:2])
    return work, *_fit(work, bits, variant, calibration, shared, loop, stand_in, alone)


def _round(
    work: nn.Module, bits: Mapping[str, Bits], variant: Variant, shared: Shared, rehearsal: bool
) -> Quantized:
    """Quantize the weights of `work` in place, each layer by its weights alone."""
    plans = _make_plans(work, bits, variant, [], shared, rehearsal)
    rounding = cast(WithoutImages, variant.spec.solve).rounding
    codes, layers = round_layers(plans, rounding)
    return _write(work, bits, plans, codes), layers


def _fit(
    work: nn.Module,
    bits: Mapping[str, Bits],
    variant: Variant,
    calibration: Calibration,
    shared: Shared,
    loop: Settings | None,
    stand_in: FitUnit | None,
    alone: bool,
) -> Quantized:
    """Quantize the weights of `work` in place, and fold or re-estimate BatchNorm with images."""
    method, settings = variant.spec, variant.paper_settings
    with unfused() as multiplied:
        if variant.folds or variant.fisher:  # which use values of other layers first
            for chunk in torch.split(calibration.images, CHUNK):
                check_finite(type(work).__name__, [work(chunk.clone())], "gives")
        if variant.folds:
            fold_batchnorm(work, calibration.images)
        if isinstance(method.solve, WithoutImages):
            weights, layers = _round(work, bits, variant, shared, stand_in is not None)
        else:
            trace = follow(work, bits, calibration.images, multiplied)
            plans = _make_plans(work, bits, variant, trace.layers, shared, stand_in is not None)
            blocks = trace.blocks() if method.fits_blocks and not alone else []
            equal = None if blocks or alone else variant.layerwise
            # sums that are made before any layer is solved are the same for all bits
            # and what a layer loses by itself is, whatever bits are then chosen
            by_method = method.sums_first or alone
            seeded = variant.method if by_method else (equal or variant).weights_name
            task = Task(
                trace,
                plans,
                blocks,
                calibration,
                zlib.crc32(f"{calibration.seed} {seeded}".encode()),  # whatever ran before
                shared,
                paper=variant.paper,
                loop=(loop or settings.loop) if settings is not None else None,
                fisher=variant.fisher,
                stand_in=stand_in,
                alone=alone,
            )
            solve = partial(cast(Callable[[Task], Solution], method.solve), task)
            key = equal, calibration.key, tuple(bits.items())  # which a search may have chosen
            codes, layers = shared.once(key, solve) if equal else solve()
            weights = _write(work, bits, plans, codes)
        if variant.estimates_bn and not alone:
            estimate_batchnorm(work, torch.cat(list(calibration.batches())))
    return weights, layers


def _make_plans(
    network: nn.Module,
    bits: Mapping[str, Bits],
    variant: Variant,
    called: Sequence[str],
    shared: Shared,
    rehearsal: bool,
) -> dict[str, LayerPlan]:
    """A plan for every layer to quantize, by name.

    A layer with several names, or a tied weight, comes once: under the name in `called` if there is
    one.
    """
    plans: dict[int, tuple[str, LayerPlan]] = {}
    names = {key: layer_name(key) for key in bits}
    for key in sorted(bits, key=lambda key: names[key] not in called):
        weight, own_bits, name = network.get_parameter(key), bits[key], names[key]
        if own_bits == UNQUANTIZED or id(weight) in plans:
            continue
        rows = weight.flatten(1).float()
        how = own_bits, variant.is_symmetric(own_bits)
        try:
            if rehearsal and not variant.own:  # a user's own may be made for its bits alone
                grid = widest_ternary(rows)
            else:
                # folding changes the weights
                grid = shared.once((key, *how, variant.folds), partial(find_grid, rows, *how))
        except ValueError as error:
            raise ValueError(f"`{key}`: {error}") from error
        layer = cast(Layer, network.get_submodule(name))
        plans[id(weight)] = name, LayerPlan(layer, rows, grid, own_bits)
    return dict(plans.values())


def _write(
    work: nn.Module,
    bits: Mapping[str, Bits],
    plans: Mapping[str, LayerPlan],
    codes: Mapping[str, Codes],
) -> dict[int, QuantizedWeight]:
    """Put dequantized weights into `work`, and return the quantized ones by identity."""
    weights = {}
    for key in bits:
        name, weight = layer_name(key), work.get_parameter(key)
        if name in plans:
            grid, shape = plans[name].grid, tuple(weight.shape)
            weights[id(weight)] = QuantizedWeight(codes[name], grid, shape)
            weight.copy_(weights[id(weight)].dequantize())
    return weights
