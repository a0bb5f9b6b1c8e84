"""The configuration: its editable form, the `:key=value` argument, and the checks that it makes sense.

`configs/*.py`, flags and files hold it as a ConfigDict. They start from `default_config()`, which holds every key of
keys.py, and change what differs. `validate` makes of it the frozen dataclasses that the program reads.
"""

import dataclasses
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from cusa_jax.errors import InputError
from cusa_jax.keys import Config, defaults, model_names
from cusa_jax.losses import terms
from cusa_jax.losses.ranges import Range
from cusa_jax.losses.term import INPUTS
from cusa_jax.losses.terms import TERMS
from cusa_jax.optim import read_rules
from cusa_jax.settings import build, check, check_sections, nearest, options, sections
from cusa_jax.teachers.features import is_feature_file

LOSSES = {  # the four rows of the paper's tables: which terms are on
    "contrastive": ("contrastive",),
    "csa": ("contrastive", "csa"),
    "usa": ("contrastive", "usa"),
    "cusa": ("contrastive", "csa", "usa"),
}


def default_config() -> ConfigDict:
    """The same as what `configs/*.py` and flags edit."""
    return ConfigDict(dataclasses.asdict(defaults()))


def with_argument(config: ConfigDict, argument: str | None) -> ConfigDict:
    """Applies the part after the colon of `--config=FILE:model=vit_l_14_336,loss=contrastive`.

    `loss` sets the weights of the terms that it does not name to 0; a term that none of LOSSES names, such as
    sigmoid, keeps the weight that the file gave it.

    Errors: InputError for a key other than model and loss, or a value that does not exist.
    """
    seen: set[str] = set()
    for item in filter(None, (argument or "").split(",")):
        key, _, value = item.partition("=")
        allowed = {"model": model_names(), "loss": tuple(LOSSES)}
        if key not in allowed:
            raise InputError(f"--config: unknown argument '{key}' after ':'; it takes model=… and loss=…")
        if value not in allowed[key]:
            raise InputError(
                f"--config: {key}='{value}' is none of {', '.join(allowed[key])}{nearest(value, allowed[key])}"
            )
        if key in seen:
            raise InputError(f"--config: '{key}=' is given twice after ':'")
        seen.add(key)
        if key == "model":
            config.model.name = value
        else:
            for term in set().union(*LOSSES.values()):
                config.loss[term].weight *= term in LOSSES[value]
    return config


def from_values(values: Any, where: Any) -> ConfigDict:
    """The configuration in a file; keys that did not exist when it was written have their defaults.

    Raises InputError naming `where` it is from, if it is not one of this program's.
    """
    config = default_config()
    try:
        config.update(values)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: its configuration is not one of this program's ({error})") from error
    for key in flat(config):
        if key not in (known := flat(default_config())):
            raise InputError(f"{where}: its configuration has an unknown key '{key}'{nearest(key, known)}")
    return config


def flat(config: Any) -> dict[str, Any]:
    """{'loss.csa.weight': 0.1, …} for every leaf of a nested mapping."""
    out: dict[str, Any] = {}
    for key, value in config.items():
        if hasattr(value, "items"):
            out |= {f"{key}.{inner}": leaf for inner, leaf in flat(value).items()}
        else:
            out[key] = value
    return out


def needs_teachers(config: Any) -> bool:
    """Whether the objective compares anything with soft labels."""
    return "labels" in terms.reads(config.loss)


def typed(config: Any) -> Config:
    """The frozen settings with the values of a ConfigDict or another nested mapping.

    Raises InputError for the first key that does not exist, and the first value that it cannot have.
    """
    default = defaults()
    check(options(default), flat(config))
    settings = build(default, config)
    check_sections(settings, "config")
    return settings


def validate(config: Any) -> Config:
    """`typed`, and raises InputError for the first combination of keys that cannot be meant, too."""
    settings = typed(config)
    if settings.batch_size % settings.accumulate:
        raise InputError(
            f"config.batch_size={settings.batch_size} is not a multiple of accumulate={settings.accumulate}; "
            "change either"
        )
    if not settings.data.path:
        raise InputError(
            "config.data.path is empty: name the folder of your captions, --config.data.path=FOLDER"
        )
    if settings.schedule.warmup_epochs >= settings.schedule.epochs:
        raise InputError("config.schedule.warmup_epochs must be smaller than schedule.epochs")
    if settings.schedule.min_lr > settings.optim.lr:
        raise InputError(
            f"config.schedule.min_lr={settings.schedule.min_lr} exceeds optim.lr={settings.optim.lr}"
        )
    check_loss(settings)
    _check_rules(settings)
    _check_teachers(settings)
    for key, part in sections(settings, "config"):
        if isinstance(part, Range) and not part.min <= part.init <= part.max:
            logging.warning(
                "%s.init=%g lies outside its bounds, %g to %g; the first step clamps it",
                *(key, part.init, part.min, part.max),
            )
    return settings


def _check_rules(config: Config) -> None:
    for rule in read_rules(config.optim.rules, config.optim.freeze):
        if rule.after >= config.schedule.epochs:
            raise InputError(
                f"config.optim.rules: '{rule.pattern}' begins after={rule.after:g} epochs, and the run has "
                f"schedule.epochs={config.schedule.epochs}; train=false leaves a part alone"
            )


def check_loss(config: Any) -> None:
    """Raises InputError where weights, batch, local groups and tiles do not go together."""
    loss = config.loss
    if not terms.on(loss):
        raise InputError(f"config.loss: of the weights of {', '.join(TERMS)} at least one must be above 0")
    terms.computed(loss, INPUTS, tiled=loss.tile > 0)
    if loss.negatives == "local" and config.batch_size % loss.local_batch:
        raise InputError(
            f"config.batch_size={config.batch_size} is not a multiple of loss.local_batch={loss.local_batch}; "
            "change either, or set loss.negatives='global'"
        )
    if loss.tile and loss.negatives == "local":
        raise InputError(
            f"config.loss.tile={loss.tile} needs loss.negatives='global': local groups of loss.local_batch rows are "
            "small matrices, set loss.tile=0"
        )


def _check_teachers(config: Config) -> None:
    empty = [f"config.teacher.{side}" for side in ("image", "text") if not getattr(config.teacher, side)]
    if len(empty) == 1 or (needs_teachers(config) and empty):
        raise InputError(
            f"{' and '.join(empty)} is empty, but soft labels need both teachers: name a model folder, a Hugging Face "
            "id or a feature file, or train with `:loss=contrastive`"
        )
    _check_views(config)
    if config.teacher.control != "none" and empty:
        raise InputError(f"config.teacher.control='{config.teacher.control}' needs teachers, and none is set")


def _check_views(config: Config) -> None:
    """Raises InputError where images are augmented and what the image teacher says of them is stored."""
    teacher = config.teacher
    if not config.data.augmented or not teacher.image or teacher.control == "uniform":
        return
    if stored := teacher.image if is_feature_file(teacher.image) else teacher.bank:
        raise InputError(
            f"config.data.crop={config.data.crop} and flip={str(config.data.flip).lower()} change the images, and "
            f"{stored} holds features of the plain ones; use live teachers, or set crop=1 and "
            "flip=false"
        )
