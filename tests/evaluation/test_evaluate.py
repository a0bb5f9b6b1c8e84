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
from cusa_jax.config import with_argument
from cusa_jax.data import world
from cusa_jax.data.captions import read_captions
from cusa_jax.data.splits import load_split
from cusa_jax.errors import InputError
from cusa_jax.evaluation import eccv
from cusa_jax.evaluation.open_source import open_source
from cusa_jax.evaluation.recall import recall
from cusa_jax.evaluation.results import Evaluated, record, table
from cusa_jax.evaluation.retrieval import Evaluator
from cusa_jax.evaluation.suites import SUITES, Data, Suites
from cusa_jax.experiment import build_model
from cusa_jax.types import TrainState
from cusa_jax.workdir import write_json

ROOT = Path(__file__).parents[2]


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
    model, variables = build_model(config)
    described = {"config": config.to_dict(), "clip": dataclasses.asdict(model.clip)}
    checkpoints = Checkpoints(workdir, described, keep=1)
    taus = scalars.init(scalars.specifications(config.loss))
    state = TrainState(jnp.int32(3), {"model": variables["params"], "taus": taus}, {}, ())
    checkpoints.save_best(3, state, {"r_mean": 1.0})
    checkpoints.close()
    return workdir


def test_a_run_gets_the_numbers_of_training_and_says_which_head(run, data):
    config = ConfigDict(json.loads((run / "config.json").read_text()))
    suites = Suites(open_source(str(run), batch_size=16, workers=0), Data(str(data)))
    found = suites.run("flickr30k")
    model, variables = build_model(config)
    split = load_split(
        str(data / "flickr30k"), "test", image_root="", context_length=model.clip.context_length
    )
    expected = Evaluator(model, sharding.make_mesh(), config)(variables, split)
    for ours, theirs in (("i2t", "txt"), ("t2i", "img")):
        for k in (1, 5, 10):
            assert found.values()[f"{ours}_r{k}"] == pytest.approx(expected[f"{theirs}_r{k}"])
    assert found.head == "cross-modal head"
    sop = suites.run("sop")
    assert sop.strata == (12,)
    assert sop.head == "cross-modal head"
    sts = suites.run("sts")
    assert set(sts.values()) == {"stsb", "stsb_pearson"}
    assert any("sts12 left out" in note for note in sts.notes)


def test_an_unreadable_image_is_named_once_and_the_other_suites_run(run, data, tmp_path, monkeypatch):
    shutil.copytree(data / "flickr30k", tmp_path / "coco")
    damaged = tmp_path / "coco" / "images" / "test_000006.png"
    damaged.write_bytes(damaged.read_bytes()[:100])
    source = open_source(str(run), batch_size=16, workers=0)
    asked = []
    embed = source.captioned
    monkeypatch.setattr(source, "captioned", lambda *of: (asked.append(of[0]), embed(*of))[1])
    suites = Suites(source, Data(str(data), {"coco": str(tmp_path / "coco")}))
    for suite in ("coco5k", "coco1k"):
        with pytest.raises(
            InputError, match=r"^\S*/test_000006\.png: not a readable image .*: bring it back, or"
        ) as told:
            suites.run(suite)
        assert "\n" not in str(told.value)
    assert asked == ["coco"]
    assert np.isfinite(suites.run("flickr30k").values()["rsum"])


def test_sentences_do_not_depend_on_their_batch(run):
    texts = [f"{'a very ' * (n % 7)}red circle {n}" for n in range(20)]
    several, _ = open_source(str(run), batch_size=8, workers=0).sentences(texts)
    one, _ = open_source(str(run), batch_size=32, workers=0).sentences(texts)
    np.testing.assert_allclose(several, one, atol=1e-5)


def test_a_text_teacher_is_judged_by_sts_alone(data):
    teacher = open_source(str(ROOT / "cusa_jax/assets/world_teachers/text"), batch_size=8, workers=0)
    suites = Suites(teacher, Data(str(data)))
    assert np.isfinite(suites.run("sts").values()["stsb"])
    for suite in ("flickr30k", "sop"):
        with pytest.raises(InputError, match="encodes sentences only"):
            suites.run(suite)


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
    assert "<h2>Flickr30K</h2>" in (arrays / "out" / "report.html").read_text()
    assert results["skipped"] == {
        "sop": f"{arrays / 'a.npz'} has no sop/features", "sts": "--data names no folder for sts"
    }  # fmt: skip
    with np.load(arrays / "b.npz") as file:
        expected = recall(file["flickr30k/scores"], file["flickr30k/caption_image"])
    metric = results["suites"]["flickr30k"]["metrics"]["t2i_r1"]
    assert metric["value"] == pytest.approx(expected["img_r1"])
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


def test_where_nothing_is_evaluated_that_is_an_error(arrays):
    done = evaluate(f"--embeddings={arrays / 'a.npz'}", "--suite=sop,sts", out=arrays / "out")
    assert done.returncode == 2
    assert f"sop: skipped: {arrays / 'a.npz'} has no sop/features" in done.stdout
    assert (
        done.stderr.splitlines()[-1]
        == f"error: {arrays / 'a.npz'}: nothing was evaluated, as every suite was skipped (why: above)"
    )
    assert not (arrays / "out").exists()


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
        (Data("nowhere"), "cub", r"nowhere/cub: no such folder; it holds CUB_200_2011/images/"),
        (Data(), "sts", "--data names no folder for sts"),
    ],
)
def test_missing_data_say_what_belongs_where(data, dataset, message):
    with pytest.raises(InputError, match=message):
        data.folder(dataset)


def test_datasets_may_lie_elsewhere(tmp_path):
    assert Data("nowhere", {"coco": str(tmp_path)}).folder("coco") == tmp_path
    with pytest.raises(InputError, match="no dataset is called 'coca'"):
        Data("", {"coca": "x"})


def evaluate(*options, out):
    return subprocess.run(
        [sys.executable, "scripts/evaluate.py", *options, f"--out={out}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_pickles_in_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", **{"cub/features": np.array([{}], object)})
    with pytest.raises(InputError, match="not a readable"):
        open_source(str(tmp_path / "x.npz"), batch_size=8, workers=0)


def test_published_figures_have_the_names_of_ours(run, data):
    published = json.loads((ROOT / "cusa_jax" / "assets" / "published.json").read_text())["models"]
    cusa = published["CLIP ViT-B/32 + CUSA"]
    assert cusa["coco5k"]["rsum"] == 429.7
    assert {suite for row in published.values() for suite in row} <= set(SUITES)
    found = Suites(open_source(str(run), batch_size=16, workers=0), Data(str(data))).run("flickr30k")
    assert set(cusa["flickr30k"]) <= set(found.values())
    text = table(record(Evaluated("run", {"flickr30k": found}, {})))
    assert all(name in text for name in cusa["flickr30k"])


def test_of_coco_s_validation_file_the_test_split_is_evaluated(tmp_path):
    truth = eccv.ground_truth()
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
    table = eccv.karpathy_test(everything)
    assert len(everything.image_ids) == 5002
    assert set(table.image_ids) == {str(i) for i in truth.image_ids.tolist()}
    assert len(table.captions) == len(table.caption_ids) == 25000
    for n in range(0, 25000, 611):
        image = table.image_ids[table.caption_image[n]]
        assert table.captions[n] == f"{table.caption_ids[n]} of {image}"
        assert table.image_paths[table.caption_image[n]].stem == f"COCO_val2014_{int(image):012d}"
    assert eccv.karpathy_test(table) is table
    assert eccv.karpathy_test(dataclasses.replace(everything, caption_ids=None)).caption_ids is None
