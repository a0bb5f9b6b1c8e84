"""One's own photographs through the suites: seen as the model saw its training's, and the paper's suites as ever."""

import csv

import jax
import numpy as np
import pytest
from PIL import Image

from cusa_jax.config import default_config
from cusa_jax.data.prepared import prepare
from cusa_jax.data.splits import load_split
from cusa_jax.errors import InputError
from cusa_jax.evaluation.ensemble import Ensemble
from cusa_jax.evaluation.open_source import open_source
from cusa_jax.evaluation.own import own_suite
from cusa_jax.evaluation.recall import FLICKR30K
from cusa_jax.evaluation.suite import Evaluation, Folders
from cusa_jax.models.clip_sizes import ClipConfig
from cusa_jax.weights.formats import write_weights
from cusa_jax.weights.hub import Weights, template

SIZES = ClipConfig(
    embed_dim=16, image_size=16, patch_size=8, vision_width=64, vision_layers=1, text_width=64, text_layers=1
)
RNG = np.random.default_rng(0)
SHAPES = template("clip", SIZES, ("cross",), "here")
VARIABLES = jax.tree.map(lambda x: RNG.normal(0, 0.1, x.shape).astype("f4"), SHAPES)
# As they lie in the files, which say that a camera was held on its side.
PIXELS = RNG.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
UPRIGHT = np.rot90(PIXELS, -1, axes=(1, 2))


@pytest.fixture
def photos(tmp_path):
    folder, turned = tmp_path / "photos", Image.Exif()
    folder.mkdir()
    turned[0x112] = 6
    for n, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(folder / f"{n}.png", exif=turned)
    with (folder / "test.csv").open("w", newline="") as file:
        rows = [(f"{n}.png", f"photo {n}") for n in range(4)]
        csv.writer(file).writerows([("image", "caption"), *rows])
    return folder


def model(tmp_path, trained, **options):
    """A model whose recipe says how it saw its training's pictures; without a recipe where `trained` is None."""
    config = default_config()
    config.data.as_shown = bool(trained)
    weights = Weights("clip", SIZES, VARIABLES, ("cross",), config=None if trained is None else config)
    write_weights(tmp_path / f"{trained}.safetensors", weights)
    return open_source(str(tmp_path / f"{trained}.safetensors"), batch_size=4, workers=0, **options)


def embedded(source, suite, path):
    data = suite.data[0]
    return Evaluation(source, Folders([suite], "", {data.name: str(path)})).captioned(data).scores


def expected(pixels):
    student = Weights("clip", SIZES, VARIABLES, ("cross",)).student()
    embedding = np.asarray(student.encode_side(VARIABLES, "image", pixels)["cross"])
    return embedding / np.linalg.norm(embedding, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("trained", "wanted", "pixels"),
    [
        (True, None, UPRIGHT), (False, None, PIXELS), (None, None, UPRIGHT),
        (True, False, PIXELS), (False, True, UPRIGHT),
    ],
)  # fmt: skip
def test_one_s_own_are_seen_as_in_training_and_the_paper_s_as_its_code_does(
    photos, tmp_path, trained, wanted, pixels
):
    source = model(tmp_path, trained, shown=wanted)
    own = embedded(source, own_suite("mine", str(photos)), photos)
    np.testing.assert_allclose(own.images, expected(pixels), atol=1e-5)
    np.testing.assert_allclose(embedded(source, FLICKR30K, photos).images, expected(PIXELS), atol=1e-5)


def test_an_ensemble_s_models_see_them_each_in_its_way(photos, tmp_path):
    suite = own_suite("mine", str(photos))
    parts = [model(tmp_path, trained) for trained in (True, False)]
    both = [embedded(part, suite, photos).rows("i2t", np.arange(4)) for part in parts]
    found = embedded(Ensemble(parts), suite, photos).rows("i2t", np.arange(4))
    np.testing.assert_allclose(found, np.mean(both, axis=0), atol=1e-6)


def test_photographs_by_class_are_seen_so_too(photos, tmp_path):
    (photos / "labels.csv").write_text("filename,label\n0.png,cat\n1.png,cat\n2.png,dog\n3.png,dog\n")
    suite, source = own_suite("mine", str(photos)), model(tmp_path, True)
    asked = []
    classified = source.classified
    source.classified = lambda *of: (asked.append(classified(*of)), asked[-1])[1]
    suite.run(Evaluation(source, Folders([suite], "", {"mine": str(photos)})))
    np.testing.assert_allclose(asked[0].scores.images, expected(UPRIGHT), atol=1e-5)


def test_a_prepared_folder_of_the_other_way_is_refused_and_the_way_out_is_one(photos, tmp_path):
    inputs, prepared = model(tmp_path, True)._student.inputs, tmp_path / "prepared"
    split = load_split(photos, "test", inputs, image_root="", shown=True)
    prepare(prepared, {"test": split}, inputs)
    suite = own_suite("mine", str(prepared))
    refused = r"prepared: was prepared with config\.data\.as_shown=True; "
    with pytest.raises(InputError, match=f"{refused}set --as_shown=true, or") as told:
        embedded(model(tmp_path, False), suite, prepared)
    assert "\n" not in str(told.value)
    with pytest.raises(InputError, match=f"{refused}name it as your own, --suite=NAME=PATH"):
        embedded(model(tmp_path, True), FLICKR30K, prepared)
    for source in (model(tmp_path, False, shown=True), model(tmp_path, True)):
        np.testing.assert_allclose(embedded(source, suite, prepared).images, expected(UPRIGHT), atol=1e-5)
