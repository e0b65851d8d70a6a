"""Data sets by name: importing this package lets `--data CIFAR10` find them."""

from datamodules.arrays import Arrays
from datamodules.digits import Digits
from datamodules.image_folder import ImageFolder
from datamodules.images import ImageDataModule
from datamodules.tiny_imagenet import TinyImageNet
from datamodules.torchvision_data import CIFAR10, CIFAR100, FashionMNIST

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "Arrays",
    "Digits",
    "FashionMNIST",
    "ImageDataModule",
    "ImageFolder",
    "TinyImageNet",
]
