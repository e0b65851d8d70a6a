"""The kernels and operations that a GPU would be asked for, counted on any device."""

from collections.abc import Mapping
from math import ceil
from typing import Any, NamedTuple

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from quantization.calibration import Calibration
from quantization.quantize import quantize_network
from quantization.quantized_network import layer_bits
from quantization.rounding.grid import Bits
from quantization.rounding.obc import BLOCK, GPU_SPACE
from quantization.variant import UNQUANTIZED, Variant

GREEDY_STEP = 18  # launches of OBC's greedy step, for all rows that go together
TRIAL_BATCH = 2  # images per step that is counted; more would launch as many kernels


class Work(NamedTuple):
    """Kernels that are launched, and floating-point operations, two per multiplication."""

    launches: int
    flop: int


class Launches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations inside it that launch a kernel: all but views and allocations.

    About right: a convolution may take several kernels, and a fused optimizer one per 30 tensors.
    `flop` are the floating-point operations of products and convolutions.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: int = 0
        self.flop: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        aliases = [output.alias_info for output in func._schema.returns]
        is_view = any(alias is not None and not alias.is_write for alias in aliases)
        self.count += not is_view and "empty" not in func._schema.name
        outputs = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            count = flop_registry[func.overloadpacket]
            self.flop += count(*args, **(kwargs or {}), out_val=outputs)
        return outputs


def count_quantization(
    network: nn.Module,
    variant: Variant,
    calibration: Calibration | None,
    patterns: Mapping[str, Bits],
) -> Work:
    """Work of a published loop's steps, or launches of OBC's greedy steps; 0 for other solvers.

    Args:
        network: the network, on any device.
        variant: the variant.
        calibration: images that the variant looks at, if it does; the loop's first batch is used.
        patterns: bits of some layers, see `layer_bits`.
    """
    settings = variant.paper_settings
    if settings is not None and settings.loop is not None and calibration is not None:
        loop, few = settings.loop, calibration.images[: settings.loop.batch]
        calibration = calibration._replace(images=few, indices=calibration.indices[: len(few)])

        def count(steps: int) -> Work:
            # the regularisation, which most steps have, from the first step on
            trial = loop._replace(iterations=steps, warmup=0.0, batch=TRIAL_BATCH)
            with Launches() as launches:
                quantize_network(network, variant, calibration, patterns, trial)
            return Work(launches.count, launches.flop)

        one, two = count(1), count(2)
        flop = (two.flop - one.flop) * loop.batch // TRIAL_BATCH
        return Work((two.launches - one.launches) * loop.iterations, flop * loop.iterations)
    greedy = variant.method == "obc"
    return Work(_count_greedy(network, variant, patterns) if greedy else 0, 0)


def _count_greedy(network: nn.Module, variant: Variant, patterns: Mapping[str, Bits]) -> int:
    """Launches of OBC's greedy steps on a GPU with memory for all rows that may go together."""
    launches = 0
    for key, bits in layer_bits(network, variant, patterns).items():
        if bits != UNQUANTIZED:
            rows, columns = network.state_dict()[key].flatten(1).shape
            steps = columns * ceil(rows / max(1, GPU_SPACE // columns**2))
            # three more per row and block, see `_eliminate`
            launches += steps * GREEDY_STEP + 3 * rows * (ceil(columns / BLOCK) - 1)
    return launches
