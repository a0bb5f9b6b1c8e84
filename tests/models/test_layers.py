"""What the compiler makes of the transformer."""

import jax
import jax.numpy as jnp

from cusa_jax import step
from cusa_jax.models.layers import Transformer


def test_the_gradient_of_the_residual_stream_is_written_once(monkeypatch):
    """The option that `step.jitted` gives keeps XLA from adding it up again in each of its uses."""
    tower = Transformer(2, heads=2, causal=True, activation="gelu", remat=False, dtype=jnp.float32)
    x = jnp.ones((2, 4, 8))
    variables = tower.init(jax.random.key(0), x)

    def train_step(variables, _, x, recipe):
        return jax.grad(lambda variables: tower.apply(variables, x).sum())(variables)

    monkeypatch.setattr(step, "train_step", train_step)
    compiled = step.jitted(recipe=None, donate=False).lower(variables, None, x).compile()
    assert compiled.as_text().count("opt-barrier(") == 4 - 1  # two a block; nothing follows the last
