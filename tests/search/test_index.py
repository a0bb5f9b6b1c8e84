"""The index of a photo folder: what is encoded when, what a kill leaves, what is refused.

The encoder is a stand-in whose embeddings can be told by hand: the mean colour of the photo.
"""

import os
import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from cusa_jax.errors import InputError
from cusa_jax.inputs import Inputs, Pixels, Text
from cusa_jax.search import index, ingest


class MeanColour:
    """Embeds a photo as its mean colour, of length 1; interrupted before the batch number `stop`."""

    batch_size = 2
    student = SimpleNamespace(inputs=Inputs(Pixels(8), Text(77, 49408)))

    def __init__(self, stop: int | None = None):
        self.encoded, self.stop = 0, stop

    def images(self, params, pixels):
        if self.stop == self.encoded:
            raise KeyboardInterrupt
        self.encoded += 1
        colour = pixels.mean((1, 2)).astype(np.float32) + params
        colour /= np.linalg.norm(colour, axis=1, keepdims=True)
        return colour, -colour


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for n in range(5):
        save(folder / "deep" / f"{n}.png", n)
    return folder


def save(path, n):
    Image.new("RGB", (12, 9), (40 * n + 10, 200, 5)).save(path)


def origin(photos, fingerprint="model"):
    return index.Origin(str(photos), "runs/x", fingerprint)


def update(tmp_path, photos, encoder=None, forget=False, **options):
    return ingest.update(tmp_path / "index", origin(photos, **options), encoder or MeanColour(), 1.0, forget)


def read(file, head):
    """(origin, paths, embeddings of one head)."""
    held = index.read(file)
    return held.origin, [Path(held.origin.photos, name) for name in held.names], getattr(held, head)


def expected(n):
    colour = np.array([40 * n + 11, 201, 6], np.float32)
    return colour / np.linalg.norm(colour)


def test_every_photo_is_in_it_with_both_embeddings(tmp_path, photos):
    (photos / "notes.txt").write_text("no photo")
    done = update(tmp_path, photos)
    assert (done.encoded, done.unchanged, done.removed, done.unreadable) == (5, 0, 0, [])
    for head, sign in (("cross", 1), ("uni", -1)):
        told, names, embeddings = read(tmp_path / "index", head)
        assert told == origin(photos)
        assert names == [photos / "deep" / f"{n}.png" for n in range(5)]
        np.testing.assert_allclose(embeddings, [sign * expected(n) for n in range(5)], rtol=1e-6)


def test_only_what_changed_is_encoded_again(tmp_path, photos):
    update(tmp_path, photos)
    unchanged = MeanColour()
    assert update(tmp_path, photos, unchanged) == ingest.Updated(0, 5, 0, [])
    assert unchanged.encoded == 0

    save(photos / "deep" / "1.png", 4)
    os.utime(photos / "deep" / "1.png", ns=(1, 1))  # whatever the clock's grain
    save(photos / "0.png", 3)
    (photos / "deep" / "3.png").unlink()
    encoder = MeanColour()
    assert update(tmp_path, photos, encoder) == ingest.Updated(2, 3, 1, [])
    assert encoder.encoded == 1
    _, names, embeddings = read(tmp_path / "index", "cross")
    assert [str(name.relative_to(photos)) for name in names] == [
        "0.png", "deep/0.png", "deep/1.png", "deep/2.png", "deep/4.png"]  # fmt: skip
    np.testing.assert_allclose(embeddings, [expected(n) for n in (3, 0, 4, 2, 4)], rtol=1e-6)


def test_unreadable_photos_are_named_and_left_out(tmp_path, photos):
    update(tmp_path, photos)
    (photos / "deep" / "2.png").write_bytes(b"once a photo")
    (photos / "new.jpg").write_text("never one")
    done = update(tmp_path, photos)
    assert (done.encoded, done.unchanged, len(done.unreadable)) == (0, 4, 2)
    assert [error.split(":")[0] for error in done.unreadable] == [
        str(photos / "deep" / "2.png"), str(photos / "new.jpg")]  # fmt: skip
    assert [name.name for name in read(tmp_path / "index", "uni")[1]] == [
        "0.png",
        "1.png",
        "3.png",
        "4.png",
    ]


