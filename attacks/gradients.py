"""The gradient of cross-entropy in the last layer, from one forward pass.

For logits z = W h + b, softmax p and class y, it is (p - y) h^T for W and p - y for b: of rank one,
so that neither its norm nor its cosine with an update needs a backward pass. All is in float64.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

LEAST = 1e-12  # of a norm before its logarithm: of a perfect fit it would be 0


def logit_gradients(
    logits: Float[Tensor, "examples classes"], labels: Int64[Tensor, " examples"]
) -> Float[Tensor, "examples classes"]:
    """Compute p - y, the gradient of cross-entropy for the logits of each example.

    The entry of the true class is minus the sum of the others, so that it keeps its digits where
    p_y is next to 1.
    """
    own = torch.arange(logits.shape[1], device=labels.device) == labels[:, None]
    others = logits.double().softmax(1).masked_fill(own, 0)
    return others.masked_scatter(own, -others.sum(1))


def log_norms(
    errors: Float[Tensor, "examples classes"],
    inputs: Float[Tensor, "examples inputs"],
    bias: bool = True,
) -> Float[Tensor, " examples"]:
    """Logarithm of the norm of the last layer's gradient: ||p - y|| * sqrt(||h||^2 + 1).

    Args:
        errors: p - y, from `logit_gradients`.
        inputs: what the last layer computes on.
        bias: whether the layer has one, which is the 1 below the root.

    Returns:
        Natural logarithms; a norm below 1e-12 counts as that.
    """
    norms: Tensor = errors.double().norm(dim=1) * _input_norms(inputs, bias)
    return norms.clamp(min=LEAST).log()


def cosines(
    errors: Float[Tensor, "examples classes"],
    inputs: Float[Tensor, "examples inputs"],
    weight: Float[Tensor, "classes inputs"],
    bias: Float[Tensor, " classes"] | None,
) -> Float[Tensor, " examples"]:
    """Cosine of each example's gradient in the last layer with a direction in its parameters.

    Args:
        errors: p - y, from `logit_gradients`, under the model that the direction starts from.
        inputs: what its last layer computes on.
        weight: the direction for the weight, such as what an update takes away from it.
        bias: the same for the bias; None if the layer has none.

    Returns:
        -1 to 1; 0 if the gradient or the direction is 0.
    """
    d, h, u = errors.double(), inputs.double(), weight.double()
    dot, squares = (d @ u * h).sum(1), u.square().sum()
    if bias is not None:
        dot, squares = dot + d @ bias.double(), squares + bias.double().square().sum()
    norms = d.norm(dim=1) * _input_norms(h, bias is not None) * squares.sqrt()
    return torch.where(norms > 0, dot / torch.where(norms > 0, norms, 1.0), 0.0)


def _input_norms(inputs: Float[Tensor, "examples inputs"], bias: bool) -> Float[Tensor, "examples"]:
    return (inputs.double().square().sum(1) + bias).sqrt()
