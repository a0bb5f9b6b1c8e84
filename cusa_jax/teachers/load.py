"""The two teachers of a run: live, from a feature file, or from a bank."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from cusa_jax import sharding
from cusa_jax.config import needs_teachers
from cusa_jax.data.pipeline import image_batches
from cusa_jax.data.splits import Split
from cusa_jax.distributed import is_first
from cusa_jax.errors import InputError
from cusa_jax.inputs import Pixels
from cusa_jax.teachers.bank import bank_features, teacher_fingerprint
from cusa_jax.teachers.control import uniform_teachers
from cusa_jax.teachers.encoding import Inputs, encode_all, text_batches
from cusa_jax.teachers.features import SUFFIXES, caption_keys, read_features
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
    if config.teacher.control == "uniform":
        return uniform_teachers()
    if needs_teachers(config):
        return _load_both(config, train, mesh)
    try:
        teachers = _load_both(config, train, mesh)
    except InputError as error:
        raise InputError(
            f"{error}. CSA and USA have weight 0 here, so that teachers only measure them: "
            "--config.teacher.image= --config.teacher.text= leaves them out"
        ) from error
    if is_first():
        print("CSA and USA have weight 0: the teachers only measure them", flush=True)
    return teachers


@dataclasses.dataclass(frozen=True)
class _Side:
    """What the two teachers differ in.

    ids: of the N samples, as in a feature file. samples: ids, and what else tells the samples apart. load: the live
    teacher, of source and options. inputs: (teacher, how many samples to leave out) -> what it takes of the others.
    """

    name: str
    source: str
    ids: Sequence[str]
    samples: list[str]
    options: dict[str, Any]
    load: Callable[..., Teacher]
    inputs: Callable[[Teacher, int], Inputs]


def _load_both(config: Any, train: Split, mesh: Mesh) -> Teachers:
    settings, table = config.teacher, train.table
    batch_size = sharding.round_up(config.eval.batch_size, mesh.size)

    def image_inputs(teacher: Teacher, done: int) -> Inputs:
        assert teacher.image_size
        return image_batches(
            train.images,
            Pixels(teacher.image_size),
            batch_size=batch_size,
            workers=config.data.workers,
            on_bad_image=config.data.on_bad_image,
            first=done,
        )

    def text_inputs(teacher: Teacher, done: int) -> Inputs:
        assert teacher.tokenize
        return text_batches(teacher.tokenize(train.captions), batch_size, done)

    keys = caption_keys(table.image_ids, table.caption_image)
    names = [path.name for path in table.image_paths]
    image = _Side(
        name="image",
        source=settings.image,
        ids=table.image_ids,
        samples=[*table.image_ids, *names],
        options={"dtype": settings.dtype},
        load=load_image_teacher,
        inputs=image_inputs,
    )
    text = _Side(
        name="text",
        source=settings.text,
        ids=keys,
        samples=[*keys, *train.captions],
        options={"dtype": settings.dtype, "max_length": settings.max_length},
        load=load_text_teacher,
        inputs=text_inputs,
    )
    return Teachers(image=_load(image, settings, mesh), text=_load(text, settings, mesh))


def _load(side: _Side, settings: Any, mesh: Mesh) -> Teacher:
    """settings: `config.teacher`."""

    def live() -> Teacher:
        return narrowed(side.load(side.source, **side.options), settings.width, mesh)

    def compute(done: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        teacher = live()
        return encode_all(teacher, side.inputs(teacher, done), mesh)

    if Path(side.source).suffix in SUFFIXES and not Path(side.source).is_dir():
        found = project_rows(read_features(locate(side.source, *SUFFIXES), side.ids), settings.width)
    elif settings.bank:
        path = locate(side.source, ".pt")
        fingerprint = teacher_fingerprint(path, side.samples, width=settings.width, **side.options)
        found = bank_features(Path(settings.bank) / side.name, fingerprint, compute, samples=len(side.ids))
    else:
        return live()
    return stored_teacher(side.source, found, mesh, settings.stored_dtype)
