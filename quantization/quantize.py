"""Quantize a whole network, in a copy, by any method."""

import copy
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from quantization.batchnorm import (
    batchnorms,
    check_folding,
    estimate_batchnorm,
    fold_batchnorm,
)
from quantization.calibration import CHUNK, Calibration, check_finite
from quantization.methods import WithoutImages
from quantization.quantized_network import (
    QuantizationRecord,
    QuantizedNetwork,
    QuantizedWeight,
    layer_bits,
)
from quantization.rounding.adaround import Settings
from quantization.rounding.gram import Layer
from quantization.rounding.grid import Bits, find_grid
from quantization.task import Codes, LayerPlan, LayerRecord, Task, round_layers
from quantization.trace import Trace
from quantization.variant import UNQUANTIZED, Variant, check_count

Quantized = tuple[dict[int, QuantizedWeight], list[LayerRecord]]  # weights by parameter identity


@torch.no_grad()
def quantize_network(
    network: nn.Module,
    variant: Variant,
    calibration: Calibration | None = None,
    patterns: Mapping[str, Bits] | None = None,
    loop: Settings | None = None,
) -> tuple[QuantizedNetwork, QuantizationRecord]:
    """Quantize every convolution and linear weight in a copy of the network.

    Args:
        network: any network; it stays as it is, and the copy is in evaluation mode.
        variant: the method and its options.
        calibration: the images that the variant looks at, if it does.
        patterns: bits of some layers, see `layer_bits`.
        loop: constants of the published loop instead of the paper's, for variants with `-paper`.

    Returns:
        The codes with everything else the network has, and a record.

    Raises:
        ValueError: see `layer_bits`; there are no images; the network does not call a layer, or its
            weights or inputs are not finite. The message names the layer.
    """
    started = time.perf_counter()
    bits = layer_bits(network, variant, patterns)
    work = copy.deepcopy(network).eval().requires_grad_(False)
    if variant.calibrates:
        check_count(variant, 0 if calibration is None else len(calibration.images))
        images = cast(Calibration, calibration)  # 0 images would have been refused
        weights, layers = _fit(work.float(), bits, variant, images, loop)
    else:
        weights, layers = _round(work, bits, variant)
    seconds = time.perf_counter() - started
    record = QuantizationRecord(variant, variant.objective, layers, seconds)
    return _collect(network, work, weights, variant), record


def check_network(
    network: nn.Module,
    variant: Variant,
    images: Float[Tensor, "images channels height width"],
    patterns: Mapping[str, Bits],
) -> None:
    """Raise what `quantize_network` would raise, before anything is trained.

    Raises:
        ValueError: a layer cannot be quantized, a pattern matches no layer, the network does not
            call a layer, or it has no BatchNorm for a variant that changes BatchNorm.
    """
    work = copy.deepcopy(network).eval().float()
    bits = layer_bits(work, variant, patterns)
    if variant.calibrates:
        trace = _follow(work, bits, images)
        if variant.spec.fits_blocks:
            trace.blocks()
    if variant.folds:
        check_folding(work, images)
    elif variant.estimates_bn:
        batchnorms(work)


def _round(work: nn.Module, bits: Mapping[str, Bits], variant: Variant) -> Quantized:
    """Quantize the weights of `work` in place, each layer by its weights alone."""
    plans = _make_plans(work, bits, variant, [])
    rounding = cast(WithoutImages, variant.spec.solve).rounding
    codes, layers = round_layers(plans, rounding)
    return _write(plans, codes), layers


