import pytest
import torch
from safetensors import safe_open

from storage.files import save_whole
from storage.saved_signals import SavedSignal, load_signals


@pytest.fixture
def files(tmp_path, rng):
    """Three signals files with phi [2, 7]; all but the last also hold a population."""
    paths = [tmp_path / f"{number}.safetensors" for number in range(3)]
    phi, population = torch.randn(3, 2, 7, generator=rng), torch.randn(3, 2, 4, generator=rng)
    for path, *rows in zip(paths, phi, population, strict=True):
        signals = dict(zip(("phi", "population"), rows, strict=True))
        if path == paths[-1]:
            del signals["population"]
        save_whole(path, signals)
    return paths, phi


def test_a_saved_signal_is_sliced_like_a_tensor(files):
    paths, phi = files
    saved = SavedSignal(paths, "phi")
    assert tuple(saved.shape) == phi.shape
    assert saved.dtype == phi.dtype
    for examples in (slice(0, 7), slice(2, 5), slice(6, 9), slice(3, 3), slice(None)):
        assert torch.equal(saved[..., examples], phi[..., examples])
    assert torch.equal(load_signals(paths, "phi"), phi)
    for rows in ([2, 0], [1], [1, 1, 2]):
        chosen = saved[rows]
        assert isinstance(chosen, SavedSignal)  # not read
        assert tuple(chosen.shape) == (len(rows), 2, 7)
        assert torch.equal(chosen[..., 1:6], phi[rows][..., 1:6])
        assert torch.equal(chosen[[0]][..., :], phi[rows[:1]])


def test_the_header_of_a_file_is_read_once_for_all_selections(files, monkeypatch):
    paths, phi = files
    saved, opened = SavedSignal(paths, "phi"), []

    def count(path, **options):
        opened.append(path)
        return safe_open(path, **options)

    monkeypatch.setattr("storage.saved_signals.safe_open", count)
    for rows in ([0, 1], [1, 2], [2, 0]):
        assert torch.equal(saved[rows][..., 2:4], phi[rows][..., 2:4])
        assert tuple(saved[rows].shape) == (2, 2, 7)
    assert sorted(opened) == sorted(paths)


def test_load_signals_stacks_models_in_the_given_order(files):
    paths, phi = files
    assert torch.equal(load_signals([paths[2], paths[0]], "phi"), phi[[2, 0]])


def test_missing_files_are_no_obstacle_until_they_are_read(files):
    """An audit never asks for the signals of unfinished models."""
    paths, phi = files
    missing = paths[0].with_name("none.safetensors")
    saved = SavedSignal([missing, *paths], "phi")
    assert saved.shape == (len(paths) + 1, *phi.shape[1:])
    assert torch.equal(saved[[1, 3]][..., :], phi[[0, 2]])
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        saved[..., :]


def test_a_damaged_file_and_a_missing_signal_are_named(files):
    paths, _ = files
    message = r"2\.safetensors is not a whole signals file \(.*population.*train.py again with"
    with pytest.raises(ValueError, match=message):
        SavedSignal(paths, "population")[..., :]
    paths[0].write_bytes(paths[0].read_bytes()[:-1])
    message = (
        r"0\.safetensors is not a whole signals file \(.*\)\. Run train\.py again with `--repair`"
    )
    for read in (
        lambda: load_signals(paths, "phi"),
        lambda: SavedSignal(paths, "phi")[..., 0:2],
        lambda: SavedSignal(paths, "phi").shape,
    ):
        with pytest.raises(ValueError, match=message):
            read()


def test_signals_of_different_shapes_are_refused(files):
    paths, _ = files
    save_whole(paths[1], {"phi": torch.zeros(2, 8)})
    with pytest.raises(ValueError, match=r"`phi` must have one shape in all models, got \{.*8"):
        load_signals(paths, "phi")