def test_a_stopped_run_leaves_a_whole_index_and_the_next_continues(tmp_path, photos):
    with pytest.raises(KeyboardInterrupt):
        update(tmp_path, photos, MeanColour(stop=2))
    _, names, embeddings = read(tmp_path / "index", "cross")
    assert len(names) == len(embeddings) == 4
    assert update(tmp_path, photos).encoded == 1

    save(photos / "deep" / "0.png", 2)
    os.utime(photos / "deep" / "0.png", ns=(1, 1))
    with pytest.raises(KeyboardInterrupt):
        update(tmp_path, photos, MeanColour(stop=0))
    np.testing.assert_allclose(read(tmp_path / "index", "cross")[2][0], expected(0), rtol=1e-6)


def test_names_need_not_be_unicode(tmp_path, photos):
    odd = os.fsencode(photos) + b"/\xff\xfe.png"
    save(os.fsdecode(odd), 1)
    assert update(tmp_path, photos).encoded == 6
    assert odd in [os.fsencode(name) for name in read(tmp_path / "index", "cross")[1]]


def test_another_model_or_folder_is_refused(tmp_path, photos):
    update(tmp_path, photos)
    with pytest.raises(InputError, match=r"index: was made with another model than runs/x holds"):
        update(tmp_path, photos, fingerprint="other")
    with pytest.raises(
        InputError, match=r"index: its embeddings were computed in float32; say --dtype=float32"
    ):
        update(tmp_path, photos, fingerprint="model bfloat16")
    with pytest.raises(InputError, match=r"index: is the index of .*photos; name another --out for .*deep"):
        update(tmp_path, photos / "deep")
    assert len(read(tmp_path / "index", "cross")[1]) == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no database, and long enough to be looked at" * 9, "not a readable index"),
        (lambda whole: whole[: len(whole) // 2], "not a readable index|not as they were written"),
        (lambda whole: whole.replace(b"photo index 2", b"photo index 1"), "not an index of this version"),
        (b"", "not a readable index"),
    ],
)
def test_what_is_no_index_is_refused_and_left_alone(tmp_path, photos, content, message):
    file = tmp_path / "index"
    update(tmp_path, photos)
    file.write_bytes(content if isinstance(content, bytes) else content(file.read_bytes()))
    before = file.read_bytes()
    with pytest.raises(InputError, match=message):
        read(file, "cross")
    assert file.read_bytes() == before


def test_a_flipped_bit_is_noticed_and_the_next_run_mends_it(tmp_path, photos):
    update(tmp_path, photos)
    file = tmp_path / "index"
    sound = read(file, "cross")[2]
    content = file.read_bytes()
    for blob in (sound[2].tobytes(), b"deep/2.png"):  # an embedding, and the name of a photo
        damaged = bytearray(content)
        # Of what SQLite searches by, a copy lies elsewhere in the file: damage the row.
        damaged[content.rindex(blob) + 3] ^= 0x40
        file.write_bytes(damaged)
        with pytest.raises(InputError, match="damaged, 1 of its embeddings are not as they were written"):
            read(file, "cross")
    file.write_bytes(content.replace(sound[2].tobytes(), bytes(12)))
    encoder = MeanColour()
    assert update(tmp_path, photos, encoder) == ingest.Updated(1, 4, 0, [])
    np.testing.assert_array_equal(read(file, "cross")[2], sound)


def test_a_database_of_something_else_is_refused(tmp_path, photos):
    update(tmp_path, photos)
    with sqlite3.connect(tmp_path / "index") as other:
        other.execute("UPDATE photos SET cross = 5 WHERE name = ?", (b"deep/3.png",))
    other.close()
    with pytest.raises(InputError, match="damaged, 1 of its embeddings"):
        read(tmp_path / "index", "cross")


def test_a_drive_that_is_not_there_empties_no_index(tmp_path, photos):
    update(tmp_path, photos)
    photos.rename(tmp_path / "away")
    photos.mkdir()
    with pytest.raises(
        InputError, match=r"photos: no photos in it, and .*index has 5 of it: is a drive not there"
    ):
        update(tmp_path, photos)
    photos.rmdir()
    (tmp_path / "away").rename(photos)
    assert update(tmp_path, photos) == ingest.Updated(0, 5, 0, [])


