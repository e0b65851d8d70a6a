import pytest
import torch

from datamodules.membership import membership


@pytest.mark.parametrize("examples", [2, 3, 101, 1000])
def test_shadows_come_in_complementary_halves(examples):
    rows = membership(0, 16, 3, examples)
    assert rows.shape == (19, examples)
    assert (rows[0:16:2] ^ rows[1:16:2]).all()
    assert (rows[0:16:2].sum(1) == examples // 2).all()
    assert (rows[16:].sum(1) == examples // 2).all()


def test_every_even_prefix_is_balanced():
    rows = membership(0, 32, 0, 500)
    for shadows in range(2, 33, 2):
        assert (rows[:shadows].sum(0) == shadows // 2).all()


def test_a_growing_fleet_keeps_its_rows():
    small, large = membership(7, 4, 2, 300), membership(7, 64, 5, 300)
    assert torch.equal(small[:4], large[:4])
    assert torch.equal(small[4:], large[64:66])
    assert torch.equal(membership(7, 0, 2, 300), small[4:])


def test_rows_are_independent_of_each_other_and_of_other_seeds():
    examples = 10_000
    a, b = membership(0, 8, 4, examples), membership(1, 8, 4, examples)
    halves = torch.cat([a[0:8:2], a[8:], b[0:8:2], b[8:]]).double()
    shared = halves @ halves.T / examples
    pairs = shared[~torch.eye(len(halves), dtype=torch.bool)]
    # two independent halves share a hypergeometric 1/4, with deviation 1 / (4 sqrt(examples))
    assert (pairs - 0.25).abs().max() < 5 * 0.25 / examples**0.5


@pytest.mark.parametrize(
    ("shadows", "targets", "examples", "message"),
    [
        (3, 1, 10, r"`shadows` must be even.*got 3\. Take 4"),
        (-2, 1, 10, r"`shadows` must be even.*got -2\. Take 0"),
        (2, -1, 10, "`targets` must be 0 or more, got -1"),
        (0, 0, 10, "needs a model, got 0 shadows and 0 targets"),
        (2, 0, 1, "2 examples to be halved, got 1"),
    ],
)
def test_counts_that_make_no_fleet_are_refused(shadows, targets, examples, message):
    with pytest.raises(ValueError, match=message):
        membership(0, shadows, targets, examples)
