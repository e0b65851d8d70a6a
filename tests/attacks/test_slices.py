"""Signals in slices, against plain indexing of the same tensor."""

import pytest
import torch

from attacks.slices import Chosen, OfSome, Sliced, Stacked, slices_of


class OnDisk:
    """A signal that can only be indexed by a list of models or a slice of examples."""

    def __init__(self, tensor):
        self.tensor, self.shape, self.dtype, self.read = tensor, tensor.shape, tensor.dtype, []

    def __getitem__(self, index):
        if isinstance(index, list):
            return OnDisk(self.tensor[index])
        dots, examples = index
        if dots is not ... or not isinstance(examples, slice):
            raise TypeError(f"Only slices can be read, got {index}.")
        self.read.append(examples)
        return self.tensor[..., examples]


@pytest.mark.parametrize("numbers", [1, 7, 100, 1 << 22])
@pytest.mark.parametrize(
    "shape", [(3, 2, 50), (4, 2, 3, 17), (5, 1), (101,), (0, 2, 9), (3, 2, 0), (30, 30, 4)], ids=str
)
def test_slices_cover_every_example_once_and_stay_small(monkeypatch, numbers, shape):
    monkeypatch.setattr("attacks.slices.NUMBERS", numbers)
    signal = torch.zeros(shape)
    slices = list(slices_of(signal))
    covered = [example for part in slices for example in range(shape[-1])[part]]
    assert covered == list(range(shape[-1]))
    single = signal[..., :1].numel()  # of a single example, which cannot be cut
    for part in slices:
        assert part.stop - part.start > 0
        assert signal[..., part].numel() <= max(numbers, single)
    for part in slices[:-1]:  # and no smaller than they must be
        assert single == 0 or signal[..., part].numel() + single > numbers


def make(rng, count, models=5, queries=2, examples=23):
    return [torch.randn(models, queries, examples, generator=rng) for _ in range(count)]


SLICES = [slice(None), slice(0, 1), slice(4, 11), slice(-3, None), slice(1, 20, 3), slice(5, 5)]


@pytest.mark.parametrize("wrap", [lambda x: x, OnDisk], ids=["memory", "disk"])
def test_stacked_indexes_as_a_stack(rng, wrap):
    parts = make(rng, 3)
    whole, signal = torch.stack(parts, 1), Stacked([wrap(part) for part in parts])
    assert isinstance(signal, Sliced)
    assert (tuple(signal.shape), signal.dtype) == (tuple(whole.shape), whole.dtype)
    for part in SLICES:
        assert torch.equal(signal[..., part], whole[..., part])
    for rows in ([3, 0, 3], [4], [1, 2]):
        fewer = signal[rows]
        assert tuple(fewer.shape) == tuple(whole[rows].shape)
        for part in SLICES:
            assert torch.equal(fewer[..., part], whole[rows][..., part])
        assert torch.equal(fewer[[0]][..., :], whole[rows][[0]])


@pytest.mark.parametrize("wrap", [lambda x: x, OnDisk], ids=["memory", "disk"])
@pytest.mark.parametrize(
    "positions", [[0, 1, 2], [22], [0, 22], [2, 3, 7, 8, 9, 15, 21], list(range(23)), []], ids=len
)
def test_chosen_indexes_as_the_chosen_examples(rng, wrap, positions):
    (tensor,) = make(rng, 1)
    at = torch.tensor(positions, dtype=torch.int64)
    whole, signal = tensor[..., at], Chosen(wrap(tensor), at)
    assert isinstance(signal, Sliced)
    assert (tuple(signal.shape), signal.dtype) == (tuple(whole.shape), whole.dtype)
    for part in SLICES:
        assert torch.equal(signal[..., part], whole[..., part])
    for rows in ([3, 0, 3], [4], [1, 2]):  # also as many rows as an index has parts
        assert tuple(signal[rows].shape) == tuple(whole[rows].shape)
        for part in SLICES:
            assert torch.equal(signal[rows][..., part], whole[rows][..., part])


def test_chosen_reads_no_more_than_the_requested_range(rng):
    (tensor,) = make(rng, 1)
    disk = OnDisk(tensor)
    Chosen(disk, torch.tensor([2, 5, 6, 20]))[..., 1:3]
    assert disk.read == [slice(5, 7)]


@pytest.mark.parametrize("wrap", [lambda x: x, OnDisk], ids=["memory", "disk"])
def test_chosen_and_stacked_nest(rng, wrap):
    parts = make(rng, 2)
    first, then = torch.tensor([1, 2, 5, 9, 10, 22]), torch.tensor([0, 3, 4])
    whole = torch.stack(parts, 1)
    files = [wrap(part) for part in parts]
    pairs = [
        (Chosen(Chosen(files[0], first), then), parts[0][..., first][..., then]),
        (Chosen(Stacked(files), first), whole[..., first]),
        (Stacked([Chosen(file, first) for file in files]), whole[..., first]),
        (Stacked([Stacked(files), Stacked(files[::-1])]), torch.stack([whole, whole.flip(1)], 1)),
    ]
    for signal, expected in pairs:
        assert tuple(signal.shape) == tuple(expected.shape)
        for part in SLICES:
            assert torch.equal(signal[..., part], expected[..., part])
            assert torch.equal(signal[[2, 0]][..., part], expected[[2, 0]][..., part])


def test_a_signal_of_some_models_indexes_as_their_stack(rng):
    """Other models may be selected, but not read."""
    (whole,) = make(rng, 1)
    signal = OfSome({1: whole[1], 3: whole[3], 4: whole[4]}, 5)
    assert isinstance(signal, Sliced)
    assert (tuple(signal.shape), signal.dtype) == (tuple(whole.shape), whole.dtype)
    for rows in ([3, 1, 3], [4]):
        fewer = signal[rows]
        assert tuple(fewer.shape) == tuple(whole[rows].shape)
        for part in SLICES:
            assert torch.equal(fewer[..., part], whole[rows][..., part])
    assert torch.equal(signal[[0, 4, 2]][[1]][..., :], whole[[4]])
    assert signal[[0, 2]].shape[0] == 2  # nothing is known of these
    with pytest.raises(KeyError):
        signal[[0, 1]][..., :]
