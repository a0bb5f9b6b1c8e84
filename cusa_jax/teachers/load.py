"""The two teachers of a run: live, from a feature file, or from a bank."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from cusa_jax import sharding
from cusa_jax.config import needs_teachers
from cusa_jax.data.pipeline import image_batches
from cusa_jax.data.splits import Split
from cusa_jax.errors import InputError
from cusa_jax.teachers import features
from cusa_jax.teachers.bank import bank_features, teacher_fingerprint
from cusa_jax.teachers.encoding import Inputs, encode_all, text_batches
from cusa_jax.teachers.folder import locate
from cusa_jax.teachers.live import load_image_teacher, load_text_teacher
from cusa_jax.teachers.projection import narrowed, project_rows
from cusa_jax.teachers.stored import stored_teacher
from cusa_jax.types import Teacher, Teachers


def load_teachers(config: Any, train: Split, mesh: Mesh) -> Teachers | None:
    """Both teachers of the training split; None where the configuration names none.

    Raises InputError for whatever is wrong with them.
    """
    if not config.teacher.image:
        return None
    if needs_teachers(config):
        return _load_both(config, train, mesh)
    try:
        teachers = _load_both(config, train, mesh)
    except InputError as error:
        raise InputError(
            f"{error}. CSA and USA have weight 0 here, so that teachers only measure them: "
            "--config.teacher.image= --config.teacher.text= leaves them out"
        ) from error
    print("CSA and USA have weight 0: the teachers only measure them", flush=True)
    return teachers


def _load_both(config: Any, train: Split, mesh: Mesh) -> Teachers:
    settings, table = config.teacher, train.table
    batch_size = sharding.round_up(config.eval.batch_size, mesh.size)
    keys = features.caption_keys(table.image_ids, table.caption_image)
    text_options = {"max_length": settings.max_length}

    def image_inputs(teacher: Teacher, first_batch: int) -> Inputs:
        assert teacher.image_size
        return image_batches(
            table,
            batch_size=batch_size,
            image_size=teacher.image_size,
            first_batch=first_batch,
            workers=config.data.workers,
            on_bad_image=config.data.on_bad_image,
        )

    def text_inputs(teacher: Teacher, first_batch: int) -> Inputs:
        assert teacher.tokenize
        return text_batches(teacher.tokenize(train.captions), batch_size, first_batch)

    load = functools.partial(_load, settings, mesh)
    names = [path.name for path in table.image_paths]
    return Teachers(
        image=load(
            "image", load_image_teacher, image_inputs, table.image_ids, [*table.image_ids, *names], {}
        ),
        text=load("text", load_text_teacher, text_inputs, keys, [*keys, *train.captions], text_options),
    )


def _load(
    settings: Any,
    mesh: Mesh,
    modality: str,
    load_live: Callable[..., Teacher],
    inputs: Callable[[Teacher, int], Inputs],
    ids: Sequence[str],
    samples: Sequence[str],
    options: dict[str, Any],
) -> Teacher:
    """settings: `config.teacher`. ids: of the samples in a feature file. samples: what else decides their features."""
    source, width = settings[modality], settings.width
    options = {"dtype": settings.dtype, **options}

    def live() -> Teacher:
        return narrowed(load_live(source, **options), width)

    def of_file() -> np.ndarray:
        return project_rows(features.read_features(locate(source), ids), width)

    def compute(first_batch: int) -> Any:
        if is_file:
            return [(np.arange(len(ids)), of_file())]
        teacher = live()
        return encode_all(teacher, inputs(teacher, first_batch), mesh)

    is_file = Path(source).suffix in features.SUFFIXES
    if settings.bank and settings.control != "uniform":  # which needs no features
        fingerprint = teacher_fingerprint(source, samples, width=width, **options)
        found = bank_features(Path(settings.bank) / modality, fingerprint, compute, samples=len(ids))
    elif is_file:
        found = of_file()
    else:
        return live()
    return stored_teacher(source, found, mesh, settings.stored_dtype)
