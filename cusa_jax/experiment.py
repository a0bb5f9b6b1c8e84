"""From a configuration to the parts of a run: data, student, teachers, recipe, starting state."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

import grain
import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from cusa_jax import optim, sharding, step
from cusa_jax.data import tokenizer_file
from cusa_jax.data.augment import Augmentation
from cusa_jax.data.layouts.prepared import is_prepared
from cusa_jax.data.pipeline import train_batches
from cusa_jax.data.prefetch import OnBadImage
from cusa_jax.data.splits import SPLITS, Split, check_disjoint, check_present, load_split, provide
from cusa_jax.distributed import is_first
from cusa_jax.errors import InputError
from cusa_jax.hugging_face import is_missing
from cusa_jax.inputs import Inputs
from cusa_jax.keys import Config, Model
from cusa_jax.losses.terms import reads
from cusa_jax.models import families, positions
from cusa_jax.models.student import Embeds, Options, Student
from cusa_jax.step import Recipe
from cusa_jax.teachers.load import load_teachers
from cusa_jax.types import Params, Teachers, TrainState
from cusa_jax.weights.formats import read_weights
from cusa_jax.weights.hub import Weights, start_from


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything the training loop runs on. The teachers' parameters are on the mesh already.

    abstract_state: shapes, dtypes and shardings of `initial_state()`, which a resumed run need not make.
    batches yields this process's rows; teacher_params is None without teachers.
    """

    config: Config
    mesh: Mesh
    recipe: Recipe
    abstract_state: TrainState
    initial_state: Callable[[], TrainState]
    teacher_params: Params
    batches: grain.DatasetIterator
    splits: dict[str, Split]
    data_fingerprint: int
    steps_per_epoch: int
    learning_rates: np.ndarray

    @property
    def last_step(self) -> int:
        return len(self.learning_rates)


def build(config: Config) -> Experiment:
    """Reads the data and the weights that `config` names. Raises InputError for whatever is wrong with them."""
    mesh = sharding.make_mesh(config.sharding.fsdp)
    check_batch(config, mesh)
    # What takes no time is checked first.
    _check_paths(config)
    provide(config.data.path, dataclasses.asdict(config.data.world), config.data.split)
    student, variables, values = build_student(config)
    splits = load_splits(config, student.inputs)
    train = splits["train"]
    steps_per_epoch = len(train.captions) // config.batch_size
    if not steps_per_epoch:
        raise InputError(
            f"{config.data.path}: {len(train.captions)} training captions do not fill one batch of "
            f"{config.batch_size}; lower config.batch_size"
        )
    teachers, teacher_params = load_teachers(config, train, mesh)
    learning_rates = optim.learning_rates(config.optim, config.schedule, steps_per_epoch)
    recipe = make_recipe(config, student, teachers, learning_rates, mesh, steps_per_epoch)
    fresh_state = functools.partial(step.init_state, recipe, jax.device_get(variables), values)
    return Experiment(
        config=config,
        mesh=mesh,
        recipe=recipe,
        abstract_state=sharding.abstract_params(jax.eval_shape(fresh_state), mesh),
        initial_state=lambda: sharding.put_params(fresh_state(), mesh),
        teacher_params=teacher_params,
        batches=_batches(config, train, teachers, student.inputs),
        splits=splits,
        data_fingerprint=train.table.fingerprint(),
        steps_per_epoch=steps_per_epoch,
        learning_rates=learning_rates,
    )


def _check_paths(config: Config) -> None:
    """Raises InputError that names every path in `config` where there is nothing; a Hugging Face id may be none."""
    named = {
        "init_from": config.init_from,
        "teacher.image": config.teacher.image,
        "teacher.text": config.teacher.text,
        "data.image_root": config.data.image_root,
        "model.tokenizer": config.model.tokenizer,
    }
    missing = [f"{key}={source}" for key, source in named.items() if is_missing(source)]
    if missing:
        raise InputError(f"no such file or folder: config.{', config.'.join(missing)}")
    if config.data.augmented and is_prepared(config.data.path):
        raise InputError(
            f"{config.data.path}: is prepared, its pixels are cropped for good; train on the original images, or set "
            "config.data.crop=1 and flip=false"
        )


def check_batch(config: Config, mesh: Mesh) -> None:
    """Raises InputError where a batch does not split over the devices and its micro-batches."""
    if config.batch_size % (mesh.size * config.accumulate):
        raise InputError(
            f"config.batch_size={config.batch_size} does not split over {mesh.size} devices in "
            f"accumulate={config.accumulate} equal parts"
        )


