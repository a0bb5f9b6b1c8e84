"""Small copies of the four public layouts, as the reference and as the datasets' own archives have them."""

import pytest

from cusa_jax.data.labelled_images import read_cub, read_inat, read_inshop, read_sop
from cusa_jax.errors import InputError


@pytest.mark.parametrize("below", ["", "CUB_200_2011"])
def test_cub_takes_the_second_hundred_classes(tmp_path, below):
    images = tmp_path / below / "images"
    for number in range(1, 201):
        folder = images / f"{number:03}.Bird"
        folder.mkdir(parents=True)
        for name in ("b.jpg", "a.jpg", "._a.jpg", "notes.txt"):
            (folder / name).touch()
    found = read_cub(tmp_path)
    assert found.labels.tolist() == [n for n in range(100, 200) for _ in range(2)]
    assert [path.relative_to(images).as_posix() for path in found.paths[:3]] == [
        "101.Bird/a.jpg", "101.Bird/b.jpg", "102.Bird/a.jpg"
    ]  # fmt: skip
    (images / "200.Bird").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="holds 199 class folders"):
        read_cub(tmp_path)


@pytest.mark.parametrize("below", ["", "Stanford_Online_Products"])
def test_sop_reads_the_test_list(tmp_path, below):
    (tmp_path / below).mkdir(exist_ok=True)
    table = tmp_path / below / "Ebay_test.txt"
    table.write_text("image_id class_id super_class_id path\n1 11319 1 bike/a.JPG\n2 11320 1 bike/b.JPG\n")
    found = read_sop(tmp_path)
    assert found.labels.tolist() == [11319, 11320]
    assert found.paths[1] == table.parent / "bike" / "b.JPG"
    table.write_text("header\n1 11319 bike/a.JPG\n")
    with pytest.raises(InputError, match="line 2 has 3 columns instead of 4"):
        read_sop(tmp_path)


@pytest.mark.parametrize(("lists", "images"), [("Eval", "Img"), ("Anno", ""), ("", "")])
def test_inshop_reads_query_and_gallery(tmp_path, lists, images):
    (tmp_path / lists).mkdir(exist_ok=True)
    (tmp_path / images).mkdir(exist_ok=True)
    (tmp_path / lists / "list_eval_partition.txt").write_text(
        "4\nimage_name item_id evaluation_status\nimg/a.jpg   id_00000007 train\nimg/b.jpg id_00000012 query\n"
        "img/c.jpg id_00000012 gallery\nimg/d.jpg id_00000013   gallery\n"
    )
    query, gallery = read_inshop(tmp_path)
    assert (query.labels.tolist(), gallery.labels.tolist()) == ([12], [12, 13])
    assert gallery.paths == [tmp_path / images / "img" / name for name in ("c.jpg", "d.jpg")]


@pytest.mark.parametrize("below", ["", "Inat_dataset_splits"])
def test_inat_labels_by_category(tmp_path, below):
    (tmp_path / below).mkdir(exist_ok=True)
    table = tmp_path / below / "Inaturalist_test_set1.txt"
    table.write_text("train_val2018/Aves/3021/x.jpg\ntrain_val2018/Plantae/7/y.jpg\n\n")
    found = read_inat(tmp_path)
    assert found.labels.tolist() == [3021, 7]
    assert found.paths[0] == tmp_path / "train_val2018" / "Aves" / "3021" / "x.jpg"
    table.write_text("train_val2018/Aves/bird/x.jpg\n")
    with pytest.raises(InputError, match="'bird' should be the number of a class"):
        read_inat(tmp_path)


@pytest.mark.parametrize("read", [read_cub, read_sop, read_inshop, read_inat])
def test_what_is_missing_is_said(tmp_path, read):
    with pytest.raises(InputError, match=f"should be {tmp_path}.* or {tmp_path}.*, and is not there"):
        read(tmp_path)
