"""The evaluator as its users run it: a trained run's folder, and arrays, through the suites and the command."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import demo
from cusa_jax import scalars, sharding
from cusa_jax.checkpoint import Checkpoints
from cusa_jax.config import typed, with_argument
from cusa_jax.data import world
from cusa_jax.data.captions import read_captions
from cusa_jax.data.splits import load_split
from cusa_jax.errors import InputError
from cusa_jax.evaluation import coco
from cusa_jax.evaluation.metrics import Metric
from cusa_jax.evaluation.open_source import open_source
from cusa_jax.evaluation.recall import recall
from cusa_jax.evaluation.record import Evaluated, comparison, record, table
from cusa_jax.evaluation.result import Result
from cusa_jax.evaluation.retrieval import Evaluator
from cusa_jax.evaluation.statistics import mean
from cusa_jax.evaluation.suite import Dataset, Evaluation, Folders, Suite
from cusa_jax.evaluation.suites import SUITES
from cusa_jax.experiment import build_student
from cusa_jax.models import families
from cusa_jax.report.evaluation import sections
from cusa_jax.types import TrainState
from cusa_jax.workdir import write_json

ROOT = Path(__file__).parents[2]


def folders(root, elsewhere=None):
    return Folders(SUITES.values(), str(root), elsewhere)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Flickr30K played by the embedded world, SOP by its pictures, and one STS task."""
    root = tmp_path_factory.mktemp("data")
    world.write(root / "flickr30k", {"test": 24})
    pictures = sorted((root / "flickr30k").rglob("*.png"))[:12]
    lines = [f"{n} {11318 + n // 2} 1 {path}" for n, path in enumerate(pictures, start=2)]
    (root / "sop").mkdir()
    (root / "sop" / "Ebay_test.txt").write_text("\n".join(["image_id class_id super_class_id path", *lines]))
    folder = root / "senteval" / "downstream" / "STS" / "STSBenchmark"
    folder.mkdir(parents=True)
    colours = ("red", "blue", "green")
    rows = [f"a\tb\tc\tn\t{5 * (a == b)}\ta {a}  circle\ta {b} square" for a in colours for b in colours]
    (folder / "sts-test.csv").write_text("\n".join(rows))
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder that training leaves, with weights as they start; its losses have no USA, so no uni-modal heads."""
    workdir = tmp_path_factory.mktemp("run")
    config = with_argument(demo.get_config(), "loss=contrastive")
    write_json(workdir / "config.json", json.loads(config.to_json()))
    student, variables, _ = build_student(typed(config))
    described = {"config": config.to_dict(), **families.describe(student.family, student.sizes)}
    checkpoints = Checkpoints(workdir, described, keep=1)
    values = scalars.init(scalars.specifications(typed(config).loss))
    state = TrainState(jnp.int32(3), {"model": variables["params"], "scalars": values}, {}, ())
    checkpoints.save_best(3, state, {"r_mean": 1.0})
    checkpoints.close()
    return workdir


def test_a_run_gets_the_numbers_of_training_and_says_which_head(run, data):
    config = ConfigDict(json.loads((run / "config.json").read_text()))
    evaluation = Evaluation(open_source(str(run), batch_size=16, workers=0), folders(data))
    found = SUITES["flickr30k"].run(evaluation)
    student, variables, _ = build_student(typed(config))
    split = load_split(str(data / "flickr30k"), "test", student.inputs, image_root="")
    expected = Evaluator(student, sharding.make_mesh(), config)(variables, split)
    for key in ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10"):
        assert found.values()[key] == pytest.approx(expected[key])
    assert found.head == "cross-modal head"
    sop = SUITES["sop"].run(evaluation)
    assert sop.strata == (12,)
    assert sop.head == "cross-modal head"
    sts = SUITES["sts"].run(evaluation)
    assert set(sts.values()) == {"stsb", "stsb_pearson"}
    assert any("sts12 left out" in note for note in sts.notes)


def test_bfloat16_is_close_to_float32_and_asked_for(run, data):
    """The run trained in float32, so that 'run' is the default to the last bit."""
    captions = read_captions(str(data / "flickr30k"), "test").captions
    found = {
        dtype: open_source(str(run), batch_size=16, workers=0, dtype=dtype).sentences(captions)[0]
        for dtype in ("float32", "run", "bfloat16")
    }
    np.testing.assert_array_equal(found["run"], found["float32"])
    assert found["bfloat16"].dtype == np.float32
    assert 1e-4 < np.abs(found["bfloat16"] - found["float32"]).max() < 0.02


def test_an_unreadable_image_is_named_once_and_the_other_suites_run(run, data, tmp_path, monkeypatch):
    shutil.copytree(data / "flickr30k", tmp_path / "coco")
    damaged = tmp_path / "coco" / "images" / "test_000006.png"
    damaged.write_bytes(damaged.read_bytes()[:100])
    source = open_source(str(run), batch_size=16, workers=0)
    asked = []
    embed = source.captioned
    monkeypatch.setattr(source, "captioned", lambda *of: (asked.append(of[0]), embed(*of))[1])
    evaluation = Evaluation(source, folders(data, {"coco": str(tmp_path / "coco")}))
    for suite in ("coco5k", "coco1k"):
        with pytest.raises(
            InputError, match=r"^\S*/test_000006\.png: not a readable image .*: bring it back, or"
        ) as told:
            SUITES[suite].run(evaluation)
        assert "\n" not in str(told.value)
    assert asked == ["coco"]
    assert np.isfinite(SUITES["flickr30k"].run(evaluation).values()["rsum"])


def test_sentences_do_not_depend_on_their_batch(run):
    texts = [f"{'a very ' * (n % 7)}red circle {n}" for n in range(20)]
    several, _ = open_source(str(run), batch_size=8, workers=0).sentences(texts)
    one, _ = open_source(str(run), batch_size=32, workers=0).sentences(texts)
    np.testing.assert_allclose(several, one, atol=1e-5)


def test_a_text_teacher_is_judged_by_sts_alone(data):
    teacher = open_source(str(ROOT / "cusa_jax/assets/world_teachers/text"), batch_size=8, workers=0)
    evaluation = Evaluation(teacher, folders(data))
    assert np.isfinite(SUITES["sts"].run(evaluation).values()["stsb"])
    for suite in ("flickr30k", "sop"):
        with pytest.raises(InputError, match="encodes sentences only"):
            SUITES[suite].run(evaluation)


@pytest.fixture
def arrays(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.standard_normal((20, 6)).astype(np.float32)
    caption_image = np.repeat(np.arange(20), 2)
    text = image[caption_image] + rng.standard_normal((40, 6)).astype(np.float32)
    labels = np.arange(20) // 4
    np.savez(
        tmp_path / "a.npz",
        **{"flickr30k/image": image, "flickr30k/text": text, "flickr30k/caption_image": caption_image},
        **{"inshop/query": image, "inshop/query_labels": labels, "inshop/gallery": text[::2]},
        **{"inshop/gallery_labels": labels, "cub/features": image, "cub/labels": labels},
    )
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text)]
    np.savez(
        tmp_path / "b.npz",
        **{"flickr30k/scores": unit[0] @ unit[1].T, "flickr30k/caption_image": caption_image},
    )
    return tmp_path


def test_the_command_evaluates_arrays_and_skips_what_is_missing(arrays):
    done = evaluate(
        f"--embeddings={arrays / 'a.npz'}", "--suite=flickr30k,inshop,cub,sop,sts", out=arrays / "out"
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((arrays / "out" / "results.json").read_text())
    assert set(results["suites"]) == {"flickr30k", "inshop", "cub"}
    assert results["dtype"] is None
    assert "<h2>Flickr30K</h2>" in (arrays / "out" / "report.html").read_text()
    assert results["skipped"] == {
        "sop": f"{arrays / 'a.npz'} has no sop/features", "sts": "--data names no folder for sts"
    }  # fmt: skip
    with np.load(arrays / "b.npz") as file:
        expected = recall(file["flickr30k/scores"], file["flickr30k/caption_image"])
    metric = results["suites"]["flickr30k"]["metrics"]["t2i_r1"]
    assert metric["value"] == pytest.approx(expected["t2i_r1"])
    assert metric["low"] < metric["value"] < metric["high"]
    assert f"t2i_r1           {metric['value']:>8.2f}  [" in done.stdout
    assert "sop: skipped:" in done.stdout


def test_two_are_compared_in_pairs(arrays):
    """Scores and embeddings of the same model: no difference."""
    done = evaluate(
        f"--compare={arrays / 'a.npz'},{arrays / 'b.npz'}", "--suite=flickr30k,cub", out=arrays / "out"
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((arrays / "out" / "results.json").read_text())
    assert set(results["differences"]) == {"flickr30k"}
    rsum = results["differences"]["flickr30k"]["rsum"]
    assert (rsum["value"], rsum["verdict"]) == (0, "no difference shown")
    assert "a.npz</h1>" in (arrays / "out" / "report.html").read_text()
    assert "better" not in done.stdout


def test_several_models_and_one_s_own_captions_each_in_a_folder_and_nothing_is_overwritten_unseen(
    arrays, data
):
    """One's own captions under one's own name; the results of another model stop the command before it begins."""
    for name in ("a", "b"):
        with np.load(arrays / f"{name}.npz") as file:
            kept = {key.replace("flickr30k", "mine"): value for key, value in file.items()}
        np.savez(arrays / f"{name}.npz", **kept)
    own, out = f"--suite=mine={data / 'flickr30k'}", arrays / "out"
    first, second = (str(arrays / f"{name}.npz") for name in "ab")
    done = evaluate(f"--checkpoint={first},{second}", own, out=out)
    assert done.returncode == 0, done.stdout + done.stderr
    for name, model in (("a", first), ("b", second)):
        results = json.loads((out / name / "results.json").read_text())
        assert (results["model"], set(results["suites"])) == (model, {"mine"})
        assert "<h2>mine</h2>" in (out / name / "report.html").read_text()
    refused = evaluate(f"--checkpoint={first}", own, out=out / "b")
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith(
        f"error: {out / 'b' / 'results.json'}: holds the results of"
    )
    again = evaluate(f"--checkpoint={second}", own, out=out / "b")
    assert "of an earlier evaluation, is replaced" in again.stdout


def test_where_nothing_is_evaluated_that_is_an_error(arrays):
    done = evaluate(f"--embeddings={arrays / 'a.npz'}", "--suite=sop,sts", out=arrays / "out")
    assert done.returncode == 2
    assert f"sop: skipped: {arrays / 'a.npz'} has no sop/features" in done.stdout
    assert (
        done.stderr.splitlines()[-1]
        == f"error: {arrays / 'a.npz'}: nothing was evaluated, as every suite was skipped (why: above)"
    )
    assert not (arrays / "out").exists()


def test_how_to_see_pictures_is_said_of_one_s_own_alone(tmp_path):
    done = evaluate("--checkpoint=none", "--suite=flickr30k", "--as_shown=true", out=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: --as_shown is for pictures of your own")


def test_bad_input_is_one_line(tmp_path):
    done = evaluate("--suite=flickr", out=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: name one of --checkpoint=PATH")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing.npz", "nothing.npz: not a readable .npz"),
        ("nothing", "nothing: no such file or folder"),
    ],
)
def test_what_is_no_source_is_refused(path, message):
    with pytest.raises(InputError, match=message):
        open_source(path, batch_size=8, workers=0)


@pytest.mark.parametrize(
    ("data", "dataset", "message"),
    [
        (folders("nowhere"), "cub", r"nowhere/cub: no such folder; it holds CUB_200_2011/images/"),
        (folders(""), "sts", "--data names no folder for sts"),
    ],
)
def test_missing_data_say_what_belongs_where(data, dataset, message):
    with pytest.raises(InputError, match=message):
        data.folder(SUITES[dataset].data[0])


def test_datasets_may_lie_elsewhere(tmp_path):
    assert folders("nowhere", {"coco": str(tmp_path)}).folder(coco.COCO) == tmp_path
    with pytest.raises(InputError, match="no dataset is called 'coca'"):
        folders("", {"coca": "x"})


def evaluate(*options, out):
    return subprocess.run(
        [sys.executable, "scripts/evaluate.py", *options, f"--out={out}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_pickles_in_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", **{"cub/features": np.array([{}], object)})
    with pytest.raises(InputError, match="not a readable"):
        open_source(str(tmp_path / "x.npz"), batch_size=8, workers=0)


def of_coco(**arrays):
    rng = np.random.default_rng(0)
    found = {
        "image": rng.standard_normal((4, 3)),
        "text": rng.standard_normal((8, 3)),
        "caption_image": np.repeat(np.arange(4), 2),
        "image_ids": np.array([391895, 60623, 483108, 384213]),
        "caption_ids": np.arange(8),
    } | arrays
    return {f"coco/{key}": value for key, value in found.items() if value is not None}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"caption_ids": np.arange(9)}, r"coco/caption_ids is \[9\], but should be \[8\]"),
        ({"caption_ids": np.zeros((8, 1), int)}, r"coco/caption_ids is \[8, 1\]"),
        ({"caption_ids": np.arange(8.0)}, "coco/caption_ids is float64, but should be whole numbers"),
        ({"image_ids": np.arange(5)}, r"coco/image_ids is \[5\], but should be \[4\]"),
        ({"caption_image": np.arange(8)}, "coco/caption_image names an image beyond the 4"),
        ({"caption_image": np.arange(8) - 5}, "coco/caption_image names an image beyond the 4"),
        ({"caption_image": np.zeros(3, int)}, r"coco/caption_image is \[3\]"),
        ({"image": np.zeros((4, 3), "U2")}, "image embeddings <U2"),
        ({"text": np.ones((8, 3), complex)}, "text embeddings complex128"),
        ({"text": np.full((8, 3), 1e300)}, "text embeddings hold NaN or infinity"),
        ({"scores": np.full((4, 8), "x")}, "scores <U1"),
        ({"uni_text": np.ones((7, 3))}, "coco/uni_text has 7 rows, but there are 8 texts"),
    ],
    ids=range(12),
)
def test_arrays_that_do_not_fit_are_one_line(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **of_coco(**arrays))
    for suite in ("coco5k", "coco1k", "eccv", "cxc"):
        evaluation = Evaluation(open_source(str(tmp_path / "x.npz"), batch_size=8, workers=0), folders(""))
        with pytest.raises(InputError, match=message) as told:
            SUITES[suite].run(evaluation)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("keep", [20, 120, 300])
def test_a_damaged_archive_is_one_line(tmp_path, keep):
    """Cut headers, of an array and of the archive."""
    path = tmp_path / "x.npz"
    np.savez(path, **of_coco())
    content = path.read_bytes()
    for damaged in (
        content[:-keep],
        content[:keep] + b"{(" * 20 + content[keep + 40 :],
        content.replace(b"descr", b"d\nscr"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"x\.npz: not a readable \.npz") as told:
            open_source(str(path), batch_size=8, workers=0)
        assert "\n" not in str(told.value)


def test_a_program_adds_a_suite(arrays, monkeypatch):
    """A protocol with data, a metric and a file of its own, in the table under its name."""

    def run(evaluation):
        features = evaluation.source.labelled("cub", None).features
        return Result("image", (len(features),), {"longest": mean(np.abs(features).max(1))}, head="mine")

    mine = Dataset("mine", ("mine",), "it holds nothing")
    suite = Suite(
        "lengths", "Lengths", (mine,), run, (Metric("longest", "longest axis", lower_is_better=True),)
    )
    monkeypatch.setitem(SUITES, suite.name, suite)
    evaluation = Evaluation(
        open_source(str(arrays / "a.npz"), batch_size=8, workers=0), folders("", {"mine": "x"})
    )
    assert evaluation.folder(mine) == Path("x")
    result = SUITES["lengths"].run(evaluation)
    doubled = dataclasses.replace(
        result, statistics={"longest": lambda w: 2 * result.statistics["longest"](w)}
    )
    both = [Evaluated(name, {"lengths": r}, {}) for name, r in (("a", result), ("b", doubled))]
    compared = comparison(*both)
    assert compared["differences"]["lengths"]["longest"]["verdict"] == "worse"
    (section,) = sections([record(one) for one in both], compared)
    assert (section.title, section.rows[0].label) == ("Lengths", "longest axis")


def test_published_figures_have_the_names_of_ours(run, data):
    published = json.loads((ROOT / "cusa_jax" / "assets" / "published.json").read_text())["models"]
    cusa = published["CLIP ViT-B/32 + CUSA"]
    assert cusa["coco5k"]["rsum"] == 429.7
    assert {suite for row in published.values() for suite in row} <= set(SUITES)
    evaluation = Evaluation(open_source(str(run), batch_size=16, workers=0), folders(data))
    found = SUITES["flickr30k"].run(evaluation)
    assert set(cusa["flickr30k"]) <= set(found.values())
    text = table(record(Evaluated("run", {"flickr30k": found}, {})))
    assert all(name in text for name in cusa["flickr30k"])


def test_of_coco_s_validation_file_the_test_split_is_evaluated(tmp_path):
    truth = coco.ground_truth()
    of_image = truth.positives("original", "i2t")
    images = [*truth.image_ids.tolist()[::-1], 1, 2]
    annotations = [(c, i) for i in images[:-2] for c in of_image[i]] + [(-1, 1), (-2, 2)]
    annotations = [annotations[n] for n in np.random.default_rng(0).permutation(len(annotations))]
    content = {
        "images": [{"id": i, "file_name": f"COCO_val2014_{i:012d}.jpg"} for i in images],
        "annotations": [{"id": c, "image_id": i, "caption": f"{c} of {i}"} for c, i in annotations],
    }
    (tmp_path / "captions_val2014.json").write_text(json.dumps(content))
    everything = read_captions(tmp_path, "test")
    table = coco.karpathy_test(everything)
    assert len(everything.image_ids) == 5002
    assert set(table.image_ids) == {str(i) for i in truth.image_ids.tolist()}
    assert len(table.captions) == len(table.caption_ids) == 25000
    for n in range(0, 25000, 611):
        image = table.image_ids[table.caption_image[n]]
        assert table.captions[n] == f"{table.caption_ids[n]} of {image}"
        assert table.image_paths[table.caption_image[n]].stem == f"COCO_val2014_{int(image):012d}"
    assert coco.karpathy_test(table) is table
    assert coco.karpathy_test(dataclasses.replace(everything, caption_ids=None)).caption_ids is None
