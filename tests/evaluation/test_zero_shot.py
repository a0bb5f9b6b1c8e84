"""Zero-shot classification against a loop over images, classes as they lie on a disk, and suites of one's own."""

import numpy as np
import pytest
from PIL import Image

from cusa_jax import sharding
from cusa_jax.data.classes import has_class_folders, read_classes
from cusa_jax.errors import InputError
from cusa_jax.evaluation.bootstrap import intervals
from cusa_jax.evaluation.ensemble import Ensemble
from cusa_jax.evaluation.own import own_suite
from cusa_jax.evaluation.scores import InnerProducts, Matrix
from cusa_jax.evaluation.sources import ArraySource, StudentSource
from cusa_jax.evaluation.suite import Evaluation, Folders
from cusa_jax.evaluation.zero_shot import ZERO_SHOT, zero_shot_result
from tests.test_embedding import Cross, Dual

RNG = np.random.default_rng(0)


def test_figures_are_those_of_a_loop():
    images, classes = 60, 9
    scores, labels = RNG.random((images, classes)), RNG.choice([0, 1, 2, 5, 7, 8], images)
    order = [sorted(range(classes), key=lambda c: -row[c]) for row in scores]
    hit = np.array([best[0] == label for best, label in zip(order, labels, strict=True)])
    found = zero_shot_result(Matrix(scores), labels)
    assert found.values() == pytest.approx(
        {
            "top1": 100 * hit.mean(),
            "top5": 100 * np.mean([label in best[:5] for best, label in zip(order, labels, strict=True)]),
            "mean_per_class": 100 * np.mean([hit[labels == c].mean() for c in np.unique(labels)]),
        }
    )
    assert found.notes == ("9 classes, of 6 of which there are images",)
    # Of images drawn again, as if they had been written out.
    weights = RNG.integers(0, 3, (1, images)).astype(float)
    again = np.repeat(np.arange(images), weights[0].astype(int))
    drawn = zero_shot_result(Matrix(scores[again]), labels[again]).values()
    assert {key: value(weights)[0] for key, value in found.statistics.items()} == pytest.approx(drawn)


def test_of_equal_scores_the_lower_class_is_first_and_perfect_figures_have_an_interval():
    found = zero_shot_result(Matrix(np.ones((4, 2))), np.array([0, 0, 1, 1]))
    assert found.values() == {"top1": 50, "mean_per_class": 50}
    assert "top-1 is 0.00–100.00" in found.notes[-1]
    interval = intervals(zero_shot_result(Matrix(np.eye(2)[[0, 1] * 10]), np.array([0, 1] * 10)))["top1"]
    assert interval.low == pytest.approx(100 * 0.025 ** (1 / 20))


def test_labels_that_name_no_class_are_refused():
    for labels in ([0, 2], [0], [-1, 0]):
        with pytest.raises(InputError, match="should name one of the 2 classes for each of 2 images"):
            zero_shot_result(Matrix(np.eye(2)), np.array(labels))


@pytest.fixture
def folder(tmp_path):
    for label in ("n02_dog", "n01_cat"):
        (tmp_path / label).mkdir()
        for n in range(3):
            value = 80 * n + 20 * label.endswith("cat")
            Image.new("RGB", (9, 7), (value, 100, 5)).save(tmp_path / label / f"{n}.png")
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_a_folder_a_class(folder):
    classes = read_classes(folder)
    assert [path.parent.name for path in classes.images.paths] == ["n01_cat"] * 3 + ["n02_dog"] * 3
    assert classes.images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert classes.prompts == [["a photo of a n01 cat"], ["a photo of a n02 dog"]]
    (folder / "classes.csv").write_text('label,name\nn01_cat,"cat, tabby"\nn02_dog,dog\n')
    (folder / "templates.txt").write_text("a {}.\n\na drawing of {}, a {}\n")
    assert read_classes(folder).prompts[0] == ["a cat, tabby.", "a drawing of cat, tabby, a cat, tabby"]


