"""Views of training images: their distribution, what they are a function of, and who sees them."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from cusa_jax.config import default_config, validate
from cusa_jax.data.augment import Augmentation, random_box
from cusa_jax.data.captions import read_captions
from cusa_jax.data.pipeline import train_batches
from cusa_jax.data.sources import ImageFiles
from cusa_jax.data.splits import Split
from cusa_jax.errors import InputError
from cusa_jax.inputs import Inputs, Pixels, Regions, Text

SIZE = 8
INPUTS = Inputs(Pixels(SIZE), Text(77, 49408))


@pytest.fixture
def dataset(tmp_path):
    """8 images whose red says the column, whose green says the row, and whose blue says which it is."""
    lines = ["image,caption"]
    ramp = np.arange(0, 240, 6, dtype=np.uint8)
    for image in range(8):
        pixels = np.full((40, 40, 3), image, np.uint8)
        pixels[..., 0], pixels[..., 1] = ramp, ramp[:, None]
        Image.fromarray(pixels).save(tmp_path / f"{image}.png")
        lines += [f"{image}.png,{image}"]
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n")
    table = read_captions(tmp_path, "train")
    tokens = np.full((8, 77), 5, np.int32)
    return Split(table, table.captions, tokens, None, ImageFiles(table.image_paths))


def images(dataset, augmentation, epochs=3, **options):
    """float [epochs, 8, 8, 8, 3] of a whole epoch's batch each, in the order of the images."""
    iterator = train_batches(
        dataset, INPUTS, **{"batch_size": 8, "seed": 3, "augmentation": augmentation} | options
    )
    batches = [next(iterator) for _ in range(epochs)]
    iterator.close()
    return np.stack([batch.image[np.argsort(batch.image_index)] for batch in batches]).astype(int), batches


def test_a_view_depends_on_seed_step_and_image_alone(dataset):
    views, _ = images(dataset, Augmentation(0.3, True))
    again, _ = images(dataset, Augmentation(0.3, True))
    np.testing.assert_array_equal(views, again)
    other, _ = images(dataset, Augmentation(0.3, True), seed=4)
    assert (views[0] != views[1]).any((1, 2, 3)).all()
    assert (views != other).any((2, 3, 4)).mean() > 0.9
    # An image has a view of its own: crops begin in different places.
    assert len(np.unique(views[0, :, 0, 0, 1])) > 4


def test_mirrored_is_half_of_them_and_nothing_else(dataset):
    plain, _ = images(dataset, Augmentation(), epochs=1)
    flipped, _ = images(dataset, Augmentation(flip=True), epochs=12)
    is_mirrored = flipped[..., 0, 0, 0] > 128
    expected = np.where(is_mirrored[..., None, None, None], plain[:, :, :, ::-1], plain)
    np.testing.assert_allclose(flipped, expected, atol=1)
    assert 30 < is_mirrored.sum() < 66


def test_a_live_teacher_sees_the_same_view(dataset):
    larger = Pixels(16, (0.0,) * 3, (1.0,) * 3)
    _, batches = images(dataset, Augmentation(0.3, True), epochs=2, teacher_image=larger)
    for batch in batches:
        halved = batch.teacher_image.reshape(8, 8, 2, 8, 2, 3).mean((2, 4))
        # Resampled to another size; by crop and mirror they would differ by up to 200.
        assert np.abs(halved - batch.image).max() < 12


def test_boxes_are_spread_as_they_should_be():
    rng = np.random.default_rng(0)
    boxes = np.array([random_box(640, 480, 0.25, rng) for _ in range(2000)], float)
    left, top, right, bottom = boxes.T
    assert (left >= 0).all() and (top >= 0).all() and (right <= 640).all() and (bottom <= 480).all()  # noqa: PT018
    width, height = right - left, bottom - top
    area, aspect = width * height / (640 * 480), width / height
    assert 0.24 < area.min() < 0.27
    # Uniform but for wide and tall boxes that are too large to fit: below the middle.
    assert 0.48 < area.mean() < 0.62
    assert 0.74 < aspect.min() < 0.77
    assert 1.31 < aspect.max() < 1.35
    assert abs(np.log(aspect).mean()) < 0.05
    # No box of such a shape fits.
    assert random_box(1000, 10, 0.9, rng) == (0, 0, 1000, 10)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"teacher.bank": "runs/bank"}, r"runs/bank holds features of the plain ones; use live teachers"),
        ({"teacher.image": "features.npz"}, "features.npz holds features of the plain ones"),
        ({"teacher.image": "features.npz", "teacher.bank": "runs/bank", "teacher.control": "uniform"}, None),
        ({}, None),
    ],
)
def test_stored_features_do_not_go_with_views(settings, complaint):
    config = default_config()
    config.data.path, config.teacher.image, config.teacher.text = "data", "image", "text"
    config.data.crop = 0.5
    config.update_from_flattened_dict(settings)
    if complaint is None:
        assert validate(config).data.crop == 0.5
    else:
        with pytest.raises(InputError, match=complaint):
            validate(config)


def test_regions_have_no_views(dataset):
    inputs = dataclasses.replace(INPUTS, image=Regions(4, 6))
    with pytest.raises(InputError, match="the model takes features of regions; set crop=1, flip=false"):
        train_batches(dataset, inputs, batch_size=8, seed=0, augmentation=Augmentation(flip=True))