def _fit(
    work: nn.Module,
    bits: Mapping[str, Bits],
    variant: Variant,
    calibration: Calibration,
    loop: Settings | None,
) -> Quantized:
    """Quantize the weights of `work` in place, and fold or re-estimate BatchNorm with images."""
    method, settings = variant.spec, variant.paper_settings
    if variant.folds or variant.fisher:  # which use values of other layers first
        for chunk in torch.split(calibration.images, CHUNK):
            check_finite(type(work).__name__, [work(chunk.clone())], "gives")
    if variant.folds:
        fold_batchnorm(work, calibration.images)
    if isinstance(method.solve, WithoutImages):
        weights, layers = _round(work, bits, variant)
    else:
        trace = _follow(work, bits, calibration.images)
        plans = _make_plans(work, bits, variant, trace.layers)
        task = Task(
            trace,
            plans,
            blocks=trace.blocks() if method.fits_blocks else [],
            calibration=calibration,
            seed=zlib.crc32(f"{calibration.seed} {variant}".encode()),  # whatever ran before
            paper=variant.paper,
            loop=(loop or settings.loop) if settings is not None else None,
            fisher=variant.fisher,
        )
        codes, layers = method.solve(task)
        weights = _write(plans, codes)
    if variant.estimates_bn:
        estimate_batchnorm(work, torch.cat(list(calibration.batches())))
    return weights, layers


def _follow(
    network: nn.Module,
    bits: Mapping[str, Bits],
    images: Float[Tensor, "images channels height width"],
) -> Trace:
    """Follow one pass through the network.

    Raises:
        ValueError: the network does not call a layer.
    """
    trace = Trace(network, images[:2])
    called = {id(trace.modules[name].weight) for name in trace.layers}
    for key, own_bits in bits.items():
        if own_bits != UNQUANTIZED and id(network.get_parameter(key)) not in called:
            name = key.removesuffix(".weight")
            raise ValueError(
                f"`{name}`: no inputs were recorded, because {type(network).__name__} does not call"
                " the layer, or uses its weight in another way. Leave it at full precision with"
                f" `--layer_bits '{{\"{name}\": 32}}'`."
            )
    return trace


def _make_plans(
    network: nn.Module, bits: Mapping[str, Bits], variant: Variant, called: Sequence[str]
) -> dict[str, LayerPlan]:
    """A plan for every layer to quantize, by name.

    A layer with several names, or a tied weight, comes once: under the name in `called` if there is
    one.
    """
    plans: dict[int, tuple[str, LayerPlan]] = {}
    names = {key: key.removesuffix("weight").removesuffix(".") for key in bits}
    for key in sorted(bits, key=lambda key: names[key] not in called):
        weight, own_bits, name = network.get_parameter(key), bits[key], names[key]
        if own_bits == UNQUANTIZED or id(weight) in plans:
            continue
        rows = weight.flatten(1).float()
        try:
            grid = find_grid(rows, own_bits, variant.is_symmetric(own_bits))
        except ValueError as error:
            raise ValueError(f"`{key}`: {error}") from error
        layer = cast(Layer, network.get_submodule(name))
        plans[id(weight)] = name, LayerPlan(layer, rows, grid, own_bits)
    return dict(plans.values())


def _write(
    plans: Mapping[str, LayerPlan], codes: Mapping[str, Codes]
) -> dict[int, QuantizedWeight]:
    """Put dequantized weights into the layers, and return the quantized ones by identity."""
    weights = {}
    for name, plan in plans.items():
        weight = plan.layer.weight
        weights[id(weight)] = QuantizedWeight(codes[name], plan.grid, tuple(weight.shape))
        weight.copy_(weights[id(weight)].dequantize())
    return weights


def _collect(
    network: nn.Module,
    work: nn.Module,
    quantized: Mapping[int, QuantizedWeight],
    variant: Variant,
) -> QuantizedNetwork:
    """Everything by its key in the state dict, under all its names."""
    # cast to float32 to calibrate, `work` may have lost digits of what is not quantized
    changed = variant.folds or variant.estimates_bn
    rest = {key: t.clone() for key, t in (work if changed else network).state_dict().items()}
    weights = {}
    for key, parameter in work.named_parameters(remove_duplicate=False):
        if id(parameter) in quantized:
            del rest[key]
            weights[key] = quantized[id(parameter)]
    return QuantizedNetwork(variant, weights, rest)
