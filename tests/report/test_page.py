"""The pages as a browser reads them: everything within, every picture loads, the order is that of the scores."""

import base64
import dataclasses
import io
import json
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from cusa_jax.config import default_config
from cusa_jax.data.caption_table import CaptionTable
from cusa_jax.data.sources import ImageFiles
from cusa_jax.data.splits import Split
from cusa_jax.errors import InputError
from cusa_jax.evaluation.retrieval import ScoredSplit
from cusa_jax.evaluation.scores import InnerProducts
from cusa_jax.report.page import Evidence, write_evaluation, write_report, write_search
from cusa_jax.report.plots import heat_map
from cusa_jax.report.soft_labels import Comparison
from cusa_jax.report.study import study

HOSTILE = "<script>alert(1)</script> & a “dog”"


class Page(HTMLParser):
    """Pictures, links, what is marked as an answer, and the text of a page."""

    def __init__(self, file):
        super().__init__()
        self.images, self.links, self.answers, self.open, self.text = [], [], [], [], []
        self.feed(file.read_text("utf-8"))
        self.close()
        assert not self.open, "unclosed elements"

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        if tag == "img":
            self.images.append(named)
        if tag not in ("img", "meta", "link", "br", "!doctype"):
            self.open.append(tag)
        self.links += [named[key] for key in ("src", "href") if key in named]
        if "data-item" in named:
            self.answers.append((int(named["data-item"]), named.get("class", "")))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    def pictures(self):
        return [
            Image.open(io.BytesIO(base64.b64decode(image["src"].split(",", 1)[1], validate=True)))
            for image in self.images
        ]


