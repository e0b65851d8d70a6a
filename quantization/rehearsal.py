"""Every quantizer on two images before training, so that what would fail afterwards fails now."""

import copy
from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from quantization.advice import leave_out
from quantization.allocation import check_search
from quantization.batchnorm import batchnorms
from quantization.calibration import Calibration, DivergedError, check_finite
from quantization.engine import check_engine
from quantization.fit import collect_targets, quadratics
from quantization.mixed_options import MixedOptions
from quantization.quantized_copy import quantize_copy
from quantization.quantized_network import layer_bits
from quantization.ranges import find_ranges, quantize_activations
from quantization.reconstruct import Unit
from quantization.rounding.grid import Bits
from quantization.rounding.nearest import nearest
from quantization.shared import Shared
from quantization.task import Fitted
from quantization.variant import UNQUANTIZED, Variant


def check_variants(
    network: nn.Module,
    variants: Iterable[Variant],
    images: Float[Tensor, "images channels ..."],
    patterns: Mapping[str, Bits],
    mixed: MixedOptions | None = None,
) -> None:
    """Check each of a network's variants as `check_network`; those that differ in bits, once.

    Of those that choose bits, it is checked that they can; `mixed` says how.
    """
    rehearsed = set()
    for variant in variants:
        if variant.searches:
            check_search(network, variant, patterns, mixed or MixedOptions(), images)
        bits = {} if variant.engine else layer_bits(network, variant, patterns)
        kept = frozenset(key for key, own_bits in bits.items() if own_bits == UNQUANTIZED)
        own = (variant.uniform_bits, *bits.values()) if variant.own else ()
        activations = variant.activation_bits is not None
        path = variant.method, *variant.options(), kept, own, activations
        if path not in rehearsed:
            check_network(network, variant, images, patterns)
            rehearsed.add(path)


def check_network(
    network: nn.Module,
    variant: Variant,
    images: Float[Tensor, "images channels ..."],
    patterns: Mapping[str, Bits],
) -> None:
    """Raise what `quantize_network` would raise, before anything is trained.

    The network runs as it will, forward to every layer and back through every unit; only the search
    for codes, which needs no network, is left out.

    Raises:
        ValueError: the variant cannot quantize the network, or a pattern matches no layer.
    """
    bits = {} if variant.engine else layer_bits(network, variant, patterns)
    if variant.estimates_bn or variant.folds:
        batchnorms(network)
    try:
        if variant.engine:
            check_engine(variant.engine, network, images, variant.uniform_bits, patterns)
        else:
            quantize_copy(network, bits, variant, _few(images), Shared(), stand_in=rehearse_unit)
        if variant.activation_bits is not None:
            _rehearse_activations(network, bits, variant.activation_bits, images)
    except DivergedError as error:
        raise ValueError(
            f"`{variant}` cannot quantize {type(network).__name__}, which gives values that are not"
            " finite before any training. Initialise its weights, and look at the images."
        ) from error
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(
            f"`{variant}` cannot quantize {type(network).__name__}: {_line(error)}. Change what"
            " fails there, or take the variant out of `--quantize`."
        ) from error


def _rehearse_activations(
    network: nn.Module, bits: Mapping[str, Bits], activation_bits: int, images: Tensor
) -> None:
    weights = [key for key, own_bits in bits.items() if own_bits != UNQUANTIZED]
    ranges = find_ranges(network, network.state_dict(), weights, images, activation_bits)
    work = quantize_activations(copy.deepcopy(network).float().eval(), ranges)
    with torch.no_grad():
        check_finite(type(network).__name__, [work(images.clone())], "gives")


def _few(images: Tensor) -> Calibration:
    return Calibration(images, lambda _: images, torch.arange(len(images)), "members", 0)


def _line(error: Exception) -> str:
    reason = str(error).strip().partition("\n")[0].removesuffix(".")
    return f"{type(error).__name__}: {reason}"


def rehearse_unit(
    unit: Unit, streams: Sequence[Tensor], generator: torch.Generator
) -> dict[str, Fitted]:
    """Run a unit in every way in which it is run to be fitted, and return the nearest codes.

    Raises:
        ValueError: the unit cannot be run so.
    """
    try:
        _run(unit, streams, generator)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(
            f"`{unit.name}` cannot be fitted by its output: {_line(error)}."
            f" {leave_out(unit.plans, unit.axes)}, or use `nearest` or `obc`."
        ) from error
    codes = {name: nearest(plan.rows, plan.grid) for name, plan in unit.plans.items()}
    return {name: Fitted(codes[name], None, None) for name in codes}


def _run(unit: Unit, streams: Sequence[Tensor], generator: torch.Generator) -> None:
    rows = {name: plan.rows for name, plan in unit.plans.items()}
    targets = collect_targets(unit, rows, streams, generator)
    for name in unit.plans:
        for _ in quadratics(unit, name, rows, streams, targets):
            pass
    leaves = {name: weight.clone().requires_grad_() for name, weight in rows.items()}
    with torch.enable_grad():
        error = unit.forward_tail(leaves, streams[0].chunk(2)[1]).square()
        if unit.importance is not None:
            error = error * unit.importance[: len(error)]
        torch.autograd.grad(error.sum(), [*leaves.values()])
