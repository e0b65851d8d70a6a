"""Images in one folder per class: which files are read, and which are passed over and why."""

import os
from collections import Counter
from collections.abc import Iterator, Set
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image

# Left there by systems and programs; nobody means them as a class or an image.
CLUTTER = {
    *("__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir", "$RECYCLE.BIN", "__pycache__"),
    *("System Volume Information", "lost+found"),
}
# Pillow knows these by their first bytes, and needs other programs to decode them.
UNDECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


class ClassFolders(NamedTuple):
    """The images of one split.

    Attributes:
        root: the folder that holds the classes.
        classes: names of the classes, in the order of their numbers.
        files: paths of the images, class by class.
        labels: number of each image's class.
        passed_over: files and folders that are not read -> how many.
    """

    root: Path
    classes: list[str]
    files: list[str]
    labels: list[int]
    passed_over: Counter[str]


def find_images(root: Path) -> ClassFolders:
    """List the images below each class's folder, nested folders and links included.

    Raises:
        FileNotFoundError: there is no class, or one without an image that can be read.
        OSError: a folder cannot be read.
    """
    passed_over = Counter[str]()
    classes = sorted(list_folders(root, passed_over))
    if not classes:
        raise FileNotFoundError(
            f"No folder of images in {root.resolve()}: it holds {list_counts(passed_over)}. Point "
            "`--data.root` at a folder with one sub-folder of images per class."
        )
    files, labels, empty = list[str](), list[int](), list[str]()
    for label, name in enumerate(classes):
        passed = Counter[str]()
        # in the order of torchvision's ImageFolder
        inside = sorted(_walk(os.path.join(root, name), passed, frozenset()))
        files += [os.path.join(*parts) for parts in inside]
        labels += [label] * len(inside)
        passed_over += passed
        if not inside:
            empty.append(f"{show_path(name)} ({list_counts(passed)})")
    if empty:
        raise FileNotFoundError(
            f"{root.resolve()} must have an image in the folder of every class, got none that can "
            f"be read in {', '.join(empty)}. Add images, convert them to .png, or remove the "
            "folder."
        )
    return ClassFolders(root, classes, files, labels, passed_over)


def list_folders(root: Path, passed_over: Counter[str]) -> Iterator[str]:
    """Names of the folders in `root` that are not clutter; counts what else is there."""
    with os.scandir(root) as entries:
        for entry in entries:
            kind = _kind(entry)
            if kind == "folder":
                yield entry.name
            else:
                passed_over["beside the classes" if kind == "image" else kind] += 1


def list_counts(counts: Counter[str]) -> str:
    """Counts in words: `2 .txt, 1 hidden`."""
    parts = [
        kind if kind.startswith("folder ") else f"{count:,} {kind}"
        for kind, count in sorted(counts.items())
    ]
    return ", ".join(parts) or "nothing"


def show_path(path: str) -> str:
    """A path for a message: as it is, or quoted if it cannot be printed."""
    return path if path.isprintable() else repr(path)


@lru_cache
def readable_endings() -> Set[str]:
    """Endings of the images that this Pillow decodes, in lower case with their dot."""
    known = Image.registered_extensions()
    return {ending for ending, kind in known.items() if kind in {*Image.OPEN} - UNDECODED}


def _walk(folder: str, passed_over: Counter[str], above: Set[str]) -> Iterator[tuple[str, str]]:
    """Folder and name of every image below a folder; links to folders above are not followed."""
    above = {*above, os.path.realpath(folder)}
    with os.scandir(folder) as entries:
        for entry in entries:
            kind = _kind(entry)
            if kind == "image":
                yield folder, entry.name
            elif kind != "folder":
                passed_over[kind] += 1
            elif os.path.realpath(entry.path) in above:
                passed_over[f"folder {show_path(entry.name)}, a link to one above it"] += 1
            else:
                yield from _walk(entry.path, passed_over, above)


def _kind(entry: os.DirEntry[str]) -> str:
    """`image`, `folder`, or how files of its kind are counted."""
    hidden = entry.name.startswith(".") or entry.name in CLUTTER
    if entry.is_dir():
        return f"folder {show_path(entry.name)}" if hidden else "folder"
    if hidden:
        return "hidden"
    ending = os.path.splitext(entry.name)[1].lower()
    if ending in readable_endings() and (entry.is_file() or entry.is_symlink()):
        return "image"  # a link that leads nowhere is an error later, with its path
    if not entry.is_file():
        return "neither file nor folder"
    return show_path(ending) if ending else "without an ending"
