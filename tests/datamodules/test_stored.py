import pytest
import torch

from datamodules.digits import Digits
from datamodules.stored import load_stored

CONFIG = {"class_path": "datamodules.Digits", "init_args": {"pool_size": 50, "crop": 1}}


def test_the_same_images_are_loaded_again():
    data = Digits(pool_size=50, crop=1)
    data.setup("fit")
    again = load_stored(CONFIG, {}, data.fingerprint())
    assert again.crop == 1
    splits = (*data.pool, *data.test), (*again.pool, *again.test)
    for before, after in zip(*splits, strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize(
    ("config", "places", "message"),
    [
        (CONFIG, {}, "not those that the fleet was trained on"),
        (CONFIG | {"init_args": {"pool_size": 10**6}}, {}, "`pool_size` must be 2 to"),
        ({"class_path": "datamodules.ImageFolder", "init_args": {}}, {"root": "/gone"}, "/gone"),
        ({"class_path": "datamodules.CIFAR10", "init_args": {}}, {"root": "/gone"}, "not found"),
        ({"class_path": "nowhere.Images", "init_args": {}}, {}, "nowhere.Images"),
    ],
)
def test_missing_or_other_images_are_refused_in_one_line(config, places, message):
    with pytest.raises(ValueError, match=message) as refused:
        load_stored(config, places, "0123456789abcdef")
    assert "\n" not in str(refused.value)
