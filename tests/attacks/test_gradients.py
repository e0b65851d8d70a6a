"""Closed forms of the last layer's gradient against autograd."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from attacks.gradients import cosines, log_norms, logit_gradients


@pytest.fixture(params=[True, False], ids=["bias", "no bias"])
def layer(request, rng):
    layer = nn.Linear(7, 5, bias=request.param, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng))
    return layer


def slow_gradients(layer, inputs, labels):
    """Gradients of single examples by autograd, in one row each."""
    rows = []
    for example, label in zip(inputs, labels, strict=True):
        loss = cross_entropy(layer(example[None]), label[None])
        parts = torch.autograd.grad(loss, list(layer.parameters()))
        rows.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(rows)


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_norms_and_cosines_are_those_of_autograd(layer, rng, scale):
    inputs = scale * torch.randn(40, 7, generator=rng).double()
    labels = torch.randint(5, (40,), generator=rng)
    direction = [torch.randn(p.shape, generator=rng).double() for p in layer.parameters()]
    gradients = slow_gradients(layer, inputs, labels)
    errors = logit_gradients(layer(inputs).detach(), labels)
    norms = log_norms(errors, inputs, bias=layer.bias is not None)
    expected = gradients.norm(dim=1)
    torch.testing.assert_close(norms.exp(), expected, rtol=1e-5, atol=1e-5)
    bias = direction[1] if layer.bias is not None else None
    found = cosines(errors, inputs, direction[0], bias)
    flat = torch.cat([part.flatten() for part in direction])
    slow = gradients @ flat / gradients.norm(dim=1) / flat.norm()
    assert slow.abs().max() > 0.3  # neither all of them next to 0
    torch.testing.assert_close(found, slow, rtol=1e-5, atol=1e-5)


def test_the_gradient_of_a_layer_is_along_itself(layer, rng):
    inputs, labels = torch.randn(1, 7, generator=rng).double(), torch.tensor([3])
    (gradient,) = slow_gradients(layer, inputs, labels)
    bias = gradient[35:] if layer.bias is not None else None
    errors = logit_gradients(layer(inputs).detach(), labels)
    assert cosines(errors, inputs, gradient[:35].view(5, 7), bias).item() == pytest.approx(1)
    opposite = None if bias is None else -bias
    assert cosines(errors, inputs, -gradient[:35].view(5, 7), opposite).item() == pytest.approx(-1)


def test_errors_keep_their_digits_where_a_fit_is_nearly_perfect():
    """exp(-40) is far below what 1 - p_y can tell in float64; two others of them make p_y."""
    errors = logit_gradients(torch.tensor([[40.0, 0.0, 0.0]]), torch.tensor([0]))
    tiny = math.exp(-40)
    torch.testing.assert_close(
        errors, torch.tensor([[-2 * tiny, tiny, tiny]], dtype=torch.float64), rtol=1e-12, atol=0
    )


def test_a_perfect_fit_has_a_finite_norm_and_no_cosine():
    errors = logit_gradients(torch.tensor([[2000.0, 0.0]]), torch.tensor([0]))
    inputs = torch.ones(1, 3)
    assert log_norms(errors, inputs).item() == pytest.approx(math.log(1e-12))
    assert cosines(errors, inputs, torch.ones(2, 3), torch.ones(2)).item() == 0


def test_an_update_that_moves_nothing_has_no_cosine(rng):
    errors = logit_gradients(torch.randn(4, 3, generator=rng), torch.tensor([0, 1, 2, 0]))
    found = cosines(errors, torch.randn(4, 6, generator=rng), torch.zeros(3, 6), torch.zeros(3))
    assert found.tolist() == [0, 0, 0, 0]
