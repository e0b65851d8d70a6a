import pytest
import torch

from datamodules.seeds import derive_seed


def test_a_seed_is_half_of_what_sha256sum_prints():
    # printf '[0, "epoch", 3]' | sha256sum | cut -c1-16, halved
    assert derive_seed(0, "epoch", 3) == 0x332D02EF62EB5DC8 >> 1


def test_seeds_depend_on_every_part_and_on_where_parts_end():
    purposes = [("a", 1), ("a", 11), ("a1", 1), ("a", "1"), ("a", 1, 1), ("a",), ("a1",), ("b", 1)]
    seeds = {derive_seed(seed, *purpose) for seed in (0, 1, -1) for purpose in purposes}
    assert len(seeds) == 3 * len(purposes)


@pytest.mark.parametrize("k", range(20))
def test_torch_accepts_the_seeds(k):
    assert 0 <= derive_seed(k, "pair", k) < 2**63
    torch.Generator().manual_seed(derive_seed(k, "pair", k))
