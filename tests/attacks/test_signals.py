"""Signals against SciPy, PyTorch's own loss and the LiRA authors' formula."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from attacks.signals import phi_compat, signals

AWKWARD = {
    "ordinary": [[2.0, -1.0, 0.5], [0.1, 0.2, 0.3], [-3.0, 4.0, 1.0]],
    "ties": [[1.0, 1.0, 1.0], [2.0, 2.0, -1.0], [0.0, 0.0, 0.0]],
    "saturated": [[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [3e4, 3e4, -3e4]],
}
LABELS = torch.tensor([0, 0, 2])


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_signals_match_a_slow_loop(name, dtype):
    logits = torch.tensor(AWKWARD[name], dtype=dtype)
    found = signals(logits, LABELS)
    for row, (z, y) in enumerate(zip(logits.double().numpy(), LABELS.tolist(), strict=True)):
        others = np.delete(z, y)
        assert found.phi[row].item() == pytest.approx(z[y] - logsumexp(others), rel=1e-6)
        assert found.hinge[row].item() == pytest.approx(z[y] - others.max(), rel=1e-6)
        assert found.loss[row].item() == pytest.approx(logsumexp(z) - z[y], rel=1e-6, abs=1e-12)
        assert found.correct[row].item() == (z[y] > others.max())


def test_worked_by_hand():
    found = signals(torch.tensor([[0.0, 0.0], [np.log(3.0), 0.0]]), torch.tensor([0, 0]))
    np.testing.assert_allclose(found.phi, [0, np.log(3)], rtol=1e-6)  # odds of 1 and 3
    np.testing.assert_allclose(found.loss, [np.log(2), np.log(4 / 3)], rtol=1e-6)
    assert found.correct.tolist() == [False, True]


def test_leading_axes_are_a_loop(rng):
    logits, labels = torch.randn(2, 3, 5, 4, generator=rng), torch.tensor([0, 1, 2, 3, 0])
    batched = signals(logits, labels)
    for a in range(2):
        for b in range(3):
            for many, one in zip(batched, signals(logits[a, b], labels), strict=True):
                assert torch.equal(many[a, b], one)


def test_a_gap_that_overflows_a_float32_softmax_still_ranks():
    gaps = torch.tensor([17.0, 50.0, 120.0, 1000.0])
    logits = torch.stack([gaps, torch.zeros(4)], 1)
    p = logits.softmax(-1)[:, 0]
    assert (p / (1 - p)).log().isinf().any()
    assert torch.equal(signals(logits, torch.zeros(4, dtype=torch.int64)).phi, gaps)


def test_constants_and_class_order_do_not_matter(rng):
    logits, labels = torch.randn(50, 10, generator=rng), torch.randint(10, (50,), generator=rng)
    logits[:5] = logits[:5].round()  # ties
    before = signals(logits.double(), labels)
    order = torch.randperm(10, generator=rng)
    for after in (
        signals(logits.double() + 64.0, labels),
        signals(logits.double()[:, order], order.argsort()[labels]),
    ):
        for one, other in zip(before[:3], after[:3], strict=True):
            torch.testing.assert_close(one, other)
        assert torch.equal(before.correct, after.correct)


def test_compat_is_the_same_on_ordinary_logits_and_saturates(rng):
    logits, labels = (
        5 * torch.randn(200, 10, generator=rng),
        torch.randint(10, (200,), generator=rng),
    )
    torch.testing.assert_close(
        phi_compat(logits, labels), signals(logits, labels).phi.double(), rtol=2e-7, atol=2e-7
    )
    extreme = phi_compat(torch.tensor([[0.0, 1e4], [1e4, 0.0]]), torch.tensor([0, 0]))
    np.testing.assert_allclose(extreme, [-103.616, 103.616], atol=1e-3)


@pytest.mark.parametrize("compute", [signals, phi_compat])
def test_errors(compute):
    with pytest.raises(ValueError, match="2 classes or more, got logits of 1"):
        compute(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"must be 0 to 9 .* got 1 to 10"):
        compute(torch.zeros(2, 10), torch.tensor([1, 10]))
