"""Controls of a quantized variant: what leaks as little for another reason than quantization."""

import zlib
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from quantization.quantized_network import QuantizedNetwork
from quantization.variant import Variant

Weight = Float[Tensor, "*shape"]


def add_noise(trained: Weight, quantized: Weight, factor: float, seed: int) -> Weight:
    """Add Gaussian noise as large as the change that quantization made.

    The draw is scaled, so that the noise has the mean square of the change times the square of
    `factor` exactly, apart from the rounding of its sum with the weights to float32. Noise of
    different factors is the same draw.

    Args:
        trained: the weight of a layer.
        quantized: the same after quantization.
        factor: standard deviation of the noise, in units of the change's root mean square.
        seed: seed of the draw.
    """
    trained, quantized = trained.cpu().double(), quantized.cpu().double()
    rng = torch.Generator().manual_seed(seed)
    draw = torch.randn(trained.shape, generator=rng, dtype=torch.float64)
    size = (quantized - trained).square().mean() / draw.square().mean()
    return (trained + factor * size.sqrt() * draw).float()


def copy_zeros(trained: Weight, quantized: Weight) -> Weight:
    """Set exactly those weights to zero that quantization set to zero."""
    return torch.where(quantized == 0, 0.0, trained.float())


def make_control(
    trained: Mapping[str, Tensor], base: QuantizedNetwork, variant: Variant, seed: int
) -> QuantizedNetwork:
    """The state of a control: float32 weights of the layers that `base` quantized, else as trained.

    Args:
        trained: state dict of the full-precision network, with the parameters themselves.
        base: what quantization makes of that network by the variant without its last suffix.
        variant: the control.
        seed: the model's seed; what is drawn follows from it, the base and the layer's name.
    """
    state = {key: tensor.clone() for key, tensor in trained.items()}
    names: dict[int, str] = {}
    for key, weight in base.weights.items():
        device = trained[key].device
        name = names.setdefault(id(trained[key]), key)  # a tied weight is one under all its names
        quantized = weight.dequantize().to(device)
        if variant.noise is None:
            state[key] = copy_zeros(trained[key], quantized)
        else:
            own = zlib.crc32(f"{seed} {base.variant} {name}".encode())  # whatever else is drawn
            noisy = add_noise(trained[key], quantized, variant.noise, own)
            state[key] = noisy.to(device)
    return QuantizedNetwork(variant, {}, state)
