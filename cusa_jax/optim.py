"""AdamW with the reference's parameter groups, and its learning-rate schedule."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cusa_jax.losses.term import Scalar
from cusa_jax.types import Params


def optimizer(
    config: Any, learning_rates: np.ndarray, specs: dict[str, Scalar]
) -> optax.GradientTransformation:
    """AdamW over {'model', 'taus'}; frozen temperatures are left alone, decay included.

    config: `config.optim`. learning_rates: float [steps], one per step (see `learning_rates`).
    """
    table = jnp.asarray(learning_rates)
    steps = [
        optax.adamw(
            lambda step: table[jnp.minimum(step, len(table) - 1)],
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=decays,
        )
    ]
    if config.clip_norm:
        steps.insert(0, optax.clip_by_global_norm(config.clip_norm))

    def labels(params: Params) -> Params:
        taus = {name: "trained" if specs[name].trainable else "frozen" for name in params["taus"]}
        return {"model": jax.tree.map(lambda _: "trained", params["model"]), "taus": taus}

    return optax.partition({"trained": optax.chain(*steps), "frozen": optax.set_to_zero()}, labels)


def decays(params: Params) -> Params:
    """True where weight decay applies: all but vectors. Temperatures (0-d) do decay, as do positional and token
    embeddings; biases, norms and the class token do not (reference optim/optim_factory.py:24-37)."""
    return jax.tree.map(lambda p: jnp.ndim(p) != 1, params)


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
    t: float,
    *,
    peak: float,
    low: float,
    epochs: int,
    warmup_epochs: float = 0,
    warmup_lr: float = 0.0,
    cycle_mul: float = 1.0,
    cycle_limit: int = 0,
    cycle_decay: float = 1.0,
) -> float:
    """Learning rate at time t, in epochs (reference scheduler/cosine_lr.py:69-100).

    Linear warm-up from warmup_lr, then cosine cycles of `epochs` epochs counted from the end of the warm-up, so
    that with a warm-up the last epoch of a run lies before the end of the cycle (as in the reference). Each cycle
    is `cycle_mul` times longer and its peak and floor `cycle_decay` times lower than the last; after `cycle_limit`
    cycles (0: no limit) the rate stays at `low`.
    """
    if t < warmup_epochs:
        return warmup_lr + t * (peak - warmup_lr) / warmup_epochs
    t -= warmup_epochs
    if cycle_mul == 1:
        cycle = int(t // epochs)
        length, since = float(epochs), t - epochs * cycle
    else:
        cycle = math.floor(math.log(1 - t / epochs * (1 - cycle_mul), cycle_mul))
        length = cycle_mul**cycle * epochs
        since = t - (1 - cycle_mul**cycle) / (1 - cycle_mul) * epochs
    if cycle_limit and cycle >= cycle_limit:
        return low
    scale = cycle_decay**cycle
    return scale * (low + (peak - low) * (1 + math.cos(math.pi * since / length)) / 2)
