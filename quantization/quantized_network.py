"""A whole network, quantized in a copy: codes for its layers, everything else as it is."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from jaxtyping import UInt8
from torch import Tensor, nn

from quantization.rounding.grid import LEVELS, Bits, Grid, dequantize
from quantization.trace import LAYERS
from quantization.variant import UNQUANTIZED, Variant


class QuantizedWeight(NamedTuple):
    """One layer's weight.

    Attributes:
        codes: flattened to a row an output channel.
        grid: what the codes stand for.
        shape: of the weight in its network.
    """

    codes: UInt8[Tensor, "rows columns"]
    grid: Grid
    shape: tuple[int, ...]

    def dequantize(self) -> Tensor:
        """The float32 weight, in its own shape."""
        return dequantize(self.codes, self.grid).reshape(self.shape)


class QuantizedNetwork(NamedTuple):
    """A network's state, split into what was quantized and what was not.

    Attributes:
        variant: how it was quantized.
        weights: of convolutions and linear layers, by their key in the state dict.
        rest: biases, normalisation and all else, unchanged.
    """

    variant: Variant
    weights: dict[str, QuantizedWeight]
    rest: dict[str, Tensor]

    def state_dict(self) -> dict[str, Tensor]:
        """For `load_state_dict` of the same architecture."""
        return self.rest | {key: weight.dequantize() for key, weight in self.weights.items()}


def layer_bits(
    network: nn.Module, variant: Variant, patterns: Mapping[str, Bits] | None = None
) -> dict[str, Bits]:
    """Bits of every weight to quantize, by its state-dict key, in the order of registration.

    Args:
        network: whose layers are looked for.
        variant: gives the bits of all of them, and of the last.
        patterns: bits of the layers whose name matches, such as `layer1.*`; a later one overrides
            an earlier one, and the variant's `-last` overrides both. 32 is full precision.

    Raises:
        ValueError: there is no such weight, or one is not a plain parameter; no grid has so many
            bits; a pattern matches no layer.
    """
    # Duplicates stay: a layer used under two names has two keys in the state dict.
    modules = network.named_modules(remove_duplicate=False)
    names = [name for name, module in modules if isinstance(module, LAYERS)]
    if not names:
        kinds = ", ".join(layer.__name__ for layer in LAYERS)
        raise ValueError(
            f"Nothing to quantize: {type(network).__name__} has no layer of type {kinds}."
        )
    keys = {name: f"{name}.weight".removeprefix(".") for name in names}  # a bare layer's is ""
    for key in keys.values():
        if key not in network.state_dict():
            raise ValueError(
                f"`{key}` is computed from other parameters, such as a weight norm's, and cannot"
                " be stored as codes. Call `remove_parametrizations` on that layer first."
            )
    bits = dict.fromkeys(names, variant.bits)
    for pattern, some in (patterns or {}).items():
        if some != UNQUANTIZED and some not in LEVELS:
            raise ValueError(
                f"`layer_bits` must give `{pattern}` one of {', '.join(map(str, LEVELS))} bits, or"
                f" 32 for full precision, got {some:g}."
            )
        matching = [name for name in names if fnmatchcase(name, pattern)]
        if not matching:
            raise ValueError(
                f"`layer_bits` has `{pattern}`, which matches no layer of"
                f" {type(network).__name__}. It has {', '.join(names)}."
            )
        bits |= dict.fromkeys(matching, some)
    if variant.last_bits is not None:
        bits[names[-1]] = variant.last_bits
    return {keys[name]: some for name, some in bits.items()}
