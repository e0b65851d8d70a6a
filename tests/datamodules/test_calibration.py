import hashlib

import pytest
import torch

from datamodules import Digits
from datamodules.membership import membership
from datamodules.views import augment, normalise

SOURCES = ["members", "nonmembers", "heldout"]
ROW = membership(3, 0, 1, 70)[0]


@pytest.fixture
def split(noise):
    """A pool of 70 of 100 images, in which one model trained on the 35 of `ROW`."""
    data = noise(pool_size=70, flip=True, crop=2)
    data.setup("fit")
    return data


def test_a_source_gives_exactly_its_own_images(split):
    drawn = {name: split.draw_calibration(name, ROW, 1000, seed=0) for name in SOURCES}
    for source, indices in drawn.items():
        assert indices.dtype == torch.int64
        assert indices.tolist() != sorted(indices.tolist()), source
    assert sorted(drawn["members"].tolist()) == [i for i in range(70) if ROW[i]]
    assert sorted(drawn["nonmembers"].tolist()) == [i for i in range(70) if not ROW[i]]
    assert sorted(drawn["heldout"].tolist()) == list(range(30))


@pytest.mark.parametrize("source", SOURCES)
def test_a_larger_count_extends_a_smaller_one(split, source):
    whole = split.draw_calibration(source, ROW, 30, seed=7)
    for count in range(1, 31):
        assert torch.equal(split.draw_calibration(source, ROW, count, seed=7), whole[:count])
    assert len(set(whole.tolist())) == 30


@pytest.mark.parametrize("source", SOURCES)
def test_a_draw_depends_on_its_seed_alone(split, source):
    draws = []
    for number, seed in enumerate([7, 8, 7]):
        torch.manual_seed(number)
        before = torch.get_rng_state()
        draws.append(split.draw_calibration(source, ROW, 30, seed))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])


def test_every_member_is_equally_likely(split):
    members = torch.arange(70) % 7 == 3
    draws = [split.draw_calibration("members", members, 2, seed).tolist() for seed in range(2000)]
    for place in (0, 1):
        counts = torch.tensor([d[place] for d in draws]).bincount(minlength=70)
        assert counts[~members].sum() == 0
        assert (counts[members] - 200).abs().max() < 5 * 13.4  # deviations of a binomial


def test_sources_are_drawn_independently_from_the_same_seed(split):
    half = torch.arange(70) < 35
    inside = split.draw_calibration("members", half, 35, seed=0)
    outside = split.draw_calibration("nonmembers", half, 35, seed=0)
    assert not torch.equal(inside, outside - 35)


@pytest.mark.parametrize("pool_seed", [0, 1])
def test_the_held_out_images_are_those_outside_the_pool(noise, pool_seed, monkeypatch):
    reads, read = [], noise.read
    monkeypatch.setattr(noise, "read", lambda self: reads.append(1) or read(self))
    data = noise(pool_size=70, pool_seed=pool_seed)
    data.setup("fit")
    data.setup("validate")
    assert reads == [1]
    train, _ = read(data)
    where = [(train.images == i).all(dim=(1, 2, 3)).nonzero().item() for i in data.held_out.images]
    assert where == sorted(set(where))
    assert len(where) == 30
    assert torch.equal(data.held_out.labels, train.labels[where])
    rest = [i for i in range(100) if i not in where]
    assert torch.equal(data.pool.images, train.images[rest])


@pytest.mark.parametrize("pool_size", [None, 100])
def test_a_pool_of_the_whole_split_holds_none_out(noise, pool_size):
    data = noise(pool_size=pool_size)
    data.setup("fit")
    assert data.held_out.images.shape == (0, 3, 8, 8)
    assert len(data.held_out.labels) == 0
    assert data.held_out.images.untyped_storage().nbytes() == 0  # so no split stays in memory


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("trained", [False, True])
def test_images_are_shown_as_an_attacker_sees_them(split, source, trained, in_process):
    if trained:
        split.trainer = in_process(1, 2)  # every process calibrates on all of them
    indices = split.draw_calibration(source, ROW, 20, seed=0)
    images = split.calibration_images(source, indices)
    if source == "heldout":
        expected = normalise(split.held_out.images[indices], split.mean, split.std)
    else:
        expected = torch.cat([b.images for b in split.pool_batches("identity")])[indices]
    assert torch.equal(images, expected)
    assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("flip", "crop"), [(True, 2), (False, 3), (True, 0), (False, 0)])
