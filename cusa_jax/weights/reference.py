"""The PyTorch reference's own words: its YAML (configs/*/*/*.yaml) and its temperature names, in ours and back.

One table of corresponding keys serves both directions. Its YAML spells every temperature of both directions,
with flags for sharing and freezing; ours says the same per term.
"""

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cusa_jax.config import ConfigDict, default_config, flat, needs_teachers
from cusa_jax.errors import InputError, one_line
from cusa_jax.losses.terms import on
from cusa_jax.models.clip import PRESETS

GPUS = 4  # of the paper; a YAML says the batch of one, not how many there are
TEXT_TEACHER = "sentence-transformers/all-mpnet-base-v2"  # reference retrieval.py:99
DIVERGENCES = {"kl": "kl", "contrastive": "cross_entropy"}
SECTIONS = {"contrastive": "contrastive", "csa": "cross_softlabel", "usa": "uni_softlabel"}

# Our names of the temperatures -> the reference's parameter names (unire/model.py:53-118).
TEMPERATURE_NAMES = {
    "tau_contrastive": "tau",
    **{
        f"tau_{term}{teacher}{side}": f"{theirs}{'_the_softlabel' if teacher else ''}_tau{side}"
        for term, theirs in (("csa", "cross"), ("usa", "uni"))
        for teacher in ("", "_teacher")
        for side in ("", "_image", "_text")
    },
}

IGNORED = {
    "save_path|logger_name|model_name": "the folder of a run is --workdir",
    "batch_size_test": "evaluation has one batch size, batch_size_testall",
    r"schedular\.decay_rate": "of later cosine cycles, and there is one (scheduler/cosine_lr.py)",
    r"schedular\.cooldown_epochs": "the reference ignores it (retrieval.py:109)",
}
_FIXED = {"dataset_name": "cross_coco", "optimizer.opt": "adamw", "schedular.sched": "cosine"}
_SPECIAL = ("clip_model", "is_all_gather", *(f"loss_config.{name}.{key}" for name in SECTIONS.values()
                                             for key in ("is_on", "rate")))  # fmt: skip


def _corresponding() -> dict[str, str]:
    """Our keys -> the reference's, where a value means the same, or its negation (`trainable`)."""
    keys = {
        "data.path": "data_path",
        "loss.local_batch": "batch_size_train",
        "eval.batch_size": "batch_size_testall",
        "optim.lr": "optimizer.lr",
        "optim.weight_decay": "optimizer.weight_decay",
        **{
            f"schedule.{key}": f"schedular.{key}"
            for key in ("epochs", "min_lr", "warmup_epochs", "warmup_lr")
        },
        "loss.contrastive.tau.trainable": "loss_config.contrastive.is_block_tau",
        "loss.contrastive.tau.init": "loss_config.contrastive.tau",
        "loss.contrastive.tau.min": "loss_config.contrastive.tau_min",
        "loss.contrastive.tau.max": "loss_config.contrastive.tau_max",
        "loss.csa.targets": "loss_config.cross_softlabel.cross_softlabel_mode",
        "loss.usa.tau.from_csa": "loss_config.uni_softlabel.use_cross_softlabel_same_tau",
        "loss.usa.teacher_tau.from_csa": "loss_config.uni_softlabel.use_cross_softlabel_same_softlabel_tau",
    }
    for term, section in SECTIONS.items():
        keys[f"loss.{term}.reduction"] = f"loss_config.{section}.contrastive_loss_mode"
    for term in ("csa", "usa"):
        section = f"loss_config.{SECTIONS[term]}"
        keys[f"loss.{term}.divergence"] = f"{section}.use_loss"
        for kind, flag, stem in (("tau", "tau", ""), ("teacher_tau", "softlabel_tau", "the_softlabel_")):
            keys[f"loss.{term}.{kind}.shared"] = f"{section}.use_same_{flag}"
            keys[f"loss.{term}.{kind}.trainable"] = f"{section}.is_block_{flag}"
            for side in ("image", "text"):
                for ours, suffix in (("init", ""), ("min", "_min"), ("max", "_max")):
                    keys[f"loss.{term}.{kind}.{side}.{ours}"] = f"{section}.{stem}{side}_tau{suffix}"
    return keys


CORRESPONDING = _corresponding()


