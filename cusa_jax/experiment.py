"""From a configuration to the parts of a run: data, student, teachers, recipe, starting state."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grain
import jax
from absl import logging
from jax.sharding import Mesh

from cusa_jax import optim, sharding, temperatures
from cusa_jax.data import world
from cusa_jax.data.caption_files import find_captions
from cusa_jax.data.pipeline import train_batches
from cusa_jax.data.prepared import is_prepared
from cusa_jax.data.splits import Split, check_disjoint, load_split
from cusa_jax.data.tokenize import VOCAB_SIZE
from cusa_jax.errors import InputError
from cusa_jax.models.clip import PRESETS, ClipConfig
from cusa_jax.models.dual_encoder import DualEncoder, init_variables
from cusa_jax.step import Recipe, init_state
from cusa_jax.teachers.load import load_teachers
from cusa_jax.types import Params, Teachers, TrainState
from cusa_jax.weights import student
from cusa_jax.weights.formats import read_weights


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything the training loop runs on. The teachers' parameters are on the mesh already.

    abstract_state: shapes, dtypes and shardings of `initial_state()`, which a resumed run need not make.
    batches yields this process's rows; teacher_params is None without teachers.
    """

    mesh: Mesh
    recipe: Recipe
    abstract_state: TrainState
    initial_state: Callable[[], TrainState]
    teacher_params: Params
    batches: grain.DatasetIterator
    splits: dict[str, Split]
    data_fingerprint: int
    steps_per_epoch: int
    learning_rates: Any


def build(config: Any) -> Experiment:
    """Reads the data and the weights that `config` names. Raises InputError for whatever is wrong with them."""
    mesh = sharding.make_mesh(config.sharding.fsdp)
    check_batch(config, mesh)
    if not config.data.world.train:  # what takes no time is checked first
        for split in ("train", "val", "test"):
            find_captions(Path(config.data.path), split)
    model, variables = build_model(config)
    splits = load_splits(config, model.clip)
    train = splits["train"]
    steps_per_epoch = len(train.captions) // config.batch_size
    if not steps_per_epoch:
        raise InputError(
            f"{config.data.path}: {len(train.captions)} training captions do not fill one batch of "
            f"{config.batch_size}; lower config.batch_size"
        )
    teachers, teacher_params = load_teachers(config, train, mesh)
    learning_rates = optim.learning_rates(config.optim, config.schedule, steps_per_epoch)
    recipe = make_recipe(config, model, teachers, learning_rates, mesh)
    fresh_state = functools.partial(init_state, recipe, jax.device_get(variables))
    return Experiment(
        mesh=mesh,
        recipe=recipe,
        abstract_state=sharding.abstract_params(jax.eval_shape(fresh_state), mesh),
        initial_state=lambda: sharding.put_params(fresh_state(), mesh),
        teacher_params=teacher_params,
        batches=_batches(config, train, teachers, model.clip.image_size),
        splits=splits,
        data_fingerprint=train.table.fingerprint(),
        steps_per_epoch=steps_per_epoch,
        learning_rates=learning_rates,
    )


def check_batch(config: Any, mesh: Mesh) -> None:
    """Raises InputError where a batch does not split over the devices and its micro-batches."""
    if config.batch_size % (mesh.size * config.accumulate):
        raise InputError(
            f"config.batch_size={config.batch_size} does not split over {mesh.size} devices in "
            f"accumulate={config.accumulate} equal parts"
        )


def make_recipe(
    config: Any, model: DualEncoder, teachers: Teachers | None, learning_rates: Any, mesh: Mesh
) -> Recipe:
    """What a step of `config` is specialised to. learning_rates: float32 [steps], one for each."""
    specs = temperatures.temperatures(config.loss)
    return Recipe(
        model=model,
        temperatures=specs,
        optimizer=optim.optimizer(config.optim, learning_rates, specs),
        loss=config.loss,
        groups=config.batch_size // config.loss.local_batch if config.loss.negatives == "local" else 1,
        teachers=teachers,
        micro_batches=config.accumulate,
        mesh=mesh,
    )


