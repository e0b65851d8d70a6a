"""Features and labels from .npz and .npy files; an error names the file, the key and the shape."""

from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float32, Shaped
from numpy.lib.npyio import NpzFile

FEATURES, LABELS = ("x", "features", "x_train"), ("y", "labels", "y_train")
TEST_FEATURES, TEST_LABELS = ("x_test", "features_test"), ("y_test", "labels_test")


class Split(NamedTuple):
    """Features and labels that belong together.

    Attributes:
        features: float32, with a channel for examples of height and width.
        labels: whole numbers or names.
        labelled: file, key and shape of the labels, for messages.
    """

    features: Float32[np.ndarray, "examples channels ..."]
    labels: Shaped[np.ndarray, " examples"]
    labelled: str


def read_split(file: Path, labels: Path | None) -> tuple[Split, Split | None]:
    """Read the training split, and the test split if the file has one.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, lacks an array, or an array is not what it should be.
    """
    if labels is not None:
        features, names = _read_npy(file, "--data.file"), _read_npy(labels, "--data.labels")
        return _pair((str(file), features), (str(labels), names)), None
    content = _open(file, "--data.file")
    if isinstance(content, np.ndarray):
        raise ValueError(
            f"{file} is one array of shape {content.shape}. Pass its labels, a .npy file, by "
            "`--data.labels`, or an .npz that holds both."
        )
    with content:
        train = _pair(_find(file, content, FEATURES), _find(file, content, LABELS))
        if not {key.lower() for key in content}.intersection(TEST_FEATURES + TEST_LABELS):
            return train, None
        test = _pair(_find(file, content, TEST_FEATURES), _find(file, content, TEST_LABELS))
    if test.features.shape[1:] != train.features.shape[1:]:
        raise ValueError(
            f"{file} must have test examples of the training examples' shape "
            f"{train.features.shape[1:]}, got {test.features.shape[1:]}."
        )
    return train, test


def _open(file: Path, option: str) -> np.ndarray | NpzFile:
    """The content of a file of NumPy's."""
    if not file.is_file():
        raise FileNotFoundError(f"No file {file.resolve()}. Point `{option}` at your arrays.")
    try:
        content: np.ndarray | NpzFile = np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        reason = str(error).rstrip(".")
        if "pickle" in reason and not _has_header(file):  # NumPy takes any other file for a pickle
            reason = "it does not begin as either does"
        raise ValueError(
            f"{file} must be a .npz or .npy file of numbers, got one that NumPy cannot read "
            f"({reason}). Write it by `numpy.savez(file, x=features, y=labels)`."
        ) from error
    return content


def _has_header(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(6).startswith((b"\x93NUMPY", b"PK"))


def _read_npy(file: Path, option: str) -> np.ndarray:
    content = _open(file, option)
    if isinstance(content, np.ndarray):
        return content
    content.close()
    raise ValueError(
        f"With `--data.labels`, both files must be .npy, got {file}. Leave `--data.labels` out for "
        "an .npz that holds both."
    )


def _find(file: Path, content: NpzFile, names: tuple[str, ...]) -> tuple[str, np.ndarray]:
    """The one array of an .npz that has one of these names; a label for messages comes first."""
    keys = [key for key in content if key.lower() in names]
    if len(keys) != 1:
        held = ", ".join(content) or "nothing"
        raise ValueError(
            f"{file} must hold one array named {' or '.join(names)}, got {len(keys)} in: {held}. "
            "Write it by `numpy.savez(file, x=features, y=labels)`."
        )
    try:
        return f"{file}, `{keys[0]}`", content[keys[0]]
    except Exception as error:  # what NumPy, zipfile and zlib raise
        raise ValueError(
            f"{file}, `{keys[0]}` must be an array of numbers, got one that NumPy cannot read "
            f"({error}). Convert it by `.astype(numpy.float32)`, names by `.astype(str)`, and "
            "write the file again."
        ) from error


def _pair(features: tuple[str, np.ndarray], labels: tuple[str, np.ndarray]) -> Split:
    checked, names = _check_features(*features), _check_labels(*labels)
    if len(checked) != len(names):
        raise ValueError(
            f"Every example needs a label, got {len(checked):,} examples in {features[0]} and "
            f"{len(names):,} labels in {labels[0]}."
        )
    return Split(checked, names, f"{labels[0]} of shape {labels[1].shape}")


def _check_features(name: str, array: np.ndarray) -> Float32[np.ndarray, "examples channels ..."]:
    """Features as float32, in C order and in this machine's byte order."""
    what = f"{name} of shape {array.shape} and type {array.dtype}"
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{what} must hold real numbers. Encode names and dates as numbers.")
    if array.ndim not in (2, 3, 4) or 0 in array.shape:
        raise ValueError(
            f"{what} must be [examples, features], [examples, height, width] or [examples, "
            "channels, height, width], none of them 0. Reshape it."
        )
    with np.errstate(over="ignore"):  # infinite, which is found next
        features = np.ascontiguousarray(array, dtype=np.float32)
    finite = np.isfinite(features)
    if not finite.all():
        first = ", ".join(map(str, np.argwhere(~finite)[0]))
        too_large = bool(np.isfinite(array).all())
        hint = "Scale the features" if too_large else "Fill missing values"
        raise ValueError(
            f"{what} must be finite in float32, got {(~finite).sum():,} numbers that are not, the "
            f"first at [{first}]. {hint}, or leave these examples out."
        )
    return features[:, None] if features.ndim == 3 else features


def _check_labels(name: str, array: np.ndarray) -> Shaped[np.ndarray, " examples"]:
    """Labels as whole numbers or names."""
    what = f"{name} of shape {array.shape} and type {array.dtype}"
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "biufUS":
        way_out = " Pass y.argmax(1)." if array.ndim == 2 else ""
        raise ValueError(f"{what} must be one whole number or name per example.{way_out}")
    if array.dtype.kind != "f":
        return array if array.dtype.kind in "US" else array.astype(np.int64)
    whole = np.isfinite(array) & (array == np.round(array))
    if not whole.all():
        odd = array[~whole][:3].tolist()
        raise ValueError(f"{what} must be whole numbers or names, got for example {odd}.")
    return array.astype(np.int64)
