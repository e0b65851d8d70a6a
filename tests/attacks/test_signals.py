"""Signals against SciPy, and against the LiRA authors' formula."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from attacks.signals import signals

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
    computed = signals(logits, LABELS)
    # relative 1e-6: signals are stored in float32, off by 2^-24 = 6e-8
    for row, (z, y) in enumerate(zip(logits.double().numpy(), LABELS.tolist(), strict=True)):
        others = np.delete(z, y)
        assert computed.phi[row].item() == pytest.approx(z[y] - logsumexp(others), rel=1e-6)
        assert computed.hinge[row].item() == pytest.approx(z[y] - others.max(), rel=1e-6)
        assert computed.loss[row].item() == pytest.approx(logsumexp(z) - z[y], rel=1e-6, abs=1e-12)
        assert computed.correct[row].item() == (z[y] > others.max())


def test_signals_by_hand():
    computed = signals(torch.tensor([[0.0, 0.0], [np.log(3.0), 0.0]]), torch.tensor([0, 0]))
    np.testing.assert_allclose(computed.phi, [0, np.log(3)], rtol=1e-6)  # odds of 1 and 3
    np.testing.assert_allclose(computed.loss, [np.log(2), np.log(4 / 3)], rtol=1e-6)
    assert computed.correct.tolist() == [False, True]


def test_leading_axes_are_a_loop(rng):
    logits, labels = torch.randn(2, 3, 5, 4, generator=rng), torch.tensor([0, 1, 2, 3, 0])
    batched = signals(logits, labels)
    for a in range(2):
        for b in range(3):
            for whole, part in zip(batched, signals(logits[a, b], labels), strict=True):
                assert torch.equal(whole[a, b], part)


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
        for expected, signal in zip(before[:3], after[:3], strict=True):
            torch.testing.assert_close(signal, expected)
        assert torch.equal(before.correct, after.correct)


def authors_phi(logits, labels):
    """Follow the LiRA authors' `score.py`."""
    p = logits.double().softmax(-1)
    own = torch.arange(p.shape[-1]) == labels[:, None]
    return ((p * own).sum(-1) + 1e-45).log() - ((p * ~own).sum(-1) + 1e-45).log()


def test_phi_is_that_of_the_authors_until_theirs_saturates(rng):
    logits, labels = (
        5 * torch.randn(200, 10, generator=rng),
        torch.randint(10, (200,), generator=rng),
    )
    theirs = authors_phi(logits, labels)
    # float32 is off by 2^-24 = 6e-8 of itself
    torch.testing.assert_close(signals(logits, labels).phi.double(), theirs, rtol=2e-7, atol=2e-7)
    extreme = authors_phi(torch.tensor([[0.0, 1e4], [1e4, 0.0]]), torch.tensor([0, 0]))
    np.testing.assert_allclose(extreme, [np.log(1e-45), -np.log(1e-45)], rtol=1e-12)


def test_logits_and_labels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="2 classes or more, got logits of 1"):
        signals(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"must be 0 to 9 .* got 1 to 10"):
        signals(torch.zeros(2, 10), torch.tensor([1, 10]))
