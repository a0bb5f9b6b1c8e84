"""AdamW with rules by parameter path, and the learning rate of every step.

A rule says of the parameters whose path its pattern matches how they are trained: the factor of their learning rate,
their weight decay, whether they are trained at all. The first rule that matches counts. Without rules decay follows
the reference (optim/optim_factory.py:24-37): all but vectors decay, so that scalars of the losses, positional and token
embeddings do, and biases, norms and the class token do not.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from cusa_jax import average
from cusa_jax.errors import InputError
from cusa_jax.layer_decay import factors
from cusa_jax.scalars import Scalar
from cusa_jax.settings import nearest, parsed
from cusa_jax.types import Params

SCALARS = "scalars"  # the paths of the losses' scalars begin with it; a model's have no prefix

LeafPath = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Rule:
    """How the parameters whose whole path matches the regular expression `pattern` are trained.

    Paths are as in 'image/transformer/block_0/attn/in_proj/kernel' or 'scalars/tau_csa'.
    lr: factor of the learning rate. decay: weight decay; None is the optimiser's. train: False leaves them alone.
    after: epochs in which they are left alone first.
    """

    pattern: str
    lr: float = 1.0
    decay: float | None = None
    train: bool = True
    after: float = 0.0


@dataclasses.dataclass(frozen=True)
class Treatment:
    """What the rules come to for one parameter. start: the steps of the run that it is left alone."""

    lr: float
    decay: float
    train: bool
    start: int = 0


Treatments = Mapping[LeafPath, Treatment]


def read_rules(rules: str, freeze: str = "") -> tuple[Rule, ...]:
    """The rules of `config.optim.rules`, 'PATTERN lr=0.1 decay=0 after=2; …', before them those of `freeze`.

    freeze: parts of the model that are not trained, 'image,text'; what LoRA adds to one is called 'lora/image'.
    Raises InputError for what is no rule.
    """
    parts = [part.strip() for part in freeze.split(",") if part.strip()]
    frozen = [Rule(f"{re.escape(part)}(/.*)?", train=False) for part in parts]
    return (*frozen, *(_read_rule(line.strip()) for line in rules.split(";") if line.strip()))


def treatments(
    params: Params,
    rules: Sequence[Rule],
    scalars: Mapping[str, Scalar],
    weight_decay: float,
    layer_decay: float = 1.0,
    steps_per_epoch: int = 1,
) -> dict[LeafPath, Treatment]:
    """How each leaf of {'model': …, 'scalars': …, 'lora': …} is trained. params: anything with shapes.

    layer_decay: factor of the rate from each layer of a tower to the one below (`layer_decay.factors`).
    A scalar that its term does not train is not trained, whatever the rules say.
    Raises InputError for a rule that matches nothing, and where nothing is left to train.
    """
    leaves = traverse_util.flatten_dict(params)
    unused = set(rules)
    by_layer = factors([_name(path) for path in leaves], layer_decay)
    treated = {}
    for path, leaf in leaves.items():
        name = _name(path)
        rule = next((rule for rule in rules if re.fullmatch(rule.pattern, name)), Rule(""))
        unused -= {other for other in unused if re.fullmatch(other.pattern, name)}
        decay = rule.decay if rule.decay is not None else weight_decay * (len(leaf.shape) != 1)
        frozen_scalar = path[0] == SCALARS and not scalars[path[1]].trainable
        start = round(rule.after * steps_per_epoch)
        treated[path] = Treatment(rule.lr * by_layer[name], decay, rule.train and not frozen_scalar, start)
    if unused:
        pattern = next(rule.pattern for rule in rules if rule in unused)
        parts = dict.fromkeys(_name(path).partition("/")[0] for path in leaves)
        raise InputError(
            f"config.optim: no parameter's path matches '{pattern}'{nearest(pattern, parts)}; paths begin with "
            f"{', '.join(parts)}, such as {_name(next(iter(leaves)))}"
        )
    if not any(treatment.train for path, treatment in treated.items() if path[0] != SCALARS):
        raise InputError("config.optim: the rules leave no parameter of the model to train")
    return treated


def stop_frozen(params: Params, treated: Treatments, step: jax.Array) -> Params:
    """The same parameters, without gradient where they are not trained: no backward pass is computed for those.

    step: int32 [], those taken so far; a gradient is zero before its parameter's start.
    """

    def one(path: LeafPath, leaf: jax.Array) -> jax.Array:
        if not treated[path].train:
            return jax.lax.stop_gradient(leaf)
        if not treated[path].start:
            return leaf
        return jnp.where(step >= treated[path].start, leaf, jax.lax.stop_gradient(leaf))

    return traverse_util.unflatten_dict(
        {path: one(path, leaf) for path, leaf in traverse_util.flatten_dict(params).items()}
    )


def optimizer(config: Any, learning_rates: np.ndarray, treated: Treatments) -> optax.GradientTransformation:
    """AdamW over {'model', 'scalars'} as `treated` says. config: `config.optim`. learning_rates: float [steps]."""
    steps = [_adamw(config, learning_rates, treated)]
    if config.clip_norm:
        steps.insert(0, optax.clip_by_global_norm(config.clip_norm))
    if config.ema:
        # It sees the finished update, so that it comes last.
        steps.append(average.of_parameters(config.ema, lambda path: treated[path].train))
    return optax.chain(*steps)


class AdamState(NamedTuple):
    """steps: int32 [], taken so far. mean, square: running moments of the gradient, of trained parameters only."""

    steps: jax.Array
    mean: Params
    square: Params


def _adamw(config: Any, learning_rates: np.ndarray, treated: Treatments) -> optax.GradientTransformation:
    """torch.optim.AdamW: p ← p - lr (m̂ / (√v̂ + ε) + decay p).

    Its bias corrections 1 - βᵗ are tables computed in float64: in float32 the first is off by 1e-5, which is what a
    float32 training would drift from the reference by.
    """
    taken = np.arange(1, len(learning_rates) + 1)
    tables = [jnp.asarray(x) for x in (learning_rates, 1 - config.b1**taken, 1 - config.b2**taken)]

    def init(params: Params) -> AdamState:
        zeros = {path: jnp.zeros_like(leaf) for path, leaf in _trained(params).items()}
        moments = traverse_util.unflatten_dict(zeros)
        return AdamState(jnp.zeros((), jnp.int32), moments, jax.tree.map(jnp.zeros_like, moments))

    def update(gradients: Params, state: AdamState, params: Params | None = None) -> tuple[Params, AdamState]:
        rate = tables[0][jnp.minimum(state.steps, len(learning_rates) - 1)]
        gradient, value = _trained(gradients), traverse_util.flatten_dict(params)
        mean, square = map(traverse_util.flatten_dict, (state.mean, state.square))
        mean = {path: config.b1 * m + (1 - config.b1) * gradient[path] for path, m in mean.items()}
        square = {path: config.b2 * v + (1 - config.b2) * gradient[path] ** 2 for path, v in square.items()}

        def step(path: LeafPath) -> jax.Array:
            if not treated[path].train:
                return jnp.zeros_like(value[path])
            # Moments count from the parameter's own first gradient, as torch.optim's do.
            own = jnp.clip(state.steps - treated[path].start, 0, len(learning_rates) - 1)
            mean_correction, square_correction = (table[own] for table in tables[1:])
            scaled = mean[path] / mean_correction
            scaled /= jnp.sqrt(square[path] / square_correction) + config.eps
            change = -rate * treated[path].lr * (scaled + treated[path].decay * value[path])
            if treated[path].start:
                change = jnp.where(state.steps >= treated[path].start, change, 0)
            return change.astype(value[path].dtype)

        updates = traverse_util.unflatten_dict({path: step(path) for path in value})
        moments = map(traverse_util.unflatten_dict, (mean, square))
        return updates, AdamState(state.steps + 1, *moments)

    def _trained(tree: Params) -> dict[LeafPath, jax.Array]:
        return {path: leaf for path, leaf in traverse_util.flatten_dict(tree).items() if treated[path].train}

    return optax.GradientTransformation(init, update)


def learning_rates(optim: Any, schedule: Any, steps_per_epoch: int) -> np.ndarray:
    """The learning rate of every step of the run, float64 [epochs * steps_per_epoch].

    schedule.every 'epoch' holds it constant inside an epoch, as the reference does; 'step' moves it every step.
    """
    steps = np.arange(schedule.epochs * steps_per_epoch)
    epochs = steps // steps_per_epoch if schedule.every == "epoch" else steps / steps_per_epoch
    # All values of one epoch are equal: compute each distinct time once.
    times, where = np.unique(epochs, return_inverse=True)
    values = [
        cosine(
            t,
            peak=optim.lr,
            low=schedule.min_lr,
            epochs=schedule.epochs,
            warmup_epochs=schedule.warmup_epochs,
            warmup_lr=schedule.warmup_lr,
        )
        for t in times
    ]
    return np.asarray(values)[where]


def cosine(
    t: float, *, peak: float, low: float, epochs: int, warmup_epochs: float = 0, warmup_lr: float = 0.0
) -> float:
    """Learning rate at time t, in epochs (reference scheduler/cosine_lr.py:69-100, its first cycle).

    Linear warm-up from warmup_lr, then half a cosine of `epochs` epochs counted from the end of the warm-up, so that
    with a warm-up the last epoch of a run lies before the cosine's end (as in the reference).
    """
    if t < warmup_epochs:
        return warmup_lr + t * (peak - warmup_lr) / warmup_epochs
    return low + (peak - low) * (1 + math.cos(math.pi * (t - warmup_epochs) / epochs)) / 2


def _read_rule(line: str) -> Rule:
    pattern, *settings = line.split()
    values: dict[str, Any] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        try:
            values[key] = _RULE_VALUES[key](value)
        except (KeyError, ValueError):
            raise InputError(
                f"config.optim.rules: '{setting}' is none of lr=NUMBER, decay=NUMBER, train=true|false and "
                f"after=EPOCHS, in '{line}'"
            ) from None
    try:
        re.compile(pattern)
    except re.error as error:
        raise InputError(f"config.optim.rules: '{pattern}' is no regular expression ({error})") from error
    return Rule(pattern, **values)


def _factor(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError
    return value


_RULE_VALUES: dict[str, Callable[[str], Any]] = {
    "lr": _factor,
    "decay": _factor,
    "after": _factor,
    "train": functools.partial(parsed, kind=bool),
}


def _name(path: LeafPath) -> str:
    """'image/ln_pre/scale' of ('model', 'image', 'ln_pre', 'scale'); scalars and LoRA keep their first part."""
    return "/".join(path[1:] if path[0] == "model" else path)
