"""Arrays as data: what is read of a file, and what is refused with file, key and shape."""

import numpy as np
import pytest
import torch

from datamodules import Arrays


def table(count=40, columns=5, **options):
    rng = np.random.default_rng(0)
    return rng.normal(3, 2, size=(count, columns)).astype(np.float32, **options)


@pytest.fixture
def write(tmp_path):
    """Write an .npz, and read it as a data set."""

    def make(options=None, **arrays):
        np.savez(tmp_path / "data.npz", **arrays)
        data = Arrays(tmp_path / "data.npz", **options or {})
        data.setup("fit")
        return data

    return make


def served(data):
    return torch.cat([batch.images for batch in data.pool_batches("identity")])


@pytest.mark.parametrize("keys", [("x", "y"), ("X", "Y"), ("features", "labels")])
def test_a_table_is_served_standardized(write, keys):
    x, y = table(), np.arange(40) % 4
    data = write(**dict(zip(keys, (x, y), strict=True)))
    assert data.pool.shape == (32, 5)
    assert data.num_classes == 4
    assert data.describe() == (
        "Read 40 examples of 4 classes (5 features): 32 in the pool, 0 held out, 8 for testing."
    )
    pool = data.pool.images.double().numpy()
    expected = (pool - pool.mean(0)) / pool.std(0)
    np.testing.assert_allclose(served(data).numpy(), expected, atol=1e-5)
    rows = {tuple(row): label for row, label in zip(x.tolist(), y.tolist(), strict=True)}
    for split in (data.pool, data.test):
        labels = [rows[tuple(row)] for row in split.images.tolist()]
        assert labels == split.labels.tolist()


def test_serving_leaves_the_pool_as_it_is(write):
    data = write(x=table(), y=np.arange(40) % 2)
    before = data.pool.images.clone()
    assert torch.equal(served(data), served(data))
    assert torch.equal(data.pool.images, before)


@pytest.mark.parametrize(
    ("shape", "one", "means"), [((6, 7), (1, 6, 7), 1), ((3, 6, 7), (3, 6, 7), 3)]
)
def test_spectrograms_are_scaled_by_channel(write, shape, one, means):
    x = np.random.default_rng(0).normal(5, 3, size=(30, *shape))
    data = write(x=x, y=np.arange(30) % 3)
    assert data.pool.shape[1:] == one
    assert len(data.mean) == len(data.std) == means
    images = served(data).double()
    torch.testing.assert_close(
        images.mean((0, 2, 3)), torch.zeros(means).double(), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        images.std((0, 2, 3), correction=0), torch.ones(means).double(), atol=1e-5, rtol=0
    )


def test_a_test_split_is_kept(write):
    x = table()
    data = write(x=x[:30], y=np.arange(30) % 3, x_test=x[30:], y_test=np.arange(10) % 2)
    assert np.array_equal(data.pool.images, x[:30])
    assert np.array_equal(data.test.images, x[30:])
    assert data.num_classes == 3


def test_a_pair_of_npy_files_is_the_same(write, tmp_path):
    x, y = table(), np.arange(40) % 4
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    data = Arrays(tmp_path / "x.npy", tmp_path / "y.npy")
    data.setup("fit")
    assert data.fingerprint() == write(x=x, y=y).fingerprint()


@pytest.mark.parametrize(
    "kind", ["float64", "float16", ">f4", ">i2", "int8", "uint8", "bool", "F-order", "int64"]
)
def test_the_type_and_order_in_the_file_do_not_matter(write, kind):
    x, y = np.round(table()).clip(0, 1), np.arange(40) % 2
    plain = write(x=x, y=y)
    given = np.asfortranarray(x) if kind == "F-order" else x.astype(kind)
    assert write(x=given, y=y).fingerprint() == plain.fingerprint()


@pytest.mark.parametrize(
    ("labels", "note"),
    [
        (np.arange(40) % 2 * 1.0, ""),
        (np.arange(40) % 2 > 0, ""),
        ((np.arange(40) % 2)[:, None], ""),
        (np.arange(40, dtype=">i4") % 2, ""),
        (np.arange(40) % 2 * 5 + 3, "Labels 3, 8 are classes 0 to 1."),
        (np.array(["cat", "dog"] * 20), "Labels cat, dog are classes 0 to 1."),
        (np.arange(40) % 2 * 2 - 1, "Labels -1, 1 are classes 0 to 1."),
    ],
)
def test_labels_are_numbered(write, labels, note):
    data = write({"test_fraction": 0.1}, x=table(), y=labels)
    plain = write({"test_fraction": 0.1}, x=table(), y=np.arange(40) % 2)
    assert data.fingerprint() == plain.fingerprint()
    assert data.describe().endswith(note or "4 for testing.")


def test_a_constant_column_is_zero(write):
    x = table()
    x[:, 2] = 0.1
    assert served(write(x=x, y=np.arange(40) % 2))[:, 2].abs().max() < 1e-6


def test_the_scaling_can_be_given(write):
    x = table()
    data = write({"mean": [1.0], "std": [2.0, 1.0, 1.0, 1.0, 4.0]}, x=x, y=np.arange(40) % 2)
    expected = (data.pool.images - 1) / torch.tensor([2.0, 1.0, 1.0, 1.0, 4.0])
    assert torch.equal(served(data), expected)
    assert data.mean == (1.0,) * 5


