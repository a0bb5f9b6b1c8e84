"""Pages that open from disk: one HTML file each, its pictures within."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from cusa_jax.config import default_config, flat
from cusa_jax.data.sources import ImageFiles, ImageSource
from cusa_jax.data.splits import Split
from cusa_jax.distributed import is_first
from cusa_jax.errors import InputError
from cusa_jax.evaluation.retrieval import EmbeddedSplit
from cusa_jax.experiment import Experiment
from cusa_jax.files import written_whole
from cusa_jax.report import published, soft_labels
from cusa_jax.report.compare import read_results
from cusa_jax.report.evaluation import sections, short_names
from cusa_jax.report.figures import training_curves, validation_curves
from cusa_jax.report.study import Study, study
from cusa_jax.types import Params
from cusa_jax.workdir import CONFIG, read_json

REPORT = "report.html"
_THUMBNAIL = 240  # pixels of the longer side
# Heading, keys of results.json for images that look for captions and captions that look for images.
RESULTS_TABLE = (
    ("R@1", "txt_r1", "img_r1"),
    ("R@5", "txt_r5", "img_r5"),
    ("R@10", "txt_r10", "img_r10"),
    ("mean recall", "txt_r_mean", "img_r_mean"),
    ("mAP@R, exact relevance", "txt_map_at_r", "img_map_at_r"),
    ("R-Precision, exact relevance", "txt_r_precision", "img_r_precision"),
    ("R@1, exact relevance", "txt_exact_r1", "img_exact_r1"),
)


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What only the model and its data can show."""

    comparisons: list[soft_labels.Comparison]
    study: Study
    split: Split


def gather(run: Experiment, variables: Params, embedded: EmbeddedSplit) -> Evidence:
    """variables: of the best model, on the mesh. embedded: the test split under them."""
    split = run.splits["test"]
    return Evidence(soft_labels.compare(run, variables), study(embedded, split), split)


def write_report(workdir: Path, evidence: Evidence | None, missing: str = "") -> Path:
    """report.html of a finished run. missing: why there is no evidence. Raises InputError for an unfinished run."""
    results, config = read_results(workdir), read_json(workdir / CONFIG)
    ours, defaults = flat(config), flat(default_config())
    test = results["test"]
    suite = published.suite(evidence.split.table) if evidence else None
    return _write(
        workdir / REPORT,
        "report.html.j2",
        name=workdir.resolve().name,
        config=config,
        results=results,
        rows=[(title, test[i2t], test[t2i]) for title, i2t, t2i in RESULTS_TABLE if i2t in test],
        published=published.beside(test, suite, config["model"]["name"]),
        curves=training_curves(workdir),
        recalls=validation_curves(workdir),
        evidence=evidence,
        missing=missing,
        settings={key: value for key, value in ours.items() if value != defaults.get(key)},
    )


def write_search(file: Path, text: str, image: str, hits: Sequence[tuple[float, Path]]) -> Path:
    """A gallery of (score, photo), best first, for a text or for the photo at the path `image`."""
    images, asked = ImageFiles([path for _, path in hits]), ImageFiles([Path(image)])
    return _write(file, "search.html.j2", text=text, image=image, hits=hits, images=images, asked=asked)


def write_evaluation(file: Path, models: Sequence[Mapping[str, Any]], compared: Mapping[str, Any]) -> Path:
    """Figures of one model or two, beside the paper's; the arguments of `evaluation.sections`."""
    return _write(
        file,
        "evaluation.html.j2",
        models=models,
        names=short_names(models),
        compared=len(models) == 2,
        sections=sections(models, compared),
        paper=published.published()["source"],
    )


def _write(file: Path, template: str, **content: Any) -> Path:
    """Whole or not at all, by one process."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cusa_jax", "assets/templates"),
        autoescape=True,  # captions and file names are others' words
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "png": _png_uri,
        "minus": lambda number: number.replace("-", "\N{MINUS SIGN}"),
        "thumbnail": thumbnail,
        "file_uri": lambda path: Path(path).absolute().as_uri(),
    }
    if is_first():
        page = environment.get_template(template).render(**content)
        try:
            with written_whole(file) as fresh:
                fresh.write_text(page, "utf-8", errors="backslashreplace")
        except OSError as error:
            raise InputError(f"{file}: cannot be written ({error.strerror})") from error
    return file


def thumbnail(images: ImageSource, number: int) -> str:
    """A picture as a data URI, at most _THUMBNAIL pixels wide and high; '' where it can no longer be read."""
    try:
        picture = images.picture(number)
    except InputError:
        return ""
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
    kind = "png" if max(picture.size) <= 64 else "jpeg"  # tiny ones are drawn large: keep their every pixel
    buffer = io.BytesIO()
    picture.save(buffer, kind, quality=82)
    return _uri(buffer.getvalue(), kind)


def _png_uri(content: bytes) -> str:
    return _uri(content, "png")


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
