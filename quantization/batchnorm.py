"""BatchNorm before and after quantization: folded into convolutions, and re-estimated."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from quantization.calibration import DivergedError, Images
from quantization.trace import Trace

BATCH = 128  # images per batch; the statistics of the batches are averaged


@torch.no_grad()
def fold_batchnorm(network: nn.Module, images: Images) -> list[str]:
    """Multiply BatchNorm's slope into the layer right before it, in place.

    The network keeps its modules: BatchNorm stays as a shift, with unit slope.

    Args:
        network: in evaluation mode.
        images: images on which to find the pairs and to compare logits.

    Returns:
        The names of the changed layers.

    Raises:
        ValueError: the logits changed, because a layer is used in a way that cannot be followed.
        DivergedError: the logits are not finite.
    """
    before = network(images[:BATCH].clone())  # a network may work in place
    if not before.isfinite().all():
        raise DivergedError(
            "The logits on the calibration images are not finite, so BatchNorm cannot be folded."
            " The training diverged: lower the learning rate, or train from another start."
        )
    trace = Trace(network, images[:2])
    folded = []
    for name in trace.layers:
        operation = next(iter(trace.tail(name)), None)
        norm = trace.modules[operation.owner] if operation is not None else None
        if operation is None or operation.function is not functional.batch_norm:
            continue
        if isinstance(norm, _BatchNorm) and trace.count(operation.owner) == 1:
            _fold(trace.modules[name], norm)
            folded.append(name)
    change = (network(images[:BATCH].clone()) - before).abs().max().item()
    if not change <= 1e-3 * max(1.0, before.abs().max().item()):
        raise ValueError(
            f"Folding BatchNorm into {', '.join(folded)} changed the logits by {change:.3g}:"
            " a layer is used in a way that cannot be followed. Remove `-folded` from the variant."
        )
    return folded


def _fold(layer: nn.Module, norm: _BatchNorm) -> None:
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise ValueError("BatchNorm without running statistics cannot be folded.")
    slope = (variance + norm.eps).rsqrt()
    shift = torch.zeros_like(mean)
    if norm.affine:
        slope, shift = slope * norm.weight, norm.bias.clone()
        norm.weight.fill_(1)
        norm.bias.zero_()
    weight, bias = layer.get_parameter("weight"), layer.bias
    weight.mul_(slope.reshape(-1, *[1] * (weight.ndim - 1)))
    if isinstance(bias, Tensor):
        bias.mul_(slope)
    mean.copy_(mean * slope - shift)
    variance.fill_(1 - norm.eps)


def batchnorms(network: nn.Module) -> list[_BatchNorm]:
    """Every BatchNorm with running statistics.

    Raises:
        ValueError: the network has none.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    norms = [norm for norm in norms if norm.track_running_stats]
    if not norms:
        raise ValueError(
            f"{type(network).__name__} has no BatchNorm with running statistics. Remove `-bn` and"
            " `-folded` from the variant."
        )
    return norms


@torch.no_grad()
def estimate_batchnorm(network: nn.Module, images: Images) -> None:
    """Set BatchNorm's statistics to those of `images`, averaged over batches, in place.

    Raises:
        ValueError: the network has no BatchNorm.
    """
    norms = batchnorms(network)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
        norm.train()
    for batch in images.tensor_split(math.ceil(len(images) / BATCH)):
        network(batch.clone())
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
