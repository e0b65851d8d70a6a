"""TinyImageNet-200, read from the official zip or from the folder that it unpacks to."""

import threading
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets.utils import check_integrity, download_url

from datamodules.archives import Archive, obtain
from datamodules.decode import Decoding, Form
from datamodules.images import ImageDataModule, Images
from datamodules.pixel_cache import MappedPixels, default_folder, make_key, obtain_pixels, stamp

FOLDER = "tiny-imagenet-200"
ANNOTATIONS = "val/val_annotations.txt"
IMAGE_SIZE = 64


class TinyImageNet(ImageDataModule):
    """110,000 colour 64x64 photographs in 200 classes; its 10,000 "val" images are the test split.

    Args:
        root: folder that holds tiny-imagenet-200.zip or the folder that it unpacks to.
        pool_size: number of audited examples, drawn from the training split; null for all of it.
        pool_seed: seed of that draw.
        batch_size: examples per training step, over all devices together.
        flip: mirror images left and right at random in training.
        crop: largest random shift in pixels; 0 disables it.
        download: download the zip (248 MB) if it is missing.
        cache: folder for a file of the decoded images, which later calls and all processes map;
            null for ~/.cache/bitleak.
    """

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    url = f"http://cs231n.stanford.edu/{FOLDER}.zip"
    md5 = "90528d7ca1a48142e341f4ef8d21d0de"

    def __init__(
        self,
        root: Path = Path("data"),
        pool_size: int | None = None,
        pool_seed: int = 0,
        batch_size: int = 128,
        flip: bool = True,
        crop: int = 4,
        download: bool = False,
        cache: Path | None = None,
    ) -> None:
        super().__init__(root, pool_size, pool_seed, batch_size, flip, crop, download)
        self.cache = (cache or default_folder()).expanduser().absolute()

    def fetch(self) -> None:
        archive = Archive(self.url, self.root / f"{FOLDER}.zip", self.md5)
        unpacked = self.root / FOLDER / ANNOTATIONS
        obtain(
            "TinyImageNet",
            [archive],
            lambda: unpacked.exists() or check_integrity(archive.path, archive.md5),
            download_url,
            self.download,
        )

    def read(self) -> tuple[Images, Images]:
        """Read both splits, with classes numbered in the order of their WordNet names.

        Raises:
            ValueError: the folder was not unpacked completely, or images are damaged.
        """
        names, load, identify = _open(self.root)
        train = sorted(name for name in names if name.startswith("train/"))
        wnids = [name.split("/")[1] for name in train]
        lines = load(ANNOTATIONS).decode().splitlines()
        test, test_wnids = zip(*(line.split("\t")[:2] for line in lines), strict=True)
        counts = Counter(wnids)
        if set(counts) != set(test_wnids) or len(set(counts.values())) > 1:
            raise ValueError(
                f"TinyImageNet has the same number of training images in every class, got "
                f"{len(counts)} of {len(set(test_wnids))} classes with "
                f"{min(counts.values(), default=0)} to {max(counts.values(), default=0)} images. "
                f"Remove {self.root / FOLDER} and keep the zip beside it, which is read directly."
            )
        self.num_classes = len(counts)
        labels = {wnid: label for label, wnid in enumerate(sorted(counts))}
        splits = (train, wnids), ([f"val/images/{name}" for name in test], test_wnids)
        train_split, test_split = (
            Images(self._decode(files, load, identify), torch.tensor([labels[w] for w in of]))
            for files, of in splits
        )
        return train_split, test_split

    def _decode(
        self, files: list[str], load: Callable[[str], bytes], identify: Callable[[str], object]
    ) -> MappedPixels | Tensor:
        decoding = Decoding(files, load, Form(IMAGE_SIZE, 3))
        contents = ((name, identify(name)) for name in files)
        decoded = obtain_pixels(self.cache, make_key(contents, decoding.form), decoding)
        self.notes += decoded.describe(decoding.form)
        return decoded.pixels


def _open(root: Path) -> tuple[list[str], Callable[[str], bytes], Callable[[str], object]]:
    """List the images of the folder or the zip; how to read one, and to tell it from others."""
    folder = root / FOLDER
    if (folder / ANNOTATIONS).exists():
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.JPEG")]
        return names, lambda name: (folder / name).read_bytes(), lambda name: stamp(folder / name)
    archive, lock = zipfile.ZipFile(root / f"{FOLDER}.zip"), threading.Lock()

    def load(name: str) -> bytes:
        with lock:  # a ZipFile counts its open members without a lock
            return archive.read(f"{FOLDER}/{name}")

    images = (name for name in archive.namelist() if name.endswith(".JPEG"))
    names = [name.removeprefix(f"{FOLDER}/") for name in images]
    checksums = {info.filename: info.CRC for info in archive.infolist()}
    return names, load, lambda name: checksums.get(f"{FOLDER}/{name}")
