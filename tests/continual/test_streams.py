import pytest
import torch

from continual.streams import finish_task, start_streams, update_published, update_streams

GAMMA = 0.1
EXACT = {"rtol": 0, "atol": 1e-8}


def learn(rows, batch, published=False):
    streams = start_streams(150, GAMMA)
    for task in range(5):
        chosen = rows.members & (rows.task == task)
        parts = [t[chosen].split(batch) for t in (rows.features, rows.other)]
        wanted = rows.targets[chosen][:, : 2 * task + 2].split(batch)
        for batch_of_rows in zip(*parts, wanted, strict=True):
            if published:
                streams = update_published(streams, *batch_of_rows, 2 * task)
            else:
                streams = update_streams(streams, *batch_of_rows)
        if not published:
            streams = finish_task(streams, 2 * task)
    return streams


def oracle(rows):
    """Task by task from all rows at once: the main ridge, then that of its residuals."""
    identity = GAMMA * torch.eye(150, dtype=torch.float64)
    left = torch.zeros(500, 10, dtype=torch.float64)
    for task in range(5):
        seen = rows.members & (rows.task <= task)
        features, targets = rows.features[seen], rows.targets[seen]
        main = torch.linalg.solve(features.T @ features + identity, features.T @ targets)
        new = rows.members & (rows.task == task)
        left[new, 2 * task :] = (rows.targets[new] - rows.features[new] @ main)[:, 2 * task :]
    other = rows.other[seen]
    return main, torch.linalg.solve(other.T @ other + identity, other.T @ left[seen])


@pytest.mark.parametrize("batch", [1, 16, 1000])
def test_both_streams_are_ridge_regressions_whatever_the_batches(rows, batch):
    main, compensation = oracle(rows)
    streams = learn(rows, batch)
    torch.testing.assert_close(streams.main.weight, main, **EXACT)
    torch.testing.assert_close(streams.compensation, compensation, **EXACT)


def test_the_published_compensation_depends_on_the_batches(rows):
    whole, small = learn(rows, 1000, published=True), learn(rows, 16, published=True)
    torch.testing.assert_close(whole.compensation, oracle(rows)[1], **EXACT)
    torch.testing.assert_close(whole.main.weight, small.main.weight, **EXACT)
    change = (whole.compensation - small.compensation).norm() / whole.compensation.norm()
    assert change > 0.1


def test_the_published_update_by_hand():
    """One column, gamma 1: rows 1 and 1 with target 1 in two batches."""
    one = torch.ones(1, 1, dtype=torch.float64)
    streams = start_streams(1, 1.0)
    streams = update_published(streams, one, one, one, 0)  # main 1/2, left over 1/2
    assert streams.main.weight.item() == pytest.approx(1 / 2)
    assert streams.compensation.item() == pytest.approx(1 / 4)
    streams = update_published(streams, one, one, one, 0)  # main 2/3, left over 1/3
    assert streams.main.weight.item() == pytest.approx(2 / 3)
    assert streams.compensation.item() == pytest.approx((1 / 2 + 1 / 3) / 3)
