"""The importance of each output to the loss: the diagonal of the Fisher information."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from quantization.calibration import CHUNK, DivergedError


def fisher_diagonal(
    network: nn.Module,
    modules: Mapping[str, nn.Module],
    images: Float[Tensor, "images channels ..."],
    generator: torch.Generator,
    axes: Mapping[str, int] | None = None,
) -> dict[str, Float[Tensor, "images _ *places"]]:
    """Squared gradient of log p(y) by each module's output, with y drawn from the network.

    Args:
        network: network at full precision, in evaluation mode.
        modules: modules by name; if a module is called more than once, its first call counts.
        images: images to run the network on.
        generator: draws the labels, on the CPU.
        axes: axis of a module's output along which the images lie, if it is not the first; it is in
            the result.

    Returns:
        The squares of each module's output, scaled to mean 1. (BRECQ's released code adds 1 to
        gradients of about 1e-4, which hardly weights: https://github.com/yhhhli/BRECQ/issues/2.)

    Raises:
        DivergedError: the logits are not finite.

    Source: Li et al. 2021, arXiv:2102.05426, equation 10.
    """
    if not modules:
        return {}
    gradients: dict[str, list[Tensor]] = {name: [] for name in modules}
    outputs: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, args: object, output: Tensor) -> Tensor:
        if name in outputs:
            return output
        outputs[name] = output if output.requires_grad else output.requires_grad_()
        return output.clone()  # later operations may work in place

    handles = [m.register_forward_hook(partial(keep, name)) for name, m in modules.items()]
    try:
        with torch.enable_grad():
            for chunk in torch.split(images, CHUNK):
                loss = _loss(network(chunk.clone()), generator)  # a network may work in place
                slopes = torch.autograd.grad(
                    loss, list(outputs.values()), allow_unused=True, materialize_grads=True
                )
                for name, slope in zip(outputs, slopes, strict=True):
                    gradients[name].append(slope.transpose(0, (axes or {}).get(name, 0)))
                outputs.clear()
    finally:
        for handle in handles:
            handle.remove()
    squares = {name: torch.cat(chunks).square() for name, chunks in gradients.items()}
    return {name: square / square.mean().clamp(min=1e-30) for name, square in squares.items()}


def fisher_of_weights(
    network: nn.Module,
    keys: Sequence[str],
    images: Float[Tensor, "images channels ..."],
    generator: torch.Generator,
) -> dict[str, Float[Tensor, "..."]]:
    """Mean over images of the squared gradient of log p(y) by each weight, with y drawn likewise.

    Half of its product with the squares of small changes of weights is the divergence that they
    make, in nats, as far as each weight acts by itself.

    Args:
        network: network at full precision, in evaluation mode.
        keys: names of the weights.
        images: images to run the network on, one by one.
        generator: draws the labels, on the CPU.

    Raises:
        DivergedError: the logits are not finite.
    """
    weights = [network.get_parameter(key) for key in keys]
    before = [weight.requires_grad for weight in weights]
    sums = [torch.zeros_like(weight) for weight in weights]
    for weight in weights:
        weight.requires_grad_()
    try:
        for image in images:
            with torch.enable_grad():
                loss = _loss(network(image[None].clone()), generator)
                slopes = torch.autograd.grad(
                    loss, weights, allow_unused=True, materialize_grads=True
                )
            for total, slope in zip(sums, slopes, strict=True):
                total += slope.square()
    finally:
        for weight, required in zip(weights, before, strict=True):
            weight.requires_grad_(required)
    return {key: total / len(images) for key, total in zip(keys, sums, strict=True)}


def _loss(logits: Float[Tensor, "images classes"], generator: torch.Generator) -> Float[Tensor, ""]:
    """Sum of -log p(y), with each y drawn from the network's own probabilities."""
    if not logits.isfinite().all():
        raise DivergedError(
            "The logits on the calibration images are not finite, so no labels can be drawn. The"
            " training diverged: lower the learning rate, or train the model from another start."
        )
    chances = logits.detach().softmax(1).cpu()
    labels = torch.multinomial(chances, 1, generator=generator).flatten()
    return cross_entropy(logits, labels.to(logits.device), reduction="sum")
