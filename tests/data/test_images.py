"""Preprocessing against Pillow's documented bicubic filter, written out here, and torchvision's geometry."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cusa_jax.data import images
from cusa_jax.data.images import CLIP_MEAN, CLIP_STD, load_image, normalise, open_image, preprocess
from cusa_jax.errors import InputError
from cusa_jax.inputs import Pixels

GEOMETRY = json.loads((Path(__file__).parents[1] / "goldens" / "preprocess.json").read_text())["geometry"]
FRACTION_BITS = 22  # Pillow resamples 8-bit images in fixed point


def waves(width, height, channels=3):
    """A deterministic picture with fine and coarse detail, uint8 [height, width, channels]."""
    y, x, c = np.ogrid[:height, :width, :channels]
    phase = 0.021 * x * (c + 1) + 0.00013 * x * y + 0.9 * (y % (7 + c))
    return np.round(127.5 + 127.5 * np.sin(phase)).astype(np.uint8)


def bicubic(distance):
    a, x = -0.5, abs(distance)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


def resample_rows(pixels, size):
    """Antialiased bicubic along axis 0, rounded to uint8."""
    if pixels.shape[0] == size:
        return pixels
    scale = pixels.shape[0] / size
    stretch = max(scale, 1.0)
    rows = []
    for out in range(size):
        centre = (out + 0.5) * scale
        first = max(0, int(centre - 2 * stretch + 0.5))
        last = min(pixels.shape[0], int(centre + 2 * stretch + 0.5))
        weights = [bicubic((i - centre + 0.5) / stretch) for i in range(first, last)]
        fixed = [round_half_away(w / sum(weights) * 2**FRACTION_BITS) for w in weights]
        total = np.tensordot(fixed, pixels[first:last].astype(np.int64), 1) + 2 ** (FRACTION_BITS - 1)
        rows.append(np.clip(total >> FRACTION_BITS, 0, 255))
    return np.array(rows, np.uint8)


def round_half_away(x):
    return int(math.copysign(math.floor(abs(x) + 0.5), x))


def resize(pixels, width, height):
    across = resample_rows(pixels.swapaxes(0, 1), width).swapaxes(0, 1)
    return resample_rows(across, height)


@pytest.mark.parametrize("case", GEOMETRY, ids=lambda case: f"{case['size_wh']}-{case['crop']}")
def test_pixels_match_pillow_s_filter_at_torchvision_s_geometry(case):
    pixels = waves(*case["size_wh"])
    left, top = case["crop_left_top"]
    expected = resize(pixels, *case["resized_wh"])[top : top + case["crop"], left : left + case["crop"]]
    result = preprocess(Image.fromarray(pixels), Pixels(case["crop"]))
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    ("width", "height", "size", "left", "top"),
    [
        (335, 224, 224, 56, 0),  # (335 - 224) / 2 = 55.5 rounds to even, 56
        (225, 224, 224, 0, 0),  # 0.5 rounds to even, 0
        (224, 227, 224, 0, 2),  # 1.5 rounds to even, 2
        (224, 224, 224, 0, 0),
    ],
)
def test_crop_offset_rounds_half_to_even(width, height, size, left, top):
    pixels = waves(width, height)
    np.testing.assert_array_equal(
        preprocess(Image.fromarray(pixels), Pixels(size)), pixels[top : top + size, left : left + size]
    )


@pytest.mark.parametrize("size_wh", [(3, 200), (200, 3), (1, 1), (40, 41)])
def test_small_and_narrow_images_are_enlarged(size_wh):
    width, height = size_wh
    short = min(size_wh)
    resized = resize(waves(*size_wh), 32 * width // short, 32 * height // short)
    top, left = round((resized.shape[0] - 32) / 2), round((resized.shape[1] - 32) / 2)
    result = preprocess(Image.fromarray(waves(*size_wh)), Pixels(32))
    np.testing.assert_array_equal(result, resized[top : top + 32, left : left + 32])


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_images_become_rgb_before_they_are_resized(mode):
    rgba = waves(50, 37, 4)
    rgb = rgba[..., :3]
    grey = np.repeat(rgba[..., :1], 3, axis=2)
    palette = waves(256, 1)[0]
    if mode == "P":
        image = Image.fromarray(rgba[..., 0])
        image.putpalette(palette.tobytes())
        expected = palette[rgba[..., 0]]
    elif mode == "1":
        image = Image.fromarray(rgba[..., 0] > 127)
        expected = np.where(grey > 127, 255, 0).astype(np.uint8)
    elif mode == "CMYK":
        image = Image.merge("CMYK", [*Image.fromarray(255 - rgb).split(), Image.new("L", (50, 37), 0)])
        expected = rgb
    else:
        bands = {"L": rgba[..., 0], "LA": rgba[..., [0, 3]], "RGBA": rgba}[mode]
        image, expected = Image.fromarray(bands), rgb if mode == "RGBA" else grey
    assert image.mode == mode
    np.testing.assert_array_equal(
        preprocess(image, Pixels(24)), preprocess(Image.fromarray(expected), Pixels(24))
    )


def test_load_image_reads_a_file_as_pillow_decodes_it(tmp_path):
    Image.fromarray(waves(60, 44)).save(tmp_path / "a.jpg", quality=90)
    with Image.open(tmp_path / "a.jpg") as image:
        expected = preprocess(image, Pixels(32))
    np.testing.assert_array_equal(load_image(tmp_path / "a.jpg", Pixels(32)), expected)


def test_missing_image_is_named(tmp_path):
    with pytest.raises(
        InputError, match=r"none\.jpg: image not found; check data\.path and data\.image_root"
    ):
        load_image(tmp_path / "none.jpg", Pixels(32))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "tif"])
def test_truncated_image_is_named(tmp_path, suffix):
    file = tmp_path / f"cut.{suffix}"
    Image.fromarray(waves(60, 44)).save(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match=rf"cut\.{suffix}: not a readable image"):
        load_image(file, Pixels(32))


def test_empty_and_foreign_files_and_folders_are_named(tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "folder.jpg").mkdir()
    for name in ("empty.jpg", "text.jpg", "folder.jpg"):
        with pytest.raises(InputError, match=f"{name}: not a readable image"):
            load_image(tmp_path / name, Pixels(32))


def test_postscript_is_not_handed_to_an_interpreter(tmp_path):
    Image.fromarray(waves(60, 44)).save(tmp_path / "a.eps")
    with pytest.raises(InputError, match="cannot identify image file"):
        load_image(tmp_path / "a.eps", Pixels(32))


def test_decompression_bomb_is_refused(tmp_path, monkeypatch):
    Image.fromarray(waves(60, 44)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match=r"bomb\.png: not a readable image .*decompression bomb"):
        load_image(tmp_path / "bomb.png", Pixels(32))


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize(
    ("mean", "std"), [(CLIP_MEAN, CLIP_STD), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
)
def test_normalise_is_the_formula_for_every_pixel_value(transform, mean, std):
    pixels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    expected = (pixels / 255 - np.array(mean)) / np.array(std)
    result = transform(lambda x: normalise(x, mean=mean, std=std))(pixels)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)


def test_normalise_uses_clip_s_constants_and_rounds_once():
    pixels = waves(16, 16)
    full = normalise(pixels)
    np.testing.assert_allclose(full[..., 0], (pixels[..., 0] / 255 - 0.48145466) / 0.26862954, atol=1e-6)
    np.testing.assert_allclose(full[..., 2], (pixels[..., 2] / 255 - 0.40821073) / 0.27577711, atol=1e-6)
    np.testing.assert_array_equal(normalise(pixels, jnp.bfloat16), full.astype(jnp.bfloat16))


def test_sixteen_bits_are_scaled_where_pictures_are_seen_as_shown(tmp_path, caplog):
    levels = np.array([[0, 255, 256, 0x8000, 0xFFFF]], np.uint16)
    Image.fromarray(levels).save(tmp_path / "grey.png")
    shown = np.asarray(open_image(tmp_path / "grey.png", as_shown=True))[0, :, 0]
    assert shown.tolist() == [0, 0, 1, 128, 255]
    assert not caplog.messages
    as_the_reference = np.asarray(open_image(tmp_path / "grey.png"))[0, :, 0]
    assert as_the_reference.tolist() == [0, 255, 255, 255, 255]
    assert "clipped" in caplog.text


def test_heic_names_the_extra_that_reads_it(tmp_path, monkeypatch):
    (tmp_path / "phone.HEIC").write_bytes(b"\0\0\0\030ftypheic\0\0\0\0mif1heic")
    monkeypatch.setattr(images, "_formats", lambda: images._FORMATS)
    with pytest.raises(InputError, match=r"not a readable image .*pip install 'cusa_jax\[heic\]'"):
        open_image(tmp_path / "phone.HEIC")


def test_heic_is_read_where_its_package_is_installed(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    picture = Image.new("RGB", (16, 8), (200, 30, 30))
    picture.save(tmp_path / "phone.heic", quality=100)
    read = np.asarray(open_image(tmp_path / "phone.heic", as_shown=True))
    assert read.shape == (8, 16, 3)
    np.testing.assert_allclose(read, np.asarray(picture), atol=4)
    assert ".heic" in images.image_suffixes()
