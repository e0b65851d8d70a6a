import numpy as np
import pytest
import torch
from scipy.stats import binom, chisquare
from torchvision.transforms import functional

from datamodules.views import (
    augment,
    check_queries,
    default_queries,
    draw_poisson_epoch,
    normalise,
    view,
)


def random_images(rng, *shape):
    return torch.randint(1, 256, shape, dtype=torch.uint8, generator=rng)  # 0 is the frame


@pytest.mark.parametrize("shape", [(64, 3, 32, 32), (64, 1, 8, 11)])
@pytest.mark.parametrize("crop", [0, 1, 4])
@pytest.mark.parametrize("flip", [False, True])
def test_augment_matches_a_loop_over_images(rng, shape, crop, flip):
    images = random_images(rng, *shape)
    batch, height, width = shape[0], *shape[2:]
    augmented = augment(images, flip, crop, torch.Generator().manual_seed(1))

    again = torch.Generator().manual_seed(1)
    top, left = torch.randint(2 * crop + 1, (2, batch, 1), generator=again)
    mirrored = torch.rand(batch, 1, generator=again) < 0.5
    for i in range(batch):
        framed = functional.pad(images[i], [crop] * 4)
        expected = functional.crop(framed, int(top[i]), int(left[i]), height, width)
        if flip and mirrored[i]:
            expected = functional.hflip(expected)
        assert torch.equal(augmented[i], expected)


def test_augment_shows_every_window_and_mirror_image_equally_often(rng):
    image = random_images(rng, 1, 1, 8, 8)
    batch = augment(image.expand(18_000, 1, 8, 8), True, 1, rng)
    shifts = [f"shift{down:+d}{right:+d}" for down in (-1, 0, 1) for right in (-1, 0, 1)]
    windows = [image if s == "shift+0+0" else view(image, s) for s in shifts]
    windows += [view(window, "mirror") for window in windows]
    counts = [(batch == window).all(dim=(1, 2, 3)).sum().item() for window in windows]
    assert sum(counts) == 18_000
    assert min(counts) > 1000 - 5 * 31  # five deviations of a binomial with mean 1000
    assert max(counts) < 1000 + 5 * 31


@pytest.mark.parametrize(("down", "right"), [(2, -1), (-2, 0), (0, 2), (1, 1), (-2, 2)])
def test_shift_is_the_crop_window_at_that_offset(rng, down, right):
    images, crop = random_images(rng, 5, 3, 9, 7), 2
    framed = functional.pad(images, [crop] * 4)
    window = functional.crop(framed, crop - down, crop - right, 9, 7)
    assert torch.equal(view(images, f"shift{down:+d}{right:+d}"), window)


def test_views_by_hand():
    image = torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.uint8)[None, None]
    assert view(image, "identity").tolist() == image.tolist()
    assert view(image, "mirror").tolist() == [[[[3, 2, 1], [6, 5, 4]]]]
    assert view(image, "shift+1-1").tolist() == [[[[0, 0, 0], [2, 3, 0]]]]


@pytest.mark.parametrize("query", ["shift+9+0", "shift+0-7"])
def test_a_shift_that_leaves_nothing_is_refused(rng, query):
    with pytest.raises(ValueError, match="moves images of 9 x 7 pixels out of sight"):
        view(random_images(rng, 1, 1, 9, 7), query)


def test_default_queries_are_views_that_training_uses():
    assert default_queries(False, 0) == ["identity"]
    assert default_queries(True, 0) == ["identity", "mirror"]
    shifts = ["shift-2+0", "shift+2+0", "shift+0-2", "shift+0+2"]
    assert default_queries(False, 4) == ["identity", *shifts]
    for flip in (False, True):
        for crop in range(6):
            assert check_queries(default_queries(flip, crop), flip, crop) == []