def test_images_are_augmented_as_in_training(noise, source, flip, crop):
    data = noise(pool_size=70, flip=flip, crop=crop)
    data.setup("fit")
    indices = data.draw_calibration(source, ROW, 20, seed=0)
    torch.manual_seed(int(flip))  # global state must not matter
    images = data.calibration_images(source, indices, augment_seed=5)
    chosen = (data.held_out if source == "heldout" else data.pool).images[indices]
    by_hand = augment(chosen, flip, crop, torch.Generator().manual_seed(5))
    assert torch.equal(images, normalise(by_hand, data.mean, data.std))
    assert images.is_contiguous(memory_format=torch.channels_last)
    plain, other = (data.calibration_images(source, indices, seed) for seed in (None, 6))
    assert torch.equal(images, plain) == torch.equal(images, other) == (not flip and not crop)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("augment_seed", [None, 5])
def test_a_gpu_shows_the_images_that_the_cpu_shows(
    split, source, augment_seed, monkeypatch, in_process
):
    indices = split.draw_calibration(source, ROW, 20, seed=0)
    expected = split.calibration_images(source, indices, augment_seed)
    split.trainer = in_process(0, 1)
    split.trainer.strategy.root_device = torch.device("cuda", 0)
    monkeypatch.setattr("datamodules.images.fits", lambda *_: True)
    split.assign(ROW, seed=5)
    split.train_dataloader()
    assert (split.pool.images.is_cuda, split.held_out.images.is_cuda) == (True, False)
    assert torch.equal(split.draw_calibration(source, ROW.cuda(), 20, seed=0), indices)
    images = split.calibration_images(source, indices, augment_seed)
    assert images.is_cuda
    torch.testing.assert_close(images.cpu(), expected)  # division rounds otherwise


@pytest.mark.parametrize("pool_size", [None, 70])
def test_fingerprint_is_of_the_pool_and_the_test_split(noise, pool_size):
    data = noise(pool_size=pool_size)
    data.setup("fit")
    digest = hashlib.sha256(b"((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))")
    for tensor in (data.pool.images, data.pool.labels, data.test.images, data.test.labels):
        digest.update(f"torch.Size({list(tensor.shape)})".encode() + tensor.numpy().tobytes())
    assert data.fingerprint() == digest.hexdigest()[:16]


def test_the_fingerprint_is_that_of_older_run_folders():
    data = Digits(pool_size=64)
    data.setup("fit")
    assert data.fingerprint() == "e510cd03ddfccdb8"  # of commit 459938a


@pytest.mark.parametrize(
    ("source", "row", "count", "message"),
    [
        ("members", torch.zeros(70).bool(), 9, "on members .* 0 in the pool of 70.*on nonmembers"),
        ("nonmembers", torch.ones(70).bool(), 9, "nonmembers .* 0 in the pool of 70.* on members"),
        ("members", ROW, 0, "needs 1 image or more, got a `count` of 0"),
        ("heldout", ROW, -1, "needs 1 image or more, got a `count` of -1"),
        ("members", ROW[:69], 9, "about the 70 examples of the pool, got 69. Was it drawn for"),
        ("heldout", ROW[:0], 9, "about the 70 examples of the pool, got 0. Was it drawn for"),
    ],
)
def test_draws_without_images_are_refused(split, source, row, count, message):
    with pytest.raises(ValueError, match=message):
        split.draw_calibration(source, row, count, seed=0)


@pytest.mark.parametrize("pool_size", [None, 100])
def test_the_error_for_a_whole_pool_says_how_to_hold_images_out(noise, pool_size):
    data = noise(pool_size=pool_size)
    data.setup("fit")
    row = torch.arange(100) < 50
    message = (
        r"on heldout needs 1 image or more, got 0 outside the pool of 100\. Calibrate on members "
        r"or nonmembers, or set a lower `--data\.pool_size`"
    )
    with pytest.raises(ValueError, match=message):
        data.draw_calibration("heldout", row, 9, seed=0)
    data = noise(pool_size=99)  # the way out works
    data.setup("fit")
    assert data.draw_calibration("heldout", row[:99], 9, seed=0).tolist() == [0]


@pytest.mark.parametrize("pool_size", [600, 64])
def test_digits_hold_no_images_out_and_say_what_to_use(pool_size):
    data = Digits(pool_size=pool_size)
    data.setup("fit")
    row = torch.arange(pool_size) % 2 == 0
    with pytest.raises(ValueError, match=r"on members or nonmembers, .*\(of no use with Digits"):
        data.draw_calibration("heldout", row, 9, seed=0)
    for source in ("members", "nonmembers"):
        assert len(data.draw_calibration(source, row, 9, seed=0)) == 9


def test_an_unknown_source_is_refused_by_naming_those_that_exist(split):
    message = "come from members, nonmembers or heldout, got `test`"
    with pytest.raises(ValueError, match=message):
        split.draw_calibration("test", ROW, 9, seed=0)
    with pytest.raises(ValueError, match=message):
        split.calibration_images("test", torch.arange(3))