def test_a_table_of_labels(folder):
    (folder / "labels.csv").write_text("label,filename\nwild dog,n02_dog/1.png\ncat,n01_cat/0.png\n")
    for path in (folder, folder / "labels.csv"):
        classes = read_classes(path)
        assert [path.name for path in classes.images.paths] == ["1.png", "0.png"]
        assert (classes.names, classes.images.labels.tolist()) == (["cat", "wild dog"], [1, 0])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "labels.csv",
            "filename,label\nx.png,a\ny.png,b\n",
            r"labels\.csv: 2 of 2 images not found: \S*/x\.png",
        ),
        ("labels.csv", "filename,label\nx.png,\n", "line 2: needs both filename and label"),
        ("labels.csv", "image,caption\nx.png,a\n", "the header names no column 'filename'"),
        ("classes.csv", "label,name\nn01_cat,cat\n", "1 classes have no name: n02_dog"),
        ("templates.txt", "a photo\n", "'a photo' has none"),
        ("templates.txt", "\n", "no templates in it"),
    ],
)
def test_bad_files_are_one_line(folder, name, content, message):
    (folder / name).write_text(content)
    with pytest.raises(InputError, match=message) as told:
        read_classes(folder)
    assert "\n" not in str(told.value)


def test_a_folder_without_classes_is_one_line(tmp_path):
    assert not has_class_folders(tmp_path)
    with pytest.raises(InputError, match=r"no images by class: neither labels\.csv"):
        read_classes(tmp_path)


def test_a_class_is_the_mean_of_its_sentences_scaled_to_length_1(folder):
    (folder / "templates.txt").write_text("a {}\nmany of {} there\n")
    source = StudentSource("run", Dual(widths=([],)), np.float32(1), sharding.make_mesh(), 4, 0)
    classified = source.classified("zeroshot", read_classes(folder))
    assert isinstance(classified.scores, InnerProducts)
    one_by_one = [
        [source.sentences([prompt])[0][0] for prompt in prompts] for prompts in read_classes(folder).prompts
    ]
    means = np.mean(one_by_one, axis=1)
    expected = means / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(classified.scores.texts, expected, atol=1e-5)


def test_a_student_without_embeddings_has_the_mean_score_of_the_sentences(folder):
    def scores(*templates):
        (folder / "templates.txt").write_text("\n".join(templates))
        source = StudentSource("run", Cross(), np.float32(1), sharding.make_mesh(), 4, 0)
        return source.classified("zeroshot", read_classes(folder)).scores.values

    both, first, second = scores("a {}", "many of {}"), scores("a {}"), scores("many of {}")
    np.testing.assert_allclose(both, (first + second) / 2, atol=1e-5)
    assert not np.allclose(first, second)


def arrays(path, **given):
    labels = np.array([0, 1, 1, 2])
    np.savez(path, **{f"mine/{key}": value for key, value in ({"labels": labels} | given).items()})
    return ArraySource(path)


def test_arrays_and_their_ensemble(tmp_path, folder):
    image, classes = RNG.standard_normal((4, 3)), np.eye(3)
    first, second = (
        arrays(tmp_path / "a.npz", image=image, classes=classes),
        arrays(tmp_path / "b.npz", scores=RNG.random((4, 3))),
    )
    suite = own_suite("mine", str(folder))
    for source in (first, second, Ensemble([first, second])):
        result = suite.run(Evaluation(source, Folders([suite])))
        scores = source.classified("mine", None).scores.rows("i2t", np.arange(4))
        assert result.values()["top1"] == 100 * np.mean(scores.argmax(1) == [0, 1, 1, 2])
    other = arrays(tmp_path / "c.npz", scores=RNG.random((4, 3)), labels=np.array([0, 1, 2, 2]))
    with pytest.raises(InputError, match="mine/labels differ"):
        Ensemble([first, other]).classified("mine", None)


def test_data_of_one_s_own_have_the_suite_of_what_they_are(folder, tmp_path):
    (tmp_path / "captions").mkdir()
    (tmp_path / "captions" / "test.csv").write_text("image,caption\na.png,a cat\n")
    assert own_suite("pets", str(folder)).metrics[0].key == "top1"
    assert own_suite("mine", str(tmp_path / "captions")).metrics == ()
    for name, path, message in (
        ("coco5k", folder, "is a suite already"),
        ("a b", folder, "a name is letters, digits"),
        ("mine", tmp_path / "none", "no such folder or file of captions"),
    ):
        with pytest.raises(InputError, match=message):
            own_suite(name, str(path))
    assert ZERO_SHOT.data[0].name == "zeroshot"