@pytest.fixture
def workdir(tmp_path):
    """What a training leaves, without the training."""
    config = default_config()
    config.init_from, config.data.path, config.teacher.control = "clip", "data", "shuffled"
    (tmp_path / "config.json").write_text(config.to_json())
    names = ("txt_r1", "txt_r5", "txt_r10", "img_r1", "img_r5", "img_r10", "txt_r_mean", "img_r_mean")
    test = {name: 10.0 + n for n, name in enumerate(names)}
    (tmp_path / "results.json").write_text(json.dumps({"best_step": 4, "val_r_mean": 1.0, "test": test}))
    lines = [
        {
            "step": n,
            "split": "train",
            "loss": 1 / n,
            "loss_csa": 2 / n,
            "tau_contrastive": 0.05 / n,
            "tau_usa_text": 0.4 / n,
            "tau_csa_image": 0.1,
        }
        for n in (1, 2, 3, 4)
    ]
    lines += [{"step": n, "split": "val", **dict.fromkeys(names, n)} for n in (2, 4)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


@pytest.fixture
def scored():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((21, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return ScoredSplit(np.arange(7, dtype=np.int32), np.arange(14), InnerProducts(rows[:7], rows[7:]))


@pytest.fixture
def split(tmp_path):
    paths = [tmp_path / f"{n}.png" for n in range(7)]
    for n, path in enumerate(paths[1:], start=1):  # the first file is gone
        Image.new("RGB", (300 if n == 1 else 20, 16), (30 * n, 0, 0)).save(path)
    caption_image = np.repeat(np.arange(7, dtype=np.int32), 2)
    captions = [HOSTILE, *(f"caption {n}" for n in range(1, 14))]
    relevance = np.eye(7, dtype=bool)[caption_image]
    relevance[2] = True
    table = CaptionTable([path.stem for path in paths], paths, captions, caption_image, None)
    return Split(table, captions, np.zeros((14, 4), np.int32), relevance, ImageFiles(table.image_paths))


def test_a_report_holds_everything_and_orders_answers_by_score(workdir, scored, split):
    rng = np.random.default_rng(1)
    comparisons = [Comparison("Images", [heat_map("Teacher", rng.random((5, 5)))], 0.5)]
    page = Page(write_report(workdir, Evidence(comparisons, study(scored, split), split)))
    text = " ".join(" ".join(page.text).split())

    assert all(link.startswith("data:") for link in page.links)
    for picture in page.pictures():
        picture.load()
        assert max(picture.size) <= 700
    assert all(image["alt"] for image in page.images)

    scores = scored.scores.images @ scored.scores.texts.T
    captions, images = np.linspace(0, 13, 6, dtype=int), np.linspace(0, 6, 6, dtype=int)
    best = [np.argsort(-scores[:, n], kind="stable")[:5] for n in captions]
    best += [np.argsort(-scores[n], kind="stable")[:5] for n in images]
    assert [item for item, _ in page.answers] == np.concatenate(best).tolist()
    marks = [kind.split()[-1] for _, kind in page.answers[:30]]
    pairs = [(caption, image) for caption, row in zip(captions, best, strict=False) for image in row]
    assert marks == [
        "annotated"
        if split.table.caption_image[c] == i
        else "unannotated"
        if split.relevance[c, i]
        else "wrong"
        for c, i in pairs
    ]
    assert "unannotated" in marks

    assert HOSTILE in text
    assert "not readable" in text
    assert "R@1 10.00 13.00" in text
    assert "Control: shuffled teachers." in text
    for heading in (
        "Loss, weighted sum",
        "CSA loss",
        "Temperature of the contrastive loss",
        "Temperature of the USA loss",
        "Images : r = 0.50",
    ):
        assert heading.replace(" :", ":") in text
    # The run logged a temperature of this term, and not the term.
    assert text.count("USA loss") == 1
    # It was not trained.
    assert "of the CSA loss" not in text
    assert "The paper has no figures" in text


def test_without_the_data_the_report_says_so_and_shows_the_rest(workdir):
    page = Page(write_report(workdir, None, "Not shown: data/test.json is gone"))
    assert " ".join(page.text).count("Not shown: data/test.json is gone") == 2
    # Two of validation, and of training two losses and two temperatures.
    assert len(page.images) == 6
    assert not page.answers


def test_an_unfinished_run_has_no_report(workdir):
    (workdir / "results.json").unlink()
    with pytest.raises(InputError, match="the run is not finished"):
        write_report(workdir, None)
    assert not (workdir / "report.html").exists()


def test_found_photos_stand_in_order_with_links_to_their_files(tmp_path, split):
    photos = split.table.image_paths
    hits = [(0.9, photos[3]), (0.25, photos[1]), (0.1, photos[0])]
    page = Page(write_search(tmp_path / "found.html", HOSTILE, "", hits))
    assert [link for link in page.links if not link.startswith("data:")] == [
        path.as_uri() for _, path in hits
    ]
    assert [picture.size for picture in page.pictures()] == [(20, 16), (240, 13)]
    text = " ".join(page.text)
    assert [text.index(told) for told in ("0.9000", "0.2500", "0.1000")] == sorted(
        text.index(told) for told in ("0.9000", "0.2500", "0.1000")
    )
    assert HOSTILE in text
    by_photo = Page(write_search(tmp_path / "found.html", "", str(photos[2]), hits))
    assert len(by_photo.images) == 3


def test_an_evaluation_of_two_models_is_one_page(tmp_path):
    def model(name, value):
        metrics = {"rank1": {"value": value, "low": None, "high": None}}
        part = {"head": "uni", "unit": "image", "units": 5924, "notes": [HOSTILE], "metrics": metrics}
        skipped = {"sop": f"nothing in {HOSTILE}"}
        return {
            "model": name, "architecture": "vit_b_32", "suites": {"cub": part, "inat": part}, "skipped": skipped,
            "bootstrap": {"level": 0.95, "resamples": 1000, "seed": 0},
        }  # fmt: skip

    difference = {"value": -2.5, "low": -3.0, "high": -2.0, "verdict": "worse"}
    compared = {
        "differences": {"cub": {"rank1": difference}},
        "not_compared": {"inat": f"other images than {HOSTILE}"},
    }
    page = Page(write_evaluation(tmp_path / "report.html", [model(HOSTILE, 7.5), model("b", 5.0)], compared))
    text = " ".join(" ".join(page.text).split())
    assert "rank-1 7.50 5.00 worse −2.50 −3.00 to −2.00 41.5 42.3 50.3 49.7" in text
    assert "paper, CLIP ViT-B/32" in text
    assert text.count(f"not compared: other images than {HOSTILE}") == 1
    assert text.count(HOSTILE) == 7  # heading, two notes, no comparison, twice why skipped, and whose that is
    assert all(link.startswith("data:") for link in page.links)
    first, second = (image["alt"] for image in page.images)
    assert first == f"CUB-200-2011: b − {HOSTILE.rsplit('/')[-1]}: rank-1 difference -2.5 (-3 to -2)"
    assert second.startswith("iNaturalist 2018: figures")
    for picture in page.pictures():
        picture.load()


def test_a_report_says_that_eccv_caption_did_not_judge_everything(workdir, scored, split):
    told = dataclasses.replace(
        study(scored, split), judge="ECCV Caption", marks={"annotated": 1, "unannotated": 1}
    )
    text = " ".join(" ".join(Page(write_report(workdir, Evidence([], told, split))).text).split())
    assert "False negatives are those that ECCV Caption found" in text
    assert "50.0 % are annotated, and at least 50.0 % are true without being annotated" in text
    exact = " ".join(
        " ".join(Page(write_report(workdir, Evidence([], study(scored, split), split))).text).split()
    )
    assert "ECCV Caption" not in exact
    assert "at least" not in exact