def load_splits(config: Any, clip: ClipConfig) -> dict[str, Split]:
    """'train', 'val' and 'test' of the dataset at `config.data.path`, for a model of these sizes."""
    if config.data.world.train and not is_prepared(config.data.path):
        world.write(Path(config.data.path), sizes=dict(config.data.world))
    splits = {name: read_split(config, name, clip) for name in ("train", "val", "test")}
    check_disjoint(splits, config.data.path)
    return splits


def read_split(config: Any, name: str, clip: ClipConfig) -> Split:
    """One split of the dataset at `config.data.path`, for a model of these sizes."""
    return load_split(
        config.data.path,
        name,
        image_root=config.data.image_root,
        context_length=clip.context_length,
        image_size=clip.image_size,
    )


def build_model(config: Any) -> tuple[DualEncoder, Params]:
    """The student and its variables: what `init_from` has, the rest fresh; all fresh is said loudly."""
    clip, weights = PRESETS.get(config.model.name), None
    if config.init_from:
        weights = read_weights(config.init_from, config.model.activation)
        _check_sizes(config, clip, weights.clip)
        clip = weights.clip
        if clip.vocab_size != VOCAB_SIZE:
            raise InputError(
                f"{config.init_from}: its vocabulary has {clip.vocab_size} tokens, CLIP's has {VOCAB_SIZE}; "
                "only models with CLIP's tokenizer can be trained"
            )
    if clip is None:
        raise InputError("config.model.name='auto' takes its sizes from config.init_from, which is empty")
    if config.model.activation:
        clip = dataclasses.replace(clip, activation=config.model.activation)
    model = make_model(config, clip)
    variables = jax.jit(init_variables, static_argnums=0)(model, jax.random.key(config.seed))
    if weights is None:
        logging.warning("CLIP STARTS FROM RANDOM WEIGHTS: config.init_from is empty")
        return model, variables
    heads = [kind for kind in ("cross", "uni") if f"{kind}_image" in variables["params"]]
    loaded = student.variables(weights, heads, config.init_from)
    return model, {name: {**fresh, **loaded[name]} for name, fresh in variables.items()}


def make_model(config: Any, clip: ClipConfig) -> DualEncoder:
    """The student with the heads that the losses compare.

    Raises InputError for a ResNet in micro-batches, and for cuDNN where it cannot be.
    """
    if config.accumulate > 1 and clip.resnet_blocks:
        raise InputError(
            f"config.accumulate={config.accumulate}: a ResNet's BatchNorm would see parts of a batch; set accumulate=1"
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
    return DualEncoder(
        clip=clip,
        cross_heads=config.loss.contrastive.weight > 0 or config.loss.csa.weight > 0,
        uni_heads=config.loss.usa.weight > 0,
        remat=config.model.remat,
        dtype=jax.numpy.dtype(config.model.dtype),
        attention=config.model.attention,
    )


def _check_sizes(config: Any, wanted: ClipConfig | None, found: ClipConfig) -> None:
    """The preset named and the weights given must be the same model; the activation is the weights' own."""
    for field in dataclasses.fields(ClipConfig) if wanted else ():
        name = field.name
        if name != "activation" and getattr(wanted, name) != getattr(found, name):
            raise InputError(
                f"{config.init_from}: {name} is {getattr(found, name)}, but config.model.name="
                f"'{config.model.name}' has {getattr(wanted, name)}; name the right model, or 'auto'"
            )


def _batches(config: Any, train: Split, teachers: Teachers | None, image_size: int) -> grain.DatasetIterator:
    live_text = teachers is not None and teachers.text.tokenize
    return train_batches(
        train.table,
        batch_size=config.batch_size,
        seed=config.seed,
        image_size=image_size,
        tokens=train.tokens,
        teachers=teachers,
        teacher_text=live_text(train.captions) if live_text else None,
        shuffled=config.teacher.control == "shuffled",
        workers=config.data.workers,
        on_bad_image=config.data.on_bad_image,
        cut_text=config.data.cut_text,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
