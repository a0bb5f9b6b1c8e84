"""The configuration: every key with its default, the `:key=value` argument, and the check that it makes sense.

`configs/*.py` start from `default_config()`, which is the paper's recipe for CLIP ViT-B/32 (reference
configs/vitb32/*/cusa.yaml), and change what differs.
"""

import difflib
import math
from typing import Any

from ml_collections import ConfigDict

from cusa_jax.errors import InputError
from cusa_jax.models.clip import PRESETS
from cusa_jax.models.layers import ACTIVATIONS, ATTENTION

LOSSES = {  # the four rows of the paper's tables: which of (contrastive, CSA, USA) are on
    "contrastive": ("contrastive",),
    "csa": ("contrastive", "csa"),
    "usa": ("contrastive", "usa"),
    "cusa": ("contrastive", "csa", "usa"),
}
CHOICES = {
    "model.name": (*PRESETS, "auto"),
    "model.activation": ("", *ACTIVATIONS),
    "model.dtype": ("float32", "bfloat16"),
    "model.attention": tuple(ATTENTION),
    "data.on_bad_image": ("error", "skip"),
    "loss.negatives": ("global", "local"),
    "loss.contrastive.reduction": ("mean", "sum"),
    "loss.csa.targets": ("each", "add", "dot"),
    "loss.csa.divergence": ("kl", "cross_entropy"),
    "loss.csa.reduction": ("mean", "sum"),
    "loss.usa.divergence": ("kl", "cross_entropy"),
    "loss.usa.reduction": ("mean", "sum"),
    "teacher.dtype": ("float32", "bfloat16"),
    "teacher.stored_dtype": ("", "bfloat16"),
    "teacher.control": ("none", "shuffled", "uniform"),
    "schedule.every": ("epoch", "step"),
}
AT_LEAST = {  # all other numbers may be 0; with a batch of 1 nothing is compared
    "batch_size": 2, "loss.local_batch": 2, "teacher.max_length": 3, "schedule.epochs": 1, "eval.batch_size": 1,
    "checkpoint.every_steps": 1, "checkpoint.keep": 1, "log.every_steps": 1, "sharding.fsdp": 1, "accumulate": 1,
}  # fmt: skip


def _sides(tau: float, low: float, high: float, **options: Any) -> ConfigDict:
    """Temperatures of the image and the text direction: start value and bounds."""
    side = {"init": tau, "min": low, "max": high}
    return ConfigDict({"image": dict(side), "text": dict(side), **options})


