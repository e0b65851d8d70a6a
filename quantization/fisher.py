"""How much each output matters to the loss: the diagonal of the Fisher information."""

from collections.abc import Mapping
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from quantization.calibration import DivergedError

CHUNK = 128


def fisher_diagonal(
    network: nn.Module,
    modules: Mapping[str, nn.Module],
    images: Float[Tensor, "images channels height width"],
    generator: torch.Generator,
) -> dict[str, Float[Tensor, "images _ *places"]]:
    """Square of the gradient of log p(y) by each module's output, with y drawn from the network.

    Args:
        network: at full precision, in evaluation mode.
        modules: by name; of one that is called more than once, the first call counts.
        images: that it is run on.
        generator: of the labels, on the CPU.

    Returns:
        By module, scaled to mean 1. (BRECQ's released code adds 1 to gradients of some 1e-4, which
        is hardly a weighting: https://github.com/yhhhli/BRECQ/issues/2.)

    Raises:
        DivergedError: the logits are not finite.

    Source: Li et al. 2021, arXiv:2102.05426, equation 10.
    """
    if not modules:
        return {}
    found: dict[str, list[Tensor]] = {name: [] for name in modules}
    outputs: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, args: object, output: Tensor) -> Tensor:
        if name in outputs:
            return output
        outputs[name] = output if output.requires_grad else output.requires_grad_()
        return output.clone()  # what follows may work in place

    handles = [m.register_forward_hook(partial(keep, name)) for name, m in modules.items()]
    try:
        with torch.enable_grad():
            for chunk in torch.split(images, CHUNK):
                logits = network(chunk.clone())  # a network may work in place
                if not logits.isfinite().all():
                    raise DivergedError(
                        "The logits on the calibration images are not finite, so no labels can be"
                        " drawn. The training diverged: lower the learning rate, or train the model"
                        " from another start."
                    )
                chances = logits.detach().softmax(1).cpu()
                labels = torch.multinomial(chances, 1, generator=generator).flatten()
                loss = cross_entropy(logits, labels.to(logits.device), reduction="sum")
                gradients = torch.autograd.grad(
                    loss, list(outputs.values()), allow_unused=True, materialize_grads=True
                )
                for name, gradient in zip(outputs, gradients, strict=True):
                    found[name].append(gradient)
                outputs.clear()
    finally:
        for handle in handles:
            handle.remove()
    squared = {name: torch.cat(some).square() for name, some in found.items()}
    return {name: some / some.mean().clamp(min=1e-30) for name, some in squared.items()}
