"""What an image gains or loses on its way to 8 bits of gray or colour."""

import io

import numpy as np
import pytest
import yaml
from PIL import Image

from datamodules import ImageFolder
from datamodules.decode import Decoding, Form, check_background


def encode(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(content, size=4, channels=3, background="white"):
    """The pixels of one file, and what was done to it."""
    decoding = Decoding(["a"], lambda _: content, Form(size, channels, background))
    (block,) = decoding.blocks()
    return block[0], decoding.facts.converted


def checks(mode):
    """A square, opaque and dark on the left, transparent on the right."""
    alpha = np.repeat([[255, 255, 0, 0]], 4, 0).astype(np.uint8)
    gray = np.full((4, 4), 40, np.uint8)
    planes = {"RGBA": [gray, gray, gray, alpha], "LA": [gray, alpha]}
    if mode in planes:
        return encode(Image.fromarray(np.stack(planes[mode], -1), mode))
    if mode == "P":  # a palette with one transparent entry
        image = Image.fromarray((alpha == 0).astype(np.uint8), "P")
        image.putpalette([40, 40, 40, 200, 0, 0])
        return encode(image, transparency=1)
    if mode == "P-bytes":  # an alpha for each entry
        image = Image.fromarray((alpha == 0).astype(np.uint8), "P")
        image.putpalette([40, 40, 40, 200, 0, 0])
        return encode(image, transparency=b"\xff\x00")
    values = np.where(alpha > 0, 40, 7).astype(np.uint8)
    if mode == "L":  # tRNS: one gray is transparent
        return encode(Image.fromarray(values), transparency=7)
    return encode(Image.fromarray(np.stack([values] * 3, -1)), transparency=(7, 7, 7))


@pytest.mark.filterwarnings("ignore:.*mode.*:DeprecationWarning")
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "P-bytes", "L", "RGB"])
@pytest.mark.parametrize(
    ("background", "colour"),
    [("white", (255, 255, 255)), ("#102030", (16, 32, 48)), ("black", (0, 0, 0))],
)
def test_transparency_is_laid_on_the_background(mode, background, colour):
    pixels, converted = decoded(checks(mode), background=background)
    assert (pixels[:, :, :2] == 40).all()
    assert (pixels[:, :, 2:] == np.reshape(colour, (3, 1, 1))).all()
    assert converted[f"transparent ({mode.split('-')[0]}) laid on {background}"] == 1


def test_half_transparent_pixels_are_mixed_before_they_are_scaled():
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[..., 0], pixels[:, :4, 3] = 255, 128  # red, half or wholly transparent
    image, _ = decoded(encode(Image.fromarray(pixels)), size=8, channels=3)
    assert image[:, 0, 0].tolist() == [255, 127, 127]
    assert image[:, 0, 7].tolist() == [255, 255, 255]
    scaled, _ = decoded(encode(Image.fromarray(pixels)), size=2, channels=3)
    assert (scaled[0] == 255).all()  # a dark seam would show colours of transparent pixels


def test_an_opaque_alpha_changes_nothing(rng):
    pixels = np.random.default_rng(0).integers(256, size=(4, 4, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    image, converted = decoded(encode(Image.fromarray(pixels)))
    assert np.array_equal(image.transpose(1, 2, 0), pixels[..., :3])
    assert converted == {}


@pytest.mark.parametrize(
    ("image", "kind", "channels", "value", "converted"),
    [
        (Image.new("L", (4, 4), 60), "PNG", 3, 60, "converted from gray to colour"),
        (Image.new("RGB", (4, 4), (60,) * 3), "PNG", 1, 60, "converted from colour to gray"),
        (Image.new("CMYK", (4, 4), (0, 0, 0, 195)), "TIFF", 3, 60, "converted from CMYK"),
        (Image.new("1", (4, 4), 1), "PNG", 1, 255, None),
        (Image.new("P", (4, 4), 0), "PNG", 3, 0, None),
    ],
)
def test_conversions_are_counted(image, kind, channels, value, converted):
    pixels, counts = decoded(encode(image, kind), channels=channels)
    assert (pixels == value).all()
    assert counts == ({converted: 1} if converted else {})


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_of_several_frames_is_taken(kind):
    frames = [Image.new("RGB", (4, 4), (shade,) * 3) for shade in (60, 200)]
    content = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    pixels, converted = decoded(content)
    assert (np.abs(pixels.astype(int) - 60) <= 2).all()
    assert converted == {"with the first of several frames": 1}


def test_sixteen_bits_of_colour_are_reduced_and_said():
    # Pillow writes no such PNG: two pixels of 16-bit RGB by hand
    import struct
    import zlib

    def chunk(name, content):
        check = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    row = b"\0" + struct.pack(">6H", *[0x3C80] * 6)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    pixels, converted = decoded(b"\x89PNG\r\n\x1a\n" + parts, size=1)
    assert (pixels == 0x3C).all()
    assert converted == {"reduced from 16 to 8 bits per channel": 1}


def test_a_data_set_says_what_was_done(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(4):
            Image.new("RGBA", (20, 30), (9, 9, 9, 9)).save(tmp_path / name / f"{number}.png")
    Image.new("L", (16, 16), 9).save(tmp_path / "a" / "0.png")
    data = ImageFolder(tmp_path, image_size=8, pool_size=4)
    data.setup("fit")
    assert data.describe().startswith(
        "Read 8 images of 2 classes (8x8, 3 channels): 4 in the pool, 2 held out, 2 for testing. "
        "Of these, all scaled from 16x16 to 20x30, 1 converted from gray to colour, "
        "7 transparent (RGBA) laid on white. Decoded into "
    )


@pytest.mark.parametrize("background", ["transparent", "#12345678", "no colour", "12"])
def test_a_background_that_is_no_colour_is_refused(background, tmp_path):
    with pytest.raises(ValueError, match=f"name of a colour or .*, got `{background}`"):
        ImageFolder(tmp_path, background=background)


def test_a_colour_that_yaml_takes_for_a_comment_is_refused():
    with pytest.raises(ValueError, match=r"or rgb\(red,green,blue\), got `None`"):
        check_background(yaml.safe_load("#808080"))


def test_backgrounds():
    for background in ("white", "#ffffff", "#fff", "DarkSlateGray", "rgb(128,128,128)"):
        check_background(background)