def make_recipe(
    config: Config,
    student: Student,
    teachers: Teachers | None,
    learning_rates: np.ndarray,
    mesh: Mesh,
    steps_per_epoch: int = 1,
) -> Recipe:
    """What a step of `config` is specialised to. learning_rates: float64 [steps], one for each."""
    _check_student(config, student)
    return step.make_recipe(
        student,
        config.loss,
        config.optim,
        learning_rates,
        steps_per_epoch,
        groups=config.batch_size // config.loss.local_batch if config.loss.negatives == "local" else 1,
        teachers=teachers,
        centre_teachers=config.teacher.centre,
        micro_batches=config.accumulate,
        mesh=mesh,
        seed=config.seed,
    )


def load_splits(config: Config, inputs: Inputs) -> dict[str, Split]:
    """'train', 'val' and 'test' of the dataset at `config.data.path`, for a model of these inputs."""
    splits = {name: read_split(config, name, inputs) for name in SPLITS}
    check_disjoint(splits, config.data.path)
    if config.data.on_bad_image == "error":
        check_present(splits.values())
    return splits


def read_split(config: Config, name: str, inputs: Inputs) -> Split:
    """One split of the dataset at `config.data.path`, for a model of these inputs."""
    data = config.data
    return load_split(
        data.path,
        name,
        inputs,
        image_root=data.image_root,
        shares=data.split,
        shown=data.as_shown,
        images={"train": data.train_images, "val": data.val_images}.get(name, 0),
    )


def build_student(config: Config) -> tuple[Student, Params, Mapping[str, np.ndarray]]:
    """The student; its variables: what `init_from` has, the rest fresh; the scalars that a trained run brings along.

    Weights that are all fresh are announced loudly. Raises InputError where weights and configuration disagree.
    """
    family, sizes, weights = find_sizes(config)
    student = families.make(family, sizes, student_options(config, weights.tokenizer if weights else ""))
    _check_student(config, student)
    variables = jax.jit(student.init)(jax.random.key(config.seed))
    if weights is None:
        logging.warning("THE STUDENT STARTS FROM RANDOM WEIGHTS: config.init_from is empty")
        return student, variables, {}
    _announce_heads(config, student, weights)
    return student, start_from(weights, variables), weights.scalars


def find_sizes(config: Config) -> tuple[str, Any, Weights | None]:
    """(family, sizes) of the student, and the weights of `init_from` where there are any.

    Raises InputError where preset and weights are different models, or neither says the sizes.
    """
    preset = families.presets().get(config.model.name)
    if preset:
        preset = preset[0], families.edited(preset[1], config.model.sizes)
        preset = preset[0], with_vocabulary(preset[1], config.model)
    elif config.model.sizes:
        raise InputError(
            "config.model.sizes changes a preset's; config.model.name='auto' takes those of init_from"
        )
    if not config.init_from:
        if preset is None:
            raise InputError("config.model.name='auto' takes its sizes from config.init_from, which is empty")
        return preset[0], positions.resized(preset[1], config.model.image_size), None
    weights = read_weights(config.init_from, config.model.activation)
    tokenizer_file.check_words(config.model.tokenizer, weights.sizes, config.init_from)
    if preset:
        _check_sizes(config, preset, weights)
    variables, sizes = positions.at_image_size(weights.variables, weights.sizes, config.model.image_size)
    return weights.family, sizes, dataclasses.replace(weights, variables=variables, sizes=sizes)


def with_vocabulary(sizes: Any, model: Model) -> Any:
    """Sizes with as many words as the vocabulary of `model.tokenizer` has, where the model takes words.

    Raises InputError where `model.sizes` asks for another number.
    """
    words = tokenizer_file.words(model.tokenizer) if families.takes_words(sizes) else 0
    if not words or words == sizes.vocab_size:
        return sizes
    if "vocab_size" in model.sizes:
        raise InputError(
            f"{model.tokenizer}: {words} words, but config.model.sizes says vocab_size={sizes.vocab_size}; leave "
            "that out, and the vocabulary decides"
        )
    return dataclasses.replace(sizes, vocab_size=words)


