"""Caption files of every layout, and what is said about broken ones."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from cusa_jax.data.captions import clean_caption, clean_captions, read_captions
from cusa_jax.data.sources import ImageFiles
from cusa_jax.errors import InputError

GOLDEN = json.loads((Path(__file__).parents[1] / "goldens" / "tokenizer.json").read_text())
REFERENCE = [
    {"image_path": "pics/b.jpg", "caption": "B one", "image_id": "7"},
    {"image_path": "./pics/a.jpg", "caption": "A one", "image_id": 10},
    {"image_path": "pics/b.jpg", "caption": "B two", "image_id": 7},
]
KARPATHY_COCO = {
    "dataset": "coco",
    "images": [
        {
            "filename": f"{name}.jpg",
            "filepath": folder,
            "cocoid": number,
            "split": split,
            "sentences": [{"raw": f"{name} {k}", "sentid": 10 * number + k} for k in range(count)],
        }
        for number, (name, folder, split, count) in enumerate(
            [
                ("v", "val2014", "test", 2),
                ("t", "train2014", "train", 1),
                ("r", "val2014", "restval", 3),
                ("w", "val2014", "val", 2),
            ]
        )
    ],
}


COCO = {
    "info": {"year": 2014},
    "images": [
        {"id": 42, "file_name": "COCO_val2014_000000000042.jpg", "license": 3},
        {"id": 9, "file_name": "COCO_val2014_000000000009.jpg"},
        {"id": 7, "file_name": "nobody describes.jpg"},
    ],
    "annotations": [
        {"image_id": 9, "id": 661, "caption": "nine"},
        {"image_id": 42, "id": 4, "caption": "forty-two"},
        {"image_id": 9, "id": 67, "caption": "nine again"},
    ],
}


def write(folder, name, content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / name


def test_reference_rows_keep_the_order_of_the_file(tmp_path):
    write(tmp_path, "new_train.json", REFERENCE)
    table = read_captions(tmp_path, "train")
    assert table.image_ids == ["7", "10"]
    assert table.image_paths == [tmp_path / "pics/b.jpg", tmp_path / "pics/a.jpg"]
    assert table.captions == ["B one", "A one", "B two"]
    assert table.caption_image.dtype == np.int32
    np.testing.assert_array_equal(table.caption_image, [0, 1, 0])
    assert table.caption_ids is None


def test_paths_may_be_absolute_or_relative_to_a_root(tmp_path, monkeypatch):
    rows = [{**REFERENCE[0]}, {**REFERENCE[1], "image_path": "/data/a.jpg"}]
    write(tmp_path / "json", "val.json", rows)
    monkeypatch.chdir(tmp_path)
    expected = [tmp_path / "root" / "pics/b.jpg", Path("/data/a.jpg")]
    assert read_captions("json", "val", image_root="root").image_paths == expected
    assert read_captions("json/val.json", "val", image_root=tmp_path / "root").image_paths == expected


def test_caption_ids_are_kept_if_every_row_has_one(tmp_path):
    rows = [
        row | {"caption_id": caption_id} for row, caption_id in zip(REFERENCE, [9, "770337", 5], strict=True)
    ]
    table = read_captions(write(tmp_path, "a.json", rows), "test")
    assert table.caption_ids.dtype == np.int64
    np.testing.assert_array_equal(table.caption_ids, [9, 770337, 5])
    del rows[1]["caption_id"]
    assert read_captions(write(tmp_path, "a.json", rows), "test").caption_ids is None


def test_albef_training_rows_have_ids_and_evaluation_rows_lists(tmp_path):
    write(tmp_path, "coco_train.json", [{"image": "train2014/x.jpg", "caption": "x", "image_id": "coco_1"}])
    write(
        tmp_path,
        "coco_val.json",
        [{"image": "val2014/y.jpg", "caption": ["y1", "y2"]}, {"image": "val2014/z.jpg", "caption": ["z1"]}],
    )
    train = read_captions(tmp_path, "train", image_root="/images")
    assert (train.image_ids, train.image_paths) == (["coco_1"], [Path("/images/train2014/x.jpg")])
    val = read_captions(tmp_path, "val", image_root="/images")
    assert val.image_ids == ["val2014/y.jpg", "val2014/z.jpg"]
    assert val.captions == ["y1", "y2", "z1"]
    np.testing.assert_array_equal(val.caption_image, [0, 0, 1])


def test_karpathy_train_includes_restval_and_keeps_sentence_ids(tmp_path):
    write(tmp_path, "dataset_coco.json", KARPATHY_COCO)
    table = read_captions(tmp_path, "train")
    assert table.image_ids == ["1", "2"]
    assert table.image_paths == [tmp_path / "train2014/t.jpg", tmp_path / "val2014/r.jpg"]
    assert table.captions == ["t 0", "r 0", "r 1", "r 2"]
    np.testing.assert_array_equal(table.caption_ids, [10, 20, 21, 22])
    assert read_captions(tmp_path, "val").image_ids == ["3"]
    assert read_captions(tmp_path, "test").captions == ["v 0", "v 1"]


@pytest.mark.parametrize("folder", ["flickr30k-images", "."])
def test_karpathy_flickr_images_lie_in_their_folder_or_in_the_root(tmp_path, folder):
    image = {"filename": "36979.jpg", "imgid": 0, "split": "test", "sentences": [{"raw": "a dog"}]}
    write(tmp_path, "dataset_flickr30k.json", {"dataset": "flickr30k", "images": [image]})
    expected = write(tmp_path / folder, "36979.jpg", "")
    table = read_captions(tmp_path, "test")
    assert table.image_paths == [expected]
    assert table.image_ids == ["36979"]
    assert table.caption_ids is None


@pytest.mark.parametrize("name", ["captions_val2014.json", "test.json"])
def test_coco_s_own_file_is_a_test_split(tmp_path, name):
    write(tmp_path, name, COCO)
    flat = write(tmp_path, "COCO_val2014_000000000042.jpg", "")
    table = read_captions(tmp_path, "test")
    assert table.image_ids == ["9", "42"]
    assert table.image_paths == [tmp_path / "val2014/COCO_val2014_000000000009.jpg", flat]
    assert table.captions == ["nine", "forty-two", "nine again"]
    np.testing.assert_array_equal(table.caption_image, [0, 1, 0])
    np.testing.assert_array_equal(table.caption_ids, [661, 4, 67])
    elsewhere = read_captions(tmp_path, "test", image_root="/images").image_paths
    assert elsewhere[1] == Path("/images/val2014/COCO_val2014_000000000042.jpg")


@pytest.mark.parametrize(("split", "file"), [("train", "train.json"), ("test", "captions_val2014.json")])
def test_coco_s_training_file_is_of_no_split_and_another_says_which_it_is(tmp_path, split, file):
    write(tmp_path, "captions_train2014.json", {**COCO, "annotations": COCO["annotations"][:1]})
    with pytest.raises(InputError, match=rf"captions_train2014\.json: COCO's own .* call .* {split}\.json"):
        read_captions(tmp_path, split)
    write(tmp_path, file, COCO)
    assert read_captions(tmp_path, split).caption_ids.tolist() == [661, 4, 67]


def test_the_reference_s_file_name_comes_first(tmp_path):
    write(tmp_path, "coco_train.json", [{"image": "x.jpg", "caption": "albef"}])
    for name in ("dataset_coco.json", "train.json", "new_train.json"):
        content = KARPATHY_COCO if name.startswith("dataset") else [{**REFERENCE[0], "caption": name}]
        write(tmp_path, name, content)
        expected = "t 0" if name.startswith("dataset") else name
        assert read_captions(tmp_path, "train").captions[0] == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", r"a\.json: not a readable JSON file"),
        ("[" * 100_000, r"a\.json: not a readable JSON file"),
        (3, r"a\.json: neither .*, nor a list of rows .*, nor a Karpathy file .*, nor a table"),
        ({"annotations": []}, r"a\.json: neither .* nor a list of rows"),
        ([], r"a\.json: no captions of split 'train'"),
        ({"images": []}, r"a\.json: no captions of split 'train'"),
        ([REFERENCE[0], "text"], r"a\.json: row 1: expected an object with named fields, found str"),
        ([{"path": "a.jpg"}], r"row 0: key 'image' is missing \(the row has path\)"),
        ([{"image_path": "a.jpg", "image_id": 1}], r"row 0: key 'caption' is missing"),
        ([{"image_path": "a.jpg", "caption": "a"}], r"row 0: key 'image_id' is missing"),
        ([{"image": "a.jpg", "caption": 3}], r"row 0: 'caption' must be str or list, not int"),
        ([{"image": "a.jpg", "caption": []}], r"row 0: 'caption' must be a string or a list of at least one"),
        ([{"image": "a.jpg", "caption": ["a", 1]}], r"row 0: 'caption' must be a string or a list"),
        ([{**REFERENCE[0], "caption_id": 1.5}], r"row 0: 'caption_id' must be an integer, not 1\.5"),
        ([{**REFERENCE[0], "caption_id": 10**30}], r"row 0: 'caption_id' must be an integer"),
        (
            [REFERENCE[0], {**REFERENCE[1], "image_id": "7"}],
            r"row 1: image_id '7' has two paths, .*b\.jpg and .*a\.jpg",
        ),
        (
            [{**REFERENCE[0], "caption_id": 4}, {**REFERENCE[1], "caption_id": 4}],
            r"row 1: caption_id 4 is already that of row 0",
        ),
        (COCO | {"images": {}}, "the file: 'images' must be list, not dict"),
        (COCO | {"annotations": None}, "the file: 'annotations' must be list, not NoneType"),
        (COCO | {"images": [{"id": 42}]}, r"images\[0\]: key 'file_name' is missing"),
        (
            COCO | {"images": [*COCO["images"], {"id": 9, "file_name": "b"}]},
            r"images\[3\]: 'id' 9 is already",
        ),
        (
            COCO | {"images": COCO["images"][:1]},
            r"annotations\[0\]: 'image_id' 9 is that of none of 'images'",
        ),
        (COCO | {"annotations": [3]}, r"annotations\[0\]: expected an object"),
        (COCO | {"annotations": [{"image_id": 9, "id": 1}]}, r"annotations\[0\]: key 'caption' is missing"),
        (
            COCO | {"annotations": [{"image_id": 9, "id": "x", "caption": "a"}]},
            r"annotations\[0\]: 'id' must be an integer, not 'x'",
        ),
        (
            COCO | {"annotations": [COCO["annotations"][0]] * 2},
            r"annotations\[1\]: caption_id 661 is already that of annotations\[0\]",
        ),
        ({"images": [{"filename": "a.jpg"}]}, r"images\[0\]: key 'split' is missing"),
        ({"images": [{"filename": "a.jpg", "split": "train", "sentences": []}]}, "'sentences' is empty"),
        (
            {"images": [{"filename": "a.jpg", "split": "train", "sentences": [{"tokens": ["a"]}]}]},
            r"images\[0\]: key 'raw' is missing",
        ),
    ],
)
def test_broken_files_are_named_with_row_and_key(tmp_path, content, message):
    file = write(tmp_path, "a.json", content)
    with pytest.raises(InputError, match=message) as raised:
        read_captions(file, "train")
    assert "\n" not in str(raised.value)
    assert str(file) in str(raised.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"caption": "\\ud800"}, "the caption is not valid Unicode"),
        ({"image_id": "\\ud800"}, "the image's id is not valid Unicode"),
        ({"image_path": "\\udfff.jpg"}, "the image's path is not valid Unicode"),
        ({"image_id": "a\x1b[31m"}, r"the image's id has control characters in it, 'a\\x1b\[31m'"),
        ({"image_path": "a\nb.jpg"}, r"the image's path has control characters in it, '.*a\\nb\.jpg'"),
    ],
)
def test_text_that_is_none_is_refused_in_one_line(tmp_path, row, message):
    rows = [REFERENCE[0], {**REFERENCE[1], **row}]
    content = json.dumps(rows).replace("\\\\u", "\\u")  # a lone surrogate can only be written as an escape
    with pytest.raises(InputError, match=rf"a\.json: row 1: {message}") as raised:
        read_captions(write(tmp_path, "a.json", content), "train")
    assert str(raised.value).isprintable()


def test_one_image_has_one_id(tmp_path):
    """With an id for each caption, the other captions of the same image would count as wrong."""
    rows = [{"image_path": f"{n // 5}.jpg", "caption": "a", "image_id": n} for n in range(15)]
    message = r"a\.json: several ids for the same image, 15 for 3 files \(such as '0' and '1' for .*0\.jpg\)"
    with pytest.raises(InputError, match=message):
        read_captions(write(tmp_path, "a.json", rows), "train")


@pytest.mark.parametrize(
    "content",
    [
        [{"image_path": "x" * 300, "caption": "a", "image_id": 1}],
        {"images": [{"filename": "x" * 300, "split": "train", "sentences": [{"raw": "a"}]}]},
        {
            "images": [{"id": 1, "file_name": "COCO_val2014_1." + "x" * 300}],
            "annotations": [{"image_id": 1, "id": 1, "caption": "a"}],
        },
    ],
    ids=["reference", "karpathy", "coco"],
)
def test_names_that_no_file_can_have_are_told_when_they_are_read(tmp_path, content):
    table = read_captions(write(tmp_path, "a.json", content), "train")
    with pytest.raises(InputError, match=r"x: (not a readable image .*File name too long|image not found)"):
        ImageFiles(table.image_paths).picture(0)
    with pytest.raises(InputError, match="xx: no such folder or file of captions"):
        read_captions(tmp_path / ("x" * 300), "train")


def test_missing_folder_split_and_choice_are_told(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder or file of captions"):
        read_captions(tmp_path / "nowhere", "train")
    looked_for = r"new_val\.json, val\.json, dataset\*\.json, \*_val\.json, val\.csv, val\.tsv"
    with pytest.raises(InputError, match=looked_for):
        read_captions(tmp_path, "val")
    write(tmp_path, "coco_val.json", [])
    write(tmp_path, "flickr30k_val.json", [])
    with pytest.raises(InputError, match=r"which of coco_val\.json, flickr30k_val\.json is meant"):
        read_captions(tmp_path, "val")


@pytest.mark.parametrize(
    ("raw", "clean"),
    [(raw, clean) for _, _, raw, clean, _ in GOLDEN["captions"]]
    + [(case["raw"], case["pre"]["text"]) for case in GOLDEN["nasty"] if "text" in case["pre"]]
    + [(" ".join(["w"] * case["words"]), case["pre"]["text"]) for case in GOLDEN["max_words"]],
    ids=lambda text: ascii(text[:16]),
)
def test_cleaning_matches_the_reference(raw, clean):
    assert clean_caption(raw) == clean


def test_captions_without_words_stay_as_written_and_are_counted_once(caplog):
    with caplog.at_level(logging.WARNING):
        assert clean_captions([" ?!., ", "A dog.", "", "..."]) == ["?!.,", "a dog", "", "..."]
    (record,) = caplog.records
    assert record.getMessage() == "3 of 4 captions are empty after cleaning; kept as written"
    caplog.clear()
    clean_captions(["a"])
    assert not caplog.records


@pytest.mark.parametrize(
    ("image_id", "file", "number"),
    [
        (0, "val2014/COCO_val2014_000000391895.jpg", "391895"),  # the reference's rows number their images
        (391895, "391895.jpg", "391895"),
        ("a", "images/1000092795.jpg", "1000092795"),
    ],
)
def test_an_image_is_known_by_its_publisher_s_number(tmp_path, image_id, file, number):
    row = {"image_path": file, "caption": "a dog", "image_id": image_id}
    (name,) = read_captions(write(tmp_path, "test.json", [row]), "test").image_names
    assert name.removesuffix(".jpg").endswith(number)