def read_yaml(path: Path) -> ConfigDict:
    """The configuration of a YAML file. Raises InputError naming file and keys."""
    try:
        text = path.read_text(encoding="utf8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise InputError(f"{path}: uses YAML aliases, which can grow without bound; write the values out")
        raw = yaml.safe_load(text)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # what a damaged file does to a parser cannot be foreseen
        raise InputError(f"{path}: not a YAML file ({' '.join(str(error).split())[:200]})") from error
    return config_of(raw, path)


def config_of(raw: Any, where: str | Path) -> ConfigDict:
    """Our configuration of a whole reference YAML, parsed.

    Its batch size is that of one GPU: `batch_size` becomes that of the paper's four. The teachers are those that
    the reference has built in: MPNet, and `train_unicom.npy` beside the captions.

    Raises InputError that lists all keys that are unknown, missing, or have a value without a counterpart.
    """
    if not isinstance(raw, Mapping) or not isinstance(raw.get("loss_config"), Mapping):
        raise InputError(f"{where}: not a configuration of the reference: there is no loss_config")
    theirs = flat(raw)
    known = {*CORRESPONDING.values(), *_FIXED, *_SPECIAL}
    wrong = [f"unknown key {key}" for key in theirs if key not in known and not _is_ignored(key)]
    wrong += [f"{key}={theirs.get(key)!r} (only {value})" for key, value in _FIXED.items()
              if str(theirs.get(key)).lower() != value]  # fmt: skip
    if wrong:
        raise InputError(f"{where}: {one_line('; '.join(wrong))}")
    config = default_config()
    _convert(config, theirs, where, CORRESPONDING)
    config.batch_size = GPUS * config.loss.local_batch
    if theirs.get("is_all_gather"):
        config.loss.negatives = "global"
    _set_model(config, str(theirs.get("clip_model", "")), where)
    if needs_teachers(config):
        config.teacher.text = TEXT_TEACHER
        if config.data.path:
            config.teacher.image = str(Path(config.data.path) / "train_unicom.npy")
    return config


def loss_config(raw: Mapping[str, Any]) -> ConfigDict:
    """`loss_config` of a reference YAML -> `config.loss`. Switched-off terms keep their settings at weight 0."""
    config = default_config()
    keys = {ours: theirs for ours, theirs in CORRESPONDING.items() if theirs.startswith("loss_config.")}
    _convert(config, flat({"loss_config": raw}), "loss_config", keys)
    return config.loss


def yaml_of(config: ConfigDict) -> dict[str, Any]:
    """The YAML, as nested dicts, that makes the reference compute what `config` says, as far as it can.

    A USA that borrows temperatures of a CSA without weight has to be given its own first
    (`with_own_temperatures`): the reference never makes those of a CSA that is off.
    Raises InputError where the objective has a term that it does not know.
    """
    refuse_other_terms(config)
    ours = flat(config)
    theirs: dict[str, Any] = {"save_path": "output", **_FIXED, "batch_size_test": config.eval.batch_size}
    theirs |= {"schedular.decay_rate": 1, "schedular.cooldown_epochs": 0}
    theirs |= {key: _translate(name, ours[name], back=True) for name, key in CORRESPONDING.items()}
    theirs["optimizer.opt"] = "adamW"
    theirs["clip_model"] = _their_name(config.model.name) or config.init_from
    theirs["is_all_gather"] = config.loss.negatives == "global"
    if config.loss.negatives == "global":
        theirs["batch_size_train"] = config.batch_size // GPUS
    for term, section in SECTIONS.items():
        weight = config.loss[term].weight
        theirs[f"loss_config.{section}.is_on"] = weight > 0
        theirs[f"loss_config.{section}.rate"] = weight or default_config().loss[term].weight
    return _nested(theirs)


def refuse_other_terms(config: Any) -> None:
    """Raises InputError where the objective has a term that the reference does not know."""
    for term in on(config.loss):
        if term.name not in SECTIONS:
            raise InputError(
                f"the reference has no {term.name} loss; set config.loss.{term.name}.weight=0 to write its formats"
            )


def with_own_temperatures(config: ConfigDict) -> ConfigDict:
    """The same objective, but USA borrows nothing from a CSA whose weight is 0."""
    own = copy.deepcopy(config)
    for kind in ("tau", "teacher_tau"):
        if config.loss.csa.weight == 0 and config.loss.usa[kind].from_csa:
            own.loss.usa[kind].update(config.loss.csa[kind])
            own.loss.usa[kind].shared |= config.loss.csa.targets != "each"
            own.loss.usa[kind].from_csa = False
    return own


def source(config: ConfigDict) -> str:
    """A file for `scripts/train.py --config=…`: the defaults, and a line for every key that differs."""
    default = flat(default_config())
    changes = {key: value for key, value in flat(config).items() if value != default[key]}
    return "\n".join(
        [
            '"""A configuration of the PyTorch reference, converted by scripts/convert.py."""',
            "",
            "from cusa_jax.config import ConfigDict, default_config, with_argument",
            "",
            "",
            "def get_config(argument: str | None = None):",
            "    config = default_config()",
            *(f"    config.{key} = {value!r}" for key, value in changes.items()),
            "    return with_argument(config, argument)",
            "",
        ]
    )


def _convert(
    config: ConfigDict, theirs: Mapping[str, Any], where: str | Path, keys: Mapping[str, str]
) -> None:
    """Sets `keys` and the weights. The settings of a term that is off may be missing, as in the reference."""
    off, wrong = [], []
    for term, section in SECTIONS.items():
        is_on, rate = (theirs.get(f"loss_config.{section}.{key}") for key in ("is_on", "rate"))
        config.loss[term].weight = float(rate) if is_on and isinstance(rate, int | float) else 0.0
        if not is_on:
            off.append(f"loss_config.{section}.")
        elif not isinstance(rate, int | float):
            wrong.append(f"loss_config.{section}.rate={rate!r}")
    ours = flat(config)
    values = {}
    for name, key in keys.items():
        if key not in theirs:
            if not key.startswith(tuple(off)):
                wrong.append(f"missing key {key}")
            continue
        try:
            values[name] = _as(type(ours[name]), _translate(name, theirs[key]))
        except (TypeError, ValueError):
            wrong.append(f"{key}={theirs[key]!r}")
    if wrong:
        raise InputError(f"{where}: {one_line('; '.join(wrong))}")
    config.update_from_flattened_dict(values)


def _translate(ours: str, value: Any, back: bool = False) -> Any:
    """A value of the reference's under our key, or the other way."""
    if ours.endswith(".trainable"):
        return not _as(bool, value)
    if ours.endswith(".divergence"):
        words = {new: old for old, new in DIVERGENCES.items()} if back else DIVERGENCES
        return words.get(value, value)  # an unknown word is refused with the whole configuration
    return value


def _as(kind: type, value: Any) -> Any:
    """The value as `kind`; text is a number where YAML 1.1 took it for text (1e-5)."""
    numbers = {float: int | float | str, int: int}
    if (kind in numbers and isinstance(value, bool)) or not isinstance(value, numbers.get(kind, kind)):
        raise TypeError
    return kind(value)


def _set_model(config: ConfigDict, clip_model: str, where: str | Path) -> None:
    name = _our_name(clip_model)
    if name in PRESETS:
        config.model.name = name
    elif Path(clip_model).suffix:  # the reference takes a file, too (clip/clip.py:118)
        config.model.name, config.init_from = "auto", clip_model
    else:
        released = filter(None, map(_their_name, PRESETS))
        raise InputError(f"{where}: clip_model={clip_model!r} is none of {', '.join(released)}")


def _our_name(clip_model: str) -> str:
    """'ViT-L/14@336px' -> 'vit_l_14_336'."""
    return re.sub(r"[-/@]", "_", clip_model.lower()).removesuffix("px")


def _their_name(preset: str) -> str:
    """'vit_l_14_336' -> 'ViT-L/14@336px'; '' for what OpenAI did not release."""
    if match := re.fullmatch(r"vit_([bl])_(\d+)(?:_(\d+))?", preset):
        size, patch, pixels = match.groups()
        return f"ViT-{size.upper()}/{patch}" + (f"@{pixels}px" if pixels else "")
    return preset.replace("rn", "RN") if preset.startswith("rn") else ""


def _is_ignored(key: str) -> bool:
    return any(re.fullmatch(rule, key) for rule in IGNORED)


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in values.items():
        *path, last = key.split(".")
        place = out
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return out
