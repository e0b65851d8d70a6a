"""One pass through a network that calls all layers to quantize, or the reasons why it does not."""

from collections.abc import Mapping

from torch import nn

from quantization.advice import leave_out, quoted
from quantization.attention import Multiplied
from quantization.calibration import Images
from quantization.quantized_network import layer_name
from quantization.rounding.grid import Bits
from quantization.trace import Trace
from quantization.variant import UNQUANTIZED


def follow(
    network: nn.Module,
    bits: Mapping[str, Bits],
    images: Images,
    multiplied: list[Multiplied],
) -> Trace:
    """Follow one pass through the network, in which it calls the layers that are `multiplied`.

    Raises:
        ValueError: the network does not call a layer.
    """
    trace = Trace(network, images[:2])
    if layers := trace.multiplied():
        multiplied += map(Multiplied.of, layers)
        trace = Trace(network, images[:2])
    called = {id(trace.modules[name].weight) for name in trace.layers}
    names = {layer_name(key): own_bits for key, own_bits in bits.items()}
    missing: dict[str, list[str]] = {}
    for key, own_bits in bits.items():
        name = layer_name(key)
        if own_bits == UNQUANTIZED or name in trace.layers:
            continue
        if id(network.get_parameter(key)) not in called:
            missing.setdefault(trace.why_not_called(name), []).append(name)
    if missing:
        reasons = "; ".join(f"{quoted(missing[reason])}: {reason}" for reason in missing)
        unfit = [name for group in missing.values() for name in group]
        raise ValueError(
            f"{type(network).__name__} has layers without inputs to fit them to. {reasons}."
            f" {leave_out(unfit, names)}."
        )
    return trace