def student_options(config: Config, tokenizer: str = "") -> Options:
    """What `config` decides of its student: the pairs of heads that the losses compare, and how it computes.

    tokenizer: of the weights that it starts from.
    """
    compared = reads(config.loss)
    cross = "image_text" in compared
    uni = bool({"image_image", "text_text"} & compared)
    heads = tuple(kind for kind, used in (("cross", cross), ("uni", uni)) if used)
    return Options(
        heads=() if config.model.heads == "none" else heads,
        head_kind="residual" if config.model.heads == "residual" else "linear",
        dtype=config.model.dtype,
        remat=config.model.remat,
        attention=config.model.attention,
        tokenizer=config.model.tokenizer or tokenizer,
    )


def _announce_heads(config: Config, student: Student, weights: Weights) -> None:
    """Says where heads and weights do not go together. Raises InputError where both have heads of different kinds."""
    wanted = student.heads if isinstance(student, Embeds) else ()
    kind = config.model.heads
    kept = [pair for pair in weights.heads if pair in wanted]
    if kept and kind != weights.head_kind:
        raise InputError(
            f"{config.init_from}: its heads ({', '.join(kept)}) are {weights.head_kind}, and config.model.heads="
            f"'{kind}'; set '{weights.head_kind}', or 'none', which leaves them out"
        )
    if left := [pair for pair in weights.heads if pair not in wanted and isinstance(student, Embeds)]:
        logging.warning("%s: ITS TRAINED HEADS (%s) ARE LEFT OUT", config.init_from, ", ".join(left))
    if not (fresh := [pair for pair in wanted if pair not in weights.heads]):
        return
    if kind == "residual":
        if is_first():
            print(
                f"fresh residual heads ({', '.join(fresh)}): step 0 equals the pretrained model", flush=True
            )
    else:
        logging.warning(
            "FRESH RANDOM HEADS (%s) ON PRETRAINED WEIGHTS: what the pretrained model can do is lost at step 0, and "
            "small data may never bring it back; config.model.heads='residual' or 'none' starts from its own figures",
            ", ".join(fresh),
        )


def _check_student(config: Config, student: Student) -> None:
    """Raises InputError for what this student, or this machine, cannot do."""
    if config.accumulate > 1 and not student.rows_independent:
        raise InputError(
            f"config.accumulate={config.accumulate}: the model's batch norms would see parts of a batch; set "
            "accumulate=1"
        )
    if config.loss.tile and not isinstance(student, Embeds):
        raise InputError(
            f"config.loss.tile={config.loss.tile} compares embeddings, and the model has none; set loss.tile=0"
        )
    if config.model.attention == "cudnn" and jax.default_backend() != "gpu":
        raise InputError(
            f"config.model.attention='cudnn' runs on NVIDIA GPUs, and this is {jax.default_backend()}; set 'xla'"
        )
    if config.model.attention == "cudnn" and config.model.dtype != "bfloat16":
        raise InputError(
            f"config.model.attention='cudnn' computes in bfloat16, and config.model.dtype='{config.model.dtype}'; "
            "change either"
        )


def _check_sizes(config: Config, preset: tuple[str, Any], weights: Weights) -> None:
    """The preset named and the weights given must be the same model; the activation is the weights' own."""
    family, sizes = preset
    if family != weights.family:
        raise InputError(
            f"{config.init_from}: a {weights.family} model, but config.model.name='{config.model.name}' is a {family}"
            "; name the right model, or 'auto'"
        )
    for field in dataclasses.fields(sizes):
        wanted, given = getattr(sizes, field.name), getattr(weights.sizes, field.name)
        if field.name not in families.OWN and wanted != given:
            raise InputError(
                f"{config.init_from}: {field.name} is {given}, but config.model.name='{config.model.name}' has "
                f"{wanted}; name the right model, or 'auto'"
            )


def _batches(
    config: Config, train: Split, teachers: Teachers | None, inputs: Inputs
) -> grain.DatasetIterator:
    tokenize = teachers and teachers.text.tokenize
    return train_batches(
        train,
        inputs,
        batch_size=config.batch_size,
        seed=config.seed,
        teacher_image=teachers.image.image if teachers else None,
        teacher_text=tokenize(train.captions) if tokenize else None,
        shuffled=config.teacher.control == "shuffled",
        workers=config.data.workers,
        on_bad_image=cast(OnBadImage, config.data.on_bad_image),
        cut_text=config.data.cut_text,
        augmentation=Augmentation(config.data.crop, config.data.flip),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
