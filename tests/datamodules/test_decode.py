import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from datamodules.decode import Decoding, Form, in_memory


def decode(files, load, size, channels):
    return in_memory(Decoding(files, load, Form(size, channels)))


def encode(pixels, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def random_pixels(rng, *shape):
    return torch.randint(256, shape, dtype=torch.uint8, generator=rng).numpy()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(16, 16, 3), (16, 16), (40, 20, 3), (8, 24), (1, 1), (128, 64)])
def test_decode_matches_torchvision(rng, shape, channels):
    # sides in whole ratios, because torchvision rounds the longer side to pixels before cropping
    pixels = random_pixels(rng, *shape)
    result = decode(["a"], {"a": encode(pixels)}.__getitem__, 16, channels)
    image = Image.fromarray(pixels).convert({1: "L", 3: "RGB"}[channels])
    scaled = functional.resize(image, 16)  # the shorter side
    expected = functional.pil_to_tensor(functional.center_crop(scaled, 16))
    assert (result[0].int() - expected.int()).abs().max() <= 1  # Pillow rounds twice


def test_decode_keeps_images_of_the_right_size_and_their_order(rng):
    images = {str(i): random_pixels(rng, 8, 8, 3) for i in range(100)}
    encoded = {name: encode(pixels) for name, pixels in images.items()}
    result = decode(list(images), encoded.__getitem__, 8, 3)
    assert np.array_equal(result.permute(0, 2, 3, 1), np.stack(list(images.values())))


def test_decode_crops_equally_from_both_ends():
    pixels = np.zeros((8, 24), np.uint8)
    pixels[:, 8:16] = 200
    assert (decode(["a"], lambda _: encode(pixels), 8, 1) == 200).all()
    assert (decode(["a"], lambda _: encode(pixels.T), 8, 1) == 200).all()


def test_decode_turns_photographs_upright(rng):
    pixels, exif = random_pixels(rng, 8, 8), Image.Exif()
    exif[0x0112] = 6  # taken with the camera turned: show it rotated clockwise by 90 degrees
    result = decode(["a"], lambda _: encode(pixels, exif=exif), 8, 1)
    assert np.array_equal(result[0, 0], np.rot90(pixels, -1))


def test_decode_names_every_damaged_file(rng):
    whole = encode(random_pixels(rng, 8, 8))
    files = {"ok": whole, "half": whole[:-30], "text": b"not an image"}
    files["deep"] = encode(np.full((8, 8), 300, np.uint16))
    with pytest.raises(ValueError, match="3 of 5 images cannot be read") as error:
        decode([*files, "ok"], files.__getitem__, 8, 1)
    assert "deep (mode I;16 instead of 8 bits per channel)" in str(error.value)
    assert str(error.value).endswith(". Convert them to 8 bits, or remove them.")
    assert "half (" in str(error.value)
    assert "text (" in str(error.value)


def test_decode_names_at_most_ten_damaged_files():
    files = [f"{i:02d}" for i in range(12)]
    with pytest.raises(
        ValueError, match=r"12 of 12 .*00 \(.*09 \(.*; and 2 more\. Replace"
    ) as error:
        decode(files, lambda _: b"", 8, 1)
    assert "10 (" not in str(error.value)
