"""The expected loss of each layer at each width, with that layer alone quantized."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from quantization.allocation import Group
from quantization.batchnorm import fold_batchnorm
from quantization.calibration import Calibration, Images
from quantization.fisher import fisher_of_weights
from quantization.probe import Gap, Probe
from quantization.quantized_copy import quantize_copy
from quantization.quantized_network import QuantizedWeight
from quantization.rounding.adaround import Settings
from quantization.rounding.grid import Bits
from quantization.search_record import Loss
from quantization.shared import Shared
from quantization.variant import UNQUANTIZED, Variant

IMAGES = 256  # to measure losses on, and as many others to check a choice
FISHER_IMAGES = 64  # each takes a backward pass of its own


class Measured(NamedTuple):
    """What was measured of one network.

    Attributes:
        losses: by the group's name and its candidates.
        weights: codes of each group with that group alone quantized, by its name, the candidate
            and the weight's key.
    """

    losses: dict[str, dict[Bits, Loss]]
    weights: dict[str, dict[Bits, dict[str, QuantizedWeight]]]


def halves(calibration: Calibration) -> tuple[Images, Images]:
    """The images that losses are measured on, and the others that a choice is checked on."""
    images = calibration.images
    return images[::2][:IMAGES], images[1::2][:IMAGES]


@torch.no_grad()
def measure(
    network: nn.Module,
    variant: Variant,
    groups: Sequence[Group],
    calibration: Calibration,
    shared: Shared,
    loop: Settings | None = None,
) -> Measured:
    """Quantize each group alone at each of its candidates, and measure what that changes.

    The codes are those of the variant's own method with every other layer at full precision. One
    pass per width finds them for all layers.

    Raises:
        DivergedError: the network's logits are not finite.
        ValueError: the variant cannot quantize the network.
    """
    weights = _solve_alone(network, variant, groups, calibration, shared, loop)
    probe = open_probe(network, variant, calibration)
    tries = [(name, bits) for name, by_bits in weights.items() for bits in by_bits]
    changes = [dequantize_all(weights[name][bits]) for name, bits in tries]
    gaps = dict(zip(tries, probe.gaps(halves(calibration)[0], changes), strict=True))
    keys = [own[0] for group in groups for own in group.keys]
    generator = torch.Generator().manual_seed(calibration.seed)
    fisher = fisher_of_weights(
        probe.network, keys, halves(calibration)[0][:FISHER_IMAGES], generator
    )
    losses: dict[str, dict[Bits, Loss]] = {group.name: {} for group in groups}
    for group in groups:
        for bits in group.candidates:
            if bits == UNQUANTIZED:
                losses[group.name][bits] = Loss()
                continue
            gap: Gap = gaps[group.name, bits]
            cheap = _fisher_loss(probe.network, weights[group.name][bits], fisher)
            losses[group.name][bits] = Loss(*gap, cheap)
    return Measured(losses, weights)


def open_probe(network: nn.Module, variant: Variant, calibration: Calibration) -> Probe:
    """The copy of a network that takes a variant's dequantized weights."""
    probe = Probe(network)
    if variant.folds:
        fold_batchnorm(probe.network, calibration.images)
    return probe


def dequantize_all(weights: Mapping[str, QuantizedWeight]) -> dict[str, Tensor]:
    """Dequantized weights by key."""
    return {key: weight.dequantize() for key, weight in weights.items()}


def _solve_alone(
    network: nn.Module,
    variant: Variant,
    groups: Sequence[Group],
    calibration: Calibration,
    shared: Shared,
    loop: Settings | None,
) -> dict[str, dict[Bits, dict[str, QuantizedWeight]]]:
    """Codes of every group at every candidate but 32."""
    found: dict[str, dict[Bits, dict[str, QuantizedWeight]]] = {g.name: {} for g in groups}
    widths = sorted({bits for group in groups for bits in group.candidates} - {UNQUANTIZED})
    for width in widths:
        at_width = [group for group in groups if width in group.candidates]
        bits: dict[str, Bits] = {
            key: width if group in at_width else UNQUANTIZED
            for group in groups
            for own in group.keys
            for key in own
        }
        work, weights, _ = quantize_copy(
            network, bits, variant, calibration, shared, loop, alone=True
        )
        for group in at_width:
            found[group.name][width] = {
                own[0]: weights[id(work.get_parameter(own[0]))] for own in group.keys
            }
    return found


def _fisher_loss(
    network: nn.Module, weights: Mapping[str, QuantizedWeight], fisher: Mapping[str, Tensor]
) -> float:
    """The second-order estimate of the divergence, of every weight by itself."""
    total = 0.0
    for key, weight in weights.items():
        change = weight.dequantize() - network.get_parameter(key)
        total += (fisher[key].double() * change.double().square()).sum().item()
    return total / 2
