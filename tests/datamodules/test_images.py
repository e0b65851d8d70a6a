import pytest
import torch

from datamodules.images import Images, fits
from datamodules.membership import membership
from datamodules.seeds import derive_seed
from datamodules.views import augment, normalise, view


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_the_batches_of_one(data, world_size, in_process):
    data.assign(membership(3, 2, 0, 100)[0], seed=5)

    def served(rank, size, loader):
        data.trainer = in_process(rank, size, epoch=1)
        return list(getattr(data, loader)())

    for loader in ("train_dataloader", "val_dataloader"):
        shares = [served(rank, world_size, loader) for rank in range(world_size)]
        for batch, *parts in zip(served(0, 1, loader), *shares, strict=True):
            for tensor, *pieces in zip(*(b[:3] for b in (batch, *parts)), strict=True):
                assert torch.equal(tensor, torch.cat(pieces))
                assert max(map(len, pieces)) - min(map(len, pieces)) <= 1


@pytest.mark.parametrize(("members", "sizes"), [(33, [11] * 3), (50, [13, 13, 12, 12]), (7, [7])])
def test_batches_have_nearly_equal_sizes(data, members, sizes, in_process):
    data.assign(torch.arange(100) < members, seed=0)
    data.trainer = in_process(0, 1)
    loader = data.train_dataloader()
    assert [len(batch.labels) for batch in loader] == sizes
    assert len(loader) == len(sizes)


def test_poisson_batches_serve_members_anew_in_each_epoch(noise, in_process):
    data = noise(batch_size=2, flip=True, crop=2)
    data.setup("fit")
    members = torch.arange(100) % 2 == 0
    data.assign(members, seed=5, poisson=True)

    def served(epoch):
        data.trainer = in_process(0, 1, epoch)
        batches = list(data.train_dataloader())
        assert len(batches) == len(data.train_dataloader()) == 25  # as many as without
        return batches

    first, again, second = served(0), served(0), served(1)
    assert [len(b.labels) for b in first].count(0)
    assert all(len(b.images) == len(b.labels) == len(b.indices) for b in first)
    assert all(b.images.shape[1:] == (3, 8, 8) for b in first)
    indices = torch.cat([b.indices for b in first])
    assert members[indices].all()
    assert torch.equal(torch.cat([b.labels for b in first]), indices % 3)
    assert torch.equal(torch.cat([b.images for b in first]), torch.cat([b.images for b in again]))
    assert indices.tolist() != torch.cat([b.indices for b in second]).tolist()
    data.assign(members, seed=5)  # the next fit is an ordinary one
    assert sorted(torch.cat([b.indices for b in served(0)]).tolist()) == [*range(0, 100, 2)]


@pytest.mark.parametrize("query", ["identity", "mirror", "shift+1-2"])
def test_pool_batches_serve_the_whole_pool_in_order(query, noise, in_process):
    data = noise(pool_size=70)
    data.setup("fit")
    data.trainer = in_process(1, 2)  # signals are computed once, whatever trained the model
    batches = list(data.pool_batches(query))
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(70))
    images = torch.cat([batch.images for batch in batches])
    assert torch.equal(images, normalise(view(data.pool.images, query), data.mean, data.std))
    assert torch.equal(torch.cat([batch.labels for batch in batches]), data.pool.labels)


def test_a_random_query_is_one_augmentation_per_model(data, monkeypatch):
    def served(query, seed, batch_size=128):
        monkeypatch.setattr(type(data), "_evaluation_batch", batch_size)
        data.assign(torch.arange(100) < 50, seed)
        return torch.cat([batch.images for batch in data.pool_batches(query)])

    first = served("random-0", seed=5)
    generator = torch.Generator().manual_seed(derive_seed(5, "query", "random-0"))
    expected = augment(data.pool.images, True, 2, generator)
    assert torch.equal(first, normalise(expected, data.mean, data.std))
    assert torch.equal(served("random-0", seed=5, batch_size=7), first)  # as on another device
    for images in (served("random-0", seed=6), served("random-1", seed=5)):
        same = (images == first).flatten(1).all(1).float().mean()
        assert same < 0.2  # 1 in 50 by chance, and a few that differ only in the frame


def test_a_random_query_needs_a_model(data):
    with pytest.raises(RuntimeError, match="Call `assign` first: `random-3` is drawn from"):
        next(data.pool_batches("random-3"))


def test_pool_is_a_seeded_subset_in_order(noise):
    pools = []
    for seed in (0, 1, 0):
        data = noise(pool_size=40, pool_seed=seed)
        data.setup("fit")
        pools.append(data.pool.images)
    train, _ = data.read()
    where = [(train.images == image).all(dim=(1, 2, 3)).nonzero().item() for image in pools[0]]
    assert where == sorted(set(where))
    assert len(where) == 40
    assert torch.equal(pools[0], pools[2])
    assert not torch.equal(pools[0], pools[1])


def test_setup_reads_once(data):
    pool = data.pool
    data.setup("validate")
    assert data.pool is pool