def test_bytes_of_a_table_keep_its_order(write):
    data = write(x=table(), y=np.arange(40) % 2)
    (levels,) = data.levels(data.pool)
    expected = (32 * served(data) + 128).round().clamp(0, 255)
    assert levels.dtype == torch.uint8
    assert torch.equal(levels.float(), expected)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": table()}, r"data.npz must hold one array named y or labels or y_train, got 0 in: x"),
        ({"y": [0, 1]}, "one array named x or features or x_train, got 0 in: y. Write it by"),
        ({"x": table(), "features": table(), "y": [0, 1] * 20}, "got 2 in: x, features, y"),
        ({"x": table(), "y": [0, 1] * 19}, r"got 40 examples in .*npz, `x` and 38 labels in .*`y`"),
        (
            {"x": np.where(np.eye(40, 5) > 0, np.nan, 1), "y": [0, 1] * 20},
            r"npz, `x` of shape \(40, 5\) and type float64 must be finite in float32, got 5 "
            r"numbers that are not, the first at \[0, 0\]",
        ),
        (
            {"x": np.full((40, 2), 1e300), "y": [0, 1] * 20},
            "finite in float32, got 80 .* Scale the f",
        ),
        ({"x": np.array([["a"]] * 40), "y": [0, 1] * 20}, r"`x` .*type <U1 must hold real numbers"),
        ({"x": 1j * table(), "y": [0, 1] * 20}, r"complex.* must hold real numbers"),
        ({"x": np.arange(40), "y": [0, 1] * 20}, r"`x` of shape \(40,\) .*must be \[examples, fea"),
        ({"x": np.zeros((40, 0)), "y": [0, 1] * 20}, r"of shape \(40, 0\) .*none of them 0"),
        ({"x": table(), "y": np.eye(2)[[0, 1] * 20]}, r"`y` of shape \(40, 2\).* Pass y.argmax\(1"),
        (
            {"x": table(), "y": [1, np.inf] * 20},
            r"must be whole numbers or names, got .*\[inf, inf",
        ),
        ({"x": table(), "y": [0.5, 1] * 20}, r"must be whole numbers or names, got .*\[0.5, 0.5"),
        (
            {"x": table(), "y": [np.nan, 1] * 20},
            r"must be whole numbers or names, got .*\[nan, nan",
        ),
        (
            {"x": table(), "y": [1] * 40},
            r"`y` of shape \(40,\) must name two classes or more, got \[",
        ),
        ({"x": table(), "y": np.arange(40)}, r"must name classes, got 40 different values for 40"),
        (
            {"x": table(), "y": np.array([None] * 40)},
            r"`y` must be an array of numbers, .*allow_pic",
        ),
        (
            {"x": np.array([[None]] * 40), "y": [0, 1] * 20},
            "`x` must be an array of numbers, got one",
        ),
        (
            {"x": table(), "y": [0, 1] * 20, "x_test": table()},
            "must hold one array named y_test or labels_test, got 0 in: x, y, x_test",
        ),
        (
            {"x": table(), "y": [0, 1] * 20, "x_test": table(4, 3), "y_test": [0, 1] * 2},
            r"test examples of the training examples' shape \(5,\), got \(3,\)",
        ),
        (
            {"x": table(), "y": [0, 1] * 20, "x_test": table(4), "y_test": [0, 7, 1, 1]},
            r"`y_test` of shape \(4,\) must name classes of the training split, got \[7\] besides",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*pickle")
def test_arrays_that_are_no_data_set_are_refused(write, tmp_path, arrays, message):
    np.savez(tmp_path / "data.npz", **{k: np.asarray(v) for k, v in arrays.items()})
    with pytest.raises(ValueError, match=message):
        Arrays(tmp_path / "data.npz").setup("fit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": [1.0, 2.0]}, "`mean` must be one number, or one for each of 5 .*, got 2"),
        ({"std": [0.0]}, r"`std` must be finite, and a std above 0, got \[0.0\]"),
        ({"mean": [float("nan")]}, "`mean` must be finite"),
        ({"test_fraction": 1.5}, r"`test_fraction` must be between 0 and 1, got 1\.5"),
        ({"pool_size": 33}, "`pool_size` must be 2 to 32, the training split, got 33"),
    ],
)
def test_options_that_do_not_fit_are_refused(write, options, message):
    with pytest.raises(ValueError, match=message):
        write(options, x=table(), y=np.arange(40) % 2)


# NumPy leaves a file open that turns out to be no zip
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"PK\x03\x04 no zip"])
def test_a_file_that_numpy_did_not_write_is_refused(tmp_path, content):
    (tmp_path / "data.npz").write_bytes(content)
    message = r"data.npz must be a .npz or .npy file of numbers, got one(?!.*unsafe)"  # as NumPy's
    with pytest.raises(ValueError, match=message):
        Arrays(tmp_path / "data.npz").setup("fit")


def test_files_that_do_not_go_together_are_refused(tmp_path):
    np.savez(tmp_path / "both.npz", x=table(), y=np.arange(40) % 2)
    np.save(tmp_path / "x.npy", table())
    with pytest.raises(ValueError, match=r"x.npy is one array of shape \(40, 5\). Pass its labels"):
        Arrays(tmp_path / "x.npy").setup("fit")
    with pytest.raises(ValueError, match=r"both files must be .npy, got .*both.npz. Leave"):
        Arrays(tmp_path / "x.npy", tmp_path / "both.npz").setup("fit")
    with pytest.raises(FileNotFoundError, match=r"No file .*gone.npy. Point `--data.labels` at"):
        Arrays(tmp_path / "x.npy", tmp_path / "gone.npy").setup("fit")


def test_only_images_have_views(write):
    data = write(x=table(), y=np.arange(40) % 2)
    with pytest.raises(ValueError, match="`mirror` is a view of images; arrays have only `ident"):
        next(data.pool_batches("mirror"))
