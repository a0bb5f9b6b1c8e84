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
from cusa_jax.teachers.bank import bank_features, computed, teacher_fingerprint
from cusa_jax.teachers.control import uniform_teachers
from cusa_jax.teachers.encoding import NumberedBatches, encode_all, text_batches
from cusa_jax.teachers.features import SUFFIXES, caption_keys, is_feature_file, read_features
from cusa_jax.teachers.folder import locate
from cusa_jax.teachers.informative import check_live, check_table
from cusa_jax.teachers.live import load_image_teacher, load_text_teacher
from cusa_jax.teachers.projection import narrowed, project_rows
from cusa_jax.teachers.stored import stored_teacher
from cusa_jax.types import Params, Teacher, Teachers

# So many samples, evenly over the split, tell whether a live teacher is constant.
_PROBES = 8


def load_teachers(config: Any, train: Split, mesh: Mesh) -> tuple[Teachers, Params] | tuple[None, None]:
    """Both teachers of the training split, and their parameters {'image': …, 'text': …} on the mesh.

    (None, None) where the configuration names none. Raises InputError for whatever is wrong with them.
    """
    if not config.teacher.image:
        return None, None
    if config.teacher.control == "uniform":
        return uniform_teachers()
    if needs_teachers(config):
        return _load_both(config, train, mesh)
    try:
        loaded = _load_both(config, train, mesh)
    except InputError as error:
        raise InputError(
            f"{error}. CSA and USA have weight 0 here, so that teachers only measure them: "
            "--config.teacher.image= --config.teacher.text= leaves them out"
        ) from error
    if is_first():
        print("CSA and USA have weight 0: the teachers only measure them", flush=True)
    return loaded


def banks_to_compute(config: Any, train: Split) -> list[Path]:
    """The folders of the banks that a training would compute, or complete, before its first step.

    Raises InputError where one holds something else.
    """
    settings = config.teacher
    if not settings.image or not settings.bank or settings.control == "uniform":
        return []
    sides = [side for side in (_image_side(config, train, 1), _text_side(config, train, 1))
             if not is_feature_file(side.source)]  # fmt: skip
    banks = [(*_bank(side, settings), len(side.ids)) for side in sides]
    return [folder for folder, fingerprint, samples in banks if computed(folder, fingerprint) < samples]


@dataclasses.dataclass(frozen=True)
class _Side:
    """How the two teachers differ.

    source: what the configuration names. ids: of the N samples, as in a feature file. samples: ids, and what else
    tells the samples apart. load: reads the live teacher, of source and options. batches: (teacher, how many samples
    to leave out) -> what it takes of the others. probes: what it takes of a few samples, one by one.
    """

    name: str
    source: str
    ids: Sequence[str]
    samples: list[str]
    options: dict[str, Any]
    load: Callable[..., tuple[Teacher, Params]]
    batches: Callable[[Teacher, int], NumberedBatches]
    probes: Callable[[Teacher], list[Any]]


def _load_both(config: Any, train: Split, mesh: Mesh) -> tuple[Teachers, Params]:
    batch_size = sharding.round_up(config.eval.batch_size, mesh.size)
    image, image_params = _load(_image_side(config, train, batch_size), config.teacher, mesh)
    text, text_params = _load(_text_side(config, train, batch_size), config.teacher, mesh)
    return Teachers(image=image, text=text), {"image": image_params, "text": text_params}


def _image_side(config: Any, train: Split, batch_size: int) -> _Side:
    table, settings = train.table, config.teacher

    def batches(teacher: Teacher, done: int) -> NumberedBatches:
        assert teacher.image
        return image_batches(
            train.images,
            teacher.image,
            batch_size=batch_size,
            workers=config.data.workers,
            on_bad_image=config.data.on_bad_image,
            first=done,
        )

    def probes(teacher: Teacher) -> list[Any]:
        assert teacher.image
        pixels = []
        for number in _spread_over(len(train.images)):
            try:
                pixels += train.images.read(number, teacher.image)
            except InputError:
                # The batches name the image, or leave it out.
                continue
        return pixels

    return _Side(
        name="image",
        source=settings.image,
        ids=table.image_ids,
        samples=[*table.image_ids, *(path.name for path in table.image_paths)],
        options={"dtype": settings.dtype},
        load=load_image_teacher,
        batches=batches,
        probes=probes,
    )


def _text_side(config: Any, train: Split, batch_size: int) -> _Side:
    settings = config.teacher

    def batches(teacher: Teacher, done: int) -> NumberedBatches:
        assert teacher.tokenize
        return text_batches(teacher.tokenize(train.captions), batch_size, done)

    def probes(teacher: Teacher) -> list[Any]:
        assert teacher.tokenize
        text = teacher.tokenize([train.captions[number] for number in _spread_over(len(train.captions))])
        return [dict(zip(text, arrays, strict=True)) for arrays in zip(*text.values(), strict=True)]

    ids = caption_keys(train.table.image_ids, train.table.caption_image)
    return _Side(
        name="text",
        source=settings.text,
        ids=ids,
        samples=[*ids, *train.captions],
        options={"dtype": settings.dtype, "max_length": settings.max_length},
        load=load_text_teacher,
        batches=batches,
        probes=probes,
    )


def _load(side: _Side, settings: Any, mesh: Mesh) -> tuple[Teacher, Params]:
    """One teacher, and its parameters on the mesh. settings: `config.teacher`."""

    def live() -> tuple[Teacher, Params]:
        teacher, host_params = side.load(side.source, **side.options)
        params = sharding.put_params(host_params, mesh)
        teacher = narrowed(teacher, settings.width, mesh)
        check_live(teacher, params, side.probes(teacher), mesh)
        return teacher, params

    def compute(done: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        teacher, params = live()
        return encode_all(teacher, params, side.batches(teacher, done), mesh)

    if is_feature_file(side.source):
        table = project_rows(read_features(locate(side.source, *SUFFIXES), side.ids), settings.width)
        check_table(side.source, table)
        return stored_teacher(side.source, table, mesh, settings.stored_dtype)
    if settings.bank:
        folder, fingerprint = _bank(side, settings)
        bank = bank_features(folder, fingerprint, compute, samples=len(side.ids))
        return stored_teacher(side.source, bank, mesh, settings.stored_dtype)
    return live()


def _bank(side: _Side, settings: Any) -> tuple[Path, dict[str, Any]]:
    """Where a teacher's bank is, and what it must be the bank of."""
    path = locate(side.source, ".pt")
    fingerprint = teacher_fingerprint(path, side.samples, width=settings.width, **side.options)
    return Path(settings.bank) / side.name, fingerprint


def _spread_over(count: int) -> list[int]:
    """Up to _PROBES numbers below `count`, evenly spaced."""
    return sorted({count * n // _PROBES for n in range(_PROBES)})