def test_the_fingerprint_changes_with_everything_that_a_network_sees(noise):
    def fingerprint(change=lambda data: None, **options):
        data = noise(**options)
        data.setup("fit")
        change(data)
        return data.fingerprint()

    def pixel(data):
        data.pool.images[3, 1, 2, 2] ^= 1

    def label(data):
        data.test.labels[5] += 1

    def scale(data):
        data.std = (0.2, 0.3, 0.5)

    different = [fingerprint(change) for change in (pixel, label, scale)]
    different.append(fingerprint(pool_size=99))
    assert len({fingerprint(), *different}) == 5
    assert fingerprint() == fingerprint(batch_size=7, flip=True, crop=3)
    assert len(fingerprint()) == 16


@pytest.mark.parametrize(
    ("free", "total", "share", "fit"),
    [
        (128_001, 10**9, 1.0, True),
        (128_000, 10**9, 1.0, False),
        (10**9, 512_004, 0.25, True),
        (10**9, 512_000, 0.25, False),  # free now, until three other workers take their share
    ],
)
def test_a_pool_moves_to_a_gpu_only_if_it_takes_less_than_half_of_its_memory(
    monkeypatch, free, total, share, fit
):
    gpu, images = torch.device("cuda", 0), torch.zeros(1000, 1, 8, 8, dtype=torch.uint8)
    monkeypatch.setattr(torch.cuda, "mem_get_info", {gpu: (free, total)}.get)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", {gpu: share}.get)
    assert fits(images, gpu) == fit
    assert not fits(images, torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("moves", [True, False])
def test_a_gpu_is_served_the_same_batches_as_the_cpu(data, monkeypatch, moves, in_process):
    data.assign(membership(3, 2, 0, 100)[0], seed=5)
    data.trainer = in_process(0, 1)
    expected = list(data.train_dataloader())
    data.trainer.strategy.root_device = torch.device("cuda", 0)
    monkeypatch.setattr("datamodules.images.fits", lambda *_: moves)
    batches = list(data.train_dataloader())
    assert data.pool.images.is_cuda == moves
    for batch, other in zip(batches, expected, strict=True):
        assert all(tensor.is_cuda for tensor in batch)
        assert torch.equal(batch.indices.cpu(), other.indices)
        torch.testing.assert_close(batch.images.cpu(), other.images)  # division rounds otherwise


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool_size": 1}, "`pool_size` must be 2 or more, or null for all, got 1"),
        ({"batch_size": 1}, "`batch_size` must be 2 or more for BatchNorm, got 1"),
        ({"crop": -1}, r"`crop` must be 0 \(none\) or more pixels, got -1"),
        ({"pool_size": 101}, "`pool_size` must be 2 to 100, the training split, got 101"),
        ({"crop": 8}, "`crop` must be less than the images' 8 x 8 pixels, got 8"),
    ],
)
def test_options_that_do_not_fit_the_data_are_refused(options, message, noise):
    with pytest.raises(ValueError, match=message):
        noise(**options).setup("fit")


@pytest.mark.parametrize(
    ("train", "test", "attributes", "message"),
    [
        ((9, 3, 9), (0, 3, 0), {}, "2 examples to train on and 1 to test, got 9 and 0"),
        ((1, 3, 1), (2, 3, 2), {}, "2 examples to train on and 1 to test, got 1 and 2"),
        ((9, 3, 8), (2, 3, 2), {}, "needs a label, got 9 examples and 8 labels"),
        ((9, 3, 9), (2, 3, 3), {}, "needs a label, got 2 examples and 3 labels"),
        ((9, 1, 9), (2, 3, 2), {}, "examples of 1 and 3 channels, 3 means"),
        (
            (9, 3, 9),
            (2, 3, 2),
            {"std": (1.0,)},
            "3 means and 1 stds. Give one mean and std per channel",
        ),
        ((9, 3, 9), (2, 3, 2), {"num_classes": 2}, "Labels must be 0 to 1, got 2 to 2"),
    ],
)
def test_splits_that_do_not_fit_together_are_refused(
    monkeypatch, train, test, attributes, message, noise
):
    splits = tuple(
        Images(torch.zeros(n, channels, 8, 8, dtype=torch.uint8), torch.full((labels,), 2))
        for n, channels, labels in (train, test)
    )
    monkeypatch.setattr(noise, "read", lambda self: splits)
    data = noise()
    for name, value in attributes.items():
        setattr(data, name, value)
    with pytest.raises(ValueError, match=message):
        data.setup("fit")


def test_assign_refuses_rows_of_another_pool_and_rows_without_members(data):
    with pytest.raises(ValueError, match="some of the 100 examples of the pool, got 50 of 99"):
        data.assign(torch.arange(99) < 50, seed=0)
    with pytest.raises(ValueError, match="some of the 100 examples of the pool, got 0 of 100"):
        data.assign(torch.zeros(100, dtype=torch.bool), seed=0)


def test_processes_with_too_few_examples_are_refused(data, in_process):
    data.assign(torch.arange(100) < 50, seed=0)
    data.trainer = in_process(0, 8)
    with pytest.raises(
        ValueError, match=r"16 or more, got batches of 12 from the 50 .* fewer `--trainer.devices`"
    ):
        data.train_dataloader()
