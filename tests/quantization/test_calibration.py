import pytest
import torch

from quantization.calibration import LARGEST, Calibration, DivergedError, check_finite


def test_batches_are_the_images_or_one_augmented_copy_per_round():
    images = torch.arange(4.0).reshape(1, 1, 2, 2)
    calibration = Calibration(images, lambda n: images + n, torch.arange(1), "members", 0)
    assert [batch.tolist() for batch in calibration.batches()] == [images.tolist()]
    augmented = list(calibration._replace(rounds=3).batches())
    assert [(batch - images).unique().tolist() for batch in augmented] == [[0], [1], [2]]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, -LARGEST])
def test_unusable_values_name_the_layer(bad):
    fine = torch.tensor([0.0, -LARGEST / 2])
    check_finite("layer1", [fine, fine])
    with pytest.raises(DivergedError, match="`layer1` gives values that are not finite, or"):
        check_finite("layer1", [fine, torch.tensor([0.0, bad])], "gives")