def default_config() -> ConfigDict:
    """The paper's recipe; `data.path` and the teachers are the user's to fill in."""
    c = ConfigDict()
    c.seed = 23
    c.init_from = ""  # CLIP weights of any format (README: weights in and out); "" starts from random weights
    c.batch_size = 512  # over all devices and hosts; a sample is a caption
    c.accumulate = 1  # micro-batches to encode a batch in, one after another: same step, less memory

    # 'auto' takes the sizes from init_from
    c.model = ConfigDict({"name": "vit_b_32", "dtype": "float32", "remat": False})
    c.model.attention = "xla"  # 'cudnn': one fused kernel; NVIDIA GPUs, bfloat16
    c.model.activation = ""  # 'quick_gelu' | 'gelu', where init_from's file does not say it

    c.data = ConfigDict()
    c.data.path = ""  # folder with {train,val,test}.json, Karpathy's or ALBEF's JSON (README: your own data)
    c.data.image_root = ""  # "" = relative to the JSON file
    c.data.on_bad_image = "error"  # 'skip' takes the next caption and counts
    c.data.workers = 0  # loader processes; batches do not depend on it
    # > 0: first write the embedded world, with so many training images, to data.path
    c.data.world = ConfigDict({"train": 0, "val": 500, "test": 500})
    c.data.cut_text = True  # cut captions to the longest of the batch, in buckets: same features, less work

    c.loss = ConfigDict()
    c.loss.negatives = (
        "local"  # 'local': groups of `local_batch` rows, as on the reference's 4 GPUs; or 'global'
    )
    c.loss.local_batch = 128
    c.loss.tile = (
        0  # > 0: global negatives in tiles of so many rows and columns, never a B×B matrix; 0: dense
    )
    c.loss.contrastive = ConfigDict({"weight": 1.0, "reduction": "mean"})
    c.loss.contrastive.tau = ConfigDict({"init": 0.05, "min": 0.01, "max": 0.10, "trainable": True})
    c.loss.csa = ConfigDict({"weight": 0.1, "targets": "each", "divergence": "kl", "reduction": "mean"})
    c.loss.csa.tau = _sides(0.45, 0.10, 0.99, shared=True, trainable=True)
    c.loss.csa.teacher_tau = _sides(1.0, 0.10, 1.0, shared=True, trainable=False)
    c.loss.usa = ConfigDict({"weight": 0.5, "divergence": "kl", "reduction": "mean"})
    c.loss.usa.tau = _sides(0.45, 0.10, 1.0, shared=False, trainable=True, from_csa=False)
    c.loss.usa.teacher_tau = _sides(1.0, 0.10, 1.0, shared=False, trainable=False, from_csa=True)

    c.teacher = ConfigDict()
    c.teacher.image = ""  # model folder, Hugging Face id, UNICOM's .pt, feature file (README: your own data)
    c.teacher.text = ""
    c.teacher.max_length = 64  # tokens of the text teacher
    c.teacher.dtype = "float32"  # compute dtype of live teachers
    c.teacher.bank = ""  # folder for live teachers' features, computed once; "" runs them in every step
    c.teacher.width = 0  # > 0: project wider features to so many numbers
    c.teacher.stored_dtype = ""  # of a bank's or file's features on the devices; "" keeps it
    c.teacher.control = "none"  # 'shuffled' | 'uniform': teachers that know nothing, to compare with

    c.optim = ConfigDict(
        {
            "lr": 1e-5,
            "b1": 0.9,
            "b2": 0.999,
            "eps": 1e-8,
            "weight_decay": 1e-4,
            "clip_norm": 0.0,
            "rules": "",
            "freeze": "",
        }
    )
    c.model.heads = "linear"
    c.schedule = ConfigDict(
        {"epochs": 40, "min_lr": 1e-6, "warmup_epochs": 0.0, "warmup_lr": 1e-6, "every": "epoch"}
    )
    c.eval = ConfigDict({"batch_size": 256})
    c.checkpoint = ConfigDict({"every_steps": 1000, "keep": 2})
    c.log = ConfigDict({"every_steps": 20})
    c.sharding = ConfigDict({"fsdp": 1})
    return c


def with_argument(config: ConfigDict, argument: str | None) -> ConfigDict:
    """Applies the part after the colon of `--config=FILE:model=vit_l_14_336,loss=contrastive`.

    Errors: InputError for a key other than model and loss, or a value that does not exist.
    """
    seen: set[str] = set()
    for item in filter(None, (argument or "").split(",")):
        key, _, value = item.partition("=")
        allowed = {"model": CHOICES["model.name"], "loss": tuple(LOSSES)}
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
            for term in ("contrastive", "csa", "usa"):
                config.loss[term].weight *= term in LOSSES[value]
    return config


def nearest(word: str, words: Any) -> str:
    """' (did you mean X?)' for the closest of `words`, or ''."""
    close = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""


def from_values(values: Any, where: Any) -> ConfigDict:
    """The configuration in a file; keys that did not exist when it was written have their defaults.

    Raises InputError naming `where` it is from, if it is not one of this program's.
    """
    config = default_config()
    try:
        config.update(values)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: its configuration is not one of this program's ({error})") from error
    return config


def flat(config: Any) -> dict[str, Any]:
    """{'loss.csa.weight': 0.1, …} for every leaf."""
    out: dict[str, Any] = {}
    for key, value in config.items():
        if hasattr(value, "items"):
            out |= {f"{key}.{inner}": leaf for inner, leaf in flat(value).items()}
        else:
            out[key] = value
    return out


