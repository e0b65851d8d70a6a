"""The linear layer whose outputs are a network's logits."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


@torch.inference_mode()
def find_last_linear(
    network: nn.Module,
    images: Float[Tensor, "batch channels ..."],
    reader: str = "Rounds are recorded with the gradient of",
) -> str:
    """Name of the linear layer that computes the logits from a row of features per image.

    Args:
        network: a network in evaluation mode; it stays as it is.
        images: two images or more.
        reader: what needs the layer, to begin an error with.

    Raises:
        ValueError: the logits are not what such a layer returns.
    """
    kind, calls = type(network).__name__, list[tuple[str, Tensor, Tensor]]()
    hooks = [
        module.register_forward_hook(
            lambda module, inputs, output, name=name: calls.append(
                (name, inputs[0], output.clone())
            )
        )
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        logits: Tensor = network(images)
    finally:
        for hook in hooks:
            hook.remove()
    for name, features, output in reversed(calls):
        same = features.ndim == 2 and output.shape == logits.shape
        if same and torch.allclose(output, logits, rtol=0, atol=0, equal_nan=True):
            return name
    last = f"its last is `{calls[-1][0]}`, whose outputs are changed" if calls else "it calls none"
    raise ValueError(
        f"{reader} the last layer, an `nn.Linear` on a row of features per image whose outputs are "
        f"the logits, but {kind} has no such layer: {last}. "
        "Take another `--model.network`, or end it in one."
    )
