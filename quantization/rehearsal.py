"""Every quantizer on two images before training, so that what would fail afterwards fails now."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from quantization.batchnorm import batchnorms
from quantization.calibration import Calibration, DivergedError
from quantization.fit import collect_targets, quadratics
from quantization.quantize import quantize_copy
from quantization.quantized_network import layer_bits
from quantization.reconstruct import Unit
from quantization.rounding.grid import TERNARY, Bits
from quantization.rounding.nearest import nearest
from quantization.shared import Shared
from quantization.task import Fitted
from quantization.variant import UNQUANTIZED, Variant


def check_variants(
    network: nn.Module,
    variants: Iterable[Variant],
    images: Float[Tensor, "images channels height width"],
    patterns: Mapping[str, Bits],
) -> None:
    """Check each of a network's variants as `check_network`; those that differ in bits, once."""
    rehearsed = set()
    for variant in variants:
        bits = layer_bits(network, variant, patterns)
        kept = frozenset(key for key, own_bits in bits.items() if own_bits == UNQUANTIZED)
        path = variant.method, *variant.options(), kept
        if path not in rehearsed:
            check_network(network, variant, images, patterns)
            rehearsed.add(path)


def check_network(
    network: nn.Module,
    variant: Variant,
    images: Float[Tensor, "images channels height width"],
    patterns: Mapping[str, Bits],
) -> None:
    """Raise what `quantize_network` would raise, before anything is trained.

    The network runs as it will, to the inputs of every layer and back; only what needs no network,
    the solving of layers, is left out, and a published loop has one step.

    Raises:
        ValueError: the variant cannot quantize the network, or a pattern matches no layer.
    """
    bits = layer_bits(network, variant, patterns)
    # of all grids the fastest to find
    cheap = {key: TERNARY if own != UNQUANTIZED else own for key, own in bits.items()}
    if variant.estimates_bn or variant.folds:
        batchnorms(network)
    try:
        quantize_copy(network, cheap, variant, _few(images), Shared(), stand_in=rehearse_unit)
    except DivergedError as error:
        raise ValueError(
            f"`{variant}` cannot quantize {type(network).__name__}, which gives values that are not"
            " finite before any training. Initialise its weights, and look at the images."
        ) from error
    except ValueError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"`{variant}` cannot quantize {type(network).__name__}:"
            f" {type(error).__name__}: {reason}"
        ) from error


def _few(images: Tensor) -> Calibration:
    return Calibration(images, lambda _: images, torch.arange(len(images)), "members", 0)


def rehearse_unit(
    unit: Unit, streams: Sequence[Tensor], generator: torch.Generator
) -> dict[str, Fitted]:
    """Run a unit in every way in which it is run to be fitted, and return the nearest codes."""
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
    codes = {name: nearest(plan.rows, plan.grid) for name, plan in unit.plans.items()}
    return {name: Fitted(codes[name], None, None) for name in codes}
