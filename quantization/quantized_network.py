"""What a quantized network is: codes for its layers, everything else unchanged, and a record."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from jaxtyping import UInt8
from torch import Tensor, nn

from quantization.activations import ActivationGrid
from quantization.advice import leave_out, matches, quoted
from quantization.attention import projections
from quantization.calibration import Calibration
from quantization.rounding.grid import LEVELS, Bits, Grid, dequantize
from quantization.search_record import SearchRecord
from quantization.task import LayerRecord
from quantization.trace import LAYERS
from quantization.variant import UNQUANTIZED, Variant


class QuantizedWeight(NamedTuple):
    """The weight of one layer.

    Attributes:
        codes: one row per output channel.
        grid: the values that the codes stand for.
        shape: shape of the weight in its network.
    """

    codes: UInt8[Tensor, "rows columns"]
    grid: Grid
    shape: tuple[int, ...]

    def dequantize(self) -> Tensor:
        """The float32 weight, in its own shape."""
        return dequantize(self.codes, self.grid).reshape(self.shape)


class QuantizedNetwork(NamedTuple):
    """The state of a network, split into quantized weights and the rest.

    Attributes:
        variant: how it was quantized.
        weights: weights of convolutions, linear layers and attention, by their key in the state
            dict; none of a `WholeNetwork` or a control, whose weights need not lie on a grid.
        rest: biases, normalisation and everything else, by key.
        activations: grids of activations by site, see `sites`; none at full precision.
    """

    variant: Variant
    weights: dict[str, QuantizedWeight]
    rest: dict[str, Tensor]
    activations: Mapping[str, ActivationGrid] = MappingProxyType({})

    def state_dict(self) -> dict[str, Tensor]:
        """A state dict for `load_state_dict` of the same architecture."""
        return self.rest | {key: weight.dequantize() for key, weight in self.weights.items()}


class QuantizationRecord(NamedTuple):
    """What happened to one network.

    Attributes:
        variant: how it was quantized.
        objective: what was minimised, in a phrase.
        layers: a record of each layer, in the order in which they were solved.
        seconds: wall time of the whole quantization.
        search: how the bits of layers were chosen; None if the variant's name says them.
        activations: grids of activations by site.
    """

    variant: Variant
    objective: str
    layers: list[LayerRecord]
    seconds: float
    search: SearchRecord | None = None
    activations: Mapping[str, ActivationGrid] = MappingProxyType({})

    @property
    def units(self) -> list[str]:
        """Blocks and single layers that were reconstructed as a whole, in order."""
        return list(dict.fromkeys(layer.unit for layer in self.layers))

    def as_json(self, calibration: Calibration | None) -> dict[str, Any]:
        """Everything as plain values, with the images that were used."""
        used = calibration and {
            "source": calibration.source,
            "images": len(calibration.indices),
            "indices": calibration.indices.tolist(),
        }
        values: dict[str, Any] = {
            "variant": str(self.variant),
            "objective": self.objective,
            "calibration": used,
            "units": self.units,
            "layers": [layer._asdict() for layer in self.layers],
            "seconds": self.seconds,
        }
        if self.activations:
            values["activations"] = {site: g._asdict() for site, g in self.activations.items()}
        return values | ({} if self.search is None else {"search": self.search.as_json()})


def weight_keys(network: nn.Module) -> dict[str, str]:
    """State-dict key of every layer's weight, by the layer's name, in the order of registration.

    An attention's `in_proj_weight` is the weight of a layer `in_proj`.
    """
    keys = {}
    # Duplicates stay: a layer used under two names has two keys in the state dict.
    for name, module in network.named_modules(remove_duplicate=False):
        if isinstance(module, LAYERS):
            keys[name] = f"{name}.weight".removeprefix(".")  # a bare layer's name is ""
        elif isinstance(module, nn.MultiheadAttention):
            for own in projections(module):
                layer = f"{name}.{own}".removeprefix(".")
                keys[layer] = f"{layer}_weight"
    return keys


def layer_name(key: str) -> str:
    """The name of the layer with this weight, see `weight_keys`."""
    return key[: -len("_weight")]


def layer_bits(
    network: nn.Module, variant: Variant, patterns: Mapping[str, Bits] | None = None
) -> dict[str, Bits]:
    """Bits of every weight to quantize, by its state-dict key, in the order of registration.

    Weights that a network computes from other parameters have no key, and must be left out. A
    variant that chooses bits has its `uniform_bits` wherever they are free.

    Args:
        network: the network with the layers.
        variant: gives the bits of all layers, and of the last.
        patterns: bits of the layers whose name matches, such as `layer1.*`; a later pattern
            overrides an earlier one, and the variant's `-last` overrides both. 32 is full
            precision.

    Raises:
        ValueError: the network has no such layer, a weight is not a plain parameter, bits do not
            exist, or a pattern matches no layer.
    """
    fixed = fixed_bits(network, variant, patterns)
    bits = {name: variant.uniform_bits if own is None else own for name, own in fixed.items()}
    keys, stored = weight_keys(network), network.state_dict()
    _check_fit([name for name in bits if bits[name] != UNQUANTIZED], keys, stored)
    return {keys[name]: own_bits for name, own_bits in bits.items() if keys[name] in stored}


def fixed_bits(
    network: nn.Module, variant: Variant, patterns: Mapping[str, Bits] | None = None
) -> dict[str, Bits | None]:
    """Bits of every layer by its name, as far as a pattern or `-last` says; see `layer_bits`."""
    names = list(weight_keys(network))
    if not names:
        kinds = ", ".join(layer.__name__ for layer in (*LAYERS, nn.MultiheadAttention))
        raise ValueError(
            f"Nothing to quantize: {type(network).__name__} has no layer of type {kinds}."
            " Audit it at full precision with `--quantize` alone, or take another network."
        )
    bits: dict[str, Bits | None] = dict.fromkeys(names)
    for pattern, own_bits in (patterns or {}).items():
        if own_bits != UNQUANTIZED and own_bits not in LEVELS:
            raise ValueError(
                f"`layer_bits` must give `{pattern}` one of {', '.join(map(str, LEVELS))} bits, or"
                f" 32 for full precision, got {own_bits:g}."
            )
        matching = [name for name in names if matches(name, pattern)]
        if not matching:
            raise ValueError(
                f"`layer_bits` has `{pattern}`, which matches no layer of"
                f" {type(network).__name__}. It has {', '.join(names)}."
            )
        bits |= dict.fromkeys(matching, own_bits)
    if variant.last_bits is not None:
        bits[names[-1]] = variant.last_bits
    return bits


def _check_fit(names: Sequence[str], keys: Mapping[str, str], stored: Mapping[str, Tensor]) -> None:
    """Raise ValueError if weights that are to be quantized are no plain real numbers."""
    unfit: dict[str, list[str]] = {}
    for name in names:
        weight = stored.get(keys[name])
        if weight is None:
            reason = "computed from other parameters, such as a weight or spectral norm's"
        elif not weight.is_floating_point():
            reason = f"of type {str(weight.dtype).removeprefix('torch.')}"
        elif not weight.numel():
            reason = f"empty, of shape {tuple(weight.shape)}"
        else:
            continue
        unfit.setdefault(reason, []).append(name)
    if unfit:
        found = "; ".join(f"{quoted(unfit[reason])}: {reason}" for reason in unfit)
        advice = leave_out([name for group in unfit.values() for name in group], keys)
        raise ValueError(f"Layers whose weights cannot be stored as codes. {found}. {advice}.")