def test_the_photos_of_a_folder_within_that_is_empty_are_kept_until_they_are_forgotten(tmp_path, photos):
    save(photos / "0.png", 1)
    update(tmp_path, photos)
    away = tmp_path / "away"
    (photos / "deep").rename(away)
    (photos / "deep").mkdir()
    assert update(tmp_path, photos) == ingest.Updated(0, 1, 0, [], {}, kept=5)
    assert len(read(tmp_path / "index", "cross")[1]) == 6

    (photos / "deep").rmdir()
    away.rename(photos / "deep")
    assert update(tmp_path, photos) == ingest.Updated(0, 6, 0, [])

    for path in (photos / "deep").iterdir():
        path.unlink()
    assert update(tmp_path, photos, forget=True) == ingest.Updated(0, 1, 5, [])
    assert [path.name for path in read(tmp_path / "index", "cross")[1]] == ["0.png"]
    (photos / "0.png").unlink()
    assert update(tmp_path, photos, forget=True) == ingest.Updated(0, 0, 1, [])


def test_the_index_of_a_folder_that_was_moved_follows_it(tmp_path, photos):
    update(tmp_path, photos)
    moved = tmp_path / "elsewhere"
    shutil.copytree(photos, moved)
    save(moved / "deep" / "9.png", 3)
    with pytest.raises(
        InputError, match=r"index: is the index of .*photos; name another --out for .*elsewhere"
    ):
        update(tmp_path, moved)  # the old folder is still there
    shutil.rmtree(photos)
    assert update(tmp_path, moved) == ingest.Updated(1, 5, 0, [])
    told, names, _ = read(tmp_path / "index", "cross")
    assert told.photos == str(moved)
    assert names[0] == moved / "deep" / "0.png"


def test_a_folder_with_other_photos_is_not_the_one_that_was_moved(tmp_path, photos):
    update(tmp_path, photos)
    photos.rename(tmp_path / "elsewhere")
    for n in range(3):
        (tmp_path / "elsewhere" / "deep" / f"{n}.png").write_bytes(b"another")
    with pytest.raises(InputError, match=r"is the index of .*photos"):
        update(tmp_path, tmp_path / "elsewhere")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_photos_in_a_folder_that_cannot_be_read_are_not_gone(tmp_path, photos):
    update(tmp_path, photos)
    (photos / "deep").chmod(0)
    with pytest.raises(InputError, match="deep: cannot be read"):
        update(tmp_path, photos)
    (photos / "deep").chmod(0o755)


def test_what_is_no_photo_of_the_users_is_counted_by_kind(tmp_path, photos):
    for place in ("@eaDir/0.jpg/thumb.jpg", ".thumbnails/0.jpg", ".Trash-1000/files/0.jpg", "deep/#recycle/1.png",
                  ".stfolder/0.png", "__MACOSX/deep/0.png"):  # fmt: skip
        (photos / place).parent.mkdir(parents=True, exist_ok=True)
        save(photos / place, 1)
    (photos / "deep" / "._0.png").write_bytes(b"\0\5\26\7")
    for n in range(3):
        (photos / f"{n}.HEIC").write_bytes(b"ftypheic")
    (photos / "IMG.CR2").write_bytes(b"II")
    (photos / ".hidden.txt").write_text("no photo")
    left_out = {"thumbnails": 2, "trash": 2, "hidden": 3, ".heic": 3, ".cr2": 1}
    assert update(tmp_path, photos) == ingest.Updated(5, 0, 0, [], left_out)


def test_photos_are_seen_as_viewers_show_them(tmp_path, photos):
    """Upright, and on white where they are transparent."""
    upright = np.zeros((16, 12, 3), np.uint8)
    upright[:8] = 255
    turned = Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x112] = 6
    turned.save(photos / "phone.png", exif=exif)
    logo = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    logo.save(photos / "logo.png")

    class TopLeft(MeanColour):
        def images(self, params, pixels):
            return pixels[:, 1, 1].astype(np.float32), pixels[:, 6, 6].astype(np.float32)

    update(tmp_path, photos, TopLeft())
    (_, names, top), (_, _, bottom) = (read(tmp_path / "index", head) for head in ("cross", "uni"))
    seen = {name.name: (t[0], b[0]) for name, t, b in zip(names, top, bottom, strict=True)}
    assert (seen["phone.png"], seen["logo.png"]) == ((255, 0), (255, 255))


def test_missing_index_folder_and_photos_are_told(tmp_path):
    with pytest.raises(InputError, match=r"index: no such index; `scripts/search\.py index"):
        read(tmp_path / "index", "cross")
    with pytest.raises(InputError, match="no such folder of photos"):
        update(tmp_path, tmp_path / "photos")
    (tmp_path / "empty").mkdir()
    update(tmp_path, tmp_path / "empty")
    with pytest.raises(InputError, match="there are no photos in it"):
        read(tmp_path / "index", "cross")