def needs_teachers(config: Any) -> bool:
    """Whether the objective compares anything with soft labels."""
    return config.loss.csa.weight > 0 or config.loss.usa.weight > 0


def validate(config: Any) -> None:
    """Raises InputError for the first value or combination that cannot be meant."""
    check_values(config)
    if config.batch_size % config.accumulate:
        raise InputError(
            f"config.batch_size={config.batch_size} is not a multiple of accumulate={config.accumulate}; change either"
        )
    if not config.data.path:
        raise InputError(
            "config.data.path is empty: name the folder of your captions, --config.data.path=FOLDER"
        )
    if config.schedule.warmup_epochs >= config.schedule.epochs:
        raise InputError("config.schedule.warmup_epochs must be smaller than schedule.epochs")
    if config.schedule.min_lr > config.optim.lr:
        raise InputError(
            f"config.schedule.min_lr={config.schedule.min_lr} exceeds optim.lr={config.optim.lr}"
        )
    check_loss(config)
    _check_teachers(config)


def check_values(config: Any) -> None:
    """Raises InputError for the first key that does not exist, and the first value that it cannot have."""
    values = flat(config)
    _check_keys(values)
    _check_numbers(values)
    for key, choices in CHOICES.items():
        if values[key] not in choices:
            hint = nearest(str(values[key]), choices)
            raise InputError(f"config.{key}='{values[key]}' is none of {', '.join(choices)}{hint}")


def _check_numbers(values: dict[str, Any]) -> None:
    """Every number in the range that its key has: at least 0, unless told otherwise; a temperature's > 0."""
    for key, default in flat(default_config()).items():
        value = values[key]
        if isinstance(value, bool) != isinstance(default, bool) or not isinstance(
            value, (int, float) if isinstance(default, float) else type(default)
        ):
            raise InputError(f"config.{key}={value!r} must be {type(default).__name__}, such as {default!r}")
        if isinstance(default, bool | str):
            continue
        low = AT_LEAST.get(key, 0)
        if not low <= value < math.inf or (key == "seed" and value >= 2**32):
            raise InputError(f"config.{key}={value} must be at least {low}, and finite")
        if key in ("optim.b1", "optim.b2") and value >= 1:
            raise InputError(f"config.{key}={value} must be below 1")
        bounded, _, bound = key.rpartition(".")
        if bound in ("init", "min") and not value > 0:
            raise InputError(f"config.{key}={value}: a temperature must be above 0")
        if bound == "min" and value > values[f"{bounded}.max"]:
            raise InputError(f"config.{bounded}: min {value} exceeds max {values[f'{bounded}.max']}")


def _check_keys(values: dict[str, Any]) -> None:
    known = flat(default_config())
    for key in values:
        if key not in known:
            raise InputError(f"config has an unknown key '{key}'{nearest(key, known)}")
    for key, default in known.items():
        if key not in values:
            raise InputError(f"config lacks the key '{key}' (default {default!r})")


def check_loss(config: Any) -> None:
    """Raises InputError where weights, batch, local groups and tiles do not go together."""
    loss = config.loss
    weights = {term: loss[term].weight for term in ("contrastive", "csa", "usa")}
    if not any(weights.values()):
        raise InputError(f"config.loss: of the weights {weights} at least one must be above 0")
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


def _check_teachers(config: Any) -> None:
    given = [side for side in ("image", "text") if config.teacher[side]]
    if len(given) == 1 or (needs_teachers(config) and not given):
        missing = " and ".join(f"config.teacher.{side}" for side in ("image", "text") if side not in given)
        raise InputError(
            f"{missing} is empty, but CSA and USA need both teachers: name a model folder, a Hugging Face id or a "
            "feature file, or train with `:loss=contrastive`"
        )
    if config.teacher.control != "none" and not given:
        raise InputError(f"config.teacher.control='{config.teacher.control}' needs teachers, and none is set")
