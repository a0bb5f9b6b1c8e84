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
from cusa_jax.evaluation.metrics import METRICS
from cusa_jax.evaluation.retrieval import ScoredSplit
from cusa_jax.files import written_whole
from cusa_jax.jsonfile import read_json
from cusa_jax.report import published, soft_labels
from cusa_jax.report.evaluation import sections, short_names
from cusa_jax.report.plots import training_curves, validation_curves
from cusa_jax.report.study import Study, study
from cusa_jax.runlog import read_results
from cusa_jax.types import Similarities, SoftLabels
from cusa_jax.workdir import CONFIG, REPORT

# Pixels of the longer side.
_THUMBNAIL = 240


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What only the model and its data can show."""

    comparisons: list[soft_labels.Comparison]
    study: Study
    split: Split


def gather(
    scored: ScoredSplit, split: Split, similarities: tuple[Similarities, SoftLabels] | None
) -> Evidence:
    """scored: the test split under the best model. similarities: of one batch, as `soft_labels.compare` takes them;
    None without teachers."""
    comparisons = soft_labels.compare(*similarities) if similarities else []
    return Evidence(comparisons, study(scored, split), split)


def write_report(workdir: Path, evidence: Evidence | None, missing: str = "") -> Path:
    """report.html of a finished run. missing: why there is no evidence. Raises InputError for an unfinished run."""
    results, config = read_results(workdir), _read_config(workdir)
    ours, defaults = flat(config), flat(default_config())
    test = results["test"]
    suite = published.suite(evidence.split.table) if evidence else None
    return write(
        workdir / REPORT,
        "report.html.j2",
        name=workdir.resolve().name,
        config=config,
        results=results,
        terms=[(name, term["weight"]) for name, term in config["loss"].items() if _has_weight(term)],
        rows=_rows(test),
        published=published.beside(test, suite, config["model"]["name"]),
        curves=training_curves(workdir),
        recalls=validation_curves(workdir),
        evidence=evidence,
        missing=missing,
        settings={key: value for key, value in ours.items() if value != defaults.get(key)},
    )


def _read_config(workdir: Path) -> dict[str, Any]:
    """config.json as the run left it. Raises InputError where it lacks what the page shows."""
    path = workdir / CONFIG
    config = read_json(path)
    for key in ("model", "loss", "teacher"):
        if not isinstance(config.get(key), dict):
            raise InputError(f"{path}: has no '{key}' with its settings; bring back the run's own")
    shown = {"init_from": config, "seed": config, "name": config["model"], "control": config["teacher"]}
    for key, settings in shown.items():
        if key not in settings:
            raise InputError(f"{path}: lacks '{key}'; bring back the run's own")
    return config


def _has_weight(settings: Any) -> bool:
    """Whether settings of the loss are those of a term that counts."""
    weight = settings.get("weight") if isinstance(settings, dict) else None
    return isinstance(weight, int | float) and weight > 0


def _rows(test: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """(label, image to text, text to image) of every percentage that results.json has of both."""
    others = {(metric.label, metric.way): metric.key for metric in METRICS}
    pairs = [
        (metric.label, metric.key, others[metric.label, "t2i"])
        for metric in METRICS
        if metric.way == "i2t" and metric.unit == "%"
    ]
    return [(label, test[i2t], test[t2i]) for label, i2t, t2i in pairs if i2t in test and t2i in test]


def write_search(file: Path, text: str, image: str, hits: Sequence[tuple[float, Path]]) -> Path:
    """A gallery of (score, photo), best first, for a text or for the photo at the path `image`."""
    images, asked = (
        ImageFiles(paths, as_shown=True) for paths in ([path for _, path in hits], [Path(image)])
    )
    return write(file, "search.html.j2", text=text, image=image, hits=hits, images=images, asked=asked)


def write_evaluation(file: Path, models: Sequence[Mapping[str, Any]], compared: Mapping[str, Any]) -> Path:
    """Metrics of one model or two, beside the paper's; the arguments of `evaluation.sections`."""
    return write(
        file,
        "evaluation.html.j2",
        models=models,
        names=short_names(models),
        compared=len(models) == 2,
        sections=sections(models, compared),
        paper=published.published()["source"],
    )


def write(file: Path, template: str, **content: Any) -> Path:
    """A page of assets/templates with its content, whole or not at all, by one process."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cusa_jax", "assets/templates"),
        # Captions and file names are others' words.
        autoescape=True,
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
    # Tiny ones are drawn large: keep their every pixel.
    kind = "png" if max(picture.size) <= 64 else "jpeg"
    buffer = io.BytesIO()
    picture.save(buffer, kind, quality=82)
    return _uri(buffer.getvalue(), kind)


def _png_uri(content: bytes) -> str:
    return _uri(content, "png")


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
