"""How much each output matters to the loss: the diagonal of the Fisher information."""

from collections.abc import Mapping
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

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
        modules: by name.
        images: that it is run on.
        generator: of the labels, on the CPU.

    Returns:
        By module, scaled to mean 1. (BRECQ's released code adds 1 to gradients of some 1e-4, which
        is hardly a weighting: https://github.com/yhhhli/BRECQ/issues/2.)

    Source: Li et al. 2021, arXiv:2102.05426, equation 10.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in modules}
    outputs: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, args: object, output: Tensor) -> Tensor:
        outputs[name] = output if output.requires_grad else output.requires_grad_()
        outputs[name].retain_grad()
        return output.clone()  # what follows may work in place

    handles = [m.register_forward_hook(partial(keep, name)) for name, m in modules.items()]
    try:
        with torch.enable_grad():
            for chunk in torch.split(images, CHUNK):
                logits = network(chunk)
                chances = logits.detach().softmax(1).cpu()
                labels = torch.multinomial(chances, 1, generator=generator).flatten()
                loss = cross_entropy(logits, labels.to(logits.device), reduction="sum")
                torch.autograd.backward(loss)
                for name, output in outputs.items():
                    gradient = output.grad
                    found[name].append(torch.zeros_like(output) if gradient is None else gradient)
    finally:
        for handle in handles:
            handle.remove()
    squared = {name: torch.cat(some).square() for name, some in found.items()}
    return {name: some / some.mean().clamp(min=1e-30) for name, some in squared.items()}
