"""The axis along which the images of a batch lie, in the values that each module gives."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from quantization.advice import leave_out, quoted
from quantization.calibration import Images
from quantization.trace import LAYERS, Trace


def find_axes(
    network: nn.Module, modules: Mapping[str, nn.Module], images: Images
) -> dict[str, int]:
    """Find the axis of each module's output that grows with the number of images.

    Encoders of PyTorch have tokens first by default, and windows of an image, one after the other,
    lie on the axis of the images.

    Args:
        network: network in evaluation mode.
        modules: modules by name that give one tensor; the first call of each counts.
        images: the first two are looked at.

    Returns:
        The axes by name. A module whose values do not belong to one image after the other is left
        out.
    """
    first = images[:2]
    few, more = (
        _outputs(network, modules, batch) for batch in (first, torch.cat([first, first[:1]]))
    )
    axes = {name: _growing(few[name], more[name], len(first)) for name in few if name in more}
    return {name: axis for name, axis in axes.items() if axis is not None}


def _outputs(
    network: nn.Module, modules: Mapping[str, nn.Module], images: Images
) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, args: object, output: Tensor) -> None:
        outputs.setdefault(name, output)

    handles = [m.register_forward_hook(partial(keep, name)) for name, m in modules.items()]
    try:
        with torch.no_grad():
            network(images.clone())
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def _growing(few: Tensor, more: Tensor, images: int) -> int | None:
    if few.shape == more.shape:  # a table, whatever the images
        return None
    if few.ndim != more.ndim:  # a path of its own, of which `lockstep` knows more
        return 0
    for axis, (before, after) in enumerate(zip(few.shape, more.shape, strict=True)):
        if after * images != before * (images + 1):
            continue
        start = more.narrow(axis, 0, before)
        if before == images or (start.shape == few.shape and torch.allclose(start, few, 1e-3)):
            return axis
    return None


def check_axes(trace: Trace, names: Sequence[str]) -> None:
    """Raise if there are layers that cannot be fitted image by image.

    Args:
        trace: what the network does.
        names: layers that `find_axes` left out.

    Raises:
        ValueError: there are any; the message names them all.
    """
    if names:
        layers = [name for name, module in trace.modules.items() if isinstance(module, LAYERS)]
        raise ValueError(
            f"{quoted(names)}: the outputs do not belong to one image after the other, along any"
            f" axis. {leave_out(names, layers)}, or use `nearest` or `obc`."
        )
