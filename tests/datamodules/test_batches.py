import pytest
import torch

from datamodules.batches import Batch


@pytest.mark.parametrize(("size", "processes"), [(8, 1), (8, 2), (7, 2), (127, 4), (5, 5)])
def test_the_mean_over_processes_of_weighted_means_is_the_mean_over_the_batch(size, processes, rng):
    """What DDP does with the processes' gradients, with a loss for each example."""
    losses = torch.rand(size, generator=rng, dtype=torch.float64)
    batch = Batch(torch.zeros(size, 1, 2, 2), torch.zeros(size).long(), torch.arange(size))
    shares = [batch.share(process, processes) for process in range(processes)]
    assert torch.equal(torch.cat([share.indices for share in shares]), batch.indices)
    means = torch.stack([share.weight * losses[share.indices].mean() for share in shares])
    torch.testing.assert_close(means.mean(), losses.mean(), rtol=1e-15, atol=0)
    if size % processes == 0:
        assert {share.weight for share in shares} == {1.0}
