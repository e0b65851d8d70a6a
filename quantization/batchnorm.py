"""BatchNorm before and after quantization: folded into convolutions, and re-estimated."""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from quantization.calibration import DivergedError, Images
from quantization.trace import Trace

BATCH = 128  # images per batch; the statistics of the batches are averaged
TOLERANCE = 1e-6  # largest change of float64 logits by folding, relative to the largest logit


@torch.no_grad()
def fold_batchnorm(network: nn.Module, images: Images) -> list[str]:
    """Multiply BatchNorm's slope into the layer right before it, in place.

    The network keeps its modules: BatchNorm stays as a shift, with unit slope.

    Whether the right pairs were folded is decided in a copy in float64, where the logits before and
    after differ by rounding alone: by 1e-16 times the terms of the network's longest sum and its
    conditioning, the factor by which its layers amplify an error. `TOLERANCE` leaves 1e10 for both,
    where float32 would leave 1e4 for a tolerance of 1e-3. A chain of 121 convolutions moved its
    logits by 2.5e-10 in float64 and by 4.8e-2 in float32.

    Args:
        network: in evaluation mode.
        images: images on which to find the pairs and to compare logits.

    Returns:
        The names of the changed layers.

    Raises:
        ValueError: the network does not compute in float64, or its logits changed, because a layer
            is used in a way that cannot be followed.
        DivergedError: the logits are not finite.
    """
    exact, images = copy.deepcopy(network).double(), images[:BATCH]
    before = _logits(exact, images)
    if not before.isfinite().all():
        raise DivergedError(
            "The logits on the calibration images are not finite, so BatchNorm cannot be folded."
            " The training diverged: lower the learning rate, or train from another start."
        )
    folded = _fold_pairs(exact, images.double())
    change = (_logits(exact, images) - before).abs().max().item()
    if not change <= TOLERANCE * max(1.0, before.abs().max().item()):
        raise ValueError(
            f"Folding BatchNorm into {', '.join(folded)} changed the logits by {change:.3g}:"
            " a layer is used in a way that cannot be followed. Remove `-folded` from the variant."
        )
    return _fold_pairs(network, images)


def _logits(exact: nn.Module, images: Images) -> Tensor:
    try:
        logits: Tensor = exact(images.to(torch.float64, copy=True))  # it may work in place
    except RuntimeError as error:
        raise ValueError(
            f"{type(exact).__name__} must compute in float64 for `-folded`, which compares logits"
            f" in it, got: {str(error).splitlines()[0]} Cast to the input's dtype in the network"
            " instead of to float32, or remove `-folded` from the variant."
        ) from error
    if logits.dtype != torch.float64:
        raise ValueError(
            f"{type(exact).__name__} must return float64 logits for `-folded`, got {logits.dtype}."
            " Cast to the input's dtype in the network, or remove `-folded` from the variant."
        )
    return logits


def _fold_pairs(network: nn.Module, images: Images) -> list[str]:
    trace = Trace(network, images[:2])
    folded = []
    for name in trace.layers:
        operation = next(iter(trace.tail(name)), None)
        norm = trace.modules[operation.owner] if operation is not None else None
        if operation is None or operation.function is not functional.batch_norm:
            continue
        tokens = isinstance(trace.modules[name], nn.Linear) and operation.args[0].ndim > 2
        computed = "weight" not in dict(trace.modules[name].named_parameters(recurse=False))
        once = trace.count(operation.owner) == 1
        if isinstance(norm, _BatchNorm) and once and not tokens and not computed:
            _fold(trace.modules[name], norm)
            folded.append(name)
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