def test_check_queries_names_views_that_training_never_uses():
    queries = ["identity", "mirror", "shift+2-1", "shift+0-3"]
    assert check_queries([*queries, "random-0", "random-12"], True, 2) == ["shift+0-3"]
    assert check_queries(queries, False, 0) == ["mirror", "shift+2-1", "shift+0-3"]


def test_a_random_query_needs_an_augmentation():
    for flip, crop in ((True, 0), (False, 1)):
        assert check_queries(["random-0"], flip, crop) == []
    with pytest.raises(
        ValueError, match=r"got \['identity', 'random-0'\] .*Pass `--data.flip true`"
    ):
        check_queries(["identity", "random-0"], False, 0)


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        ([], "at least one query, got none"),
        (["identity", "mirror", "identity"], "counts once"),
        (["identity", "flip"], "got `flip`"),
        (["shift+0+0"], r"got `shift\+0\+0`"),
        (["shift+02+0"], r"got `shift\+02\+0`"),
        (["shift-0+2"], r"got `shift-0\+2`"),
        (["shift+2"], r"got `shift\+2`"),
        (["random"], "got `random`"),
        (["random-01"], "got `random-01`"),
    ],
)
def test_queries_that_do_not_exist_are_refused(queries, message):
    with pytest.raises(ValueError, match=message):
        check_queries(queries, True, 4)


@pytest.mark.parametrize("channels", [1, 3])
def test_normalise_matches_torchvision(rng, channels):
    images = random_images(rng, 6, channels, 8, 8)
    mean, std = (0.4914, 0.4822, 0.4465)[:channels], (0.2470, 0.2435, 0.2616)[:channels]
    expected = functional.normalize(images.float() / 255, mean, std)
    result = normalise(images, mean, std)
    assert torch.equal(result, expected)
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_poisson_batches_take_every_member_by_a_coin_of_its_own():
    """Sizes are binomial, as are counts of members; which are drawn together is chance."""
    members, steps, rate = torch.arange(0, 60, 2), 4000, 0.15
    order, sizes, windows = draw_poisson_epoch(members, steps, False, 0, 7, rate)
    drawn = torch.zeros(steps, 60, dtype=torch.bool)
    for step, batch in enumerate(order.split(sizes)):
        assert batch.unique().equal(batch)  # nobody twice
        drawn[step, batch] = True
    assert windows is None
    assert not drawn[:, 1::2].any()
    observed = torch.tensor(sizes).bincount(minlength=31)[:31].double().numpy()
    expected = steps * binom(30, rate).pmf(range(31))
    common = expected >= 5  # one class for all others, as the test asks
    classes = [np.append(n[common], n[~common].sum()) for n in (observed, expected)]
    assert chisquare(*classes).pvalue > 1e-4
    counts = drawn[:, ::2].sum(0).double()
    assert (counts - steps * rate).abs().max() < 5 * (steps * rate * (1 - rate)) ** 0.5
    together = torch.corrcoef(drawn[:, ::2].double().T).fill_diagonal_(0)
    assert together.abs().max() < 5 / steps**0.5


def test_poisson_batches_follow_the_seed_and_are_augmented():
    members = torch.arange(40)
    first, again, other = (
        draw_poisson_epoch(members, 20, True, 2, seed, 0.05) for seed in (1, 1, 2)
    )
    assert 0 in first.sizes
    assert torch.equal(first.order, again.order)
    assert torch.equal(first.windows.top, again.windows.top)
    assert first.sizes != other.sizes
    assert len(first.windows.top) == len(first.windows.mirrored) == len(first.order)
    assert {*first.windows.top.tolist()} == {0, 1, 2, 3, 4}


def test_at_a_rate_of_one_every_step_takes_all_members():
    members = torch.tensor([3, 5, 8])
    order, sizes, _ = draw_poisson_epoch(members, 4, False, 0, 0, 1.0)
    assert order.tolist() == [3, 5, 8] * 4
    assert sizes == [3] * 4
