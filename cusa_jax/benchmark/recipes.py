"""What recipes of fine-tuning cost: parameters trained, memory and time of a step, beside full fine-tuning."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from flax import traverse_util

from cusa_jax.benchmark import measure
from cusa_jax.benchmark.measure import Row, Time
from cusa_jax.benchmark.steps import VARIANTS, Plan, compile_all, plan
from cusa_jax.benchmark.synthetic import Sizes
from cusa_jax.optim import SCALARS

FULL = "full"
# Settings of the configuration, by the name of the recipe.
RECIPES: dict[str, dict[str, Any]] = {
    FULL: {},
    "image-frozen": {"optim.freeze": "image"},
    "towers-frozen": {"optim.freeze": "image,text"},
    "image-after-1-epoch": {"optim.rules": "image/.* after=1"},
    "layer-decay": {"optim.layer_decay": 0.8},
    "lora": {"optim.lora_rank": 8},
    "average": {"optim.ema": 0.999},
    "micro-batches": {"accumulate": 4},
}


def rows(config: Any, names: Sequence[str], sizes: Sizes, repeats: int) -> list[Row]:
    """A step of CUSA with a bank under each of the recipes `names`, timed in alternating rounds.

    repeats: 0 compiles and counts only.
    """
    plans = {name: _plan(config, name, sizes) for name in names}
    compiled = compile_all(plans)
    calls = {name: planned.start(compiled[name]) for name, planned in plans.items()} if repeats else {}
    times = measure.time_rounds(calls, repeats) if repeats else {}
    full = times.get(FULL, Time()).seconds
    rows = []
    for name in names:
        time = times.get(name, Time())
        rows.append({
            "model": config.model.name, "batch": config.batch_size, "tokens": sizes.student_tokens, "recipe": name,
            "million trained": _trained(plans[name]) / 1e6, "s": time.seconds, "± s": time.spread,
            f"× {FULL}": time.seconds / full, "MiB a device": measure.peak_mebibytes(compiled[name]),
        })  # fmt: skip
    return rows


def _plan(config: Any, name: str, sizes: Sizes) -> Plan:
    own = config.copy_and_resolve_references()
    own.update_from_flattened_dict(RECIPES[name])
    return plan(own, VARIANTS["cusa-bank"], sizes)


def _trained(planned: Plan) -> int:
    """How many numbers of the model, and of what a recipe adds to it, are trained."""
    state = planned.shapes[0]
    return sum(
        int(np.prod(leaf.shape))
        for path, leaf in traverse_util.flatten_dict(state.params).items()
        if planned.recipe.treatments[path].train and path[0] != SCALARS
    )
