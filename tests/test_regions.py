"""Regions of one's own photos: what is written is what the tower says; a stop loses nothing and mixes nothing up."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from cusa_jax import regions
from cusa_jax.config import default_config, typed
from cusa_jax.data import region_writer, scan
from cusa_jax.data.images import load_image
from cusa_jax.data.splits import SPLITS
from cusa_jax.errors import InputError
from cusa_jax.teachers import checkpoints
from cusa_jax.teachers.live import load_patches
from cusa_jax.teachers.resnet import ResNet, ResNetConfig


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    """A small ResNet with random weights, whose pictures are 96 pixels a side and maps 3 x 3 of 6 numbers."""
    folder = tmp_path_factory.mktemp("tower")
    config = ResNetConfig(4, (4, 6, 6, 6), (1, 1, 1, 1), layer_type="basic")
    params = ResNet(config).init(jax.random.key(1), jnp.zeros((1, 32, 32, 3)))["params"]
    checkpoints.save(folder, config, params)
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"size": 96, "image_mean": mean, "image_std": std})
    )
    return folder


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for split, first in (("train", 0), ("val", 3), ("test", 5)):
        with (folder / f"{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["image", "caption"])
            for image in range(first, first + (3 if split == "train" else 2)):
                pixels = np.random.default_rng(image).integers(0, 256, (96, 96, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{image}.png")
                rows.writerows([f"{image}.png", f"photo {image} in words {k}"] for k in range(5))
    return folder


def config_of(photos, **data):
    config = default_config()
    config.data.path, config.eval.batch_size = str(photos), 2
    config.data.update(data)
    return typed(config)


def test_what_is_written_is_what_the_tower_says_of_each_photo(tower, photos, tmp_path):
    out = tmp_path / "out"
    regions.write(config_of(photos), str(tower), out)
    model, params = load_patches(str(tower))
    held = scan.read_split(out, "train")
    for number, name in enumerate(held.ids):
        pixels = load_image(photos / name, model.image)[None]
        np.testing.assert_allclose(
            held.features.read(number), model.apply(params, pixels)[0], rtol=1e-4, atol=1e-5
        )
    with np.load(out / "test_pooled.npz", allow_pickle=False) as pooled:
        assert len(pooled["ids"]) == 2
    assert regions.settings(out).endswith("--config.model.sizes=regions=9,img_dim=6")


def test_photos_are_read_from_where_they_lie_and_seen_as_shown(tower, photos, tmp_path):
    """In Parquet, held sideways: the tower is given what numpy turned."""
    turned, pixels = Image.Exif(), {}
    turned[0x112] = 6
    for split, first in (("train", 0), ("val", 3), ("test", 5)):
        rows = []
        for image in range(first, first + 2):
            file = tmp_path / "turned.png"
            Image.open(photos / f"{image}.png").save(file, exif=turned)
            pixels[str(image)] = np.rot90(np.asarray(Image.open(photos / f"{image}.png")), -1)
            captions = [f"photo {image} in words {k}" for k in range(5)]
            rows.append({"image": {"bytes": file.read_bytes()}, "caption": captions, "image_id": str(image)})
        (tmp_path / "parquet").mkdir(exist_ok=True)
        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "parquet" / f"{split}.parquet")
    out = tmp_path / "out"
    regions.write(config_of(tmp_path / "parquet", as_shown=True), str(tower), out)
    model, params = load_patches(str(tower))
    held = scan.read_split(out, "dev")
    assert held.ids == ["3", "4"]
    for number, image in enumerate(held.ids):
        expected = model.apply(params, pixels[image][None])[0]
        np.testing.assert_allclose(held.features.read(number), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match=r"another model or grid, or another data\.as_shown"):
        regions.write(config_of(tmp_path / "parquet"), str(tower), out)


def test_a_damaged_photo_stops_it_or_is_left_out_with_its_captions(tower, photos, tmp_path, capsys):
    (photos / "1.png").write_bytes(b"no photo")
    table = photos / "train.csv"
    table.write_text(table.read_text().replace("photo 1 in", "zebra 1 in"))
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"1\.png: not a readable .*: data\.on_bad_image=skip"):
        regions.write(config_of(photos), str(tower), out)
    regions.write(config_of(photos, on_bad_image="skip"), str(tower), out)
    assert (
        "train: 2 images, 0 of fewer than five captions and 1 unreadable left out" in capsys.readouterr().out
    )
    held, (model, params) = scan.read_split(out, "train"), load_patches(str(tower))
    assert held.ids == ["0.png", "2.png"]
    assert held.captions == [f"photo {n} in words {k}" for n in (0, 2) for k in range(5)]
    pixels = np.stack([load_image(photos / name, model.image) for name in held.ids])
    found = np.stack([held.features.read(n) for n in range(2)])
    np.testing.assert_allclose(found, model.apply(params, pixels), rtol=1e-4, atol=1e-5)
    with np.load(out / "train_pooled.npz", allow_pickle=False) as pooled:
        np.testing.assert_allclose(pooled["features"], found.mean(1), rtol=1e-5)
    assert "zebra" not in json.loads((out / "vocab.json").read_text())["word2idx"]


def test_a_prepared_folder_is_not_taken_for_photos(tower, photos, tmp_path):
    (photos / "prepared.json").write_text(
        json.dumps({"format": 2, "image": {"size": 8}, "text": {}, "captions": dict.fromkeys(SPLITS, "")})
    )
    for split in SPLITS:
        rows = [{"image_path": "0.png", "caption": "a", "image_id": "0"}]
        (photos / f"{split}.json").write_text(json.dumps(rows))
    with pytest.raises(InputError, match=r"is prepared, for another model .*; name the folder of the photos"):
        regions.write(config_of(photos), str(tower), tmp_path / "out")


def test_a_stop_loses_no_split_and_another_command_is_refused(tower, photos, tmp_path, monkeypatch):
    out, settings = tmp_path / "out", {"grid": 2, "standardised": True}
    encode, encoded = region_writer._write_features, []

    def stopped(*of):
        if len(encoded) == 1:
            raise KeyboardInterrupt
        encoded.append(of)
        return encode(*of)

    monkeypatch.setattr(region_writer, "_write_features", stopped)
    with pytest.raises(KeyboardInterrupt):
        regions.write(config_of(photos), str(tower), out, **settings)
    with pytest.raises(InputError, match="holds regions of other photos, another model or grid"):
        regions.write(config_of(photos), str(tower), out, grid=3, standardised=True)
    before = (out / "unscaled" / "train_ims.npy").stat().st_mtime_ns

    def watched(*of):
        assert (out / "unscaled" / "train_ims.npy").stat().st_mtime_ns == before
        return encode(*of)

    monkeypatch.setattr(region_writer, "_write_features", watched)
    regions.write(config_of(photos), str(tower), out, **settings)
    train = np.load(out / "train_ims.npy")
    assert train.shape == (3, 4, 6)
    moving = train.std((0, 1)) > 0
    np.testing.assert_allclose(train.mean((0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(train.std((0, 1))[moving], 1, atol=1e-4)
    assert not (out / "unscaled").exists()


def test_a_folder_that_holds_anything_else_is_refused(tower, photos, tmp_path):
    with pytest.raises(InputError, match="exists and is not empty"):
        regions.write(config_of(photos), str(tower), photos)
    with pytest.raises(InputError, match=r"--grid=4: the model has 9 patches"):
        regions.write(config_of(photos), str(tower), tmp_path / "out", grid=4)
    # What was never begun is no hindrance.
    regions.write(config_of(photos), str(tower), tmp_path / "out", grid=3)
